//! How much a workload may revoke: its own certificate and those of its line, unless policy says so.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;

use api::{IssuedCertificate, Revocation, RevokeRequest};
use authority::{Caller, Error};
use support::{Environment, csr, id, policy_files};

async fn revoke(
    environment: &Environment,
    caller: &Caller,
    target: impl ToString,
) -> Result<Revocation, Error> {
    let request = RevokeRequest {
        target: target.to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(caller, &request).await
}

/// A replica with its certificate.
async fn replica(environment: &Environment, operator: &Caller) -> (Caller, IssuedCertificate) {
    let issued = environment.issue(operator, "/prod/reports").await;
    (environment.caller(&issued), issued)
}

#[tokio::test]
async fn a_replica_revokes_neither_its_identity_nor_another_replica() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let (one, _) = replica(&environment, &operator).await;
    let (_, other) = replica(&environment, &operator).await;
    for (target, what) in [
        (id("/prod/reports").to_string(), "the whole identity"),
        (other.serial_number.to_string(), "another replica's certificate"),
    ] {
        let Err(Error::Denied(denied)) = revoke(&environment, &one, &target).await else {
            panic!("{target} was revoked")
        };
        assert!(denied.reason.contains(what), "{denied:?}");
        assert!(denied.next_step.unwrap().starts_with("revoke your own certificate"));
    }
    // What is not theirs to read does not exist for them.
    let foreign = environment.issue(&operator, "/prod/monolith").await.serial_number;
    let none = revoke(&environment, &one, foreign).await;
    assert!(matches!(none, Err(Error::NotFound(_))), "{none:?}");
    assert!(revoke(&environment, &operator, id("/prod/reports")).await.is_ok());
}

#[tokio::test]
async fn a_replica_revokes_what_it_renewed_and_then_itself() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let (old, first) = replica(&environment, &operator).await;
    let second = environment.renew(&old, &csr()).await.unwrap();
    let third = environment.renew(&environment.caller(&second), &csr()).await.unwrap();
    let newest = environment.caller(&third);
    for target in [first.serial_number, second.serial_number, third.serial_number] {
        let done = revoke(&environment, &newest, target).await.unwrap();
        assert_eq!(done.certificates, 1);
    }
    environment.renew(&newest, &csr()).await.unwrap_err();
}

#[tokio::test]
async fn a_policy_set_of_before_goes_on_and_means_what_it_meant() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let active = environment.authority.operations.policies(&operator).unwrap().hash;
    let before = files_of_before();
    environment.authority.operations.replace_policies(&operator, &before, &active).await.unwrap();
    environment.restart().await;

    let (one, _) = replica(&environment, &operator).await;
    let (_, other) = replica(&environment, &operator).await;
    assert!(revoke(&environment, &operator, other.serial_number).await.is_ok());
    assert!(revoke(&environment, &one, id("/prod/reports")).await.is_ok());
    let foreign = revoke(&environment, &operator, id("/prod/monolith")).await;
    // Nobody has it; but it is permitted.
    assert!(matches!(foreign, Err(Error::NothingToRevoke(_))), "{foreign:?}");
}

/// Schema and policies as they shipped before `Revoke` had an extent.
fn files_of_before() -> BTreeMap<String, String> {
    let schema = include_str!("../../../policies/schema.cedarschema");
    let (head, rest) = schema.split_once("action Revoke appliesTo").unwrap();
    let (_, rest) = rest.split_once("action Deny,").unwrap();
    let schema = format!("{head}action Revoke, Deny,{rest}");
    let policies = include_str!("../../../policies/countersign.cedar");
    let new = "principal == resource && context.extent == \"own\"";
    assert!(policies.contains(new));
    let mut files = policy_files();
    files.insert("schema.cedarschema".to_owned(), schema);
    files.insert("countersign.cedar".to_owned(), policies.replace(new, "principal == resource"));
    files
}
