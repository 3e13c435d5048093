//! Who made it must still count: tokens of operators that were revoked, denied or dismissed since.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{
    DenyRequest, IssueRequest, OperatorRequest, RevokeRequest, Secret, TokenFilter, TokenRequest,
};
use authority::sequencer::{ActMember, Effect, Member};
use authority::store::faulty::FaultyStore;
use authority::{Act, Caller, Error, EventDraft};
use identity::SpiffeId;
use support::{Environment, NOW, csr, id, request};

const SECOND: &str = "/countersign/operator/second";
const THIRD: &str = "/countersign/operator/third";

async fn deny(environment: &Environment, operator: &Caller) -> api::Denial {
    let asked = DenyRequest {
        spiffe_id: id(SECOND),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(operator, &asked).await.unwrap()
}

async fn revoke(environment: &Environment, operator: &Caller, target: &str) -> api::Revocation {
    let (target, reason) = (target.to_owned(), "key-compromise".to_owned());
    let asked = RevokeRequest { target, reason, dry_run: false, named_override: None };
    environment.authority.operations.revoke(operator, &asked).await.unwrap()
}

fn serial_number(caller: &Caller) -> String {
    caller.svid.as_ref().unwrap().serial_number().to_string()
}

async fn require_void(environment: &Environment, token: &Secret) {
    let refused = environment.issue_with(token, &csr()).await.unwrap_err();
    assert!(matches!(refused, Error::Attestation { .. }), "{refused}");
    assert!(refused.to_string().contains("whoever made it"), "{refused}");
}

/// A maker, with a token for another and one for itself.
async fn made(environment: &Environment) -> (Caller, [Secret; 2]) {
    let second = environment.enrol("second").await;
    let for_another = environment.token(&second, "/prod/reports").await;
    let for_itself = environment.token(&second, SECOND).await;
    (second, [for_another, for_itself])
}

#[tokio::test]
async fn tokens_of_a_denied_operator_issue_nothing_even_once_it_is_allowed_again() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let (_, tokens) = made(&environment).await;
    let denial = deny(&environment, &admin).await;
    for token in &tokens {
        assert!(environment.issue_with(token, &csr()).await.is_err());
    }
    environment.authority.operations.allow(&admin, &denial.id).await.unwrap();
    for token in &tokens {
        require_void(&environment, token).await;
    }
    let again = environment.enrol("second").await;
    environment.issue(&again, "/prod/reports").await;
}

#[tokio::test]
async fn tokens_of_a_revoked_operator_issue_nothing() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    for by_identity in [true, false] {
        let (second, tokens) = made(&environment).await;
        let target = if by_identity { id(SECOND).to_string() } else { serial_number(&second) };
        revoke(&environment, &admin, &target).await;
        for token in &tokens {
            require_void(&environment, token).await;
        }
    }
}

/// Whoever was shut out may have one from before.
#[tokio::test]
async fn tokens_for_who_was_revoked_or_denied_since_issue_nothing_even_once_it_is_allowed_again() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let add =
        OperatorRequest { name: "third".to_owned(), ttl: None, key_sha256: None, again: true };
    for (path, is_added) in [("/prod/reports", false), (THIRD, true)] {
        for is_denied in [true, false] {
            let token = match is_added {
                true => {
                    environment.authority.operations.add_operator(&admin, &add).await.unwrap().token
                }
                false => environment.token(&admin, path).await,
            };
            if is_denied {
                let (reason, named_override) = ("key-compromise".to_owned(), None);
                let asked = DenyRequest { spiffe_id: id(path), reason, named_override };
                let denial = environment.authority.operations.deny(&admin, &asked).await.unwrap();
                environment.authority.operations.allow(&admin, &denial.id).await.unwrap();
            } else {
                if is_added {
                    environment.enrol("third").await;
                } else {
                    environment.issue(&admin, path).await;
                }
                revoke(&environment, &admin, id(path).as_str()).await;
            }
            let refused = environment.issue_with(&token, &csr()).await.unwrap_err();
            assert!(matches!(refused, Error::Attestation { .. }), "{refused}");
            assert!(refused.to_string().contains("those for whom it was made"), "{refused}");
            let again = environment.token(&admin, "/prod/reports").await;
            environment.issue_with(&again, &csr()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn tokens_of_an_operator_whom_policy_dismissed_issue_nothing() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let (_, [token, _]) = made(&environment).await;
    let mut shown = environment.authority.operations.policies(&admin).unwrap();
    let table = shown.files.get_mut("workloads.json").unwrap();
    *table = table.replace(&format!("{SECOND:?}"), "");
    environment
        .authority
        .operations
        .replace_policies(&admin, &shown.files, &shown.hash)
        .await
        .unwrap();
    require_void(&environment, &token).await;
}

#[tokio::test]
async fn a_makers_expired_certificate_takes_nothing_away() {
    let environment = Environment::start().await;
    let body = IssueRequest {
        spiffe_id: Some(id(SECOND)),
        ttl: Some("5m".parse().unwrap()),
        ..request(&csr())
    };
    let issued = environment.authority.issuing.issue_internal(&body, "init").await.unwrap();
    let token = environment.token(&environment.caller(&issued), "/prod/reports").await;
    environment.clock.advance(time::Duration::minutes(10));
    environment.issue_with(&token, &csr()).await.unwrap();
}

#[tokio::test]
async fn what_a_token_became_stays_and_its_own_retry_finds_it() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let (_, [token, _]) = made(&environment).await;
    let request = csr();
    let issued = environment.issue_with(&token, &request).await.unwrap();
    let denial = deny(&environment, &admin).await;
    assert_eq!(environment.issue_with(&token, &request).await.unwrap(), issued);
    let reviewed = &denial.review[0];
    assert_eq!((reviewed.log_index, reviewed.kind.as_str()), (issued.log_index, "token.create"));
    assert_eq!(reviewed.subject, id("/prod/reports").to_string());
}

#[tokio::test]
async fn what_an_operator_did_stays_and_is_listed_for_review() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let mut shown = environment.authority.operations.policies(&second).unwrap();
    let table = shown.files.get_mut("workloads.json").unwrap();
    *table = table.replace(r#"{"id": "/prod/monolith"}"#, r#"{"id": "/prod/other"}"#);
    let changed = environment
        .authority
        .operations
        .replace_policies(&second, &shown.files, &shown.hash)
        .await
        .unwrap();
    let revoked = revoke(&environment, &admin, id(SECOND).as_str()).await;
    let kinds: Vec<&str> = revoked.review.iter().map(|act| act.kind.as_str()).collect();
    assert_eq!(kinds, ["policy.change"]);
    assert_eq!(environment.authority.operations.policies(&admin).unwrap().hash, changed.hash);
    environment.issue(&admin, "/prod/reports").await;
    let nothing = revoke(&environment, &admin, id("/prod/reports").as_str()).await;
    assert!(nothing.review.is_empty());
}

#[tokio::test]
async fn the_list_of_tokens_says_who_made_each_and_which_are_void() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    environment.token(&admin, "/prod/reports").await;
    made(&environment).await;
    revoke(&environment, &admin, id(SECOND).as_str()).await;
    let listed = environment
        .authority
        .operations
        .tokens(&admin, &TokenFilter::default())
        .await
        .unwrap()
        .items;
    let told: Vec<_> =
        listed.iter().map(|token| (token.made_by.as_str(), token.state.as_str())).collect();
    let (admin, second) = (id("/countersign/operator/admin"), id(SECOND));
    let expected = [(second.as_str(), "void"), (second.as_str(), "void"), (admin.as_str(), "open")];
    assert_eq!(told, expected);
}

/// The denial commits after the token was looked at, and before the certificate is logged.
#[tokio::test]
async fn a_token_in_flight_does_not_escape_its_makers_denial() {
    let armed = Arc::new(AtomicBool::new(false));
    let trap = Arc::clone(&armed);
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            let inner = Arc::clone(&store);
            Arc::new(FaultyStore::new(store, move |group| {
                let issues = group.iter().any(|member| matches!(member, Member::Certificate(_)));
                if issues && trap.swap(false, Ordering::SeqCst) {
                    let at = NOW.unix_timestamp() as u64 * 1000;
                    drop(inner.commit(vec![denial(&id(SECOND))], at));
                }
                None
            }))
        },
    )
    .await;
    let (_, [token, _]) = made(&environment).await;
    armed.store(true, Ordering::SeqCst);
    require_void(&environment, &token).await;
}

fn denial(spiffe_id: &SpiffeId) -> Member {
    let by = Act { actor: "test", request_id: "test" };
    let detail = serde_json::json!({ "reason": "unspecified" });
    let event = EventDraft::new("deny", &by, spiffe_id.as_str(), &detail);
    let effect = Effect::Deny { spiffe_id: spiffe_id.clone(), reason: "unspecified".to_owned() };
    Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
}

/// What is listed of each token, newest first, as their makers are.
async fn listed(environment: &Environment, operator: &Caller) -> Vec<String> {
    let page =
        environment.authority.operations.tokens(operator, &TokenFilter::default()).await.unwrap();
    page.items.into_iter().map(|token| token.state).collect()
}

/// A list that calls a token open, or not, says what comes of it.
#[tokio::test]
async fn what_is_listed_of_a_token_is_what_it_comes_to() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let reports = "/prod/reports";
    let before = listed(&environment, &admin).await.len();
    let of_second = environment.token(&second, "/prod/monolith").await;
    let shut_out = environment.token(&admin, reports).await;
    let asked = |path| DenyRequest {
        spiffe_id: id(path),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    let denial = environment.authority.operations.deny(&admin, &asked(reports)).await.unwrap();
    deny(&environment, &admin).await;
    let while_denied = environment.token(&admin, reports).await;
    let used = environment.token(&admin, "/prod/monolith").await;
    let csr = csr();
    environment.issue_with(&used, &csr).await.unwrap();
    let withdrawn = environment.token(&admin, "/prod/monolith").await;
    let page =
        environment.authority.operations.tokens(&admin, &TokenFilter::default()).await.unwrap();
    environment.authority.operations.revoke_token(&admin, &page.items[0].id).await.unwrap();
    let open = environment.token(&admin, "/prod/monolith").await;

    let tokens = [&open, &withdrawn, &used, &while_denied, &shut_out, &of_second];
    for (allowed, expected) in [
        (false, ["open", "revoked", "used", "void", "void", "void"]),
        (true, ["used", "revoked", "used", "open", "void", "void"]),
    ] {
        if allowed {
            environment.authority.operations.allow(&admin, &denial.id).await.unwrap();
        }
        let listed = listed(&environment, &admin).await;
        assert_eq!(listed[..listed.len() - before], expected);
        for (state, token) in expected.into_iter().zip(tokens) {
            let issued = environment.issue_with(token, &support::csr()).await;
            assert_eq!(issued.is_ok(), state == "open", "{state}: {issued:?}");
        }
    }
}

/// The same named request tells a token again that counts, or will once a denial is lifted.
#[tokio::test]
async fn what_a_denial_made_void_is_not_told_again() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let ask = async |key: &str| {
        let named = Caller { idempotency_key: Some(key.to_owned()), ..admin.clone() };
        let asked = TokenRequest { spiffe_id: id("/prod/reports"), ttl: None, key_sha256: None };
        environment.authority.operations.create_token(&named, &asked).await
    };
    let told = ask("before").await.unwrap();
    assert_eq!(ask("before").await.unwrap().id, told.id);
    let (reason, named_override) = ("key-compromise".to_owned(), None);
    let asked = DenyRequest { spiffe_id: id("/prod/reports"), reason, named_override };
    let denial = environment.authority.operations.deny(&admin, &asked).await.unwrap();
    let after = ask("after").await.unwrap();
    for is_lifted in [false, true] {
        if is_lifted {
            environment.authority.operations.allow(&admin, &denial.id).await.unwrap();
        }
        let refused = ask("before").await.unwrap_err();
        assert!(refused.to_string().contains("denied, since"), "{is_lifted}: {refused}");
        assert_eq!(ask("after").await.unwrap().id, after.id, "{is_lifted}");
    }
}
