//! A request that its caller has named is done once, and answered alike for a day.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{
    DenyRequest, KeyPurpose, KeyStep, KeyStepOutcome, KeyStepRequest, RevokeRequest, TokenRequest,
};
use authority::rotation::ceremony::Ceremonies;
use authority::sequencer::{Conflict, Member};
use authority::store::faulty::{Fault, FaultyStore};
use authority::store::sqlite::SqliteStore;
use authority::{Caller, Error};
use support::{Environment, csr, id, open, reopen, request};

fn named(caller: &Caller, key: &str) -> Caller {
    Caller { idempotency_key: Some(key.to_owned()), ..caller.clone() }
}

fn denial(path: &str) -> DenyRequest {
    let reason = "superseded".to_owned();
    DenyRequest { spiffe_id: id(path), reason, named_override: None }
}

fn revocation(target: String) -> RevokeRequest {
    RevokeRequest { target, reason: "superseded".into(), dry_run: false, named_override: None }
}

fn token(path: &str) -> TokenRequest {
    TokenRequest { spiffe_id: id(path), ttl: None, key_sha256: None }
}

async fn log_size(environment: &Environment) -> u64 {
    environment.store.head().await.unwrap().edge.size()
}

#[tokio::test]
async fn the_same_named_request_gets_the_same_answer_and_is_done_once() {
    let environment = Environment::start().await;
    let authority = &environment.authority;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    environment.issue(&operator, "/prod/reports").await;

    let (deny, revoke, create) =
        (named(&operator, "deny"), named(&operator, "revoke"), named(&operator, "token"));
    let target = revocation(id("/prod/reports").to_string());
    let revoked = authority.operations.revoke(&revoke, &target).await.unwrap();
    let denied = authority.operations.deny(&deny, &denial("/prod/monolith")).await.unwrap();
    let made = authority.operations.create_token(&create, &token("/prod/reports")).await.unwrap();
    let size = log_size(&environment).await;
    assert_eq!(revoked.certificates, 2);

    let mut environment = environment;
    environment.restart().await;
    let authority = &environment.authority;
    assert_eq!(authority.operations.revoke(&revoke, &target).await.unwrap(), revoked);
    assert_eq!(authority.operations.deny(&deny, &denial("/prod/monolith")).await.unwrap(), denied);
    let again = authority.operations.create_token(&create, &token("/prod/reports")).await.unwrap();
    assert_eq!((&again.id, again.expires_at), (&made.id, made.expires_at));
    assert_eq!(again.token.expose(), made.token.expose());
    assert_eq!(log_size(&environment).await, size, "nothing was logged twice");
    environment.issue_with(&again.token, &csr()).await.expect("the token is good");
}

#[tokio::test]
async fn the_same_name_for_another_request_is_a_mismatch_on_every_route() {
    let environment = Environment::start().await;
    let authority = &environment.authority;
    let operator = environment.operator().await;
    let caller = named(&operator, "7b1");
    authority.operations.deny(&caller, &denial("/prod/monolith")).await.unwrap();
    let step = KeyStepRequest {
        purpose: KeyPurpose::Issuer,
        public_key: None,
        certificate: None,
        trust_state: None,
    };
    let target = revocation(id("/prod/monolith").to_string());
    let refusals = [
        authority.operations.deny(&caller, &denial("/prod/reports")).await.map(drop),
        authority.operations.revoke(&caller, &target).await.map(drop),
        authority.operations.create_token(&caller, &token("/prod/reports")).await.map(drop),
        authority.rotation.key_step(&caller, "ab", KeyStep::Retire, &step).await.map(drop),
        authority.issuing.issue(&caller, &request(&csr()), Some("7b1")).await.map(drop),
    ];
    for refused in refusals {
        let is_it = matches!(refused, Err(Error::Conflict(Conflict::IdempotencyMismatch)));
        assert!(is_it, "{refused:?}");
    }
    let second = named(&environment.enrol("second").await, "7b1");
    authority
        .operations
        .deny(&second, &denial("/prod/reports"))
        .await
        .expect("another caller's own name");
}

#[tokio::test]
async fn a_name_is_kept_for_a_day_and_then_forgotten() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let caller = named(&operator, "once");
    let first =
        environment.authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap();
    environment.clock.advance(time::Duration::hours(23));
    let again =
        environment.authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap();
    assert_eq!(again, first);
    environment.clock.advance(time::Duration::hours(2));
    let caller = named(&environment.operator().await, "once");
    let later =
        environment.authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap();
    assert_ne!(later.id, first.id);
}

/// Whoever repeats it would hand out what nobody can use.
#[tokio::test]
async fn a_token_that_counts_no_more_is_not_given_again() {
    for (lost, restarts) in ["withdrawn", "used", "expired", "counts no more"]
        .into_iter()
        .flat_map(|lost| [(lost, false), (lost, true)])
    {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let (caller, asked) = (named(&operator, "token"), token("/prod/reports"));
        let made = environment.authority.operations.create_token(&caller, &asked).await.unwrap();
        let authority = &environment.authority;
        match lost {
            "withdrawn" => authority.operations.revoke_token(&operator, &made.id).await.unwrap(),
            "used" => drop(environment.issue_with(&made.token, &csr()).await.unwrap()),
            "expired" => environment.clock.advance(time::Duration::minutes(15)),
            _ => {
                let denied =
                    authority.operations.deny(&operator, &denial("/prod/reports")).await.unwrap();
                authority.operations.allow(&operator, &denied.id).await.unwrap();
            }
        }
        if restarts {
            environment.restart().await;
        }
        let size = log_size(&environment).await;
        let refused = environment.authority.operations.create_token(&caller, &asked).await;
        let Err(Error::Attestation { why, next_step }) = refused else {
            panic!("{lost}: {:?}", refused.map(|made| made.id));
        };
        assert!(why.contains(lost), "{why}");
        assert!(next_step.contains("another Idempotency-Key"), "{next_step}");
        assert_eq!(log_size(&environment).await, size, "nothing is made in its place");
        let another = named(&operator, "another");
        environment.authority.operations.create_token(&another, &asked).await.unwrap();
    }
}

#[tokio::test]
async fn a_repetition_does_not_do_what_had_nothing_to_do() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let target = revocation(id("/prod/reports").to_string());
    environment.issue(&operator, "/prod/reports").await;
    environment.authority.operations.revoke(&operator, &target).await.unwrap();
    let caller = named(&operator, "late");
    let nothing = environment.authority.operations.revoke(&caller, &target).await.unwrap();
    assert_eq!(nothing.log_index, None);
    let fresh = environment.issue(&operator, "/prod/reports").await;
    assert_eq!(environment.authority.operations.revoke(&caller, &target).await.unwrap(), nothing);
    environment
        .authority
        .issuing
        .issue(&environment.caller(&fresh), &request(&csr()), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn no_other_name_is_taken_than_a_header_should_carry() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for key in ["", "a b", "\u{7f}", "ü", "a\nb", &"k".repeat(256)] {
        let caller = named(&operator, key);
        let refused =
            environment.authority.operations.deny(&caller, &denial("/prod/reports")).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{key:?}: {refused:?}");
        let refused =
            environment.authority.issuing.issue(&operator, &request(&csr()), Some(key)).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{key:?}: {refused:?}");
    }
    let longest = named(&operator, &"k".repeat(255));
    environment.authority.operations.deny(&longest, &denial("/prod/reports")).await.unwrap();
}

#[tokio::test]
async fn sixty_four_at_once_are_one_act() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let size = log_size(&environment).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (authority, caller) = (Arc::clone(&environment.authority), named(&operator, "race"));
        tasks.spawn(async move {
            authority.operations.create_token(&caller, &token("/prod/reports")).await.unwrap()
        });
    }
    let made = tasks.join_all().await;
    for other in &made {
        assert_eq!(other.token.expose(), made[0].token.expose());
    }
    assert_eq!(log_size(&environment).await, size + 1);
}

#[tokio::test]
async fn whoever_may_no_longer_is_given_no_old_answer() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let second = named(&environment.enrol("second").await, "mine");
    environment.authority.operations.create_token(&second, &token("/prod/reports")).await.unwrap();
    environment
        .authority
        .operations
        .deny(&operator, &denial("/countersign/operator/second"))
        .await
        .unwrap();
    let refused =
        environment.authority.operations.create_token(&second, &token("/prod/reports")).await;
    assert!(matches!(refused, Err(Error::Attestation { .. })), "{refused:?}");
}

/// Each write fails once, persisted and not: the repetition finds the act, or does it.
#[tokio::test]
async fn a_failed_write_is_repaired_by_the_same_request_and_done_once() {
    for fault in [Fault::NotPersisted, Fault::Persisted] {
        let left = Arc::new(AtomicU64::new(1));
        let faults = Arc::clone(&left);
        let environment = Environment::start_with(
            |keys, _| keys,
            |store| {
                let fails = move |group: &[Member]| {
                    let is_once = group.iter().any(|it| matches!(it, Member::Once(_)));
                    let fails = is_once && faults.swap(0, Ordering::SeqCst) == 1;
                    fails.then_some(fault)
                };
                Arc::new(FaultyStore::new(store, fails))
            },
        )
        .await;
        let caller = named(&environment.operator().await, "crash");
        let size = log_size(&environment).await;
        let asked = token("/prod/reports");
        environment
            .authority
            .operations
            .create_token(&caller, &asked)
            .await
            .expect_err("it is made to fail");
        let made = environment.authority.operations.create_token(&caller, &asked).await.unwrap();
        assert_eq!(log_size(&environment).await, size + 1, "{fault:?}");
        environment.issue_with(&made.token, &csr()).await.unwrap();
    }
}

/// A database writer who knows name and request makes nobody believe that it was done.
#[tokio::test]
async fn a_row_that_this_ca_did_not_write_answers_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let (first, other) = (named(&operator, "first"), named(&operator, "other"));
    let target = revocation(id("/prod/reports").to_string());
    environment.issue(&operator, "/prod/reports").await;
    let before = environment.authority.operations.revoke(&first, &target).await.unwrap();
    environment.issue(&operator, "/prod/reports").await;
    let database = rusqlite::Connection::open(environment.folder.path().join("countersign.db"));
    let database = database.unwrap();
    let forged =
        "INSERT INTO idempotency (principal, name, request_hash, leaf_index, at, answer, seal)
        SELECT principal, 'other', request_hash, leaf_index, at, answer, seal FROM idempotency";
    assert_eq!(database.execute(forged, []).unwrap(), 1);
    let done = environment.authority.operations.revoke(&other, &target).await.unwrap();
    assert!(done.log_index > before.log_index, "it was done, not believed: {done:?}");
    let kept: String = database
        .query_row("SELECT group_concat(answer) FROM idempotency", [], |row| row.get(0))
        .unwrap();
    assert!(!kept.contains("ct1."), "no secret is kept: {kept}");
}

/// Requests that change nothing are kept, and no more than some of each principal.
#[tokio::test]
async fn nobody_fills_the_table_by_asking_for_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let target = revocation(issued.serial_number.to_string());
    environment.authority.operations.revoke(&operator, &target).await.unwrap();
    for count in 0..300 {
        environment.clock.advance(time::Duration::milliseconds(1));
        let caller = named(&operator, &format!("nothing-{count}"));
        let done = environment.authority.operations.revoke(&caller, &target).await.unwrap();
        assert_eq!(done.log_index, None);
    }
    let database = rusqlite::Connection::open(environment.folder.path().join("countersign.db"));
    let count = "SELECT count(*) FROM idempotency WHERE leaf_index < 0";
    let kept: i64 = database.unwrap().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 256);
}

#[tokio::test]
async fn a_store_of_before_names_were_sealed_is_opened_and_keeps_them_from_now_on() {
    let environment = Environment::start().await;
    let caller = named(&environment.operator().await, "name");
    let first =
        environment.authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap();
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    let key = keys.head_key().unwrap().unwrap();
    SqliteStore::take_back(folder.path(), &key, 5).unwrap();
    let database = rusqlite::Connection::open(folder.path().join("countersign.db")).unwrap();
    let before = "DROP INDEX idempotency_unchanged; ALTER TABLE idempotency DROP COLUMN answer;
        ALTER TABLE idempotency DROP COLUMN seal; UPDATE meta SET version = 4;";
    database.execute_batch(before).unwrap();
    let store = reopen(folder.path(), &keys).await.unwrap();
    let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    let later = authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap();
    assert_ne!(later.id, first.id, "a row without a seal is not believed");
    assert_eq!(authority.operations.deny(&caller, &denial("/prod/reports")).await.unwrap(), later);
}

/// Prepares an issuer: its certificate is announced, then what was signed is sent.
#[tokio::test]
async fn a_named_step_of_a_key_is_announced_and_taken_once() {
    let environment = Environment::start().await;
    let authority = &environment.authority;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let trust = authority.view.trust();
    let keys = authority.rotation.keys(&operator).await.unwrap().items;
    let ceremonies = Ceremonies {
        online: &environment.keys,
        offline: Some(&offline),
        trust: trust.state(),
        keys: &keys,
        clock: &*environment.clock,
    };
    let ask = async |id: &str, step, request: &KeyStepRequest| -> Result<KeyStepOutcome, Error> {
        let caller = named(&operator, &format!("step-{}", log_size(&environment).await));
        let first = authority.rotation.key_step(&caller, id, step, request).await?;
        let size = log_size(&environment).await;
        assert_eq!(authority.rotation.key_step(&caller, id, step, request).await?, first);
        assert_eq!(log_size(&environment).await, size, "nothing is logged twice");
        Ok(first)
    };
    ceremonies.take(KeyPurpose::Issuer, KeyStep::Prepare, ask).await.unwrap();
}
