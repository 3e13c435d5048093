//! Whether a commit would be taken, tried before somebody needs it.

use rusqlite::params;

use super::columns::place;
use super::errors::unavailable;
use super::given_tiles::Roots;
use super::head;
use super::transaction::{begin, one};
use super::write::APPEND;
use super::writer::{PROBE_WAITS, WRITER_WAITS, Writer};
use crate::beside::kept_head::Durable;
use crate::store::StoreError;

/// Writes the page that says which version this is, with what stands in it: a page that was changed
/// and changed back is written nevertheless.
///
/// Before that a row of each table that commits write to is put there and taken away again, at the log's
/// next place where that is its key, in a transaction that is not committed: what stands in the way of
/// a commit, or undoes one, is found out before somebody needs it, whatever others commit meanwhile. Where
/// somebody who read tiles has found that they do not add up to the head, it is looked at whether they do.
pub(super) fn write(writer: &mut Writer, roots: &Roots) -> Result<(), StoreError> {
    try_tables(writer)?;
    let Writer { connection, key, schema, place, heads, unreached, .. } = writer;
    let transaction = begin(connection, schema)?;
    let head = head::read_known(&transaction, key, heads)?;
    roots.require_no_doubt(&transaction, &head)?;
    let cleared = unreached.clear(&transaction, head.edge.size())?;
    for sql in ["UPDATE meta SET version = version + 1", "UPDATE meta SET version = version - 1"] {
        one(transaction.execute(sql, []), "meta")?;
    }
    place.require()?;
    transaction.commit().map_err(unavailable)?;
    unreached.note(&cleared);
    // It may be missing since the last commit.
    heads.keep(key, &head, Durable::Yes)
}

fn try_tables(writer: &mut Writer) -> Result<(), StoreError> {
    let Writer { connection, key, schema, heads, unreached, .. } = writer;
    let transaction = begin(connection, schema)?;
    let head = head::read_known(&transaction, key, heads)?;
    unreached.clear(&transaction, head.edge.size())?;
    let next = place(head.edge.size());
    for (sql, entry) in [(APPEND, params![next, false, b""]), (TAKE_AWAY, params![next])] {
        one(transaction.execute(sql, entry), "entries")?;
    }
    let changed = |sql: &str| match sql.contains("?1") {
        true => transaction.execute(sql, [head.edge.size() as i64]),
        false => transaction.execute(sql, []),
    };
    for (table, insert, take_away) in TRIED {
        if !insert.contains("?1") {
            // Nobody else has a row there that counts for anything.
            changed(take_away).map_err(unavailable)?;
        }
        for sql in [insert, take_away] {
            one(changed(sql), table)?;
        }
    }
    transaction.rollback().map_err(unavailable)
}

/// Takes the lock for writing, and lets it go.
pub(super) fn lock(writer: &mut Writer) -> Result<(), StoreError> {
    let Writer { connection, schema, .. } = writer;
    connection.busy_timeout(PROBE_WAITS).map_err(unavailable)?;
    let begun = begin(connection, schema).map(drop);
    connection.busy_timeout(WRITER_WAITS).map_err(unavailable)?;
    begun
}

const TAKE_AWAY: &str = "DELETE FROM entries WHERE place = ?1";
/// What commits write, with each of its indexes: a table, a row of it, and its end. The row's key is the
/// log's next place, or a name that none of ours has.
const TRIED: [(&str, &str, &str); 14] = [
    (
        "revocations",
        "INSERT INTO revocations (log_index, kind, target, reason, at) VALUES (?1, 'allow', '', '', 0)",
        "DELETE FROM revocations WHERE log_index = ?1",
    ),
    (
        "records",
        "INSERT INTO records (leaf_index, serial_number, identity, issued_at, issuer_key_hash, profile,
         not_before, not_after, request_hash, facts, seal)
         VALUES (?1, randomblob(20), 0, 0, x'', '', 0, 0, x'', '', x'')",
        "DELETE FROM records WHERE leaf_index = ?1",
    ),
    (
        "certificates",
        "INSERT INTO certificates (leaf_index, der) VALUES (?1, x'')",
        "DELETE FROM certificates WHERE leaf_index = ?1",
    ),
    (
        "checkpoints",
        "INSERT INTO checkpoints (log_id, size, note) VALUES (0, 0, x'')",
        "DELETE FROM checkpoints WHERE log_id = 0",
    ),
    (
        "crl_numbers",
        "INSERT INTO crl_numbers (issuer_key_hash, number) VALUES (x'', 0)",
        "DELETE FROM crl_numbers WHERE issuer_key_hash = x''",
    ),
    (
        "crls",
        "INSERT INTO crls (issuer_key_hash, number, der, revocation_epoch, next_update)
         VALUES (x'', 0, x'', 0, 0)",
        "DELETE FROM crls WHERE issuer_key_hash = x''",
    ),
    (
        "idempotency",
        "INSERT INTO idempotency (principal, name, request_hash, leaf_index, at) VALUES ('', '', x'', -1, 0)",
        "DELETE FROM idempotency WHERE principal = '' AND name = ''",
    ),
    (
        "identities",
        "INSERT INTO identities (spiffe_id) VALUES ('')",
        "DELETE FROM identities WHERE spiffe_id = ''",
    ),
    (
        "issuers",
        "INSERT INTO issuers (key_hash, certificate, log_index) VALUES (x'', x'', 0)",
        "DELETE FROM issuers WHERE key_hash = x''",
    ),
    (
        "operators",
        "INSERT INTO operators (name, log_index) VALUES ('', 0)",
        "DELETE FROM operators WHERE name = ''",
    ),
    (
        "policies",
        "INSERT INTO policies (hash, files, log_index) VALUES (x'', '', 0)",
        "DELETE FROM policies WHERE hash = x''",
    ),
    (
        "tiles",
        "INSERT INTO tiles (log_id, level, tile_index, hashes) VALUES (0, 0, 0, x'')",
        "DELETE FROM tiles WHERE log_id = 0 AND level = 0 AND tile_index = 0",
    ),
    (
        "tokens",
        "INSERT INTO tokens (hash, id, spiffe_id, expires_at, log_index, seal)
         VALUES (x'', '', '', 0, 0, x'')",
        "DELETE FROM tokens WHERE hash = x'' OR id = ''",
    ),
    (
        "trust_states",
        "INSERT INTO trust_states (sequence, note, log_index) VALUES (0, x'', 0)",
        "DELETE FROM trust_states WHERE sequence = 0",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::schema::TABLES;
    use super::*;

    #[test]
    fn every_table_is_tried() {
        let tables = TABLES.lines().filter_map(|line| line.strip_prefix("CREATE TABLE "));
        let tables: Vec<&str> = tables.filter_map(|rest| rest.split(' ').next()).collect();
        let is_tried = |table: &&str| {
            // The head's row is written with every entry.
            ["entries", "head", "meta"].contains(table)
                || TRIED.iter().any(|(tried, ..)| tried == table)
        };
        assert_eq!(tables.len(), 17);
        assert!(tables.iter().all(is_tried), "{tables:?}");
    }
}
