//! A database that is put back, row by row or whole, is caught before anybody is told of anything that
//! it lacks, whether or not a checkpoint was signed meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use authority::sequencer::Member;
use authority::store::Store;
use authority::store::faulty::FaultyStore;
use authority::{Caller, Error, Event, Shown, setup};
use support::older::{copy, database, put_back};
use support::{Environment, id, trust_domain};

fn is_halted<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Halted(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn size(environment: &Environment) -> u64 {
    environment.store.head().await.unwrap().edge.size()
}

async fn deny(environment: &Environment, operator: &Caller) -> Result<api::Denial, Error> {
    let request = api::DenyRequest {
        spiffe_id: id("/prod/monolith"),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(operator, &request).await
}

/// A revocation was acknowledged, no checkpoint signed, and then the database of before put back.
async fn revoked_and_put_back() -> (Environment, Caller, Caller) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let older = copy(environment.folder.path());
    let serial = held.svid.as_ref().unwrap().serial_number().to_string();
    environment.revoke(&operator, &serial).await;
    put_back(environment.folder.path(), &older);
    (environment, operator, held)
}

#[tokio::test]
async fn a_revocation_that_was_put_back_before_its_checkpoint_halts_the_running_ca() {
    let (environment, operator, held) = revoked_and_put_back().await;
    let why = is_halted(deny(&environment, &operator).await);
    assert!(why.contains("an older database was put back"), "{why}");
    environment.renew(&held, &support::csr()).await.unwrap_err();
    is_halted(environment.authority.view.refresh().await);
    assert_eq!(environment.authority.view.halted().as_ref(), Some(&why));
    is_halted(environment.authority.view.require_clock().await);
    assert!(environment.authority.writer.require_commits().is_err(), "it is not ready");
    assert!(environment.authority.writer.probe_store().await.is_err());
    assert!(environment.authority.writer.sign_checkpoint().await.is_err());
    // The log's key has signed what was lost: whoever verifies checkpoints believes it.
    let kept = fs::read_to_string(environment.folder.path().join("halted")).unwrap();
    let (_, note) = kept.split_once("\n\n").unwrap();
    let key =
        tlog::VerifierKey::parse(&environment.authority.view.trust().state().log.key).unwrap();
    tlog::Checkpoint::verify(note.as_bytes(), key.name(), &key).unwrap();
}

#[tokio::test]
async fn a_revocation_that_was_put_back_before_its_checkpoint_halts_the_next_start() {
    for removed in [&["halted"][..], &["halted", "checkpoint"]] {
        let (mut environment, operator, held) = revoked_and_put_back().await;
        for file in removed {
            drop(fs::remove_file(environment.folder.path().join(file)));
        }
        for _ in 0..2 {
            environment.restart().await;
            let why = environment.authority.view.halted().unwrap();
            assert!(why.contains("beside its database, a sealed head"), "{why}");
            assert!(environment.authority.status(&operator).await.unwrap().halted.is_some());
            is_halted(environment.renew(&held, &support::csr()).await);
        }
    }
}

#[tokio::test]
async fn a_halt_by_the_kept_head_is_lifted_as_others_are_and_the_head_kept_anew() {
    let (mut environment, _, held) = revoked_and_put_back().await;
    let (state, keys) = (environment.folder.path().to_owned(), environment.keys.clone());
    environment.restart().await;
    // What is revoked meanwhile is logged, and the evidence stays.
    let kept = fs::read(state.join("head")).unwrap();
    let (domain, store) = (trust_domain(), Arc::clone(&environment.store));
    is_halted(setup::require_no_halt(&domain, &state, &*store, &keys).await);
    let index = size(&environment).await;
    assert_eq!(fs::read(state.join("head")).unwrap(), kept);
    let why = environment.lift_halt().await.unwrap().why.unwrap();
    assert!(why.contains("older database was put back"), "{why}");
    let entry = environment.store.entries(index, 1).await.unwrap().pop().unwrap();
    assert_eq!(Event::parse(&entry).unwrap().kind, "halt.lift");
    assert_ne!(fs::read(state.join("head")).unwrap(), kept);
    setup::require_no_halt(&domain, &state, &*store, &keys).await.unwrap();
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), None);
    environment.renew(&held, &support::csr()).await.unwrap();
}

#[tokio::test]
async fn no_certificate_leaves_whose_leaf_was_put_back_before_it_was_signed() {
    let behind: Arc<Mutex<Option<(PathBuf, PathBuf)>>> = Arc::default();
    let put = Arc::clone(&behind);
    let faulty = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, move |group: &[Member]| {
            if group.iter().any(|member| matches!(member, Member::Complete(_)))
                && let Some((state, older)) = put.lock().unwrap().take()
            {
                put_back(&state, &older);
            }
            None
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, faulty).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let state = environment.folder.path().to_owned();
    *behind.lock().unwrap() = Some((state.clone(), copy(&state)));
    let why = is_halted(environment.issue_with(&token, &support::csr()).await);
    assert!(why.contains("an older database was put back"), "{why}");
    assert!(behind.lock().unwrap().is_none(), "it was put back");
    assert!(environment.authority.view.refresh().await.is_err());
    assert!(environment.authority.view.halted().is_some());
}

#[tokio::test]
async fn another_past_of_the_same_size_halts() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let state = environment.folder.path().to_owned();
    let older = copy(&state);
    deny(&environment, &operator).await.unwrap();
    let kept = fs::read(state.join("head")).unwrap();
    put_back(&state, &older);
    // Whoever puts back the whole folder is caught by what others have seen, and by nothing here.
    fs::remove_file(state.join("head")).unwrap();
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), None);
    let clock = time::Duration::seconds(1);
    environment.clock.advance(clock);
    deny(&environment, &operator).await.unwrap();
    let other = copy(&state);
    fs::write(state.join("head"), &kept).unwrap();
    environment.restart().await;
    let why = environment.authority.view.halted().unwrap();
    assert!(why.contains("the log's are others"), "{why}");
    fs::remove_file(state.join("halted")).unwrap();

    // The same below a running process.
    put_back(&state, &older);
    fs::remove_file(state.join("head")).unwrap();
    environment.restart().await;
    environment.clock.advance(clock);
    deny(&environment, &operator).await.unwrap();
    put_back(&state, &other);
    let why = is_halted(environment.authority.view.refresh().await);
    assert!(why.contains("are not those that it had"), "{why}");
}

#[tokio::test]
async fn a_crash_before_the_head_was_kept_is_none_that_anybody_notices() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let file = environment.folder.path().join("head");
    for _ in 0..2 {
        let kept = fs::read(&file).unwrap();
        deny(&environment, &operator).await.unwrap();
        environment.issue(&operator, "/prod/reports").await;
        assert_ne!(fs::read(&file).unwrap(), kept);
        fs::write(&file, kept).unwrap();
        environment.restart().await;
        assert_eq!(environment.authority.view.halted(), None);
    }
    // Torn in either of its places: the other one counts.
    for torn in [0, 512] {
        let mut kept = fs::read(&file).unwrap();
        assert_eq!(kept.len(), 1024);
        kept[torn + 100] ^= 1;
        fs::write(&file, kept).unwrap();
        environment.restart().await;
        assert_eq!(environment.authority.view.halted(), None);
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_folder_that_is_restored_whole_goes_on_until_somebody_shows_it_more() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let state = environment.folder.path().to_owned();
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let older = copy(&state);
    let beside = ["head", "checkpoint"].map(|file| (file, fs::read(state.join(file)).unwrap()));
    environment.issue(&operator, "/prod/reports").await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let seen = environment.store.checkpoint().await.unwrap().unwrap().note;
    put_back(&state, &older);
    for (file, contents) in beside {
        fs::write(state.join(file), contents).unwrap();
    }
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), None);
    environment.issue(&operator, "/prod/reports").await;
    environment.authority.writer.witness(&seen, Shown::ByWorkload).await;
    assert!(environment.authority.view.halted().is_some());
}

#[tokio::test]
async fn a_kept_head_that_this_ca_did_not_seal_is_no_evidence() {
    let mut environment = Environment::start().await;
    let file = environment.folder.path().join("head");
    let stranger = Environment::start().await;
    let of_another = fs::read(stranger.folder.path().join("head")).unwrap();
    let ours = fs::read_to_string(&file).unwrap();
    let size = size(&environment).await;
    let larger = ours.replace(&format!("\nsize {size}\n"), "\nsize 9999999\n");
    assert_ne!(larger, ours);
    for contents in [Vec::new(), b"head".to_vec(), of_another, larger.into_bytes()] {
        fs::write(&file, contents).unwrap();
        let refused = environment.open().await.unwrap_err();
        assert!(matches!(refused, Error::Unproven { .. }), "{refused}");
        assert!(refused.to_string().contains(&file.display().to_string()), "{refused}");
        let lifted = environment.lift_halt().await.unwrap();
        assert_eq!((lifted.set_aside[0].0.as_path(), lifted.why), (file.as_path(), None));
        environment.restart().await;
        assert_eq!(environment.authority.view.halted(), None);
        assert!(file.exists(), "it is kept anew");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_takes_an_older_snapshot_for_a_smaller_database() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let environment = Arc::new(environment);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (busy, operator) = (Arc::clone(&environment), operator.clone());
        tasks.spawn(async move {
            for _ in 0..8 {
                // Each moves the state under which the others are at work: some are told to come again.
                match deny(&busy, &operator).await {
                    Ok(_) | Err(Error::Restless) => {}
                    Err(error) => panic!("{error}"),
                }
                busy.enrol("admin").await;
            }
            for _ in 0..8 {
                busy.enrol_anyway("admin").await;
            }
        });
        let reading = Arc::clone(&environment);
        tasks.spawn(async move {
            for _ in 0..50 {
                reading.authority.view.refresh().await.unwrap();
                reading.authority.writer.sign_checkpoint().await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(environment.authority.view.halted(), None);
}

/// What stands in the head's place cannot be written to, nor removed.
fn block(state: &Path) {
    fs::remove_file(state.join("head")).unwrap();
    fs::create_dir(state.join("head")).unwrap();
}

#[tokio::test]
async fn nobody_acts_upon_a_commit_whose_head_is_not_kept() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let serial = held.svid.as_ref().unwrap().serial_number().to_string();
    let named = Caller { idempotency_key: Some("once".to_owned()), ..operator.clone() };
    let revoke = || api::RevokeRequest {
        target: serial.clone(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    let state = environment.folder.path().to_owned();
    let (size, kept) = (size(&environment).await, fs::read(state.join("head")).unwrap());
    block(&state);
    let authority = &environment.authority;
    for caller in [&named, &named, &operator] {
        // Committed at the first try, found as done at the second, folded at the third.
        let refused = authority.operations.revoke(caller, &revoke()).await.unwrap_err();
        assert!(refused.to_string().contains("before anybody is told"), "{refused}");
    }
    let stored: u64 = database(&state)
        .query_row("SELECT size FROM head", [], |row| row.get::<_, i64>(0))
        .unwrap() as u64;
    assert_eq!(stored, size + 1, "the first is in the database, and nothing after it");
    for unheard in [
        authority.view.refresh().await.unwrap_err(),
        authority.writer.sign_checkpoint().await.unwrap_err(),
        authority.feed.heartbeat().await.unwrap_err(),
        authority.view.log_size().await.unwrap_err(),
    ] {
        assert!(unheard.to_string().contains("before anybody is told"), "{unheard}");
    }
    let named_by = operator.svid.as_ref().unwrap().spiffe_id().to_string();
    let found = environment.store.kept_request(named_by, "once".to_owned(), 0).await;
    assert!(found.unwrap_err().to_string().contains("before anybody is told"));
    assert!(
        authority.writer.require_commits().is_err()
            && authority.writer.probe_store().await.is_err()
    );

    // A crash now leaves an older head, which the log leads to; here it can be written again.
    fs::remove_dir(state.join("head")).unwrap();
    let done = authority.operations.revoke(&named, &revoke()).await.unwrap();
    assert_eq!(done.log_index, Some(size), "what was done is found");
    assert_ne!(fs::read(state.join("head")).unwrap(), kept);
    authority.writer.probe_store().await.unwrap();
    authority.writer.require_commits().unwrap();
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), None);
    environment.renew(&held, &support::csr()).await.unwrap_err();
}

#[tokio::test]
async fn a_kept_head_that_is_removed_or_replaced_under_a_running_ca_is_written_anew() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let state = environment.folder.path().to_owned();
    let older = copy(&state);
    let file = state.join("head");
    let stale = fs::read(&file).unwrap();
    deny(&environment, &operator).await.unwrap();
    for replace in [None, Some(&stale)] {
        fs::remove_file(&file).unwrap();
        if let Some(stale) = replace {
            fs::write(&file, stale).unwrap();
        }
        // Nothing is committed: it is tried whether the store takes what is written.
        environment.authority.writer.probe_store().await.unwrap();
        assert_ne!(fs::read(&file).unwrap(), stale);
    }
    put_back(&state, &older);
    environment.restart().await;
    let why = environment.authority.view.halted().unwrap();
    assert!(why.contains("a sealed head"), "{why}");
}

#[tokio::test]
async fn what_went_back_before_heads_are_kept_is_noticed_when_they_are() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let state = environment.folder.path();
    let older = copy(state);
    deny(&environment, &operator).await.unwrap();
    let kept = fs::read(state.join("head")).unwrap();
    put_back(state, &older);
    let beside = authority::KeptBeside::of(state);
    let refused = environment.store.keep_heads(beside).await.unwrap_err();
    assert!(matches!(refused, authority::store::StoreError::WentBack(_)), "{refused}");
    assert_eq!(fs::read(state.join("head")).unwrap(), kept, "it is the evidence");
}
