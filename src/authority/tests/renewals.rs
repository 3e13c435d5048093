//! Each certificate renews once, as the log says: no row of the database gives a second renewal, and
//! none takes the first away.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;

use api::IssuedCertificate;
use authority::{Caller, Error, Event};
use rusqlite::Connection;
use support::{Environment, csr};

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn events(environment: &Environment, kind: &str) -> Vec<Event> {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == kind).collect()
}

/// A workload's certificate, and what it was renewed by.
async fn renewed() -> (Environment, Caller, IssuedCertificate) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let renewed = environment.renew(&held, &csr()).await.unwrap();
    (environment, held, renewed)
}

fn shown(environment: &Environment, issued: &IssuedCertificate) -> Caller {
    let caller = environment.caller(issued);
    environment.authority.note_shown(caller.svid.as_ref().unwrap());
    caller
}

#[tokio::test]
async fn the_event_of_a_renewal_names_what_it_renews_and_that_of_an_issue_nothing() {
    let (environment, held, _) = renewed().await;
    let events = [events(&environment, "renew").await, events(&environment, "issue").await];
    let [renewals, issues] = events;
    let serial_number = held.svid.as_ref().unwrap().serial_number().to_string();
    assert_eq!(renewals[0].detail["renews"], serial_number);
    assert!(issues.iter().all(|event| event.detail.get("renews").is_none()));
}

/// What a writer to the database can do to the rows of what a certificate was renewed by.
const CHANGES: &[&str] = &[
    "DELETE FROM records WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "DELETE FROM certificates",
    "DELETE FROM identities",
    "UPDATE records SET request_hash = zeroblob(32)",
    "UPDATE records SET serial_number = randomblob(16)
     WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "UPDATE records SET facts = x'00' WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
];

#[tokio::test]
async fn no_row_gives_a_second_renewal_with_another_key_and_none_breaks_the_line() {
    for (change, restarts) in CHANGES.iter().flat_map(|it| [(it, false), (it, true)]) {
        let (mut environment, held, renewed) = renewed().await;
        let newest = shown(&environment, &renewed);
        while environment.authority.account().await.unwrap() {}
        let copy = environment.folder.path().join("copy");
        let copied = format!("VACUUM INTO '{}'", copy.display());
        tamper(&environment, &copied);
        tamper(&environment, change);
        if restarts {
            environment.restart().await;
        }
        let is_broken = *change == "DELETE FROM certificates";
        let refused = environment.renew(&held, &csr()).await.unwrap_err();
        assert!(matches!(refused, Error::Attestation { .. }), "{change}: {refused}");
        let conflicts = events(&environment, "renew.conflict").await.len();
        // Where its record says that it is another request, that is so, and is told.
        assert_eq!(conflicts, usize::from(is_broken), "{change}: {refused}");
        let back = format!(
            "ATTACH '{}' AS copy;
             INSERT OR REPLACE INTO identities SELECT * FROM copy.identities;
             INSERT OR REPLACE INTO records SELECT * FROM copy.records;",
            copy.display()
        );
        tamper(&environment, &back);
        assert_eq!(environment.renew(&newest, &csr()).await.is_ok(), !is_broken, "{change}");
    }
}

#[tokio::test]
async fn that_a_certificate_was_shown_is_logged_once_and_outlives_a_restart() {
    let (mut environment, held, renewed) = renewed().await;
    shown(&environment, &renewed);
    for restarts in [false, true] {
        if restarts {
            environment.restart().await;
        }
        shown(&environment, &renewed);
        while environment.authority.account().await.unwrap() {}
        let told = events(&environment, "seen").await.into_iter();
        let told: Vec<u64> = told
            .flat_map(|event| event.detail["indexes"].as_array().unwrap().clone())
            .map(|index| index.as_u64().unwrap())
            .collect();
        let held = held.svid.as_ref().unwrap().leaf_index().unwrap();
        assert_eq!(told, [held, renewed.log_index], "{restarts}");
    }
    environment.restart().await;
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("renewed already"), "{refused}");
}

#[tokio::test]
async fn what_was_never_shown_is_replaced_once_before_and_after_a_restart() {
    for restarts in [false, true] {
        let (mut environment, held, _) = renewed().await;
        if restarts {
            environment.restart().await;
        }
        let replaced = environment.renew(&held, &csr()).await.unwrap();
        if restarts {
            environment.restart().await;
        }
        environment.renew(&held, &csr()).await.unwrap_err();
        environment.renew(&environment.caller(&replaced), &csr()).await.expect_err("it is broken");
    }
}

#[tokio::test]
async fn of_many_renewals_at_once_each_finds_what_the_one_before_did() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let asks = |csr: String| {
        let (authority, held) = (Arc::clone(&environment.authority), held.clone());
        async move { authority.issue(&held, &support::request(&csr), None).await }
    };
    let same = csr();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        tasks.spawn(asks(same.clone()));
    }
    let issued: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(issued.iter().all(|one| one.serial_number == issued[0].serial_number));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(asks(csr()));
    }
    let issued = tasks.join_all().await.into_iter().filter(Result::is_ok).count();
    assert_eq!((issued, events(&environment, "renew.conflict").await.len()), (1, 1));
}
