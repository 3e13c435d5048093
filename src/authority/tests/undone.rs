//! What the database undoes, or takes nowhere, is acknowledged to nobody.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use authority::store::StoreError;
use authority::store::faulty::{Fault, FaultyStore};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::{Environment, id, open, reopen};

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

async fn deny(environment: &Environment, operator: &Caller) -> Result<api::Denial, Error> {
    let request = api::DenyRequest {
        spiffe_id: id("/prod/monolith"),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(operator, &request).await
}

async fn revoke(environment: &Environment, operator: &Caller) -> Result<api::Revocation, Error> {
    let request = api::RevokeRequest {
        target: id("/prod/reports").to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(operator, &request).await
}

fn inconsistent<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Store(error @ StoreError::Inconsistent(_))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Whether the CA starts on what it left.
async fn starts(environment: Environment) -> Result<(), Error> {
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    let store = reopen(folder.path(), &keys).await?;
    open(folder.path(), &store, &keys, &clock, pin).await.map(drop)
}

#[tokio::test]
async fn an_act_that_a_trigger_undoes_is_not_acknowledged() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    let database = database(&environment);
    for (table, verb) in [("entries", "INSERT"), ("revocations", "INSERT"), ("head", "UPDATE")] {
        let trigger = format!(
            "CREATE TRIGGER undo_{table} BEFORE {verb} ON {table} BEGIN SELECT RAISE(IGNORE); END"
        );
        database.execute_batch(&trigger).unwrap();
    }
    assert!(inconsistent(revoke(&environment, &operator).await).contains("undo_"));
    assert!(inconsistent(deny(&environment, &operator).await).contains("undo_"));
    assert!(environment.authority.writer.probe_store().await.is_err());
    assert!(environment.authority.writer.require_commits().is_err(), "it is not ready");
    let refused = starts(environment).await.unwrap_err().to_string();
    assert!(refused.contains("trigger") && refused.contains("restore a backup"), "{refused}");
}

#[tokio::test]
async fn an_act_that_is_not_in_the_log_when_it_is_read_back_is_not_acknowledged() {
    let undoes = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&undoes);
    let faulty = |store| -> Arc<dyn authority::store::Store> {
        let fault = move |_: &[_]| armed.load(Ordering::SeqCst).then_some(Fault::Undone);
        Arc::new(FaultyStore::new(store, fault))
    };
    let environment = Environment::start_with(|keys, _| keys, faulty).await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    undoes.store(true, Ordering::SeqCst);
    for why in [
        inconsistent(revoke(&environment, &operator).await),
        inconsistent(deny(&environment, &operator).await),
    ] {
        assert!(why.contains("does not hold it"), "{why}");
    }
    let asked = api::TokenRequest { spiffe_id: id("/prod/quick"), ttl: None, key_sha256: None };
    inconsistent(environment.authority.operations.create_token(&operator, &asked).await);
    undoes.store(false, Ordering::SeqCst);
    revoke(&environment, &operator).await.unwrap().log_index.unwrap();
}

#[tokio::test]
async fn a_row_in_the_place_of_the_next_entry_is_deleted_while_it_is_known_where_the_log_ends() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let database = database(&environment);
    let put = async |ahead: i64| {
        let size = environment.store.head().await.unwrap().edge.size() as i64;
        let place = (1_i64 << 40) + size + ahead;
        database.execute("INSERT INTO entries VALUES (?1, 0, x'7b7d')", [place]).unwrap();
    };
    put(0).await;
    environment.authority.writer.probe_store().await.unwrap();
    environment.authority.writer.require_commits().unwrap();
    put(0).await;
    deny(&environment, &operator).await.unwrap();
    // Another process cannot tell them from entries whose head was taken back.
    put(9).await;
    let refused = starts(environment).await.unwrap_err().to_string();
    assert!(refused.contains("behind its end"), "{refused}");
}

#[tokio::test]
async fn nothing_is_acknowledged_that_goes_into_a_removed_database() {
    for removed in ["countersign.db", "countersign.db-wal"] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let path = environment.folder.path().join(removed);
        let aside = environment.folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let refused = deny(&environment, &operator).await.unwrap_err().to_string();
        assert!(refused.contains(removed) && refused.contains("removed"), "{refused}");
        assert!(environment.authority.writer.probe_store().await.is_err());
        fs::copy(&aside, &path).unwrap();
        assert!(
            environment.authority.writer.probe_store().await.is_err(),
            "another file is another"
        );
        fs::rename(&aside, &path).unwrap();
        environment.authority.writer.probe_store().await.unwrap();
        deny(&environment, &operator).await.unwrap();
    }
}
