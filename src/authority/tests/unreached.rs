//! Rows that somebody else wrote at places of the log that are not reached yet are in nobody's way,
//! and become nobody's certificate.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::{DenyRequest, IssuedCertificate, KeyPurpose, KeyStep};
use authority::sequencer::Member;
use authority::store::Store;
use authority::store::faulty::FaultyStore;
use authority::{Caller, Error};
use rusqlite::Connection;
use support::rotation::take;
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
    environment.authority.operations.deny(operator, &request).await.map(drop)
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
        environment.authority.writer.probe_store().await.unwrap();
        environment.authority.writer.require_commits().unwrap();
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
    environment.authority.writer.probe_store().await.unwrap();
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
            environment.authority.writer.sign_checkpoint().await.unwrap();
            while environment.store.head().await.unwrap().edge.size() < 514 {
                environment.token(&operator, "/prod/quick").await;
            }
            deny(&environment, &operator, "/prod/monolith").await.unwrap();
            environment.authority.writer.require_commits().unwrap();
            environment.restart().await;
            assert_eq!(rows(&environment, "tiles"), 2, "{tile}");
        }
    }
}

/// A CA to whose database somebody writes between a leaf and its certificate, once it is armed.
async fn tampered(sql: &'static str) -> (Environment, Arc<Mutex<Option<PathBuf>>>) {
    let armed = Arc::<Mutex<Option<PathBuf>>>::default();
    let at = Arc::clone(&armed);
    let faulty = |store| -> Arc<dyn Store> {
        let fault = move |group: &[Member]| {
            let leaf_index = group.iter().find_map(|member| match member {
                Member::Complete(complete) => Some(complete.leaf_index as i64),
                _ => None,
            })?;
            let folder = at.lock().unwrap().take()?;
            let database = Connection::open(folder.join("countersign.db")).unwrap();
            database.pragma_update(None, "foreign_keys", false).unwrap();
            database.execute(sql, [leaf_index]).unwrap();
            None
        };
        Arc::new(FaultyStore::new(store, fault))
    };
    (Environment::start_with(|keys, _| keys, faulty).await, armed)
}

const FOREIGN: [&str; 4] = [
    "INSERT INTO certificates SELECT ?1, der FROM certificates ORDER BY leaf_index DESC LIMIT 1",
    "INSERT INTO certificates VALUES (?1, 'text')",
    "INSERT INTO certificates VALUES (?1, x'')",
    "INSERT INTO certificates VALUES (?1, 2.5)",
];

#[tokio::test]
async fn nobody_is_given_what_somebody_else_stored_first() {
    for foreign in FOREIGN {
        let (mut environment, armed) = tampered(foreign).await;
        let operator = environment.operator().await;
        let first = environment.issue(&operator, "/prod/quick").await;
        let arm = || *armed.lock().unwrap() = Some(environment.folder.path().to_owned());
        arm();
        let issued = environment.issue(&operator, "/prod/reports").await;
        is_of(&environment, &issued, "/prod/reports");
        arm();
        let request = csr();
        let renewed = environment.renew(&environment.caller(&first), &request).await.unwrap();
        is_of(&environment, &renewed, "/prod/quick");
        environment.restart().await;
        let again = environment.renew(&environment.caller(&first), &request).await.unwrap();
        assert_eq!(again.chain, renewed.chain, "{foreign}: what left is what is stored");
    }
}

/// Writes over the page of the file on which a table begins.
fn damage(environment: &Environment, table: &str) {
    let connection = database(environment);
    let root = "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = ?1";
    let (page, size): (i64, i64) =
        connection.query_row(root, [table], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let path = environment.folder.path().join("countersign.db");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xff; size as usize], ((page - 1) * size) as u64).unwrap();
    // Whoever has the page in memory reads it again.
    connection.execute("UPDATE meta SET version = version", []).unwrap();
}

/// All but those that every commit writes to, and an index.
const TRIED: [&str; 15] = [
    "certificates",
    "checkpoints",
    "crl_numbers",
    "crls",
    "denials",
    "idempotency",
    "identities",
    "issuers",
    "operators",
    "policies",
    "records",
    "revocations",
    "tiles",
    "tokens",
    "trust_states",
];

#[tokio::test]
async fn a_table_that_takes_nothing_shows_before_somebody_needs_it() {
    for table in TRIED {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        environment.issue(&operator, "/prod/quick").await;
        deny(&environment, &operator, "/prod/monolith").await.unwrap();
        environment.authority.writer.sign_checkpoint().await.unwrap();
        environment.authority.writer.probe_store().await.unwrap();
        damage(&environment, table);
        environment.authority.writer.probe_store().await.expect_err(table);
        environment.authority.writer.require_commits().expect_err(table);
    }
}

#[tokio::test]
async fn a_trust_state_that_the_log_does_not_lead_to_is_in_nobody_s_way() {
    for foreign in [
        "SELECT sequence + 1, note, log_index FROM trust_states",
        "SELECT sequence + 1, note, ?1 + 1000 FROM trust_states",
        "SELECT sequence + 1, 'text', 'text' FROM trust_states",
        "SELECT sequence + 7, note, -1 FROM trust_states",
        "SELECT 9223372036854775807, note, 0 FROM trust_states",
    ] {
        for restarts in [false, true] {
            let mut environment = Environment::start().await;
            let operator = environment.operator().await;
            let genuine = environment.store.trust_states().await.unwrap();
            write(&environment, &format!("INSERT INTO trust_states {foreign} WHERE ?1")).await;
            if restarts {
                environment.restart().await;
            }
            deny(&environment, &operator, "/prod/monolith").await.unwrap();
            let left = environment.store.trust_states().await.unwrap();
            assert!(left == genuine, "{foreign}: {} are left", left.len());
        }
    }
}

#[tokio::test]
async fn a_rotation_takes_its_step_where_somebody_put_the_next_trust_state() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    for sequence in [2, 3] {
        let foreign = format!(
            "INSERT INTO trust_states SELECT {sequence}, note, 0 FROM trust_states LIMIT ?1"
        );
        write(&environment, &foreign.replace("?1", "1 + 0 * ?1")).await;
        let purpose = if sequence == 2 { KeyPurpose::Feed } else { KeyPurpose::Countersignature };
        take(&environment, &offline, &operator, purpose, KeyStep::Prepare).await.unwrap();
        assert_eq!(environment.authority.view.trust().state().sequence, sequence);
    }
}

#[tokio::test]
async fn a_trust_state_stays_whose_row_names_another_place() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let genuine = environment.store.trust_states().await.unwrap();
    write(&environment, "UPDATE trust_states SET log_index = ?1 + 7").await;
    deny(&environment, &operator, "/prod/monolith").await.unwrap();
    assert_eq!(environment.store.trust_states().await.unwrap(), genuine);
}
