//! What a deposed operator leaves behind: named, counted, and listed whole.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{
    ActFilter, ActOnRecord, Denial, DenyRequest, OperatorRequest, OperatorState, TokenFilter,
};
use authority::clock::Clock;
use authority::sequencer::{ActMember, Effect, Member, TokenDraft};
use authority::store::faulty::{FaultyStore, ReadOf};
use authority::{Act, Caller, Error, EventDraft};
use support::{Environment, csr, id, request};

const SECOND: &str = "/countersign/operator/second";
const EVIL: &str = "/countersign/operator/evil";

async fn deny(environment: &Environment, operator: &Caller, path: &str) -> Denial {
    let (spiffe_id, reason) = (id(path), "key-compromise".to_owned());
    let asked = DenyRequest { spiffe_id, reason, named_override: None };
    environment.authority.operations.deny(operator, &asked).await.unwrap()
}

async fn add(environment: &Environment, adder: &Caller, name: &str) -> api::Secret {
    let name = name.to_owned();
    let asked = OperatorRequest { name, ttl: None, key_sha256: None, again: false };
    environment.authority.operations.add_operator(adder, &asked).await.unwrap().token
}

/// As if this one had done so many things that are recorded and do nothing else.
async fn act(environment: &Environment, by: &str, kind: &'static str, count: usize) {
    let (by, hash) = (id(by), environment.authority.view.policy().set().hash().to_owned());
    let by = Act { actor: by.as_str(), request_id: "test" };
    let detail = serde_json::json!({ "hash": format!("{hash:?}") });
    let draft = EventDraft::new(kind, &by, "policies", &detail);
    let files = serde_json::to_string(environment.authority.view.policy().set().files()).unwrap();
    let member = || {
        let files = files.clone();
        let effect = Effect::ActivatePolicy { expected: None, files, hash };
        Member::Act(Box::new(ActMember { event: draft.clone(), effect, allowed_under: None }))
    };
    let group = std::iter::repeat_with(member).take(count).collect();
    let now = environment.clock.unix_milliseconds();
    environment.store.commit(group, now).await.unwrap();
    environment.authority.view.refresh().await.unwrap();
}

/// So many tokens that an operator has made for a workload.
async fn tokens(environment: &Environment, by: &str, count: usize) {
    let by = id(by);
    let by = Act { actor: by.as_str(), request_id: "test" };
    let member = |number: usize| {
        let token = TokenDraft {
            hash: tlog::Hash::of(number.to_string().as_bytes()),
            id: format!("{number:016x}"),
            spiffe_id: id("/prod/monolith"),
            expires_at: environment.clock.unix_milliseconds() + 60_000,
            key_hash: None,
        };
        let event = EventDraft::new("token.create", &by, token.spiffe_id.as_str(), &());
        let effect = Effect::CreateToken(token);
        Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
    };
    let members: Vec<usize> = (0..count).collect();
    for group in members.chunks(250) {
        let group = group.iter().copied().map(member).collect();
        let now = environment.clock.unix_milliseconds();
        environment.store.commit(group, now).await.unwrap();
    }
}

fn subjects<'a>(acts: &'a [ActOnRecord], kind: &str) -> Vec<&'a str> {
    acts.iter().filter(|act| act.kind == kind).map(|act| act.subject.as_str()).collect()
}

async fn all_acts(environment: &Environment, caller: &Caller, by: &str) -> Vec<ActOnRecord> {
    let mut filter = ActFilter { by: id(by), limit: Some(60), after: None };
    let mut acts = Vec::new();
    loop {
        let page = environment.authority.operations.acts(caller, &filter).await.unwrap();
        assert!(page.items.len() <= 60);
        acts.extend(page.items);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return acts,
        }
    }
}

#[tokio::test]
async fn no_number_of_policy_changes_hides_whom_an_operator_added_or_gave_a_certificate() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let token = add(&environment, &second, "evil").await;
    environment.issue_with(&token, &csr()).await.unwrap();
    let by_token = environment.issue(&second, "/prod/reports").await;
    let body = api::IssueRequest { spiffe_id: Some(id("/prod/monolith")), ..request(&csr()) };
    let by_itself = environment.authority.issuing.issue(&second, &body, None).await.unwrap();
    act(&environment, SECOND, "policy.change", 101).await;
    let denial = deny(&environment, &admin, SECOND).await;
    let review = &denial.review;
    assert_eq!(subjects(review, "operator.create"), [id(EVIL).as_str()]);
    assert_eq!(subjects(review, "token.create"), [id("/prod/reports").as_str()]);
    assert_eq!(subjects(review, "issue"), [id("/prod/monolith").as_str()]);
    let place = |kind| review.iter().find(|act| act.kind == kind).unwrap().log_index;
    assert_eq!(place("token.create"), by_token.log_index);
    assert_eq!(place("issue"), by_itself.log_index);
    assert_eq!(review[0].kind, "operator.create", "what grants most stands first");
    let counts =
        [("issue", 1), ("operator.create", 1), ("policy.change", 101), ("token.create", 1)];
    let counts: BTreeMap<String, u64> =
        counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
    assert_eq!((&denial.review_counts, review.len(), denial.review_more), (&counts, 100, 4));
    let all = all_acts(&environment, &admin, SECOND).await;
    assert_eq!(all.len(), 104);
    assert!(
        all.is_sorted_by(|one, next| one.log_index > next.log_index),
        "each once, newest first"
    );
    assert!(review.iter().all(|act| all.contains(act)));
}

#[tokio::test]
async fn who_joined_is_named_however_many_never_did() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let token = add(&environment, &second, "evil").await;
    environment.issue_with(&token, &csr()).await.unwrap();
    for number in 0..105 {
        add(&environment, &second, &format!("nobody-{number}")).await;
    }
    let denial = deny(&environment, &admin, SECOND).await;
    assert!(subjects(&denial.review, "operator.create").contains(&id(EVIL).as_str()));
    assert_eq!((denial.review.len(), denial.review_more), (100, 6));
}

#[tokio::test]
async fn tokens_of_others_push_none_out_of_the_lists() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    environment.issue(&second, "/prod/reports").await;
    add(&environment, &admin, "bob").await;
    tokens(&environment, "/countersign/operator/admin", 1001).await;
    let authority = &environment.authority;
    let first = authority.operations.tokens(&admin, &TokenFilter::default()).await.unwrap();
    let after = first.next.clone();
    let last =
        authority.operations.tokens(&admin, &TokenFilter { limit: None, after }).await.unwrap();
    assert_eq!((first.items.len(), last.items.len(), last.next), (1000, 3, None));
    let operators = authority.operations.operators(&admin).await.unwrap().items;
    let bob = operators.iter().find(|operator| operator.name == "bob").unwrap();
    assert_eq!(bob.state, OperatorState::Invited);
    let denial = deny(&environment, &admin, SECOND).await;
    assert_eq!(subjects(&denial.review, "token.create"), [id("/prod/reports").as_str()]);
}

#[tokio::test]
async fn one_list_of_acts_has_all_its_pages_whatever_is_done_meanwhile() {
    let scans = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&scans);
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            let store = FaultyStore::new(store, |_| None);
            Arc::new(store.on_read(move |what| {
                counted.fetch_add(usize::from(what == ReadOf::Tokens), Ordering::SeqCst);
                None
            }))
        },
    )
    .await;
    let admin = environment.operator().await;
    act(&environment, SECOND, "policy.change", 5).await;
    let all = all_acts(&environment, &admin, SECOND).await;
    let scanned = || scans.swap(0, Ordering::SeqCst);
    assert_eq!((all.len(), scanned()), (5, 1));
    let page = async |by: &str, after: Option<&str>| {
        let filter = ActFilter { by: id(by), limit: Some(2), after: after.map(str::to_owned) };
        environment.authority.operations.acts(&admin, &filter).await.unwrap()
    };
    let mut paged = page(SECOND, None).await;
    assert_eq!(scanned(), 0, "the log stands where it stood");
    let mut listed = paged.items.clone();
    while let Some(next) = paged.next.take() {
        // Of this nothing stands behind the first page.
        act(&environment, SECOND, "policy.change", 1).await;
        paged = page(SECOND, Some(&next)).await;
        listed.extend(paged.items.clone());
    }
    assert_eq!((listed, scanned()), (all.clone(), 0));
    let first = page(SECOND, None).await;
    assert!(first.items[0].log_index > all[0].log_index, "whoever begins is told what is new");
    assert_eq!(scanned(), 1);
    let admins = "/countersign/operator/admin";
    assert!(
        page(admins, first.next.as_deref()).await.items.is_empty(),
        "another's list is another"
    );
    assert_eq!(page(SECOND, first.next.as_deref()).await.items.len(), 2);
}

#[tokio::test]
async fn the_list_of_acts_is_for_those_who_read_the_inventory_and_takes_its_own_cursors_alone() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    let filter = |after: Option<&str>| ActFilter {
        by: id("/countersign/operator/admin"),
        limit: None,
        after: after.map(str::to_owned),
    };
    let authority = &environment.authority;
    let workload = environment.caller(&issued);
    let denied = authority.operations.acts(&workload, &filter(None)).await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    let stranger = authority.operations.acts(&support::anonymous(), &filter(None)).await;
    assert!(matches!(stranger, Err(Error::Attestation { .. })), "{stranger:?}");
    for after in ["x", "-1", "1.0", ""] {
        let refused = authority.operations.acts(&admin, &filter(Some(after))).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{after:?}: {refused:?}");
    }
    let largest = u64::MAX.to_string();
    assert_eq!(
        authority.operations.acts(&admin, &filter(Some(&largest))).await.unwrap().items.len(),
        1
    );
    assert!(authority.operations.acts(&admin, &filter(Some("0"))).await.unwrap().items.is_empty());
    let nobody = ActFilter { by: id("/prod/nobody"), ..filter(None) };
    assert!(authority.operations.acts(&admin, &nobody).await.unwrap().items.is_empty());
}
