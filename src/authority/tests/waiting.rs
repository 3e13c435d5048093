//! A rotation waits for whoever the log holds, whatever rows say of them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{KeyPurpose, KeyState, KeyStep, NextStep};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::rotation::take;
use support::{Environment, csr};

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn next_step(environment: &Environment, operator: &Caller) -> NextStep {
    let keys = environment.authority.rotation.keys(operator).await.unwrap().items;
    let is_it =
        |key: &&api::KeyRecord| key.purpose == KeyPurpose::Feed && key.state == KeyState::Prepared;
    keys.iter().find(is_it).unwrap().next.clone().unwrap()
}

#[tokio::test]
async fn no_row_lets_a_rotation_go_on_while_workloads_wait() {
    for (change, restarts) in [
        "UPDATE records SET not_after = 1",
        "UPDATE records SET leaf_index = leaf_index + 1000",
        "UPDATE records SET issued_at = 1",
        "UPDATE records SET serial_number = randomblob(16)",
        "UPDATE identities SET spiffe_id = 'spiffe://pay.example/countersign/operator/x' || id",
        "DELETE FROM records",
        "DELETE FROM certificates",
        "DELETE FROM identities",
    ]
    .into_iter()
    .flat_map(|change| [(change, false), (change, true)])
    {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let offline = environment.offline_keys();
        let issued = environment.issue(&operator, "/prod/reports").await;
        take(&environment, &offline, &operator, KeyPurpose::Feed, KeyStep::Prepare).await.unwrap();
        environment.clock.advance(time::Duration::minutes(3));
        tamper(&environment, change);
        if restarts {
            environment.restart().await;
        }
        let next = next_step(&environment, &operator).await;
        assert_eq!((next.waiting, next.until), (1, Some(issued.not_after)), "{change}");
        assert_eq!(next.certificates[0].serial_number, issued.serial_number, "{change}");
        let early =
            take(&environment, &offline, &operator, KeyPurpose::Feed, KeyStep::Activate).await;
        assert!(matches!(early, Err(Error::Waits(_))), "{change}: {early:?}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_waited_for_until_the_new_one_is_shown() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    take(&environment, &offline, &operator, KeyPurpose::Feed, KeyStep::Prepare).await.unwrap();
    let renewed = environment.renew(&held, &csr()).await.unwrap();
    assert_eq!(next_step(&environment, &operator).await.waiting, 1);
    environment.authority.view.note_shown(environment.caller(&renewed).svid.as_ref().unwrap());
    assert_eq!(next_step(&environment, &operator).await.waiting, 0);
    while environment.authority.issuing.account().await.unwrap() {}
    environment.restart().await;
    assert_eq!(next_step(&environment, &operator).await.waiting, 0, "the log says so");
}

#[tokio::test]
async fn the_newest_of_many_are_named_and_all_are_counted() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let mut serials = Vec::new();
    for path in ["/prod/reports", "/prod/monolith", "/prod/quick"].iter().cycle().take(23) {
        serials.insert(0, environment.issue(&operator, path).await.serial_number);
    }
    take(&environment, &offline, &operator, KeyPurpose::Feed, KeyStep::Prepare).await.unwrap();
    let next = next_step(&environment, &operator).await;
    let named: Vec<_> = next.certificates.iter().map(|it| it.serial_number).collect();
    assert_eq!((next.waiting, &named[..]), (23, &serials[..20]));
}
