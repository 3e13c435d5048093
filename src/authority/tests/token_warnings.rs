//! Whoever makes a token hears at once that nobody would get a certificate by it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{DenyRequest, NewToken, TokenRequest};
use authority::Caller;
use support::{Environment, id, policy_files};

async fn token(environment: &Environment, operator: &Caller, path: &str) -> NewToken {
    let asked = TokenRequest { spiffe_id: id(path), ttl: None, key_sha256: None };
    environment.authority.operations.create_token(operator, &asked).await.unwrap()
}

#[tokio::test]
async fn a_token_without_a_row_is_made_and_says_what_is_missing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let made = token(&environment, &operator, "/prod/reprots").await;
    let warning = made.warning.unwrap();
    assert!(warning.starts_with("/prod/reprots has no row in the workload table"), "{warning}");
    assert!(made.next_step.unwrap().contains("add {\"id\": \"/prod/reprots\"}"));

    for path in ["/prod/reports", "/prod/quick", "/countersign/operator/admin"] {
        let made = token(&environment, &operator, path).await;
        assert_eq!((made.warning, made.next_step), (None, None), "{path}");
    }
}

#[tokio::test]
async fn a_policy_that_permits_what_has_no_row_leaves_nothing_to_warn_of() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut files = policy_files();
    let shipped = include_str!("../../../policies/countersign.cedar");
    let permit = r#"permit (principal is Identity, action == Action::"Issue", resource is Identity)
        when { principal == resource && resource in Path::"/jobs" };"#;
    files.insert("all.cedar".to_owned(), format!("{shipped}\n{permit}"));
    let active = environment.authority.operations.policies(&operator).unwrap().hash;
    environment.authority.operations.replace_policies(&operator, &files, &active).await.unwrap();
    assert_eq!(token(&environment, &operator, "/jobs/nightly").await.warning, None);
    assert!(token(&environment, &operator, "/other").await.warning.is_some());
}

#[tokio::test]
async fn a_token_for_a_denied_identity_names_what_lifts_the_denial() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let (spiffe_id, reason) = (id("/prod/reports"), "key-compromise".to_owned());
    let deny = DenyRequest { spiffe_id, reason, named_override: None };
    environment.authority.operations.deny(&operator, &deny).await.unwrap();
    let made = token(&environment, &operator, "/prod/reports").await;
    assert!(made.warning.unwrap().contains("is denied"));
    let step = made.next_step.unwrap();
    assert_eq!(step, "countersign allow spiffe://pay.example/prod/reports");
}
