//! No row of the database decides what is answered or signed: the fold of the log, its leaves, and
//! what this CA has sealed do.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{DenyRequest, RevokeRequest, TokenFilter};
use authority::sequencer::Conflict;
use authority::store::sqlite::SqliteStore;
use authority::store::{RecordKey, StoreError};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::{Environment, csr, id, open, reopen};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

fn tamper(environment: &Environment, sql: &str) {
    let database = database(environment);
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn revoke(
    environment: &Environment,
    operator: &Caller,
    target: &str,
) -> Result<api::Revocation, Error> {
    let request = RevokeRequest {
        target: target.to_owned(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(operator, &request).await
}

async fn crl(environment: &Environment) -> bytes::Bytes {
    environment.authority.crls.crl(&environment.authority.view.issuer_id()).await.unwrap()
}

/// What a CRL lists: serial numbers with times and reasons.
fn listed(crl: &[u8]) -> Vec<(String, i64, Option<u8>)> {
    let (_, crl) = CertificateRevocationList::from_der(crl).unwrap();
    let entry = |revoked: &x509_parser::revocation_list::RevokedCertificate<'_>| {
        let serial = identity::SerialNumber::from_octets(revoked.raw_serial()).unwrap();
        let reason = revoked.reason_code().map(|(_, reason)| reason.0);
        (serial.to_string(), revoked.revocation_date.timestamp(), reason)
    };
    crl.iter_revoked_certificates().map(entry).collect()
}

fn number(crl: &[u8]) -> u64 {
    let (_, crl) = CertificateRevocationList::from_der(crl).unwrap();
    crl.crl_number().unwrap().try_into().unwrap()
}

/// A renewal is judged by facts that this CA has sealed, or not at all.
#[tokio::test]
async fn no_renewal_goes_by_facts_that_somebody_else_wrote() {
    for forgery in [
        r#"UPDATE records SET facts = replace(facts, '"token"', '"internal"')"#,
        r#"UPDATE records SET facts = replace(facts, '"attested_at":', '"attested_at":9')"#,
        r#"UPDATE records SET facts = replace(facts, '"dns":[]', '"dns":["ca.internal"]')"#,
        "UPDATE records SET profile = 'short-lived'",
        "UPDATE records SET seal = x''",
        "UPDATE records SET seal = (SELECT seal FROM head)",
        "UPDATE records SET facts = (SELECT facts FROM records LIMIT 1), seal = (SELECT seal FROM records LIMIT 1)",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/quick").await;
        let caller = environment.caller(&issued);
        tamper(&environment, forgery);
        let refused = environment.renew(&caller, &csr()).await;
        let Err(Error::Attestation { why, .. }) = refused else {
            panic!("{forgery}: {refused:?}");
        };
        assert!(why.contains("not as this CA wrote it"), "{forgery}: {why}");
    }
}

#[tokio::test]
async fn a_line_that_broke_stays_broken_whatever_its_rows_say() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/quick").await;
    let second = environment.renew(&environment.caller(&first), &csr()).await.unwrap();
    let second = environment.caller(&second);
    environment.renew(&second, &csr()).await.unwrap();
    environment.renew(&environment.caller(&first), &csr()).await.unwrap_err();
    let line = first.serial_number.to_string();
    let own = second.svid.as_ref().unwrap().serial_number().to_string();
    tamper(
        &environment,
        &format!(
            "UPDATE records SET facts = replace(facts, '\"lineage\":\"{line}\"',
               '\"lineage\":\"{own}\"') WHERE hex(serial_number) = upper('{own}')"
        ),
    );
    let refused = environment.renew(&second, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("not as this CA wrote it"), "{refused}");
}

#[tokio::test]
async fn each_field_of_a_record_is_sealed() {
    for change in [
        "UPDATE records SET leaf_index = leaf_index + 1000",
        "UPDATE records SET issued_at = issued_at + 1",
        "UPDATE records SET issuer_key_hash = zeroblob(32)",
        "UPDATE records SET not_before = not_before - 1",
        "UPDATE records SET not_after = not_after + 1",
        "UPDATE records SET request_hash = zeroblob(32)",
        "UPDATE records SET profile = profile || ' '",
        "UPDATE records SET facts = facts || ' '",
        "UPDATE identities SET spiffe_id = spiffe_id || '0'",
        "UPDATE records SET identity = (SELECT id FROM identities LIMIT 1)",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        tamper(&environment, change);
        let key = RecordKey::SerialNumber(issued.serial_number);
        let read = environment.store.records_of(vec![key]).await.unwrap();
        assert_eq!(read, [None], "{change}");
    }
}

#[tokio::test]
async fn no_row_takes_a_certificate_off_the_crl() {
    for change in [
        "UPDATE revocations SET at = 0",
        "UPDATE revocations SET reason = 'superseded'",
        "UPDATE records SET not_after = 1",
        "UPDATE records SET leaf_index = leaf_index + 1000",
        "UPDATE records SET issuer_key_hash = zeroblob(32)",
        "UPDATE identities SET spiffe_id = spiffe_id || '0'",
        "DELETE FROM records",
        "DELETE FROM identities",
    ] {
        for restarts in [false, true] {
            let mut environment = Environment::start().await;
            let operator = environment.operator().await;
            let by_number = environment.issue(&operator, "/prod/quick").await.serial_number;
            environment.issue(&operator, "/prod/reports").await;
            revoke(&environment, &operator, &by_number.to_string()).await.unwrap();
            revoke(&environment, &operator, id("/prod/reports").as_str()).await.unwrap();
            let before = crl(&environment).await;
            assert_eq!(listed(&before).len(), 2);
            tamper(&environment, change);
            tamper(&environment, "DELETE FROM crls; UPDATE crl_numbers SET number = 0");
            environment.clock.advance(time::Duration::hours(13));
            if restarts {
                environment.restart().await;
            }
            let after = crl(&environment).await;
            assert_eq!(listed(&after), listed(&before), "{change}, {restarts}");
            assert!(number(&after) > number(&before), "{change}: no number comes twice");
        }
    }
}

/// The number of a list comes from the log.
#[tokio::test]
async fn no_row_keeps_the_next_crl_from_being_made() {
    for number_row in ["-1", "-2", "9223372036854775807", "1000000", "'many'", "2.5", "x'01'", "0"]
    {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/quick").await;
        let before = number(&crl(&environment).await);
        tamper(&environment, &format!("UPDATE crl_numbers SET number = {number_row}"));
        tamper(&environment, &format!("UPDATE crls SET number = {number_row}"));
        revoke(&environment, &operator, &issued.serial_number.to_string()).await.unwrap();
        let after = crl(&environment).await;
        assert_eq!(listed(&after).len(), 1, "{number_row}");
        let size = environment.store.head().await.unwrap().edge.size();
        assert!((before + 1..size).contains(&number(&after)), "{number_row}: {}", number(&after));
    }
}

#[tokio::test]
async fn a_revocation_whose_row_is_gone_stands_on_the_next_crl() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    revoke(&environment, &operator, id("/prod/reports").as_str()).await.unwrap();
    tamper(&environment, "DELETE FROM revocations");
    assert_eq!(listed(&crl(&environment).await).len(), 1);
}

#[tokio::test]
async fn a_crl_of_before_is_not_served_whatever_its_row_says() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    let empty = crl(&environment).await;
    revoke(&environment, &operator, id("/prod/reports").as_str()).await.unwrap();
    let newest = crl(&environment).await;
    let with_a_bit = |at: usize| {
        let mut changed = newest.to_vec();
        let at = changed.len() - at;
        changed[at] ^= 1;
        changed
    };
    // The last bytes are the signature's.
    for put_back in [empty.to_vec(), b"\xde\xad\xbe\xef".to_vec(), Vec::new(), with_a_bit(2)] {
        let row = "UPDATE crls SET der = ?1, number = number + 1, revocation_epoch = 1000000,
                   next_update = 4000000000";
        database(&environment).execute(row, [&put_back]).unwrap();
        environment.restart().await;
        assert_eq!(listed(&crl(&environment).await).len(), 1, "{put_back:02x?}");
    }
    // The right one, said to show what it does not.
    let stored = crl(&environment).await;
    environment.issue(&operator, "/prod/monolith").await;
    revoke(&environment, &operator, id("/prod/monolith").as_str()).await.unwrap();
    tamper(&environment, "UPDATE crls SET revocation_epoch = 1000000, next_update = 4000000000");
    environment.restart().await;
    assert_eq!(listed(&stored).len(), 1);
    assert_eq!(listed(&crl(&environment).await).len(), 2);
}

#[tokio::test]
async fn the_newest_crl_is_served_again_after_a_restart() {
    let mut environment = Environment::start().await;
    let before = crl(&environment).await;
    environment.restart().await;
    assert_eq!(crl(&environment).await, before);
}

#[tokio::test]
async fn a_token_is_withdrawn_by_the_log_and_not_by_its_row() {
    for (marked, unmarked) in [
        ("UPDATE tokens SET revoked_index = 1", "UPDATE tokens SET revoked_index = NULL"),
        (
            "UPDATE tokens SET used_by = zeroblob(32), used_leaf = 3",
            "UPDATE tokens SET used_by = NULL, used_leaf = NULL",
        ),
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/quick").await;
        let made = environment
            .authority
            .operations
            .tokens(&operator, &TokenFilter::default())
            .await
            .unwrap()
            .items;
        tamper(&environment, marked);
        let listed =
            environment.authority.operations.tokens(&operator, &TokenFilter::default()).await;
        assert_eq!(listed.unwrap().items[0].state, "open", "{marked}");
        environment.authority.operations.revoke_token(&operator, &made[0].id).await.unwrap();
        tamper(&environment, unmarked);
        let listed =
            environment.authority.operations.tokens(&operator, &TokenFilter::default()).await;
        assert_eq!(listed.unwrap().items[0].state, "revoked", "{marked}");
        environment.issue_with(&token, &csr()).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_use_that_was_taken_back_is_listed_and_the_token_not_withdrawn() {
    for restarts in [false, true] {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        environment.issue(&operator, "/prod/quick").await;
        tamper(&environment, "UPDATE tokens SET used_by = NULL, used_leaf = NULL");
        if restarts {
            environment.restart().await;
        }
        let listed =
            environment.authority.operations.tokens(&operator, &TokenFilter::default()).await;
        let token = listed.unwrap().items.remove(0);
        assert_eq!(token.state, "used");
        let refused = environment.authority.operations.revoke_token(&operator, &token.id).await;
        assert!(matches!(refused, Err(Error::Conflict(Conflict::TokenUsed))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_token_s_row_that_this_ca_did_not_write_hides_no_other_and_is_withdrawn() {
    for change in [
        "spiffe_id = 'x'",
        "seal = 'x'",
        "seal = 7",
        "expires_at = 'x'",
        "key_hash = 'x'",
        "hash = x'00'",
        "used_by = 'x', used_leaf = 3",
        "used_by = zeroblob(3), used_leaf = 3",
        "used_by = zeroblob(32), used_leaf = 'x'",
        "used_by = zeroblob(32), used_leaf = -1",
        "used_by = zeroblob(32), used_leaf = 9223372036854775807",
        "log_index = 1.5",
        "log_index = 'x'",
        "revoked_index = 'x'",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let other = environment.token(&operator, "/prod/reports").await;
        let token = environment.token(&operator, "/prod/quick").await;
        let authority = &environment.authority;
        let listed =
            authority.operations.tokens(&operator, &TokenFilter::default()).await.unwrap().items;
        let [broken, whole] = [&listed[0].id, &listed[1].id];
        let database = database(&environment);
        let sql = format!(
            "PRAGMA ignore_check_constraints = ON; CREATE TEMP TABLE kept AS SELECT * FROM tokens;
             UPDATE tokens SET {change} WHERE id = '{broken}'"
        );
        database.execute_batch(&sql).unwrap_or_else(|error| panic!("{change}: {error}"));
        let left = authority.operations.tokens(&operator, &TokenFilter::default()).await;
        let left = left.unwrap_or_else(|error| panic!("{change}: {error}")).items;
        assert!(left.iter().any(|it| it.id == *whole), "{change}");
        for id in [broken, whole] {
            let withdrawn = authority.operations.revoke_token(&operator, id).await;
            withdrawn.unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        database
            .execute_batch("DELETE FROM tokens; INSERT INTO tokens SELECT * FROM kept")
            .unwrap();
        for token in [&token, &other] {
            environment.issue_with(token, &csr()).await.unwrap_err();
        }
    }
}

/// What is denied is what the log says, and so is what is allowed again.
#[tokio::test]
async fn no_row_keeps_a_denial_from_being_lifted() {
    for change in [
        "DELETE FROM revocations",
        "UPDATE revocations SET target = 'x'",
        "INSERT INTO revocations (log_index, kind, target, reason, at)
           SELECT log_index + 1000, 'allow', target, reason, at FROM revocations",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let spiffe_id = id("/prod/quick");
        let reason = "unspecified".to_owned();
        let asked = DenyRequest { spiffe_id, reason, named_override: None };
        let authority = &environment.authority;
        let denial = authority.operations.deny(&operator, &asked).await.unwrap();
        tamper(&environment, change);
        let lifted = authority.operations.allow(&operator, &denial.id).await;
        lifted.unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_eq!(authority.operations.denials(&operator).await.unwrap().items, []);
        let again = authority.operations.allow(&operator, &denial.id).await;
        assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
        environment.issue(&operator, "/prod/quick").await;
    }
}

#[tokio::test]
async fn a_token_whose_row_is_gone_is_withdrawn_and_stays_so_when_the_row_is_back() {
    for (hidden, back) in [
        (
            "CREATE TEMP TABLE kept AS SELECT * FROM tokens; DELETE FROM tokens",
            "INSERT INTO tokens SELECT * FROM kept",
        ),
        ("UPDATE tokens SET id = id || '0'", "UPDATE tokens SET id = substr(id, 1, 16)"),
    ] {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/quick").await;
        let used = environment.token(&operator, "/prod/reports").await;
        environment.issue_with(&used, &csr()).await.unwrap();
        let listed =
            environment.authority.operations.tokens(&operator, &TokenFilter::default()).await;
        let listed = listed.unwrap().items;
        let id_of = |state: &str| listed.iter().find(|it| it.state == state).unwrap().id.clone();
        let database = database(&environment);
        database.execute_batch(hidden).unwrap();
        let withdraw =
            async |id: String| environment.authority.operations.revoke_token(&operator, &id).await;
        let refused = withdraw(id_of("used")).await;
        assert!(matches!(refused, Err(Error::Conflict(Conflict::TokenUsed))), "{refused:?}");
        let unknown = withdraw("0123456789abcdef".to_owned()).await;
        assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
        let size = environment.store.head().await.unwrap().edge.size();
        withdraw(id_of("open")).await.unwrap();
        assert_eq!(environment.store.head().await.unwrap().edge.size(), size + 1, "it is logged");
        withdraw(id_of("open")).await.unwrap();
        assert_eq!(environment.store.head().await.unwrap().edge.size(), size + 1, "once");
        database.execute_batch(back).unwrap();
        assert!(environment.issue_with(&token, &csr()).await.is_err(), "{hidden}");
        environment.restart().await;
        assert!(environment.issue_with(&token, &csr()).await.is_err(), "{hidden}");
    }
}

#[tokio::test]
async fn what_is_hidden_from_the_tables_is_revoked_nevertheless() {
    for (hidden, restarts) in [
        ("UPDATE records SET not_after = 1", false),
        ("UPDATE records SET not_after = 1", true),
        ("DELETE FROM records", true),
        ("UPDATE identities SET spiffe_id = spiffe_id || '0'", true),
    ] {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        environment.issue(&operator, "/prod/quick").await;
        revoke(&environment, &operator, id("/prod/quick").as_str()).await.unwrap();
        let thief = environment.issue(&operator, "/prod/quick").await;
        tamper(&environment, hidden);
        if restarts {
            environment.restart().await;
        }
        let done = revoke(&environment, &operator, id("/prod/quick").as_str()).await.unwrap();
        assert!(done.log_index.is_some(), "{hidden}: nothing was logged");
        assert!(environment.renew(&environment.caller(&thief), &csr()).await.is_err());
        let again = revoke(&environment, &operator, id("/prod/quick").as_str()).await.unwrap();
        assert_eq!(again.log_index, None, "{hidden}: twice changes nothing");
    }
}

#[tokio::test]
async fn the_last_operator_is_the_last_whatever_the_tables_hide() {
    for hidden in [
        "UPDATE identities SET spiffe_id = spiffe_id || '0'",
        "UPDATE records SET not_after = 1",
        "DELETE FROM certificates",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        tamper(&environment, hidden);
        let deny = DenyRequest {
            spiffe_id: id("/countersign/operator/admin"),
            reason: "unspecified".to_owned(),
            named_override: None,
        };
        let refused = environment.authority.operations.deny(&operator, &deny).await;
        assert!(matches!(refused, Err(Error::LocksOut(_))), "{hidden}: {refused:?}");
        let add = api::OperatorRequest {
            name: "admin".to_owned(),
            again: false,
            ttl: None,
            key_sha256: None,
        };
        let refused = environment.authority.operations.add_operator(&operator, &add).await;
        assert!(matches!(refused, Err(Error::Occupied { .. })), "{hidden}: {refused:?}");
    }
}

#[tokio::test]
async fn a_store_of_before_records_were_sealed_is_compared_with_its_log_and_sealed_once() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/quick").await;
    let renewed = environment.renew(&environment.caller(&issued), &csr()).await.unwrap();
    let size = environment.store.head().await.unwrap().edge.size();
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    of_before(&folder, &keys).await;
    let store = reopen(folder.path(), &keys).await.unwrap();
    assert_eq!(store.head().await.unwrap().edge.size(), size + 1, "what was renewed is told");
    let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    let environment = Environment { folder, clock, store, keys, pin, authority };
    environment.renew(&environment.caller(&renewed), &csr()).await.unwrap();
    revoke(&environment, &operator, &issued.serial_number.to_string()).await.unwrap();
    tamper(&environment, UNSEAL);
    let refused = environment.authority.view.refresh().await;
    assert!(refused.is_err(), "another schema is noticed at once");
}

#[tokio::test]
async fn a_store_of_before_whose_records_are_not_the_log_s_is_not_sealed() {
    for change in [
        r#"UPDATE records SET facts = replace(facts, '"token"', '"internal"')"#,
        "UPDATE records SET profile = 'short-lived'",
        "UPDATE records SET not_after = not_after + 1",
        "UPDATE records SET facts = replace(facts, '\"lineage\":\"', '\"lineage\":\"01')",
        "UPDATE identities SET spiffe_id = spiffe_id || '0'",
        "DELETE FROM records WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
        "UPDATE records SET issued_at = 0",
        "UPDATE head SET swept = swept + 1",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        environment.issue(&operator, "/prod/quick").await;
        let Environment { folder, store, keys, authority, .. } = environment;
        drop((authority, store));
        of_before(&folder, &keys).await;
        let database = Connection::open(folder.path().join("countersign.db")).unwrap();
        database.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert!(database.execute(change, []).unwrap() > 0, "{change}");
        drop(database);
        // What the transaction began is undone.
        reopen(folder.path(), &keys).await.expect_err(change);
        of_version(&folder, 5);
    }
}

/// Makes of a store what a version of before had left.
async fn of_before(folder: &tempfile::TempDir, keys: &authority::Keys) {
    // The lock is let go of a moment after the last handle.
    drop(reopen(folder.path(), keys).await.unwrap());
    let key = keys.head_key().unwrap().unwrap();
    SqliteStore::take_back(folder.path(), &key, 5).unwrap();
    of_version(folder, 5);
}

fn of_version(folder: &tempfile::TempDir, version: i64) {
    let database = Connection::open(folder.path().join("countersign.db")).unwrap();
    let found: i64 = database.query_row("SELECT version FROM meta", [], |row| row.get(0)).unwrap();
    assert_eq!(found, version);
}

/// Takes the seals of records away: what a store of before was, but for its head's.
const UNSEAL: &str = "ALTER TABLE records DROP COLUMN seal; UPDATE meta SET version = 5";

#[tokio::test]
async fn a_store_whose_records_are_sealed_is_never_taken_for_one_of_before() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/quick").await;
    tamper(&environment, UNSEAL);
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    let refused = match reopen(folder.path(), &keys).await {
        Ok(store) => open(folder.path(), &store, &keys, &clock, pin).await.map(drop),
        Err(error) => Err(error),
    };
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("somebody else wrote it"), "{refused}");
}

#[tokio::test]
async fn a_version_that_is_not_that_of_the_tables_is_told_with_what_repairs_it() {
    // A store of one version, that says another.
    for (changes, says) in [("", 4), ("ALTER TABLE idempotency DROP COLUMN answer", 5)] {
        let environment = Environment::start().await;
        let Environment { folder, store, keys, authority, .. } = environment;
        drop((authority, store));
        of_before(&folder, &keys).await;
        change(&folder, &format!("{changes}; UPDATE meta SET version = {says}"));
        let refused = reopen(folder.path(), &keys).await.unwrap_err();
        let said = refused.to_string();
        let is_so = matches!(refused, Error::Store(StoreError::Versions { version, .. }) if version == says);
        assert!(is_so && said.contains("restore a backup"), "{said}");
        of_version(&folder, says);
    }
    let Environment { folder, store, keys, authority, .. } = Environment::start().await;
    drop((authority, store, keys));
    // One that was sealed is not sealed anew.
    std::fs::remove_file(folder.path().join("keys/head.key")).unwrap();
    change(&folder, "UPDATE meta SET version = 3");
    let keys = authority::Keys::open(folder.path(), &api::Secret::new("online")).unwrap();
    let refused = reopen(folder.path(), &keys).await.unwrap_err();
    let is_so = matches!(refused, Error::Store(StoreError::Versions { version: 3, .. }));
    assert!(is_so, "{refused}");
}

fn change(folder: &tempfile::TempDir, changes: &str) {
    let database = Connection::open(folder.path().join("countersign.db")).unwrap();
    database.execute_batch(changes).unwrap();
}
