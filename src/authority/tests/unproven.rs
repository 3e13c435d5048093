//! What stands in the state folder about the log counts where a key of the log has signed it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use api::KeyPurpose::{Feed, Log};
use api::KeyStep;
use authority::{Error, Event, Keys, Shown, setup};
use support::rotation::take;
use support::{Environment, signed_by, signed_under, trust_domain};
use tlog::Hash;

const ROOT: Hash = Hash::new([7; 32]);
/// What a file says that is to outlast every later checkpoint.
const HUGE: u64 = 99_999_999_999;

/// Each puts something in the file's place that the CA did not write.
async fn forgeries(environment: &Environment) -> Vec<(&'static str, Vec<u8>)> {
    let ours = environment.store.checkpoint().await.unwrap().unwrap().note;
    let size = environment.store.head().await.unwrap().edge.size();
    let text = String::from_utf8(ours.clone()).unwrap();
    let larger = text.replacen(&format!("\n{size}\n"), &format!("\n{HUGE}\n"), 1);
    assert_ne!(larger, text);
    let stranger = Environment::start().await;
    let stranger = stranger.keys.first(Log).unwrap();
    let feed = environment.keys.first(Feed).unwrap();
    let log = environment.keys.first(Log).unwrap();
    vec![
        ("empty", Vec::new()),
        ("cut off", ours[..ours.len() - 9].to_vec()),
        ("without its signature", text.split("\n\n").next().unwrap().as_bytes().to_vec()),
        ("no text", vec![0xff, 0, 7]),
        ("no checkpoint", b"why\n\nnothing\n".to_vec()),
        ("of another size", larger.into_bytes()),
        ("of another CA", signed_by(&*stranger, HUGE, ROOT).await),
        ("of another key of this CA", signed_by(&*feed, HUGE, ROOT).await),
        ("of another log", signed_under("other.example/log", &*log, HUGE, ROOT).await),
        ("too long", vec![b'a'; 100_000]),
    ]
}

fn obstacle(what: &str, path: &Path) {
    match what {
        "folder" => fs::create_dir(path).unwrap(),
        "link" => symlink("/dev/zero", path).unwrap(),
        _ => {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).unwrap();
        }
    }
}

fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        fs::remove_dir(path).unwrap();
    }
}

/// It halts nothing, lifts nothing, is named, and the documented command gets it out of the way.
async fn is_refused_and_set_aside(environment: &mut Environment, file: &Path, what: &str) {
    let refused = environment.open().await.unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, Error::Unproven { .. }), "{what}: {said}");
    assert!(said.contains(&file.display().to_string()), "{what}: {said}");
    assert_eq!(environment.authority.view.halted(), None, "{what}");
    let no_halt = require_no_halt(environment).await.unwrap_err();
    assert!(matches!(no_halt, Error::Unproven { .. }), "{what}: {no_halt}");

    let index = environment.store.head().await.unwrap().edge.size();
    let lifted = environment.lift_halt().await.unwrap();
    let (from, aside) = lifted.set_aside.first().unwrap();
    assert_eq!((from.as_path(), lifted.why), (file, None), "{what}");
    assert!(fs::symlink_metadata(aside).is_ok() && fs::symlink_metadata(file).is_err(), "{what}");
    let entry = environment.store.entries(index, 1).await.unwrap().pop().unwrap();
    let event = Event::parse(&entry).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert_eq!((&*event.kind, &*event.subject), ("evidence.discard", name), "{what}");
    remove(aside);
    require_no_halt(environment).await.unwrap();
    environment.restart().await;
    assert_eq!(environment.authority.view.halted(), None, "{what}");
    assert!(!environment.folder.path().join("halted").exists(), "{what}");
}

async fn require_no_halt(environment: &Environment) -> Result<(), Error> {
    let (state, store) = (environment.folder.path(), &*environment.store);
    setup::require_no_halt(&trust_domain(), state, store, &environment.keys).await
}

async fn prepared() -> (Environment, PathBuf) {
    let environment = Environment::start().await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let state = environment.folder.path().to_owned();
    (environment, state)
}

#[tokio::test]
async fn a_kept_checkpoint_that_no_key_of_the_log_signed_is_no_evidence() {
    let (mut environment, state) = prepared().await;
    let file = state.join("checkpoint");
    for (what, contents) in forgeries(&environment).await {
        fs::write(&file, contents).unwrap();
        is_refused_and_set_aside(&mut environment, &file, what).await;
    }
    for what in ["folder", "link", "pipe"] {
        drop(fs::remove_file(&file));
        obstacle(what, &file);
        is_refused_and_set_aside(&mut environment, &file, what).await;
    }
}

#[tokio::test]
async fn a_halt_by_what_no_key_of_the_log_signed_is_none_and_lifts_none() {
    let (mut environment, state) = prepared().await;
    let file = state.join("halted");
    for (what, seen) in forgeries(&environment).await {
        let why: &[u8] = if seen.is_empty() { b"" } else { b"an older database was put back\n\n" };
        fs::write(&file, [why, &seen].concat()).unwrap();
        is_refused_and_set_aside(&mut environment, &file, what).await;
    }
    for what in ["folder", "link", "pipe"] {
        obstacle(what, &file);
        is_refused_and_set_aside(&mut environment, &file, what).await;
    }
}

#[tokio::test]
async fn what_was_set_aside_hides_no_later_loss() {
    let (mut environment, state) = prepared().await;
    let (_, larger) = forgeries(&environment).await.swap_remove(5);
    fs::write(state.join("checkpoint"), larger).unwrap();
    environment.lift_halt().await.unwrap();
    environment.restart().await;
    let size = environment.store.head().await.unwrap().edge.size();
    let log = environment.keys.first(Log).unwrap();
    let seen = signed_by(&*log, size + 1, ROOT).await;
    environment.authority.writer.witness(&seen, Shown::ByStranger).await;
    assert!(environment.authority.view.halted().is_some());
}

#[tokio::test]
async fn a_halt_is_not_lifted_in_passing_where_somebody_put_a_file_there() {
    let (mut environment, state) = prepared().await;
    let log = environment.keys.first(Log).unwrap();
    let larger = signed_by(&*log, 1_000_000, ROOT).await;
    environment.authority.writer.witness(&larger, Shown::ByWorkload).await;
    let why = environment.authority.view.halted().unwrap();
    fs::write(state.join("checkpoint"), "no checkpoint").unwrap();
    let first = environment.lift_halt().await.unwrap();
    assert_eq!((first.set_aside.len(), first.why), (1, None));
    let halted = require_no_halt(&environment).await.unwrap_err();
    assert!(matches!(halted, Error::Halted(ref is) if *is == why), "{halted}");
    environment.restart().await;
    assert_eq!(environment.authority.view.halted().as_ref(), Some(&why));
    assert_eq!(environment.lift_halt().await.unwrap().why, Some(why));
}

#[tokio::test]
async fn the_largest_checkpoint_is_the_one_that_is_lifted() {
    let (mut environment, state) = prepared().await;
    let log = environment.keys.first(Log).unwrap();
    let shown = signed_by(&*log, 1_000, ROOT).await;
    environment.authority.writer.witness(&shown, Shown::ByWorkload).await;
    fs::write(state.join("checkpoint"), signed_by(&*log, 2_000, ROOT).await).unwrap();
    let why = environment.lift_halt().await.unwrap().why.unwrap();
    assert!(why.contains("2000 entries"), "{why}");
    environment.restart().await;
    environment.authority.writer.witness(&shown, Shown::ByWorkload).await;
    assert_eq!(environment.authority.view.halted(), None);
}

#[tokio::test]
async fn a_halt_that_the_log_has_outgrown_is_not_lifted_but_over() {
    let (mut environment, state) = prepared().await;
    let checkpoint = environment.store.checkpoint().await.unwrap().unwrap();
    let halted = [&b"an older database was put back\n\n"[..], &checkpoint.note].concat();
    fs::write(state.join("halted"), halted).unwrap();
    let size = environment.store.head().await.unwrap().edge.size();
    assert_eq!(environment.lift_halt().await.unwrap(), setup::Lifted::default());
    assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "nothing is judged");
    environment.restart().await;
    assert!(!environment.folder.path().join("halted").exists());
}

#[tokio::test]
async fn a_checkpoint_of_a_key_that_was_retired_since_counts() {
    let (mut environment, state) = prepared().await;
    let operator = environment.operator().await;
    let before = environment.keys.first(Log).unwrap();
    let offline = environment.offline_keys();
    for step in [KeyStep::Prepare, KeyStep::Activate, KeyStep::Retire] {
        take(&environment, &offline, &operator, Log, step).await.unwrap();
    }
    fs::write(state.join("checkpoint"), signed_by(&*before, 1_000_000, ROOT).await).unwrap();
    environment.restart().await;
    let why = environment.authority.view.halted().unwrap();
    assert!(why.contains("beside its database"), "{why}");
}

/// The log that is put back ends before the key that has signed what is lost.
#[tokio::test]
async fn a_checkpoint_of_a_key_that_the_older_log_does_not_name_counts() {
    let (mut environment, state) = prepared().await;
    let later = Environment::start().await;
    let later = (later.folder.path().join("keys/log.key"), later.keys.first(Log).unwrap());
    fs::copy(later.0, state.join("keys/log-0123456789abcdef.key")).unwrap();
    environment.keys = Keys::open(&state, &api::Secret::new("online")).unwrap();
    fs::write(state.join("checkpoint"), signed_by(&*later.1, 1_000_000, ROOT).await).unwrap();
    environment.restart().await;
    assert!(environment.authority.view.halted().is_some());
}

#[tokio::test]
async fn a_new_ca_keeps_its_first_checkpoint() {
    let environment = Environment::start().await;
    let newest = environment.store.checkpoint().await.unwrap().unwrap();
    let kept = fs::read(environment.folder.path().join("checkpoint")).unwrap();
    assert_eq!(kept, newest.note);
}
