//! A revocation that would cover nothing says so, and the log does not grow.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{DenyRequest, Revocation, RevokeRequest};
use authority::{Caller, Error};
use support::{Environment, csr, id};

struct Tried {
    answer: Result<Revocation, Error>,
    entries_written: u64,
}

async fn tried(environment: &Environment, operator: &Caller, target: &str, dry_run: bool) -> Tried {
    let request = RevokeRequest {
        target: target.to_owned(),
        reason: "key-compromise".to_owned(),
        dry_run,
        named_override: None,
    };
    let before = size(environment).await;
    let answer = environment.authority.operations.revoke(operator, &request).await;
    Tried { answer, entries_written: size(environment).await - before }
}

async fn size(environment: &Environment) -> u64 {
    environment.store.head().await.unwrap().edge.size()
}

#[tokio::test]
async fn an_identity_that_nobody_has_is_an_error_and_no_entry() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let nobody = id("/prod/reportz").to_string();
    let dry = tried(&environment, &operator, &nobody, true).await;
    let refused = dry.answer.unwrap_err();
    assert!(matches!(refused, Error::NothingToRevoke(_)), "a trial ends as the act: {refused}");
    let named = Caller { idempotency_key: Some("once".into()), ..operator.clone() };
    for caller in [&operator, &named, &named] {
        let Tried { answer, entries_written } = tried(&environment, caller, &nobody, false).await;
        assert!(matches!(answer, Err(Error::NothingToRevoke(_))), "{answer:?}");
        assert_eq!(entries_written, 0);
    }
}

/// Whoever names it means all below, and would take it for done.
#[tokio::test]
async fn what_is_nobody_s_id_is_neither_denied_nor_revoked() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for (path, meant) in [
        ("", "list --id 'spiffe://pay.example/*'"),
        ("/countersign", "operator list"),
        ("/countersign/operator", "operator remove NAME"),
    ] {
        let target = format!("spiffe://pay.example{path}");
        let refused = |refused: Result<(), Error>| {
            let Err(Error::Invalid { next_step: Some(step), .. }) = refused else {
                panic!("{target}: {refused:?}");
            };
            assert!(step.contains(meant), "{step}");
        };
        for dry_run in [true, false] {
            let tried = tried(&environment, &operator, &target, dry_run).await;
            refused(tried.answer.map(drop));
            assert_eq!(tried.entries_written, 0);
        }
        let before = size(&environment).await;
        let spiffe_id = target.parse().unwrap();
        let reason = "key-compromise".to_owned();
        let asked = DenyRequest { spiffe_id, reason, named_override: None };
        refused(environment.authority.operations.deny(&operator, &asked).await.map(drop));
        assert_eq!(size(&environment).await, before);
    }
}

#[tokio::test]
async fn what_has_expired_is_an_error_and_no_entry() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.clock.advance(time::Duration::hours(30));
    let operator = environment.operator().await;
    for target in [issued.serial_number.to_string(), issued.spiffe_id.to_string()] {
        for dry_run in [false, true] {
            let Tried { answer, entries_written } =
                tried(&environment, &operator, &target, dry_run).await;
            let error = answer.unwrap_err().to_string();
            assert!(error.contains("expired"), "{error}");
            assert_eq!(entries_written, 0);
        }
    }
}

#[tokio::test]
async fn an_identity_whose_certificates_are_revoked_one_by_one_is_done_already() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let serial_number = issued.serial_number.to_string();
    assert_eq!(tried(&environment, &operator, &serial_number, false).await.entries_written, 1);
    let all = tried(&environment, &operator, issued.spiffe_id.as_str(), false).await;
    assert_eq!(all.answer.unwrap().log_index, None);
    assert_eq!(all.entries_written, 0);
    environment.issue(&operator, "/prod/reports").await;
    let all = tried(&environment, &operator, issued.spiffe_id.as_str(), false).await;
    assert!(all.answer.unwrap().log_index.is_some());
}

#[tokio::test]
async fn a_certificate_that_comes_while_it_is_revoked_is_revoked_or_later() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let target = id("/prod/reports").to_string();
    for _ in 0..8 {
        let token = environment.token(&operator, "/prod/reports").await;
        let csr = csr();
        let (tried, issued) = tokio::join!(
            tried(&environment, &operator, &target, false),
            environment.issue_with(&token, &csr),
        );
        let issued = match issued {
            Ok(issued) => issued,
            // Logged before the revocation, and not yet signed: it never leaves. Or its token came too late.
            Err(error) => {
                let is_token = error.to_string().contains("the token counts no more");
                assert!(matches!(error, Error::Revoked(_)) || is_token, "{error}");
                assert!(tried.answer.is_ok());
                continue;
            }
        };
        let record =
            environment.authority.operations.certificate(&operator, &issued.serial_number).await;
        let is_revoked = record.unwrap().state == api::CertificateState::Revoked;
        // Revoked at an index behind it, or the answer says that there was nothing yet.
        let covered = match tried.answer {
            Ok(done) => done.log_index.is_some_and(|index| index > issued.log_index),
            Err(error) => {
                assert!(matches!(error, Error::NothingToRevoke(_)), "{error}");
                false
            }
        };
        assert_eq!(is_revoked, covered);
    }
}
