//! A store of before the log told all that renewals are decided by: what its rows say is told to the log
//! once, and they go.
//!
//! Whoever writes to the database writes these rows, so all that they can do is to restrict: what they
//! call shown is not replaced any more, and lets no rotation go on; what they call replaced is renewed in
//! any case, by a certificate of its own line. Who follows whom in a line say its records, which are sealed.

use std::collections::HashMap;

use identity::SerialNumber;
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;

use super::read::{self, RECORD_COLUMNS};
use super::tiles::NewestTile;
use super::write::{self, VERSION};
use super::{Record, StoreError, head, schema, unavailable};
use crate::attest::Facts;
use crate::event::{Act, EventDraft, RENEW_UPGRADE};
use crate::seal::HeadKey;
use crate::sequencer::{ActMember, Effect, Found, Head, Member, plan};

/// How much was told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) renewed: usize,
    pub(super) shown: usize,
}

/// A `renew.upgrade` event's detail, by places in the log.
#[derive(Debug, Default, Serialize)]
struct UpgradeDetail<'a> {
    /// What was renewed, and by what: a later one of the same takes the place of an earlier.
    renewed: &'a [[u64; 2]],
    /// What was shown, as rows say.
    shown: &'a [u64],
}

/// Tells of all certificates that lived at the log's newest time, which stays; seals the head as heads are
/// sealed from now on, and removes the tables of before.
pub(super) fn tell_the_log(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    head: &Head,
    version: i64,
) -> Result<Told, StoreError> {
    let said = Said::of(transaction, key, head)?;
    let renewed = said.renewed.chunks(RENEWED).map(|renewed| UpgradeDetail { renewed, shown: &[] });
    let shown = said.shown.chunks(SHOWN).map(|shown| UpgradeDetail { renewed: &[], shown });
    let group = renewed.chain(shown).map(|detail| member(&detail)).collect();
    let planned = plan(head, Found::default(), group, head.at)
        .map_err(|behind| StoreError::ClockBehind { milliseconds: behind.milliseconds })?;
    write::write(transaction, &mut NewestTile::default(), key, head, &planned)?;
    head::write(transaction, key, &planned.head)?;
    transaction
        .execute_batch(STEP)
        .and_then(|()| transaction.execute("UPDATE meta SET version = ?1", [VERSION]))
        .map_err(schema::not_of_version(version))?;
    Ok(Told { renewed: said.renewed.len(), shown: said.shown.len() })
}

fn member(detail: &UpgradeDetail<'_>) -> Member {
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(RENEW_UPGRADE, &by, "certificates", detail);
    Member::Act(Box::new(ActMember { event, effect: Effect::None, allowed_under: None }))
}

/// What records and rows say of renewals.
#[derive(Debug, Default)]
struct Said {
    renewed: Vec<[u64; 2]>,
    shown: Vec<u64>,
    /// Of what was renewed a second time, told after the others.
    again: Vec<[u64; 2]>,
}

impl Said {
    fn of(transaction: &Transaction<'_>, key: &HeadKey, head: &Head) -> Result<Self, StoreError> {
        let (mut said, mut newest) = (Self::default(), HashMap::new());
        let sql = format!("{RECORD_COLUMNS} WHERE r.not_after > ?1 ORDER BY r.leaf_index");
        let mut records = transaction.prepare(&sql).map_err(unavailable)?;
        let mut rows = records.query([(head.at / 1000) as i64]).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            if let Some((record, line)) = read::record_row(row, key).and_then(in_line) {
                let before = newest.insert(line, record.leaf_index);
                said.renewed.extend(before.map(|before| [before, record.leaf_index]));
                said.rows_of(transaction, key, &record, &line).map_err(unavailable)?;
            }
        }
        said.renewed.append(&mut said.again);
        Ok(said)
    }

    /// What rows say of a certificate; those of no meaning say nothing.
    fn rows_of(
        &mut self,
        transaction: &Transaction<'_>,
        key: &HeadKey,
        record: &Record,
        line: &SerialNumber,
    ) -> rusqlite::Result<()> {
        let (place, serial_number) = (record.leaf_index, record.serial_number.as_octets());
        let is_shown = transaction
            .prepare_cached("SELECT 1 FROM seen WHERE serial_number = ?1")?
            .exists([serial_number])?;
        if is_shown {
            self.shown.push(place);
        }
        let by: Option<i64> = transaction
            .prepare_cached(
                "SELECT leaf_index FROM renewals WHERE serial_number = ?1 AND replaced <> 0
                 AND typeof(leaf_index) = 'integer' AND leaf_index > ?2",
            )?
            .query_row(params![serial_number, place as i64], |row| row.get(0))
            .optional()?;
        let Some(by) = by else { return Ok(()) };
        let later = transaction
            .prepare_cached(&format!("{RECORD_COLUMNS} WHERE r.leaf_index = ?1"))?
            .query_row([by], |row| Ok(read::record_row(row, key)))
            .optional()?;
        if later.flatten().and_then(in_line).is_some_and(|(_, its)| its == *line) {
            self.again.push([place, by as u64]);
            // What took the place of another is not replaced itself.
            self.shown.push(by as u64);
        }
        Ok(())
    }
}

fn in_line(record: Record) -> Option<(Record, SerialNumber)> {
    let facts = serde_json::from_str::<Facts>(&record.facts).ok()?;
    Some((record, facts.lineage))
}

const STEP: &str = "DROP TABLE renewals; DROP TABLE seen; DROP TABLE broken_lineages;";
/// Pairs of one event: an index has 40 bits, 13 digits at most.
const RENEWED: usize = 2_000;
/// Places of one event.
const SHOWN: usize = 4_000;

/// The tables that went.
#[cfg(any(test, feature = "test-seams"))]
pub(super) const TABLES_OF_BEFORE: &str = "
  CREATE TABLE renewals (
    serial_number BLOB PRIMARY KEY,
    leaf_index INTEGER NOT NULL,
    replaced INTEGER NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE seen (serial_number BLOB PRIMARY KEY) WITHOUT ROWID;
  CREATE TABLE broken_lineages (
    lineage BLOB PRIMARY KEY,
    log_index INTEGER NOT NULL
  ) WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_events_fit_the_log() {
        let newest = (1 << 40) - 1;
        let details = [
            UpgradeDetail { renewed: &[[newest, newest]; RENEWED], shown: &[] },
            UpgradeDetail { renewed: &[], shown: &[newest; SHOWN] },
        ];
        let group = details.iter().map(member).collect();
        let planned = plan(&Head::empty(), Found::default(), group, 0).unwrap();
        assert_eq!(planned.entries.len(), 2, "{:?}", planned.outcomes);
    }
}
