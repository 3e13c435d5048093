//! What is told of the log's newest checkpoint, and kept beside the database, is one that this process
//! has signed or verified, whatever the database says of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use api::KeyPurpose::Log;
use rusqlite::{Connection, params};
use support::{Environment, signed_by};
use tlog::{Checkpoint, Hash};

/// A CA with an older checkpoint, and its newest.
async fn environment() -> (Environment, Vec<u8>, Vec<u8>) {
    let environment = Environment::start().await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let older = environment.authority.writer.checkpoint().unwrap();
    environment.operator().await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let newest = environment.authority.writer.checkpoint().unwrap();
    assert_ne!(older, newest);
    (environment, older, newest)
}

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

fn parsed(note: &[u8]) -> Checkpoint {
    Checkpoint::parse(tlog::SignedNote::parse(note).unwrap().text()).unwrap()
}

#[tokio::test]
async fn what_the_database_says_of_the_newest_checkpoint_is_neither_told_nor_kept() {
    let (environment, older, newest) = environment().await;
    let log = environment.keys.first(Log).unwrap();
    let size = parsed(&newest).size;
    let other_root = signed_by(&*log, size, Hash::new([7; 32])).await;
    let larger = signed_by(&*log, size + 1000, Hash::new([7; 32])).await;
    let file = environment.folder.path().join("checkpoint");
    for note in [&older[..], b"", b"no checkpoint", &other_root, &larger] {
        // The row says that it covers the whole log.
        let put = "UPDATE checkpoints SET note = ?1";
        database(&environment).execute(put, [note]).unwrap();
        environment.authority.feed.heartbeat().await.unwrap();
        assert_eq!(environment.authority.writer.checkpoint().unwrap(), newest);
        assert_eq!(environment.authority.writer.sign_checkpoint().await.unwrap(), size);
        assert_eq!(environment.store.checkpoint().await.unwrap().unwrap().note, newest);
        assert_eq!(fs::read(&file).unwrap(), newest);
    }
}

#[tokio::test]
async fn a_row_that_claims_more_puts_no_checkpoint_off() {
    let (environment, _, newest) = environment().await;
    let put = "UPDATE checkpoints SET size = ?1";
    database(&environment).execute(put, params![1_000_000]).unwrap();
    let size = environment.authority.writer.sign_checkpoint().await.unwrap();
    let stored = environment.store.checkpoint().await.unwrap().unwrap();
    assert_eq!((size, stored.size), (parsed(&newest).size, size));
    environment.authority.writer.require_commits().unwrap();
}

#[tokio::test]
async fn a_kept_checkpoint_that_is_removed_or_replaced_under_a_running_ca_is_written_anew() {
    let (environment, older, _) = environment().await;
    let operator = environment.operator().await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let newest = environment.authority.writer.checkpoint().unwrap();
    let replaced_files =
        async || environment.authority.status(&operator).await.unwrap().replaced_files;
    assert!(replaced_files().await.is_empty());
    let file = environment.folder.path().join("checkpoint");
    let replaced: [&dyn Fn(&Path); 5] = [
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::write(path, &older).unwrap(),
        &|path| fs::write(path, "another's").unwrap(),
        &|path| fs::write(path, " ".repeat(newest.len())).unwrap(),
        &|path| {
            fs::remove_file(path).unwrap();
            symlink("/dev/zero", path).unwrap();
        },
    ];
    for replace in replaced {
        replace(&file);
        // Nothing was logged since.
        environment.authority.writer.sign_checkpoint().await.unwrap();
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(fs::read(&file).unwrap(), newest);
    }
    assert_eq!(replaced_files().await, ["checkpoint"]);
    fs::remove_file(environment.folder.path().join("head")).unwrap();
    environment.authority.writer.probe_store().await.unwrap();
    assert_eq!(replaced_files().await, ["checkpoint", "head"]);
}
