//! Rows that somebody else wrote at places of the log that are not reached yet are in nobody's way,
//! and become nobody's certificate.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{DenyRequest, IssuedCertificate};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::{Environment, csr, id};

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

/// Runs a statement of which `?1` is the log's size.
async fn write(environment: &Environment, sql: &str) -> usize {
    let size = environment.store.head().await.unwrap().edge.size() as i64;
    let database = database(environment);
    database.pragma_update(None, "foreign_keys", false).unwrap();
    database.execute(sql, [size]).unwrap()
}

fn rows(environment: &Environment, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    database(environment).query_row(&count, [], |row| row.get(0)).unwrap()
}

async fn deny(environment: &Environment, operator: &Caller, path: &str) -> Result<(), Error> {
    let request = DenyRequest {
        spiffe_id: id(path),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    environment.authority.deny(operator, &request).await.map(drop)
}

/// What it says that it is, it is.
fn is_of(environment: &Environment, issued: &IssuedCertificate, path: &str) {
    let verified = environment.verified(issued);
    assert_eq!(*verified.spiffe_id(), id(path));
    assert_eq!(*verified.serial_number(), issued.serial_number);
}

/// At each of the next 2,000 places, by table.
const AHEAD: [(&str, &str); 6] = [
    ("revocations", "SELECT x, 'revoke', '00', 'superseded', 0 FROM ahead"),
    ("revocations", "SELECT x, x'00', x'00', 'superseded', -1 FROM ahead"),
    (
        "certificates",
        "SELECT x, (SELECT der FROM certificates ORDER BY leaf_index DESC) FROM ahead",
    ),
    ("certificates", "SELECT x, 'text' FROM ahead"),
    ("records", "SELECT x, cast(x AS BLOB), 1, 0, x'00', 'p', 0, 0, x'00', '{}', x'00' FROM ahead"),
    ("entries", "SELECT (1 << 40) + x, 1, x'7b7d' FROM ahead"),
];

#[tokio::test]
async fn what_is_written_ahead_of_the_log_keeps_nobody_from_anything() {
    for (table, rows_ahead) in AHEAD {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let first = environment.issue(&operator, "/prod/quick").await;
        let ahead = format!(
            "WITH RECURSIVE ahead (x) AS (SELECT ?1 UNION ALL SELECT x + 1 FROM ahead WHERE x < ?1 + 1999)
             INSERT INTO {table} {rows_ahead}"
        );
        assert_eq!(write(&environment, &ahead).await, 2_000);
        deny(&environment, &operator, "/prod/monolith").await.unwrap();
        assert!(rows(&environment, table) < 100, "{table}: they are gone");
        // Again, and before it is the turn of another kind of act.
        write(&environment, &ahead).await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        is_of(&environment, &issued, "/prod/reports");
        write(&environment, &ahead).await;
        let renewed = environment.renew(&environment.caller(&first), &csr()).await.unwrap();
        is_of(&environment, &renewed, "/prod/quick");
        write(&environment, &ahead).await;
        environment.authority.probe_store().await.unwrap();
        environment.authority.require_commits().unwrap();
        // What stands there at a start is no disagreement with the log.
        if table != "entries" {
            write(&environment, &ahead).await;
            environment.restart().await;
        }
        let issued = environment.issue(&operator, "/prod/reports").await;
        is_of(&environment, &issued, "/prod/reports");
        deny(&environment, &operator, "/prod/quick").await.unwrap();
        environment.restart().await;
    }
}

#[tokio::test]
async fn what_stands_where_the_log_has_been_stays() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/quick").await;
    deny(&environment, &operator, "/prod/monolith").await.unwrap();
    let tables = ["entries", "records", "certificates", "revocations", "tokens", "policies"];
    let before = tables.map(|table| rows(&environment, table));
    // Of somebody else, too: it is not told apart by who wrote last.
    assert_eq!(write(&environment, "UPDATE meta SET version = version + 0 * ?1").await, 1);
    environment.authority.probe_store().await.unwrap();
    assert_eq!(tables.map(|table| rows(&environment, table)), before);
}

#[tokio::test]
async fn a_tile_that_was_put_before_its_time_ends_nothing() {
    for tile in [
        "SELECT 1, 1, 0, zeroblob(8192) WHERE ?1",
        "SELECT 1, 0, 0, zeroblob(8192) WHERE ?1",
        "SELECT 1, 0, 1, 'text' WHERE ?1",
        "SELECT 1, 0, 0, x'' WHERE ?1",
    ] {
        for restarts in [false, true] {
            let mut environment = Environment::start().await;
            let operator = environment.operator().await;
            write(&environment, &format!("INSERT INTO tiles {tile}")).await;
            if restarts {
                environment.restart().await;
            }
            // The part of it that is filled is not read from there.
            environment.authority.sign_checkpoint().await.unwrap();
            while environment.store.head().await.unwrap().edge.size() < 514 {
                environment.token(&operator, "/prod/quick").await;
            }
            deny(&environment, &operator, "/prod/monolith").await.unwrap();
            environment.authority.require_commits().unwrap();
            environment.restart().await;
            assert_eq!(rows(&environment, "tiles"), 2, "{tile}");
        }
    }
}
