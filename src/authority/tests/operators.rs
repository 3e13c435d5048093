//! Operators are added by operators, while the CA runs, and nobody takes the place of another.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{
    ActOnRecord, Attestation, DenyRequest, IssueRequest, NewToken, OperatorRecord, OperatorRequest,
    OperatorState, RevokeRequest, Secret, TokenFilter,
};
use authority::sequencer::{Effect, Member};
use authority::store::faulty::FaultyStore;
use authority::{Caller, Error};
use support::older::database;
use support::{Environment, csr, id, policy_files, request};

const BOB: &str = "/countersign/operator/bob";
const ADMIN: &str = "/countersign/operator/admin";

fn named(name: &str) -> OperatorRequest {
    OperatorRequest { name: name.to_owned(), ttl: None, key_sha256: None, again: false }
}

fn again(name: &str) -> OperatorRequest {
    OperatorRequest { again: true, ..named(name) }
}

async fn add(
    environment: &Environment,
    by: &Caller,
    asked: &OperatorRequest,
) -> Result<NewToken, Error> {
    environment.authority.operations.add_operator(by, asked).await
}

/// The new operator's first certificate.
async fn join(environment: &Environment, token: &NewToken) -> Result<Caller, Error> {
    let issued = environment.issue_with(&token.token, &csr()).await?;
    Ok(environment.caller(&issued))
}

/// Somebody whom `by` added and who has joined.
async fn added(environment: &Environment, by: &Caller, name: &str) -> Caller {
    let token = add(environment, by, &named(name)).await.unwrap();
    join(environment, &token).await.unwrap()
}

async fn listed(environment: &Environment, by: &Caller, name: &str) -> OperatorRecord {
    let page = environment.authority.operations.operators(by).await.unwrap();
    page.items.into_iter().find(|operator| operator.name == name).unwrap()
}

async fn revoke(environment: &Environment, by: &Caller, path: &str) -> Vec<ActOnRecord> {
    let (target, reason) = (id(path).to_string(), "superseded".to_owned());
    let asked = RevokeRequest { target, reason, dry_run: false, named_override: None };
    environment.authority.operations.revoke(by, &asked).await.unwrap().review
}

async fn deny(environment: &Environment, by: &Caller, path: &str) -> String {
    let (spiffe_id, reason) = (id(path), "unspecified".to_owned());
    let asked = DenyRequest { spiffe_id, reason, named_override: None };
    environment.authority.operations.deny(by, &asked).await.unwrap().id
}

/// The step is one that policy lets somebody take: an operator is added, and gets no workload's token.
fn told_to_be_added<T: std::fmt::Debug>(refused: Result<T, Error>, expected: &str) {
    let error = refused.unwrap_err();
    let Error::Attestation { why, next_step } = &error else { panic!("{error:?}") };
    assert!(why.contains(expected), "{why}");
    assert!(next_step.contains("operator add NAME"), "{next_step}");
}

fn told<T: std::fmt::Debug>(refused: Result<T, Error>, expected: &str) {
    let error = refused.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn an_operator_is_added_while_the_ca_runs_and_the_log_names_the_adder() {
    let mut environment = Environment::start().await;
    let admin = environment.operator().await;
    let token = add(&environment, &admin, &named("bob")).await.unwrap();
    assert_eq!(token.spiffe_id, id(BOB));
    let invited = listed(&environment, &admin, "bob").await;
    assert_eq!(invited.state, OperatorState::Invited);
    assert_eq!(invited.invited_until, Some(token.expires_at));

    let bob = join(&environment, &token).await.unwrap();
    environment.authority.status(&bob).await.unwrap();
    let shown = listed(&environment, &bob, "bob").await;
    assert_eq!((shown.state, shown.added_by.as_str()), (OperatorState::Able, id(ADMIN).as_str()));
    let svid = bob.svid.as_ref().unwrap();
    assert_eq!(shown.serial_number.as_ref(), Some(svid.serial_number()));
    assert_eq!(shown.not_after.unwrap().unix_timestamp(), svid.not_after());

    let entry = environment.store.entries(shown.log_index.unwrap(), 1).await.unwrap();
    let event: serde_json::Value = serde_json::from_slice(&entry[0]).unwrap();
    assert_eq!(
        (&event["type"], &event["actor"]),
        (&"operator.create".into(), &id(ADMIN).as_str().into())
    );
    assert_eq!(
        (&event["subject"], &event["detail"]["name"]),
        (&id(BOB).as_str().into(), &"bob".into())
    );
    assert!(
        !entry[0].windows(8).any(|it| it == &token.token.expose().as_bytes()[..8]),
        "no secret"
    );

    environment.restart().await;
    environment.authority.status(&bob).await.unwrap();
    assert_eq!(listed(&environment, &bob, "bob").await, shown);
}

#[tokio::test]
async fn whoever_is_no_operator_adds_none_whatever_policies_say() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    let workload = environment.caller(&issued);
    told(add(&environment, &workload, &named("bob")).await, "AddOperator");
    told(add(&environment, &support::anonymous(), &named("bob")).await, "client certificate");
    let unlisted = environment.enrol("eve").await;
    told(add(&environment, &unlisted, &named("bob")).await, "AddOperator");

    let mut files = environment.authority.operations.policies(&admin).unwrap();
    let everybody = "@id(\"everything\") permit(principal, action, resource);".to_owned();
    files.files.insert("all.cedar".to_owned(), everybody);
    environment
        .authority
        .operations
        .replace_policies(&admin, &files.files, &files.hash)
        .await
        .unwrap();
    told(add(&environment, &workload, &named("bob")).await, "only operators add others");
}

#[tokio::test]
async fn policy_says_who_adds_operators() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let mut files = environment.authority.operations.policies(&admin).unwrap();
    let only = format!(
        "@id(\"only-admin\") forbid(principal, action == Action::\"AddOperator\", resource) \
         unless {{ principal == Operator::\"{}\" }};",
        id(ADMIN)
    );
    files.files.insert("adding.cedar".to_owned(), only);
    let token = add(&environment, &second, &named("bob")).await.unwrap();
    environment
        .authority
        .operations
        .replace_policies(&admin, &files.files, &files.hash)
        .await
        .unwrap();
    told(add(&environment, &second, &named("carol")).await, "only-admin");
    told(join(&environment, &token).await, "whoever made it");
    added(&environment, &admin, "carol").await;
}

/// What was in force before there was such an action stays in force after an upgrade.
#[tokio::test]
async fn under_a_schema_of_before_whoever_changes_policies_adds_operators() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let mut files = environment.authority.operations.policies(&admin).unwrap();
    let schema = files.files.get_mut("schema.cedarschema").unwrap();
    let from = schema.find("action AddOperator").unwrap();
    let end = from + schema[from..].find("};").unwrap() + 2;
    schema.replace_range(from..end, "");
    let policies = files.files.get_mut("countersign.cedar").unwrap();
    let from = policies.find("@id(\"operator-adds-operators\")").unwrap();
    let end = from + policies[from..].find("};\n").unwrap() + 2;
    policies.replace_range(from..end, "");
    environment
        .authority
        .operations
        .replace_policies(&admin, &files.files, &files.hash)
        .await
        .unwrap();
    let bob = added(&environment, &admin, "bob").await;
    environment.authority.status(&bob).await.unwrap();
    let issued = environment.issue(&admin, "/prod/reports").await;
    let workload = environment.caller(&issued);
    assert!(add(&environment, &workload, &named("carol")).await.is_err());
}

#[tokio::test]
async fn nobody_is_put_into_the_place_of_an_operator_who_can_act() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    added(&environment, &admin, "bob").await;
    environment.enrol("second").await;
    for name in ["bob", "second", "admin"] {
        for asked in [named(name), again(name)] {
            told(add(&environment, &admin, &asked).await, "has a certificate that is good");
        }
    }
}

#[tokio::test]
async fn whoever_had_a_certificate_once_starts_anew_only_where_that_is_said() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    added(&environment, &admin, "bob").await;
    environment.clock.advance(time::Duration::days(2));
    let admin = environment.operator().await;
    assert_eq!(listed(&environment, &admin, "bob").await.state, OperatorState::Lapsed);
    told(add(&environment, &admin, &named("bob")).await, "was somebody's before");
    let token = add(&environment, &admin, &again("bob")).await.unwrap();
    let bob = join(&environment, &token).await.unwrap();
    environment.authority.status(&bob).await.unwrap();
}

#[tokio::test]
async fn whoever_was_removed_is_added_again_only_once_allowed() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let bob = added(&environment, &admin, "bob").await;
    let denial = deny(&environment, &admin, BOB).await;
    assert!(environment.authority.status(&bob).await.is_err());
    assert_eq!(listed(&environment, &admin, "bob").await.state, OperatorState::Denied);
    told(add(&environment, &admin, &again("bob")).await, "is denied");
    environment.authority.operations.allow(&admin, &denial).await.unwrap();
    assert!(environment.authority.status(&bob).await.is_err(), "what he had stays revoked");
    let token = add(&environment, &admin, &again("bob")).await.unwrap();
    join(&environment, &token).await.unwrap();
}

#[tokio::test]
async fn a_token_counts_once_for_a_while_and_for_the_key_that_it_names() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let token = add(&environment, &admin, &named("bob")).await.unwrap();
    join(&environment, &token).await.unwrap();
    told_to_be_added(join(&environment, &token).await, "used already");

    let late = add(&environment, &admin, &named("carol")).await.unwrap();
    environment.clock.advance(time::Duration::minutes(15));
    told_to_be_added(join(&environment, &late).await, "expired");
    // Nobody had the name, so that nothing has to be said to try again.
    added(&environment, &admin, "carol").await;

    let withdrawn = add(&environment, &admin, &named("erin")).await.unwrap();
    environment.authority.operations.revoke_token(&admin, &withdrawn.id).await.unwrap();
    told_to_be_added(join(&environment, &withdrawn).await, "revoked");

    let key_sha256 = Some("00".repeat(32));
    let pinned = OperatorRequest { key_sha256, ..named("dave") };
    let pinned = add(&environment, &admin, &pinned).await.unwrap();
    told(join(&environment, &pinned).await, "for another key");
}

#[tokio::test]
async fn of_two_tokens_for_one_name_the_newer_counts_and_none_once_somebody_has_joined() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let older = add(&environment, &admin, &named("bob")).await.unwrap();
    let newer = add(&environment, &admin, &named("bob")).await.unwrap();
    told(join(&environment, &older).await, "a newer one was made");
    let states: Vec<String> = environment
        .authority
        .operations
        .tokens(&admin, &TokenFilter::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|token| token.state)
        .collect();
    assert_eq!(states, ["open", "void"]);
    // The host enrols by name, too.
    environment.enrol("bob").await;
    told(join(&environment, &newer).await, "has a certificate that is good");
}

/// The second addition commits after the first token was looked at, and before its certificate is
/// logged: whoever keeps the first token does not become the one who is awaited.
#[tokio::test]
async fn a_token_in_flight_does_not_outrun_a_newer_one() {
    let armed = Arc::new(AtomicBool::new(false));
    let slot: Arc<std::sync::Mutex<Option<Member>>> = Arc::default();
    let (trap, taken) = (Arc::clone(&armed), Arc::clone(&slot));
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            let inner = Arc::clone(&store);
            Arc::new(FaultyStore::new(store, move |group| {
                let adds = group.iter().find(
                    |it| matches!(it, Member::Act(act) if act.event.kind() == "operator.create"),
                );
                if let Some(member) = adds {
                    *taken.lock().unwrap() = Some(member.clone());
                }
                let issues = group.iter().any(|it| matches!(it, Member::Certificate(_)));
                if issues && trap.swap(false, Ordering::SeqCst) {
                    let mut member = taken.lock().unwrap().take().unwrap();
                    let Member::Act(act) = &mut member else { panic!("an act was kept") };
                    act.allowed_under = None;
                    let Effect::AddOperator { token, .. } = &mut act.effect else {
                        panic!("an operator is added")
                    };
                    (token.hash, token.id) = (tlog::Hash::of(b"another"), "another".to_owned());
                    let at = support::NOW.unix_timestamp() as u64 * 1000;
                    drop(inner.commit(vec![member], at));
                }
                None
            }))
        },
    )
    .await;
    let admin = environment.operator().await;
    let token = add(&environment, &admin, &named("bob")).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    told(join(&environment, &token).await, "a newer one was made");
}

#[tokio::test]
async fn what_a_revoked_operator_added_is_void_or_listed_for_review() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let bob = added(&environment, &second, "bob").await;
    let carol = add(&environment, &second, &named("carol")).await.unwrap();
    let review = revoke(&environment, &admin, "/countersign/operator/second").await;
    told_to_be_added(join(&environment, &carol).await, "whoever made it");
    assert_eq!(listed(&environment, &admin, "carol").await.state, OperatorState::Lapsed);
    let subjects: Vec<(&str, &str)> =
        review.iter().map(|act| (act.kind.as_str(), act.subject.as_str())).collect();
    let (bobs, carols) = (id(BOB), id("/countersign/operator/carol"));
    let kind = "operator.create";
    assert_eq!(subjects, [(kind, carols.as_str()), (kind, bobs.as_str())], "each once");
    environment.authority.status(&bob).await.unwrap();
    // Another adds the one who was not let in.
    added(&environment, &admin, "carol").await;
}

/// What is listed is what an issue would say.
#[tokio::test]
async fn nobody_is_invited_by_a_token_that_counts_no_more() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let states = async || {
        let page =
            environment.authority.operations.tokens(&admin, &TokenFilter::default()).await.unwrap();
        let state = page.items[0].state.clone();
        (state, listed(&environment, &admin, "bob").await.state)
    };
    let first = add(&environment, &admin, &named("bob")).await.unwrap();
    assert_eq!(states().await, ("open".to_owned(), OperatorState::Invited));
    let bob = environment.enrol("bob").await;
    told_to_be_added(join(&environment, &first).await, "has a certificate that is good");
    assert_eq!(states().await, ("void".to_owned(), OperatorState::Able));

    let serial_number = bob.svid.as_ref().unwrap().serial_number().to_string();
    environment.revoke(&admin, &serial_number).await;
    let used = add(&environment, &admin, &again("bob")).await.unwrap();
    let bob = join(&environment, &used).await.unwrap();
    let serial_number = bob.svid.as_ref().unwrap().serial_number().to_string();
    environment.revoke(&admin, &serial_number).await;
    let unused = "UPDATE tokens SET used_by = NULL, used_leaf = NULL";
    database(environment.folder.path()).execute_batch(unused).unwrap();
    join(&environment, &used).await.unwrap_err();
    assert_eq!(states().await, ("used".to_owned(), OperatorState::Lapsed));
}

#[tokio::test]
async fn the_last_operator_able_to_act_stays_even_where_others_are_invited() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let token = add(&environment, &admin, &named("bob")).await.unwrap();
    let asked = DenyRequest {
        spiffe_id: id(ADMIN),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    let refused = environment.authority.operations.deny(&admin, &asked).await;
    assert!(matches!(refused, Err(Error::LocksOut(_))), "{refused:?}");
    let bob = join(&environment, &token).await.unwrap();
    environment.authority.operations.deny(&bob, &asked).await.unwrap();
}

#[tokio::test]
async fn no_name_reaches_beyond_operators() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    for name in ["", "a/b", "../authority", "a b", "\u{e4}", ".", &"a".repeat(3000)] {
        let refused = add(&environment, &admin, &named(name)).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{name:?}: {refused:?}");
    }
    let long = OperatorRequest { ttl: Some("16m".parse().unwrap()), ..named("bob") };
    told(add(&environment, &admin, &long).await, "15 minutes");
}

#[tokio::test]
async fn the_same_named_request_adds_once_and_tells_the_same_token() {
    let environment = Environment::start().await;
    let admin =
        Caller { idempotency_key: Some("add-bob".to_owned()), ..environment.operator().await };
    let first = add(&environment, &admin, &named("bob")).await.unwrap();
    let second = add(&environment, &admin, &named("bob")).await.unwrap();
    assert_eq!(first.token.expose(), second.token.expose());
    join(&environment, &second).await.unwrap();
    let again = add(&environment, &admin, &named("bob")).await.unwrap_err();
    assert!(again.to_string().contains("it was used since"), "{again}");
}

#[tokio::test]
async fn those_of_the_table_and_of_the_host_are_listed_as_such() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let files: BTreeMap<String, String> = policy_files();
    assert!(files["workloads.json"].contains("second"));
    let second = listed(&environment, &admin, "second").await;
    assert_eq!((second.state, second.added_by.as_str()), (OperatorState::Lapsed, "workloads.json"));
    let shown = listed(&environment, &admin, "admin").await;
    assert_eq!((shown.state, shown.added_by.as_str()), (OperatorState::Able, "init"));
}

/// Whatever is wrong with the token: whoever asks to be an operator is not sent for a workload's.
#[tokio::test]
async fn who_asks_to_be_an_operator_is_told_the_operators_way_to_another_token() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let unknown = |kind: &str| {
        let (secret, pin) = (data_encoding::BASE32_NOPAD.encode(&[7; 32]), environment.pin);
        (kind.to_owned(), Secret::new(format!("ct1.{secret}.{pin}")))
    };
    let expired = add(&environment, &admin, &named("bob")).await.unwrap();
    environment.clock.advance(time::Duration::minutes(16));
    let used = add(&environment, &admin, &named("bob")).await.unwrap();
    join(&environment, &used).await.unwrap();
    let broken = ("broken".to_owned(), Secret::new("ct1.nothing"));
    let of_a_workload = environment.token(&admin, "/prod/reports").await;
    let spent = environment.token(&admin, "/prod/reports").await;
    environment.issue_with(&spent, &csr()).await.unwrap();
    let tokens = [
        ("a workload's".to_owned(), of_a_workload),
        ("a workload's, used".to_owned(), spent),
        unknown("unknown"),
        broken,
        ("expired".to_owned(), expired.token),
        ("used".to_owned(), used.token),
    ];
    for (what, token) in tokens {
        let ask = async |path: &str| {
            let attestation = Attestation::Token { token: token.clone() };
            let body = IssueRequest { spiffe_id: Some(id(path)), attestation, ..request(&csr()) };
            let refused =
                environment.authority.issuing.issue(&support::anonymous(), &body, None).await;
            match refused.unwrap_err() {
                Error::Attestation { next_step, .. } => next_step,
                other => panic!("{what}: {other:?}"),
            }
        };
        let step = ask(BOB).await;
        assert!(
            step.contains("`countersign operator add NAME`, by an operator, with --again"),
            "{what}: {step}"
        );
        assert!(!step.contains("token create"), "{what}: {step}");
        if ["unknown", "broken"].contains(&&what[..]) {
            let step = ask("/prod/reports").await;
            assert!(step.contains("countersign token create SPIFFE_ID"), "{what}: {step}");
        }
    }
}

#[tokio::test]
async fn an_operator_who_is_refused_is_told_the_operators_way_back() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let bob = added(&environment, &admin, "bob").await;
    revoke(&environment, &admin, BOB).await;
    let told = |refused: Error| match refused {
        Error::Attestation { next_step, .. } => next_step,
        other => panic!("{other:?}"),
    };
    let way = "`countersign operator add bob --again`, by another operator; without one";
    let step = told(environment.renew(&bob, &csr()).await.unwrap_err());
    assert!(step.contains(way) && !step.contains("token create"), "{step}");
    environment.clock.advance(time::Duration::days(8));
    let admin_again = environment.authority.status(&admin).await.unwrap_err();
    assert!(told(admin_again).contains("countersign operator add admin --again"));
}
