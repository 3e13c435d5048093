//! Whether a commit would be taken, tried before somebody needs it.

use rusqlite::params;

use super::write::{APPEND, begin, one};
use super::{PROBE_WAITS, StoreError, WRITER_WAITS, Writer, head, read, unavailable};
use crate::kept_head::Durable;

/// Writes the page that says which version this is, with what stands in it: a page that was changed
/// and changed back is written nevertheless.
///
/// Before that the rows of an entry, a revocation and a certificate are put at the log's next place and
/// taken away again: what stands in the way of a commit, or undoes one, is found out before somebody
/// needs it, whatever others commit meanwhile.
pub(super) fn write(writer: &mut Writer) -> Result<(), StoreError> {
    let Writer { connection, key, schema, place, heads, unreached, .. } = writer;
    let transaction = begin(connection, schema)?;
    let head = head::read_known(&transaction, key, heads)?;
    let cleared = unreached.clear(&transaction, head.edge.size())?;
    let next = read::place(head.edge.size());
    for (sql, entry) in [(APPEND, params![next, false, b""]), (TAKE_AWAY, params![next])] {
        one(transaction.execute(sql, entry), "entries")?;
    }
    for (table, insert, take_away) in TRIED {
        for sql in [insert, take_away] {
            one(transaction.execute(sql, [head.edge.size() as i64]), table)?;
        }
    }
    for sql in ["UPDATE meta SET version = version + 1", "UPDATE meta SET version = version - 1"] {
        one(transaction.execute(sql, []), "meta")?;
    }
    place.require()?;
    transaction.commit().map_err(unavailable)?;
    unreached.note(&cleared);
    // It may be missing since the last commit.
    heads.keep(key, &head, Durable::Yes)
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
/// What a revoking act and an issue write, with each of their indexes: a table, a row of it, and its end.
const TRIED: [(&str, &str, &str); 3] = [
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
];
