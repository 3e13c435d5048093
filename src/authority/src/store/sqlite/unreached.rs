//! Rows at places of the log that are not reached yet: nobody's.
//!
//! A row whose key is a place is written with the place's entry, or after it. Where one stands ahead of
//! the log, somebody else wrote it: it would keep every commit from being taken whose turn it is, or be
//! taken for what this CA made there. So such rows are deleted in the transaction that finds them,
//! under a head that is known: before the first commit of a process, and whenever another connection
//! has written. What only names a place, and has another key, is in nobody's way, but for a trust state:
//! the log's events number those.

use rusqlite::{OptionalExtension, Transaction, params};
use tlog::TILE_WIDTH;

use super::columns::{LAST_PLACE, LOG, place};
use super::errors::unavailable;
use crate::event::{Event, FIRST_TRUST_STATE, KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE, is_of};
use crate::store::StoreError;

/// Tables that have a place of the log as their key, and no other: each with its column.
const BY_PLACE: [(&str, &str); 3] =
    [("certificates", "leaf_index"), ("records", "leaf_index"), ("revocations", "log_index")];

/// What another connection has written up to here was looked at.
#[derive(Debug, Default)]
pub(super) struct Unreached {
    /// SQLite's count of what others have committed; none before the first look.
    looked_at: Option<i64>,
}

/// What was deleted in a transaction, to be told once that is committed.
#[derive(Debug)]
pub(super) struct Cleared {
    looked_at: i64,
    rows: Vec<(&'static str, usize)>,
}

impl Unreached {
    /// Deletes what stands ahead of a log of `size` entries, where others have written since the last
    /// look: to ask whether they have costs no read of the file.
    pub(super) fn clear(
        &self,
        transaction: &Transaction<'_>,
        size: u64,
    ) -> Result<Cleared, StoreError> {
        let looked_at = transaction
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut count| count.query_row([], |row| row.get(0)))
            .map_err(unavailable)?;
        let rows = match self.looked_at == Some(looked_at) {
            true => Vec::new(),
            false => delete(transaction, size).map_err(unavailable)?,
        };
        Ok(Cleared { looked_at, rows })
    }

    /// The same was committed.
    pub(super) fn note(&mut self, cleared: &Cleared) {
        self.looked_at = Some(cleared.looked_at);
        let rows: usize = cleared.rows.iter().map(|(_, deleted)| deleted).sum();
        if rows == 0 {
            return;
        }
        metrics::counter!("countersign_foreign_rows_total").increment(rows as u64);
        let tables: Vec<String> =
            cleared.rows.iter().map(|(table, deleted)| format!("{table} {deleted}")).collect();
        tracing::error!(
            rows,
            tables = tables.join(", "),
            next_step = NEXT_STEP,
            "deleted rows that this CA did not write: they stood ahead of its log"
        );
    }
}

/// How many of each table, but of none that had none.
fn delete(
    transaction: &Transaction<'_>,
    size: u64,
) -> rusqlite::Result<Vec<(&'static str, usize)>> {
    let mut rows = Vec::new();
    let entries = "DELETE FROM entries WHERE place BETWEEN ?1 AND ?2";
    rows.push(("entries", transaction.execute(entries, [place(size), LAST_PLACE])?));
    for (table, column) in BY_PLACE {
        let ahead = format!("DELETE FROM {table} WHERE {column} >= ?1");
        rows.push((table, transaction.execute(&ahead, [size as i64])?));
    }
    let mut tiles = 0;
    for level in 0..8 {
        tiles += transaction.execute(
            "DELETE FROM tiles WHERE log_id = ?1 AND level = ?2 AND tile_index >= ?3",
            params![LOG, level, full_tiles(level, size) as i64],
        )?;
    }
    rows.push(("tiles", tiles));
    rows.push(("trust_states", delete_trust_states(transaction, size)?));
    rows.retain(|(_, deleted)| *deleted > 0);
    Ok(rows)
}

/// Those that the steps of rotations do not lead to yet. The log is read for the newest that they do only
/// where a row does not name the event that it came with.
fn delete_trust_states(transaction: &Transaction<'_>, size: u64) -> rusqlite::Result<usize> {
    let newest = "SELECT t.sequence, e.bytes FROM trust_states t
                  LEFT JOIN entries e ON e.place = t.log_index + ?1 AND e.place < ?2
                  ORDER BY t.sequence DESC LIMIT 1";
    let (first, end) = (place(0), place(size));
    let borne_out = transaction
        .query_row(newest, [first, end], |row| {
            let sequence: i64 = row.get(0)?;
            let named = row.get_ref(1)?.as_blob().ok().and_then(trust_sequence);
            Ok(sequence <= FIRST_TRUST_STATE as i64 || named == Some(sequence as u64))
        })
        .optional()?;
    if borne_out.unwrap_or(true) {
        return Ok(0);
    }
    let mut entries = transaction
        .prepare("SELECT bytes FROM entries WHERE folds = 1 AND place BETWEEN ?1 AND ?2 - 1")?;
    let named = entries.query_map([first, end], |row| {
        Ok(row.get_ref(0)?.as_blob().ok().and_then(trust_sequence))
    })?;
    let newest = named.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().max();
    let newest = newest.unwrap_or(FIRST_TRUST_STATE).max(FIRST_TRUST_STATE);
    transaction.execute("DELETE FROM trust_states WHERE sequence > ?1", [newest as i64])
}

/// The trust state that was in force after this entry, where it is a key's event.
fn trust_sequence(entry: &[u8]) -> Option<u64> {
    let is_key_s = [KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE].iter().any(|kind| is_of(entry, kind));
    let event = is_key_s.then(|| Event::parse(entry).ok()).flatten()?;
    event.detail["trust_sequence"].as_u64()
}

/// How many tiles of a level a log of `size` entries has filled: those that are stored.
pub(super) fn full_tiles(level: u8, size: u64) -> u64 {
    (0..=level).fold(size, |filled, _| filled / TILE_WIDTH)
}

const NEXT_STEP: &str = "find out who writes to the CA's database beside the CA: nobody has to; what else \
    they changed is not known";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::schema::TABLES;
    use super::*;

    /// Their keys are other things: a secret's hash, a name, a request's, a trust state's number.
    const NAMES_A_PLACE: [&str; 6] =
        ["idempotency", "issuers", "operators", "policies", "tokens", "trust_states"];

    #[test]
    fn each_table_with_places_is_known_by_what_its_key_is() {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(TABLES).unwrap();
        let sql = "SELECT m.name, c.name, c.pk FROM sqlite_schema m, pragma_table_info(m.name) c
                   WHERE m.type = 'table' AND (c.name = 'place' OR c.name LIKE '%\\_index' ESCAPE '\\')";
        let mut columns = database.prepare(sql).unwrap();
        let columns = columns
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<Result<Vec<(String, String, u32)>, _>>()
            .unwrap();
        assert!(columns.len() > 10, "{columns:?}");
        for (table, column, of_key) in columns {
            let is_known = match of_key {
                0 => NAMES_A_PLACE.contains(&&*table),
                _ => {
                    BY_PLACE.contains(&(&*table, &*column))
                        || ["entries", "tiles"].contains(&&*table)
                }
            };
            assert!(is_known, "{table}.{column}");
        }
    }

    #[test]
    fn a_tile_is_stored_once_it_is_full() {
        for (level, size, full) in
            [(0, 255, 0), (0, 256, 1), (1, 65_535, 0), (1, 65_536, 1), (7, u64::MAX, 0)]
        {
            assert_eq!(full_tiles(level, size), full, "{level}, {size}");
        }
    }
}
