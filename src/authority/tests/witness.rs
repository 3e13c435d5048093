//! A database that was put back is caught by what others have seen.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use api::KeyPurpose::Log;
use api::{KeyState, KeyStep};
use authority::{Error, Event, Shown};
use identity::SpiffeId;
use support::rotation::take;
use support::{Environment, id, signed_by};
use tlog::{Checkpoint, Hash, SignedNote};

/// A checkpoint of the log's key, whatever it says.
async fn signed(environment: &Environment, size: u64, root: Hash) -> Vec<u8> {
    signed_by(&*environment.keys.first(Log).unwrap(), size, root).await
}

async fn newest(environment: &Environment) -> Vec<u8> {
    environment.authority.writer.sign_checkpoint().await.unwrap();
    environment.store.checkpoint().await.unwrap().unwrap().note
}

/// The head as the database has it, column by column.
fn head(environment: &Environment) -> Vec<rusqlite::types::Value> {
    let row = format!("SELECT {HEAD} FROM head");
    let values = |row: &rusqlite::Row<'_>| (0..8).map(|column| row.get(column)).collect();
    database(environment).query_row(&row, [], values).unwrap()
}

fn put_back(environment: &Environment, head: Vec<rusqlite::types::Value>) {
    let update = format!("UPDATE head SET ({HEAD}) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    database(environment).execute(&update, rusqlite::params_from_iter(head)).unwrap();
}

const HEAD: &str = "size, edge, at, revocation_epoch, policy_hash, swept, chain, seal";

/// Over a connection of its own.
fn database(environment: &Environment) -> rusqlite::Connection {
    rusqlite::Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

/// Whether a certificate can still be had.
async fn issues(environment: &Environment) -> bool {
    let operator = environment.enrol_anyway("admin").await;
    let Some(operator) = operator else { return false };
    let token = environment.token(&operator, "/prod/reports").await;
    match environment.issue_with(&token, &support::csr()).await {
        Ok(_) => true,
        Err(Error::Halted(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_signed_checkpoint_larger_than_the_log_stops_issuing_and_says_so() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let size = environment.store.head().await.unwrap().edge.size();
    let larger = signed(&environment, size + 1, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByStranger).await;
    let why = environment.authority.view.halted().unwrap();
    assert!(why.contains(&format!("{} entries, and the log has {size}", size + 1)), "{why}");
    assert!(environment.authority.status(&operator).await.unwrap().halted.is_some());
    assert!(!issues(&environment).await);
    let renewed = environment.renew(&environment.caller(&issued), &support::csr()).await;
    assert!(matches!(renewed, Err(Error::Halted(_))));
    assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "nothing was logged");
    assert!(matches!(environment.authority.writer.sign_checkpoint().await, Err(Error::Halted(_))));

    let deny = api::DenyRequest {
        spiffe_id: id("/prod/quick"),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(&operator, &deny).await.unwrap();
}

#[tokio::test]
async fn another_root_at_a_size_that_the_log_had_stops_issuing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let size = environment.store.head().await.unwrap().edge.size();
    environment.issue(&operator, "/prod/reports").await;
    newest(&environment).await;
    let other = signed(&environment, size, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&other, Shown::ByStranger).await;
    assert!(issues(&environment).await, "a stranger with an old checkpoint is not listened to");
    environment.authority.writer.witness(&other, Shown::ByWorkload).await;
    assert!(!issues(&environment).await);
}

#[tokio::test]
async fn checkpoints_that_the_log_leads_to_change_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for _ in 0..3 {
        let seen = newest(&environment).await;
        environment.issue(&operator, "/prod/reports").await;
        for _ in 0..2 {
            environment.authority.writer.witness(&seen, Shown::ByWorkload).await;
        }
    }
    assert!(issues(&environment).await);
}

#[tokio::test]
async fn what_the_logs_key_did_not_sign_changes_nothing() {
    let environment = Environment::start().await;
    let text = Checkpoint {
        origin: "pay.example/log".to_owned(),
        size: 1_000_000,
        root: Hash::new([7; 32]),
    };
    let key =
        tlog::VerifierKey::parse(&environment.authority.view.trust().state().log.key).unwrap();
    let forged = SignedNote::unsigned(text.text()).unwrap();
    let forged = forged.with_signature(key.name(), key.key_id(), &[7; 64]).unwrap().encode();
    for note in [&forged[..], b"", b"\xff", b"pay.example/log\n5\n", &vec![b'a'; 100_000]] {
        environment.authority.writer.witness(note, Shown::ByWorkload).await;
    }
    assert!(issues(&environment).await);
}

#[tokio::test]
async fn a_database_put_back_below_a_running_ca_is_noticed() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let (head, put) = (|| head(&environment), |head| put_back(&environment, head));
    let older = head();
    environment.issue(&operator, "/prod/reports").await;
    newest(&environment).await;
    let newer = head();
    put(older);
    assert!(matches!(environment.authority.view.refresh().await, Err(Error::Halted(_))));
    assert!(!issues(&environment).await);
    assert!(environment.authority.feed.heartbeat().await.is_err(), "it knows of nothing new");
    put(newer);
    let grown = environment.authority.view.refresh().await;
    assert!(matches!(grown, Err(Error::Halted(_))), "it may have another past");
    let kept = fs::read_to_string(environment.folder.path().join("halted")).unwrap();
    assert!(kept.contains("an older database was put back\n\npay.example/log\n"), "{kept}");
}

#[tokio::test]
async fn a_halted_ca_tells_nobody_of_another_past() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let deny = api::DenyRequest {
        spiffe_id: id("/prod/quick"),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(&operator, &deny).await.unwrap();
    let larger = signed(&environment, 1_000_000, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    let subscribe = |after| environment.authority.feed.subscribe(&operator, after);
    assert!(matches!(subscribe(Some(1)).await, Err(Error::Halted(_))), "nothing stands there");
    assert!(subscribe(Some(0)).await.is_ok());
    assert!(subscribe(None).await.is_ok());
}

#[tokio::test]
async fn a_halt_outlives_a_restart_and_the_ca_keeps_its_own_certificate() {
    let mut environment = Environment::start().await;
    let larger = signed(&environment, 1_000_000, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    let why = environment.authority.view.halted().unwrap();
    for _ in 0..2 {
        environment.restart().await;
        assert_eq!(environment.authority.view.halted().as_deref(), Some(&*why));
        assert!(!issues(&environment).await);
    }
    let own = api::IssueRequest {
        spiffe_id: Some(SpiffeId::authority(environment.authority.view.trust_domain())),
        ..support::request(&support::csr())
    };
    environment.authority.issuing.issue_internal(&own, "test").await.unwrap();
    let mode = fs::metadata(environment.folder.path().join("halted")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_restart_on_the_log_that_was_seen_ends_a_halt() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let (size, root) = {
        let head = environment.store.head().await.unwrap();
        (head.edge.size(), head.edge.root())
    };
    let file = environment.folder.path().join("halted");
    let other = signed(&environment, size, Hash::new([7; 32])).await;
    let ours = signed(&environment, size, root).await;
    environment.issue(&operator, "/prod/reports").await;
    for (seen, is_halted) in [(other, true), (ours, false)] {
        fs::write(&file, [&b"an older database was put back\n\n"[..], &seen].concat()).unwrap();
        environment.restart().await;
        assert_eq!(environment.authority.view.halted().is_some(), is_halted);
        assert_eq!((file.exists(), issues(&environment).await), (is_halted, !is_halted));
    }
}

#[tokio::test]
async fn a_database_that_lacks_a_part_of_what_was_seen_does_not_end_a_halt() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let oldest = head(&environment);
    environment.issue(&operator, "/prod/reports").await;
    let between = environment.store.head().await.unwrap().edge;
    let (size, root) = (between.size(), between.root());
    let newer = head(&environment);
    put_back(&environment, oldest);
    for seen in [(size, root), (size + 9, Hash::new([7; 32])), (size + 5, Hash::new([8; 32]))] {
        let seen = signed(&environment, seen.0, seen.1).await;
        environment.authority.writer.witness(&seen, Shown::ByStranger).await;
    }
    let why = environment.authority.view.halted().unwrap();
    assert!(why.contains(&format!("{} entries", size + 9)), "{why}");
    put_back(&environment, newer);
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), Some(why));
}

#[tokio::test]
async fn a_halt_that_cannot_be_read_lifts_nothing() {
    let environment = Environment::start().await;
    for damaged in [&b""[..], b"why", b"why\n\n", b"why\n\npay.example/log\nmany\n", b"\xff\n\n"] {
        fs::write(environment.folder.path().join("halted"), damaged).unwrap();
        let kept = environment.open().await;
        assert!(matches!(kept, Err(Error::Unproven { .. })), "{damaged:?}");
    }
}

#[tokio::test]
async fn a_halt_that_is_lifted_is_logged_and_returns_only_with_who_has_seen_more() {
    let mut environment = Environment::start().await;
    let larger = signed(&environment, 1_000_000, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    let why = environment.authority.view.halted().unwrap();
    let index = environment.store.head().await.unwrap().edge.size();
    assert_eq!(lift(&environment).await, Some(why.clone()));
    let entry = environment.store.entries(index, 1).await.unwrap().pop().unwrap();
    let event = Event::parse(&entry).unwrap();
    assert_eq!((event.kind.as_str(), event.detail["why"].as_str()), ("halt.lift", Some(&*why)));
    assert_eq!(event.detail["size"], 1_000_000);
    assert_eq!(event.detail["note_sha256"], format!("{:?}", Hash::of(&larger)));
    assert_eq!(lift(&environment).await, None);
    environment.restart().await;
    assert!(issues(&environment).await);
    let within = signed(&environment, 999_999, Hash::new([8; 32])).await;
    for judged in [&larger, &within] {
        environment.authority.writer.witness(judged, Shown::ByWorkload).await;
        assert!(issues(&environment).await);
    }
    let beyond = signed(&environment, 1_000_001, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&beyond, Shown::ByStranger).await;
    assert!(!issues(&environment).await);
}

async fn lift(environment: &Environment) -> Option<String> {
    environment.lift_halt().await.unwrap().why
}

#[tokio::test]
async fn what_a_later_log_key_signed_was_judged_by_nobody() {
    let mut environment = Environment::start().await;
    let larger = signed(&environment, 1_000_000, Hash::new([7; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    lift(&environment).await.unwrap();
    environment.restart().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    take(&environment, &offline, &operator, Log, KeyStep::Prepare).await.unwrap();
    let keys = environment.authority.rotation.keys(&operator).await.unwrap().items;
    let prepared = keys.iter().find(|key| key.state == KeyState::Prepared).unwrap();
    let id = Hash::of(prepared.public_key.as_bytes());
    let later = environment.keys.signer(Log, &id).unwrap();
    let other = signed_by(&*later, 999_999, Hash::new([8; 32])).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    assert!(issues(&environment).await);
    environment.authority.writer.witness(&other, Shown::ByWorkload).await;
    assert!(!issues(&environment).await);
}
