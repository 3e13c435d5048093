//! What one line of renewals may make the log carry.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{Revocation, RevokeRequest};
use authority::{BudgetLimits, Caller, Error};
use identity::SerialNumber;
use support::{Environment, csr};

async fn revoke(
    environment: &Environment,
    caller: &Caller,
    serial_number: &SerialNumber,
) -> Result<Revocation, Error> {
    let target = serial_number.to_string();
    let request = RevokeRequest {
        target,
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(caller, &request).await
}

/// The shipped policies let nobody but operators revoke another's certificate.
const MAY_REVOKE_REPLICAS: &str = r#"
    @id("replicas") permit(principal is Identity, action == Action::"Revoke", resource)
        when { principal == resource && context.extent == "certificate" };"#;

#[tokio::test]
async fn who_renews_and_revokes_the_old_again_and_again_is_stopped() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut held = environment.issue(&operator, "/prod/reports").await;
    let mut refused = None;
    for _ in 0..100 {
        let caller = environment.caller(&held);
        match environment.renew(&caller, &csr()).await {
            Ok(renewed) => {
                let old = std::mem::replace(&mut held, renewed).serial_number;
                revoke(&environment, &environment.caller(&held), &old).await.unwrap();
            }
            Err(error) => refused = Some(error),
        }
    }
    let Some(Error::Budget { budget, per_hour, seconds }) = refused else {
        panic!("not stopped: {refused:?}")
    };
    assert_eq!((budget, per_hour), ("renewals", 60));
    assert!((1..=60).contains(&seconds), "{seconds}");
    // Another line of the same identity has its own, and time gives it back.
    let other = environment.issue(&operator, "/prod/reports").await;
    environment.renew(&environment.caller(&other), &csr()).await.unwrap();
    environment.clock.advance(time::Duration::seconds(61));
    held = environment.renew(&environment.caller(&held), &csr()).await.unwrap();
    // What is spent refuses nobody the end of a certificate that may be in other hands.
    let done = revoke(&environment, &environment.caller(&held), &held.serial_number).await.unwrap();
    assert!(done.log_index.is_some());
}

/// A lost answer is asked for again: it is there already.
#[tokio::test]
async fn what_was_asked_before_is_given_again_when_nothing_is_left() {
    let environment = Environment::start().await;
    let limits = BudgetLimits { renewals_per_hour: 1, ..BudgetLimits::default() };
    environment.authority.limit_budgets(limits);
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let asked = csr();
    let renewed = environment.renew(&held, &asked).await.unwrap();
    for _ in 0..3 {
        assert_eq!(environment.renew(&held, &asked).await.unwrap(), renewed);
    }
    let error = environment.renew(&held, &csr()).await.unwrap_err();
    assert!(matches!(error, Error::Budget { budget: "renewals", .. }), "{error}");
    // What was given again has cost nothing.
    environment.clock.advance(time::Duration::minutes(60));
    environment.renew(&environment.caller(&renewed), &csr()).await.unwrap();
}

#[tokio::test]
async fn revoking_others_is_limited_and_ending_oneself_is_not_nor_is_an_operator() {
    let environment = Environment::start().await;
    let limits = BudgetLimits { revocations_per_hour: 1, ..BudgetLimits::default() };
    environment.authority.limit_budgets(limits);
    let operator = environment.operator().await;
    let active = environment.authority.operations.policies(&operator).unwrap();
    let mut files = active.files;
    files.insert("replicas.cedar".to_owned(), MAY_REVOKE_REPLICAS.to_owned());
    environment
        .authority
        .operations
        .replace_policies(&operator, &files, &active.hash)
        .await
        .unwrap();
    let mut replicas = Vec::new();
    for _ in 0..5 {
        replicas.push(environment.issue(&operator, "/prod/reports").await.serial_number);
    }
    let held = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&held);
    revoke(&environment, &caller, &replicas[0]).await.unwrap();
    revoke(&environment, &caller, &replicas[0]).await.unwrap();
    let error = revoke(&environment, &caller, &replicas[1]).await.unwrap_err();
    assert!(matches!(error, Error::Budget { budget: "revocations", .. }), "{error}");
    for replica in &replicas[1..] {
        revoke(&environment, &operator, replica).await.unwrap();
    }
    revoke(&environment, &caller, &held.serial_number).await.unwrap();
}
