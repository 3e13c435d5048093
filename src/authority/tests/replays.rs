//! The same request again: what is revoked or expired is not given again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{Attestation, IssueRequest, IssuedCertificate, RevokeRequest, Secret};
use authority::{Caller, Error};
use support::{Environment, anonymous, csr, id, request};

/// As clients ask that name a request by its CSR.
async fn ask(
    environment: &Environment,
    caller: &Caller,
    token: Option<&Secret>,
    csr: &str,
) -> Result<IssuedCertificate, Error> {
    let attestation =
        token.map_or(Attestation::Svid {}, |token| Attestation::Token { token: token.clone() });
    let spiffe_id = Some(id("/prod/reports"));
    let body = IssueRequest { attestation, spiffe_id, ..request(csr) };
    environment.authority.issue(caller, &body, Some("csr")).await
}

async fn revoke(environment: &Environment, operator: &Caller, issued: &IssuedCertificate) {
    let target = issued.serial_number.to_string();
    let reason = "key-compromise".to_owned();
    let request = RevokeRequest { target, reason, dry_run: false, named_override: None };
    environment.authority.revoke(operator, &request).await.unwrap();
}

#[tokio::test]
async fn a_new_token_makes_a_new_certificate_of_the_same_request() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let csr = csr();
    let token = environment.token(&operator, "/prod/reports").await;
    let first = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    let again = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    assert_eq!(first, again, "the burnt token's own retry");
    revoke(&environment, &operator, &first).await;
    let refused = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap_err();
    assert!(refused.to_string().contains("was revoked since"), "{refused}");
    let token = environment.token(&operator, "/prod/reports").await;
    let fresh = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    assert_ne!(fresh.serial_number, first.serial_number);
}

#[tokio::test]
async fn what_was_revoked_is_not_given_again_by_idempotency_key() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let csr = csr();
    let first = ask(&environment, &operator, None, &csr).await.unwrap();
    assert_eq!(ask(&environment, &operator, None, &csr).await.unwrap(), first);
    revoke(&environment, &operator, &first).await;
    assert!(ask(&environment, &operator, None, &csr).await.is_err());
}

#[tokio::test]
async fn a_renewal_that_was_revoked_is_not_given_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let csr = csr();
    let renewed = environment.renew(&held, &csr).await.unwrap();
    assert_eq!(environment.renew(&held, &csr).await.unwrap(), renewed);
    revoke(&environment, &operator, &renewed).await;
    let refused = environment.renew(&held, &csr).await.unwrap_err();
    assert!(refused.to_string().contains("was revoked since"), "{refused}");
}

#[tokio::test]
async fn what_has_expired_is_not_given_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    environment.issue_with(&token, &csr).await.unwrap();
    environment.clock.advance(time::Duration::hours(25));
    let refused = environment.issue_with(&token, &csr).await.unwrap_err();
    assert!(refused.to_string().contains("has expired since"), "{refused}");
}
