//! Whoever writes to the database, and has no key, grants nothing and takes no revocation back.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::TokenFilter;
use authority::clock::Clock;
use authority::sequencer::{ActMember, Effect, Member};
use authority::{Act, Event, EventDraft};
use rusqlite::{Connection, params};
use support::older::RENEWALS_IN_ROWS;
use support::told::Told;
use support::{Environment, csr, id, open, reopen};
use tlog::{Hash, Tile, TileKind, TreeEdge, leaf_hash};

/// A CA with something to undo: a revoked certificate, a denied identity, a withdrawn token.
async fn environment() -> Environment {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let revoke = api::RevokeRequest {
        target: issued.serial_number.to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
    let deny = api::DenyRequest {
        spiffe_id: id("/prod/monolith"),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(&operator, &deny).await.unwrap();
    environment.authority.issuing.account().await.unwrap();
    environment
}

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

/// Why the CA does not start on what this leaves of its database.
async fn refusal_after(tamper: impl FnOnce(&Connection)) -> String {
    let environment = environment().await;
    let database = database(&environment);
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    tamper(&database);
    drop(database);
    let started = match reopen(folder.path(), &keys).await {
        Ok(store) => open(folder.path(), &store, &keys, &clock, pin).await.map(drop),
        Err(error) => Err(error),
    };
    started.expect_err("it goes unnoticed").to_string()
}

fn run(sql: &'static str) -> impl FnOnce(&Connection) {
    move |database| {
        database.execute_batch(sql).unwrap();
    }
}

/// Appends an event as the log would: edge, size and, where it folds, epoch follow.
fn append(database: &Connection, kind: &str, subject: &str, detail: &serde_json::Value) -> u64 {
    let (size, edge): (u64, Vec<u8>) = database
        .query_row("SELECT size, edge FROM head", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        })
        .unwrap();
    let hashes = edge.chunks(32).map(|hash| Hash::try_from(hash).unwrap()).collect();
    let mut edge = TreeEdge::from_parts(size, hashes).unwrap();
    let entry = format!(
        r#"{{"actor":"init","at":"2026-11-21T12:00:00Z","detail":{detail},"request_id":"init","subject":"{subject}","type":"{kind}","v":1}}"#
    )
    .into_bytes();
    Event::parse(&entry).unwrap();
    edge.push(leaf_hash(&entry));
    let folds = kind != "token.create";
    let place = (1_i64 << 40) + size as i64;
    database
        .execute("INSERT INTO entries VALUES (?1, ?2, ?3)", params![place, folds, entry])
        .unwrap();
    let hashes: Vec<u8> = edge.hashes().iter().flat_map(|hash| *hash.as_bytes()).collect();
    database
        .execute(
            "UPDATE head SET size = ?1, edge = ?2, revocation_epoch = revocation_epoch + ?3",
            params![edge.size() as i64, hashes, folds],
        )
        .unwrap();
    size
}

#[tokio::test]
async fn no_revocation_is_taken_back_in_the_database() {
    const HIDE: &str = "UPDATE entries SET folds = 0 WHERE instr(bytes, '\"type\":\"revoke\"');
                        DELETE FROM revocations WHERE kind = 'revoke';";
    let hidden = refusal_after(run(HIDE)).await;
    assert!(hidden.contains("an event was hidden"), "{hidden}");
    let both = |database: &Connection| {
        database.execute_batch(HIDE).unwrap();
        let lower = "UPDATE head SET revocation_epoch = revocation_epoch - 1";
        database.execute_batch(lower).unwrap();
    };
    let lowered = refusal_after(both).await;
    assert!(lowered.contains("not sealed by keys/head.key"), "{lowered}");
    assert!(lowered.contains("somebody else wrote it"), "{lowered}");
    let replaced = refusal_after(run(
        "UPDATE entries SET bytes = CAST(replace(bytes, 'monolith', 'somebody') AS BLOB)
         WHERE instr(bytes, '\"type\":\"deny\"');
         UPDATE revocations SET target = replace(target, 'monolith', 'somebody');",
    ))
    .await;
    assert!(replaced.contains("contradicts itself"), "{replaced}");
}

#[tokio::test]
async fn each_field_of_the_head_is_sealed() {
    for (sql, what) in [
        ("UPDATE head SET size = size - 1, edge = edge", "head"),
        ("UPDATE head SET at = at - 60000", "time"),
        ("UPDATE head SET revocation_epoch = revocation_epoch - 1", "its epoch is"),
        ("UPDATE head SET revocation_epoch = revocation_epoch + 1", "its epoch is"),
        ("UPDATE head SET policy_hash = zeroblob(32)", "it names policy set"),
        ("UPDATE head SET swept = 0", "sweep mark"),
        ("UPDATE head SET swept = swept + 1000", "sweep mark"),
        ("UPDATE head SET chain = zeroblob(32)", "chain"),
        ("UPDATE head SET seal = zeroblob(32)", "seal"),
        ("UPDATE head SET seal = x''", "seal"),
    ] {
        let why = refusal_after(run(sql)).await;
        assert!(why.contains(what) && why.contains("restore a backup"), "{sql}: {why}");
    }
}

#[tokio::test]
async fn nothing_is_granted_by_an_event_that_the_ca_did_not_append() {
    let not_ours = "not sealed by keys/head.key";
    let token = refusal_after(|database| {
        let secret = Hash::of(&[7; 32]);
        let subject = "spiffe://pay.example/prod/monolith";
        let detail = serde_json::json!({
            "expires_at": i64::MAX, "id": "07", "key_sha256": null,
            "token_sha256": format!("{secret:?}"),
        });
        let index = append(database, "token.create", subject, &detail);
        insert_token(database, &secret, subject, index);
    })
    .await;
    assert!(token.contains(not_ours), "{token}");
    let policy = refusal_after(|database| {
        let hash = Hash::of(b"{}");
        let detail = serde_json::json!({ "hash": format!("{hash:?}") });
        let index = append(database, "policy.change", "policy", &detail);
        database
            .execute(
                "INSERT INTO policies VALUES (?1, '{}', ?2)",
                params![hash.as_bytes(), index as i64],
            )
            .unwrap();
        database.execute("UPDATE head SET policy_hash = ?1", [hash.as_bytes()]).unwrap();
    })
    .await;
    assert!(policy.contains(not_ours), "{policy}");
    let lift = refusal_after(|database| {
        let detail = serde_json::json!({ "size": 1_000_000 });
        append(database, "halt.lift", "pay.example/log", &detail);
    })
    .await;
    assert!(lift.contains(not_ours), "{lift}");
    let operator = refusal_after(|database| {
        let detail = serde_json::json!({ "name": "eve" });
        let eve = "spiffe://pay.example/countersign/operator/eve";
        let index = append(database, "operator.create", eve, &detail);
        let row = "INSERT INTO operators VALUES ('eve', ?1)";
        database.execute(row, [index as i64]).unwrap();
    })
    .await;
    assert!(operator.contains(not_ours), "{operator}");
}

fn insert_token(database: &Connection, secret: &Hash, spiffe_id: &str, index: u64) {
    database
        .execute(
            "INSERT INTO tokens (hash, id, spiffe_id, expires_at, log_index, seal)
             VALUES (?1, '07', ?2, ?3, ?4, zeroblob(32))",
            params![secret.as_bytes(), spiffe_id, i64::MAX, index as i64],
        )
        .unwrap();
}

/// A running CA reads the head at each turn, and tokens as they come.
#[tokio::test]
async fn a_running_ca_takes_no_head_and_no_token_that_it_did_not_write() {
    let environment = environment().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let withdrawn = environment.token(&operator, "/prod/quick").await;
    let made = environment
        .authority
        .operations
        .tokens(&operator, &TokenFilter::default())
        .await
        .unwrap()
        .items;
    environment.authority.operations.revoke_token(&operator, &made[0].id).await.unwrap();
    let database = database(&environment);
    database.execute_batch("UPDATE tokens SET revoked_index = NULL").unwrap();
    let refused = environment.issue_with(&withdrawn, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    database.execute_batch("UPDATE tokens SET expires_at = expires_at + 1").unwrap();
    let refused = environment.issue_with(&token, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("unknown"), "{refused}");
    let events = "UPDATE entries SET folds = 0 WHERE instr(bytes, '\"type\":\"revoke\"');
                  UPDATE head SET revocation_epoch = revocation_epoch - 1";
    database.execute_batch(events).unwrap();
    let stopped = environment.authority.view.refresh().await.unwrap_err().to_string();
    assert!(stopped.contains("not sealed"), "{stopped}");
    let checkpoint = environment.authority.writer.sign_checkpoint().await;
    assert!(checkpoint.unwrap_err().to_string().contains("not sealed"));
}

/// Takes the seals away: what a store of before was.
const UNSEAL: &str = "ALTER TABLE records DROP COLUMN seal; ALTER TABLE head DROP COLUMN chain; ALTER TABLE head DROP COLUMN seal;
    ALTER TABLE tokens DROP COLUMN seal; UPDATE meta SET version = 3;
    DROP INDEX idempotency_unchanged; ALTER TABLE idempotency DROP COLUMN answer;
    ALTER TABLE idempotency DROP COLUMN seal;
    UPDATE entries SET folds = 0 WHERE instr(bytes, '\"type\":\"operator.create\"')
      OR instr(bytes, '\"type\":\"token.revoke\"');
    UPDATE head SET revocation_epoch = (SELECT count(*) FROM entries WHERE folds = 1)";

fn unseal() -> String {
    format!("{RENEWALS_IN_ROWS} {UNSEAL}")
}

#[tokio::test]
async fn a_store_of_before_is_verified_and_sealed_once() {
    let environment = environment().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let database = database(&environment);
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store, keys));
    database.execute_batch(&unseal()).unwrap();
    let key = folder.path().join("keys/head.key");
    std::fs::remove_file(&key).unwrap();
    // Such a CA kept no head beside its database.
    std::fs::remove_file(folder.path().join("head")).unwrap();
    let passphrase = api::Secret::new("online");
    let keys = authority::Keys::open(folder.path(), &passphrase).unwrap();
    let store = reopen(folder.path(), &keys).await.unwrap();
    let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    let environment = Environment { folder, clock, store, keys, pin, authority };
    environment.issue_with(&token, &csr()).await.unwrap();
    assert!(key.exists());
    // Whoever writes to the database cannot ask for a new seal.
    let database = self::database(&environment);
    let Environment { folder, store, authority, .. } = environment;
    drop((authority, store));
    database.execute_batch(&unseal()).unwrap();
    let keys = authority::Keys::open(folder.path(), &passphrase).unwrap();
    let refused = reopen(folder.path(), &keys).await.unwrap_err().to_string();
    assert!(refused.contains("an older database was put back"), "{refused}");
}

#[tokio::test]
async fn a_store_of_before_that_was_tampered_with_is_not_sealed() {
    for tampering in [
        "UPDATE entries SET folds = 0 WHERE instr(bytes, '\"type\":\"revoke\"')",
        "UPDATE head SET revocation_epoch = revocation_epoch - 1",
        "UPDATE entries SET bytes = x'7b7d' WHERE place = (1 << 40) + 3",
        "DELETE FROM entries WHERE place = (1 << 40) + 3",
        "UPDATE head SET size = size - 1",
    ] {
        let environment = environment().await;
        let database = database(&environment);
        let Environment { folder, store, authority, .. } = environment;
        drop((authority, store));
        database.execute_batch(&unseal()).unwrap();
        database.execute_batch(tampering).unwrap();
        std::fs::remove_file(folder.path().join("keys/head.key")).unwrap();
        let passphrase = api::Secret::new("online");
        let keys = authority::Keys::open(folder.path(), &passphrase).unwrap();
        reopen(folder.path(), &keys).await.expect_err(tampering);
        assert!(!folder.path().join("keys/head.key").exists(), "{tampering}");
    }
}

#[tokio::test]
async fn a_sealed_store_without_its_key_is_refused_and_says_what_to_do() {
    let environment = environment().await;
    let Environment { folder, store, authority, .. } = environment;
    drop((authority, store));
    std::fs::remove_file(folder.path().join("keys/head.key")).unwrap();
    let keys = authority::Keys::open(folder.path(), &api::Secret::new("online")).unwrap();
    let refused = reopen(folder.path(), &keys).await.unwrap_err().to_string();
    assert!(refused.contains("restore it from a backup"), "{refused}");
}

#[tokio::test]
async fn an_older_database_is_noticed_by_the_checkpoint_beside_it() {
    let environment = environment().await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    let (database, older) = (folder.path().join("countersign.db"), folder.path().join("older.db"));
    Connection::open(&database).unwrap().execute("VACUUM INTO ?1", [older.to_str()]).unwrap();
    let store = reopen(folder.path(), &keys).await.unwrap();
    let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    assert!(authority.view.halted().is_none());
    let environment = Environment { folder, clock, store, keys, pin, authority };
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/quick").await;
    environment.authority.writer.sign_checkpoint().await.unwrap();
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    for beside in ["countersign.db-wal", "countersign.db-shm"] {
        drop(std::fs::remove_file(folder.path().join(beside)));
    }
    std::fs::rename(&older, &database).unwrap();
    let store = reopen(folder.path(), &keys).await.unwrap();
    let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    let why = authority.view.halted().unwrap();
    assert!(why.contains("beside its database") && why.contains("older database"), "{why}");
}

/// What a verifier may forget a day later: no changed row has it forgotten earlier.
#[tokio::test]
async fn no_certificate_is_revoked_by_what_a_changed_row_says_of_its_end() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let earlier = "UPDATE records SET not_after = not_after - 86400";
    assert!(database(&environment).execute(earlier, []).unwrap() > 0);
    let revoke = api::RevokeRequest {
        target: issued.serial_number.to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    let done = environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
    let place = done.log_index.unwrap();
    let event = environment.store.entries(place, 1).await.unwrap().pop().unwrap();
    let ends = Event::parse(&event).unwrap().detail["not_after"].as_i64();
    assert_eq!(ends, Some(issued.not_after.unix_timestamp()), "what the log says of it");
    // Its identity's certificates are known from the log, too.
    environment.issue(&operator, "/prod/reports").await;
    assert!(database(&environment).execute(earlier, []).unwrap() > 0);
    let revoke = api::RevokeRequest { target: id("/prod/reports").to_string(), ..revoke };
    let done = environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
    assert_eq!(done.certificates, 1);
}

/// A name of the same length, and a later end.
#[tokio::test]
async fn certificate_of_the_issuer_is_the_one_that_a_root_signed() {
    let refusal = refusal_after(|database| {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
        let der = database.query_row("SELECT certificate FROM issuers", [], read).unwrap();
        let name = b"Countersign Issuer";
        let at = der.windows(name.len()).position(|window| window == name).unwrap();
        let mut other = der;
        other[at..at + name.len()].copy_from_slice(b"Countersign Forger");
        database.execute("UPDATE issuers SET certificate = ?1", [other]).unwrap();
    })
    .await;
    assert!(refusal.contains("signed by no root of this CA"), "{refusal}");
}

/// It is told once, and lasts as long as it is so; nothing that is made of it outlasts it.
#[tokio::test]
async fn a_tile_that_does_not_add_up_to_the_head_is_given_to_nobody() {
    let environment = environment().await;
    let event = EventDraft::new("backup", &Act { actor: "test", request_id: "" }, "", &());
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    let group = vec![Member::Act(Box::new(act)); 600];
    let now = environment.clock.unix_milliseconds();
    environment.store.commit(group, now).await.unwrap();
    let database = database(&environment);
    let first = "level = 0 AND tile_index = 0";
    let sql = format!("SELECT hashes FROM tiles WHERE {first}");
    let right: Vec<u8> = database.query_row(&sql, [], |row| row.get(0)).unwrap();
    let mut edge = TreeEdge::new();
    right.chunks(32).for_each(|hash| edge.push(Hash::try_from(hash).unwrap()));
    let size = environment.store.head().await.unwrap().edge.size();
    let above = Tile::in_tree(TileKind::Hashes { level: 1 }, 0, size).unwrap();
    let (told, _listening) = Told::listen();
    environment.authority.writer.probe_store().await.unwrap();
    for (broken, why) in [
        ("UPDATE tiles SET hashes = zeroblob(8192)", "do not add up to its head"),
        ("DELETE FROM tiles", "is gone"),
    ] {
        database.execute(&format!("{broken} WHERE {first}"), []).unwrap();
        for _ in 0..2 {
            let refused = environment.authority.view.tile(above).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            environment.authority.writer.probe_store().await.unwrap_err();
            environment.authority.writer.require_commits().unwrap_err();
        }
        assert_eq!(told.with(why).len(), 1);
        let mend = "INSERT OR REPLACE INTO tiles VALUES (1, 0, 0, ?1)";
        database.execute(mend, [&right]).unwrap();
        environment.authority.writer.probe_store().await.unwrap();
        environment.authority.writer.require_commits().unwrap();
    }
    let tile = environment.authority.view.tile(above).await.unwrap();
    assert!(tile.starts_with(edge.root().as_bytes()), "what was changed is remembered");
}
