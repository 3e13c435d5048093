//! The CA's own names: no row and no request of somebody else's has them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;

use api::{Attestation, ExplainRequest, IssueRequest, IssuedCertificate};
use authority::policy::PolicyError;
use authority::{Authority, Caller, Error};
use identity::SpiffeId;
use support::{Environment, anonymous, csr, id, policy_files, request, trust_domain};

/// The files of the set in force, with names in the row of `/prod/reports`.
fn with_names(dns: &[&str], ip: &[&str]) -> BTreeMap<String, String> {
    let mut files = policy_files();
    let table = serde_json::json!({
        "workloads": [{ "id": "/prod/reports", "dns": dns, "ip": ip }],
    });
    files.insert("workloads.json".to_owned(), table.to_string());
    files
}

async fn apply(
    authority: &Authority,
    operator: &Caller,
    files: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let active = authority.operations.policies(operator)?.hash;
    authority.operations.replace_policies(operator, files, &active).await.map(drop)
}

/// The CA's own certificate, with these names.
async fn certify_itself(environment: &Environment, dns: &[&str]) {
    let body = IssueRequest {
        spiffe_id: Some(SpiffeId::authority(&trust_domain())),
        dns: Some(dns.iter().map(|name| (*name).to_owned()).collect()),
        ..request(&csr())
    };
    environment.authority.issuing.issue_internal(&body, "own").await.unwrap();
}

async fn ask(
    environment: &Environment,
    operator: &Caller,
    dns: &[&str],
) -> Result<IssuedCertificate, Error> {
    let token = environment.token(operator, "/prod/reports").await;
    let body = IssueRequest {
        dns: Some(dns.iter().map(|name| (*name).to_owned()).collect()),
        attestation: Attestation::Token { token },
        ..request(&csr())
    };
    environment.authority.issuing.issue(&anonymous(), &body, None).await
}

fn reason(refused: Result<IssuedCertificate, Error>) -> String {
    match refused {
        Err(Error::Denied(denied)) => denied.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_policy_set_whose_row_lists_the_cas_name_is_not_applied() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for (dns, ip) in [
        (&["reports.internal", "ca.internal"][..], &[][..]),
        (&[], &["10.9.9.9"]),
        (&[], &["::ffff:10.9.9.9"]),
    ] {
        let applied = apply(&environment.authority, &operator, &with_names(dns, ip)).await;
        let Err(Error::Policy(PolicyError::OwnName { row, .. })) = applied else {
            panic!("{dns:?} {ip:?}: {applied:?}")
        };
        assert_eq!(row, "/prod/reports");
    }
    let others = with_names(&["x.ca.internal", "localhost"], &["127.0.0.1", "::1", "10.9.9.8"]);
    apply(&environment.authority, &operator, &others).await.unwrap();
}

#[tokio::test]
async fn a_row_of_before_gives_nobody_a_name_that_the_ca_has_taken_since() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let dns = ["reports.internal", "late.internal"];
    apply(&environment.authority, &operator, &with_names(&dns, &[])).await.unwrap();
    let first = ask(&environment, &operator, &dns).await.unwrap();
    certify_itself(&environment, &["late.internal"]).await;

    let refused = reason(ask(&environment, &operator, &dns).await);
    assert!(refused.starts_with("late.internal is the CA's own name"), "{refused}");
    // A renewal that names nothing would inherit it.
    let holder = environment.caller(&first);
    let refused = reason(environment.renew(&holder, &csr()).await);
    assert!(refused.starts_with("late.internal is the CA's own name"), "{refused}");
    let asked = ExplainRequest {
        principal: id("/prod/reports"),
        action: "issue".to_owned(),
        resource: id("/prod/reports"),
        dns: Some(vec!["late.internal".to_owned()]),
        ip: None,
        profile: None,
        extent: None,
    };
    assert!(!environment.authority.operations.explain(&operator, &asked).unwrap().allowed);

    ask(&environment, &operator, &["reports.internal"]).await.unwrap();
}

#[tokio::test]
async fn a_name_is_the_cas_while_a_certificate_of_its_own_bears_it() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    apply(&environment.authority, &operator, &with_names(&["was.internal"], &[])).await.unwrap();
    certify_itself(&environment, &["was.internal"]).await;
    environment.restart().await;
    let refused = reason(ask(&environment, &operator, &["was.internal"]).await);
    assert!(refused.contains("until 2026-11-22"), "{refused}");

    environment.clock.advance(time::Duration::hours(25));
    let operator = environment.operator().await;
    ask(&environment, &operator, &["was.internal"]).await.unwrap();
}
