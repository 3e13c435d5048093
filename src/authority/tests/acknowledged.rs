//! Acknowledged means done: what an act refers to is what it changes, whatever else is on its way.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;

use api::{Denial, DenyRequest, TokenFilter};
use authority::sequencer::{
    ActMember, Acted, AllowedUnder, Conflict, Effect, Found, Head, Member, Outcome, plan,
};
use authority::{Act, Authority, Caller, Error, EventDraft};
use futures_util::future::join_all;
use support::{Environment, csr, id};

async fn deny(authority: &Authority, operator: &Caller) -> Denial {
    let (spiffe_id, reason) = (id("/prod/reports"), "key-compromise".to_owned());
    authority
        .operations
        .deny(operator, &DenyRequest { spiffe_id, reason, named_override: None })
        .await
        .unwrap()
}

async fn is_denied(authority: &Authority, operator: &Caller) -> bool {
    !authority.operations.denials(operator).await.unwrap().items.is_empty()
}

#[tokio::test]
async fn who_lifts_an_older_denial_does_not_lift_a_newer_one() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let authority = &environment.authority;
    let first = deny(authority, &operator).await;
    let second = deny(authority, &operator).await;
    assert_ne!(first.id, second.id);
    let refused = authority.operations.allow(&operator, &first.id).await.unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused}");
    assert!(is_denied(authority, &operator).await);
    authority.operations.allow(&operator, &second.id).await.unwrap();
    assert!(!is_denied(authority, &operator).await);
    assert!(authority.operations.allow(&operator, &second.id).await.is_err(), "twice");
}

/// Ten lift a denial while another makes a new one: what was acknowledged last holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_acknowledged_denial_holds_whoever_lifts_an_older_one() {
    let environment = Environment::start().await;
    let operator = Arc::new(environment.operator().await);
    for round in 0..40 {
        let authority = &environment.authority;
        let old = deny(authority, &operator).await;
        let lifts: Vec<_> = (0..10)
            .map(|_| {
                let (authority, operator) = (Arc::clone(authority), Arc::clone(&operator));
                let id = old.id.clone();
                tokio::spawn(async move { drop(authority.operations.allow(&operator, &id).await) })
            })
            .collect();
        for _ in 0..round % 10 {
            tokio::task::yield_now().await;
        }
        let new = deny(authority, &operator).await;
        join_all(lifts).await;
        assert!(is_denied(authority, &operator).await, "round {round}");
        authority.operations.allow(&operator, &new.id).await.unwrap();
    }
}

/// Each of many acts at once is done: none starts again until it is given up.
#[tokio::test]
async fn thirty_denials_at_once_are_all_done() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let made = join_all((0..30).map(|_| deny(&environment.authority, &operator))).await;
    let newest = made.iter().map(|denial| denial.id.parse::<u64>().unwrap()).max().unwrap();
    let standing = environment.authority.operations.denials(&operator).await.unwrap().items;
    assert_eq!(standing[0].id, newest.to_string());
}

#[tokio::test]
async fn a_token_that_was_used_is_not_said_to_be_withdrawn() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let authority = &environment.authority;
    let made = authority.operations.tokens(&operator, &TokenFilter::default()).await.unwrap().items
        [0]
    .id
    .clone();
    environment.issue_with(&token, &csr()).await.unwrap();
    let refused = authority.operations.revoke_token(&operator, &made).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(Conflict::TokenUsed)), "{refused}");
}

#[tokio::test]
async fn who_replaces_the_policy_set_is_told_of_its_own() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let authority = &environment.authority;
    let shown = authority.operations.policies(&operator).unwrap();
    let size = || async { environment.store.head().await.unwrap().edge.size() };
    let before = size().await;
    let same =
        authority.operations.replace_policies(&operator, &shown.files, &shown.hash).await.unwrap();
    assert_eq!((same.hash.as_str(), size().await), (shown.hash.as_str(), before));
}

/// The transaction compares, whatever was looked at before it.
#[test]
fn an_allow_beside_a_newer_denial_is_decided_anew() {
    let spiffe_id = id("/prod/reports");
    let by = Act { actor: "test", request_id: "test" };
    let head = Head::empty();
    let Head { policy_hash, revocation_epoch, .. } = head;
    let allowed_under = Some(AllowedUnder { policy_hash, revocation_epoch });
    let act = |kind, effect| {
        let event = EventDraft::new(kind, &by, spiffe_id.as_str(), &serde_json::json!({}));
        Member::Act(Box::new(ActMember { event, effect, allowed_under }))
    };
    let reason = "unspecified".to_owned();
    let deny = Effect::Deny { spiffe_id: spiffe_id.clone(), reason };
    let allow = Effect::Allow { spiffe_id: spiffe_id.clone() };
    let group = vec![act("deny", deny), act("allow", allow.clone()), act("allow", allow)];
    let outcomes = plan(&head, Found::default(), group, 1).unwrap().outcomes;
    assert_eq!(
        outcomes,
        [
            Outcome::Act(Acted::Done { log_index: 0 }),
            Outcome::Act(Acted::Moved),
            Outcome::Act(Acted::Moved),
        ]
    );
}
