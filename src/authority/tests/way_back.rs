//! Ways back: nobody locks everybody out by a slip, and the host lets them in again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;

use api::{DenyRequest, IssueRequest, Override, RevokeRequest};
use authority::clock::Clock;
use authority::{Caller, Error, setup};
use futures_util::future::join;
use identity::SpiffeId;
use support::{Environment, csr, id, request, trust_domain};

const ADMIN: &str = "/countersign/operator/admin";
const CA: &str = "/countersign/authority";
const SECOND: &str = "/countersign/operator/second";

async fn deny(
    environment: &Environment,
    by: &Caller,
    path: &str,
    named_override: Option<Override>,
) -> Result<(), Error> {
    let (spiffe_id, reason) = (id(path), "unspecified".to_owned());
    let asked = DenyRequest { spiffe_id, reason, named_override };
    environment.authority.operations.deny(by, &asked).await.map(drop)
}

async fn revoke(
    environment: &Environment,
    by: &Caller,
    target: String,
    dry_run: bool,
) -> Result<(), Error> {
    let reason = "unspecified".to_owned();
    let asked = RevokeRequest { target, reason, dry_run, named_override: None };
    environment.authority.operations.revoke(by, &asked).await.map(drop)
}

fn serial_number(caller: &Caller) -> String {
    caller.svid.as_ref().unwrap().serial_number().to_string()
}

/// The CA's own certificate, as `serve` asks for it.
async fn certify_itself(environment: &Environment) -> Result<api::IssuedCertificate, Error> {
    let spiffe_id = Some(SpiffeId::authority(&trust_domain()));
    let body = IssueRequest { spiffe_id, ..request(&csr()) };
    environment.authority.issuing.issue_internal(&body, "serve").await
}

fn locks_out(refused: Result<(), Error>) {
    assert!(matches!(refused, Err(Error::LocksOut(_))), "{refused:?}");
}

#[tokio::test]
async fn the_ca_itself_is_neither_denied_nor_revoked_by_a_slip() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    environment.enrol("second").await;
    let own = certify_itself(&environment).await.unwrap();
    locks_out(deny(&environment, &admin, CA, None).await);
    for target in [id(CA).to_string(), own.serial_number.to_string()] {
        for dry_run in [true, false] {
            locks_out(revoke(&environment, &admin, target.clone(), dry_run).await);
        }
    }
    certify_itself(&environment).await.unwrap();
}

#[tokio::test]
async fn the_last_operator_able_to_act_is_neither_denied_nor_revoked_by_a_slip() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    // The table lists a second, who has no certificate: it cannot act.
    locks_out(deny(&environment, &admin, ADMIN, None).await);
    locks_out(revoke(&environment, &admin, id(ADMIN).to_string(), false).await);
    locks_out(revoke(&environment, &admin, serial_number(&admin), false).await);
    // One of its two certificates may go.
    let renewed = environment.renew(&admin, &csr()).await.unwrap();
    revoke(&environment, &admin, serial_number(&admin), false).await.unwrap();
    let admin = environment.caller(&renewed);
    locks_out(revoke(&environment, &admin, serial_number(&admin), false).await);
    // With a second who can act, it may go itself.
    let second = environment.enrol("second").await;
    deny(&environment, &admin, ADMIN, None).await.unwrap();
    locks_out(deny(&environment, &second, SECOND, None).await);
}

/// They could change what they cannot see, and what replaces it names it.
#[tokio::test]
async fn an_operator_who_cannot_read_the_policy_set_cannot_act() {
    for action in ["ReadPolicy", "ReadStatus"] {
        let environment = Environment::start().await;
        let admin = environment.operator().await;
        let second = environment.enrol("second").await;
        let mut shown = environment.authority.operations.policies(&admin).unwrap();
        let policy = format!(
            r#"forbid (principal == Operator::"{}", action == Action::"{action}", resource);"#,
            id(SECOND)
        );
        shown.files.insert("mine.cedar".to_owned(), policy);
        let authority = &environment.authority;
        authority.operations.replace_policies(&admin, &shown.files, &shown.hash).await.unwrap();
        locks_out(deny(&environment, &second, ADMIN, None).await);
        deny(&environment, &admin, SECOND, None).await.unwrap();
    }
}

#[tokio::test]
async fn an_operator_whose_certificate_has_expired_cannot_act() {
    let environment = Environment::start().await;
    environment.enrol("second").await;
    environment.clock.advance(time::Duration::hours(25));
    let admin = environment.operator().await;
    locks_out(deny(&environment, &admin, ADMIN, None).await);
}

#[tokio::test]
async fn two_operators_who_deny_each_other_do_not_both_succeed() {
    let environment = Environment::start().await;
    let (admin, second) = (environment.operator().await, environment.enrol("second").await);
    let (one, other) =
        join(deny(&environment, &admin, SECOND, None), deny(&environment, &second, ADMIN, None))
            .await;
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
async fn a_policy_set_that_leaves_nobody_able_to_act_is_refused() {
    let environment = Environment::start().await;
    let second = environment.enrol("second").await;
    let mut shown = environment.authority.operations.policies(&second).unwrap();
    let table = shown.files.get_mut("workloads.json").unwrap();
    *table = table.replace(&format!("{SECOND:?}"), "");
    let changed =
        environment.authority.operations.replace_policies(&second, &shown.files, &shown.hash);
    assert!(matches!(changed.await, Err(Error::Policy(_))));
}

#[tokio::test]
async fn the_host_lets_in_again_whom_a_named_override_locked_out() {
    let mut environment = Environment::start().await;
    let admin = environment.operator().await;
    for path in [CA, ADMIN] {
        deny(&environment, &admin, path, Some(Override::LockOut)).await.unwrap();
    }
    assert!(certify_itself(&environment).await.is_err());
    assert!(environment.enrol_anyway("admin").await.is_none());

    let (domain, store) = (trust_domain(), Arc::clone(&environment.store));
    let clock: &dyn Clock = &*environment.clock;
    let done = setup::let_in(&domain, &*store, "admin", clock).await.unwrap();
    assert_eq!((done.allowed, done.registered), (vec![id(CA), id(ADMIN)], false));
    let done = setup::let_in(&domain, &*store, "deputy", clock).await.unwrap();
    assert_eq!((done.allowed, done.registered), (vec![], true));
    environment.restart().await;
    certify_itself(&environment).await.unwrap();
    for name in ["admin", "deputy"] {
        let operator = environment.enrol(name).await;
        environment.issue(&operator, "/prod/reports").await;
    }
    assert!(environment.authority.status(&admin).await.is_err(), "what was revoked stays so");
}
