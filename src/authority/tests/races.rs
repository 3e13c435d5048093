//! What commits in between: the transaction notices, and the request starts again or ends.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use authority::clock::Clock;
use authority::sequencer::{
    ActMember, Effect, Found, Head, Member, Outcome, RevocationTarget, Unlogged, plan,
};
use authority::store::faulty::FaultyStore;
use authority::{Act, EventDraft};
use support::{Environment, NOW, csr, id};

fn act(kind: &'static str, path: &str, effect: Effect) -> Member {
    let by = Act { actor: "test", request_id: "test" };
    let detail = serde_json::json!({ "reason": "key-compromise" });
    let event = EventDraft::new(kind, &by, id(path).as_str(), &detail);
    Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
}

/// A revocation commits after the renewal was allowed, and before it is logged.
#[tokio::test]
async fn a_renewal_in_flight_does_not_escape_its_revocation() {
    let armed = Arc::new(AtomicBool::new(false));
    let trap = Arc::clone(&armed);
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            let inner = Arc::clone(&store);
            Arc::new(FaultyStore::new(store, move |group| {
                let issues = group.iter().any(|member| matches!(member, Member::Certificate(_)));
                if issues && trap.swap(false, Ordering::SeqCst) {
                    let target = RevocationTarget::Identity(id("/prod/reports"));
                    let effect = Effect::Revoke { target, reason: "key-compromise".to_owned() };
                    let at = NOW.unix_timestamp() as u64 * 1000;
                    // The store starts at the call; its answer is not needed.
                    drop(inner.commit(vec![act("revoke", "/prod/reports", effect)], at));
                }
                None
            }))
        },
    )
    .await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let thief = environment.caller(&issued);
    armed.store(true, Ordering::SeqCst);
    let error = environment.renew(&thief, &csr()).await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
}

/// What is logged and not yet signed can still be: a second revocation covers it.
#[tokio::test]
async fn a_certificate_half_issued_is_revoked_with_its_identity() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    let request = api::RevokeRequest {
        target: id("/prod/reports").to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(&operator, &request).await.unwrap();
    let issued = environment.issue(&operator, "/prod/reports").await;
    let database = environment.folder.path().join("countersign.db");
    let second = rusqlite::Connection::open(database).unwrap();
    let forgotten = [issued.log_index as i64];
    second.execute("DELETE FROM certificates WHERE leaf_index = ?1", forgotten).unwrap();
    let again = environment.authority.operations.revoke(&operator, &request).await.unwrap();
    assert!(again.log_index.is_some(), "{again:?}");
}

/// The database alone makes nothing that is signed: a leaf put there by hand is not completed.
#[tokio::test]
async fn a_leaf_that_nobody_prepared_is_not_signed() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    let issued = environment.issue_with(&token, &request).await.unwrap();
    let other = environment.issue(&operator, "/prod/monolith").await;
    let database = environment.folder.path().join("countersign.db");
    let second = rusqlite::Connection::open(database).unwrap();
    // The token's retry is pointed at another's leaf, whose certificate is gone.
    let leaf = [other.log_index as i64];
    second.execute("DELETE FROM certificates WHERE leaf_index = ?1", leaf).unwrap();
    second
        .execute(
            "UPDATE tokens SET used_leaf = ?1 WHERE used_leaf = ?2",
            [leaf[0], issued.log_index as i64],
        )
        .unwrap();
    environment.issue_with(&token, &request).await.unwrap_err();
}

#[test]
fn a_token_withdrawn_in_the_same_commit_issues_nothing() {
    let spiffe_id = id("/prod/reports");
    let hash = tlog::Hash::of(b"secret");
    let token = authority::sequencer::TokenRow {
        hash,
        id: "1".to_owned(),
        spiffe_id: spiffe_id.clone(),
        expires_at: u64::MAX,
        key_hash: None,
        log_index: 0,
        used: None,
        revoked: false,
    };
    let mut found = Found::default();
    found.tokens.insert(hash, token);
    let withdraw = Effect::RevokeToken { hash, id: "1".to_owned(), untrue: None };
    let by = Act { actor: "test", request_id: "test" };
    let head = Head::empty();
    let issue = authority::sequencer::CertificateMember {
        event: EventDraft::new("issue", &by, spiffe_id.as_str(), &serde_json::json!({})),
        tbs: vec![1],
        issuer_key_hash: hash,
        record: authority::sequencer::RecordDraft {
            serial_number: "01".parse().unwrap(),
            spiffe_id,
            profile: "default".to_owned(),
            not_before: 0,
            not_after: 1,
            request_hash: hash,
            facts: String::new(),
        },
        consumes: authority::sequencer::Consumes::Token { hash, key_hash: hash },
        idempotency: None,
        allowed_under: authority::sequencer::AllowedUnder {
            policy_hash: head.policy_hash,
            // It is allowed after the withdrawal, which moves the epoch.
            revocation_epoch: 1,
        },
    };
    let group =
        vec![act("token.revoke", "/prod/reports", withdraw), Member::Certificate(Arc::new(issue))];
    let now = authority::clock::ManualClock::new(NOW).unix_milliseconds();
    let outcomes = plan(&head, found, group, now).unwrap().outcomes;
    assert!(matches!(outcomes[1], Outcome::Certificate(Err(Unlogged::Refused(_)))), "{outcomes:?}");
}
