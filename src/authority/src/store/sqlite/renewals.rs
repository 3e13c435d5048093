//! A store of before the log told all that renewals are decided by: what its rows say is told to the log
//! once, and they go.
//!
//! Whoever writes to the database writes these rows, so all that they can do is to restrict: what they
//! call shown is not replaced any more, and lets no rotation go on; what they call replaced is renewed in
//! any case, by a certificate of its own line. Who follows whom in a line say its records, which are sealed;
//! that there is one, the log. Where the record of a renewal is gone, or not as this CA wrote it, nobody can
//! tell what it renewed: what it may have been is renewed no more, and its holder attests again. Nor is a
//! certificate passed over whose event cannot be read: what its leaf says counts.

use std::collections::{BTreeSet, HashMap};
use std::mem;

use identity::{SerialNumber, SpiffeId};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;

use super::columns::{FIRST_PLACE, LAST_PLACE, number};
use super::errors::unavailable;
use super::meta::VERSION;
use super::read::{self, RECORD_COLUMNS};
use super::tiles::NewestTile;
use super::{head, schema, write};
use crate::announced::{Announced, said_by_leaf};
use crate::event::{Act, EventDraft, ISSUE, RENEW_UPGRADE, is_of};
use crate::facts::Facts;
use crate::seal::HeadKey;
use crate::sequencer::{ActMember, Effect, Found, Head, Member, plan};
use crate::store::{Record, StoreError};

/// How much was told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) renewed: usize,
    pub(super) shown: usize,
    /// What is renewed no more.
    pub(super) closed: usize,
    /// Whose.
    pub(super) closed_of: BTreeSet<SpiffeId>,
}

/// A `renew.upgrade` event's detail, by places in the log.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct UpgradeDetail<'a> {
    /// What was renewed, and by what: a later one of the same takes the place of an earlier.
    renewed: &'a [[u64; 2]],
    /// What was shown, as rows say.
    shown: &'a [u64],
    /// What may have been renewed, nobody knows by what.
    closed: &'a [u64],
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
    let none = UpgradeDetail::default();
    let renewed = said.renewed.chunks(RENEWED).map(|renewed| UpgradeDetail { renewed, ..none });
    let shown = said.shown.chunks(SHOWN).map(|shown| UpgradeDetail { shown, ..none });
    let closed = said.closed.chunks(SHOWN).map(|closed| UpgradeDetail { closed, ..none });
    let group = renewed.chain(shown).chain(closed).map(|detail| member(&detail)).collect();
    let planned = plan(head, Found::default(), group, head.at)
        .map_err(|behind| StoreError::ClockBehind { milliseconds: behind.milliseconds })?;
    write::write(transaction, &mut NewestTile::default(), key, head, &planned)?;
    head::write(transaction, key, &planned.head)?;
    transaction
        .execute_batch(STEP)
        .and_then(|()| transaction.execute("UPDATE meta SET version = ?1", [VERSION]))
        .map_err(schema::not_of_version(version))?;
    let (renewed, shown) = (said.renewed.len(), said.shown.len());
    Ok(Told { renewed, shown, closed: said.closed.len(), closed_of: said.closed_of })
}

fn member(detail: &UpgradeDetail<'_>) -> Member {
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(RENEW_UPGRADE, &by, "certificates", detail);
    Member::Act(Box::new(ActMember { event, effect: Effect::None, allowed_under: None }))
}

/// What log, records and rows say of renewals.
#[derive(Debug, Default)]
struct Said {
    renewed: Vec<[u64; 2]>,
    shown: Vec<u64>,
    /// What has ended is not among them: nobody renews it.
    closed: Vec<u64>,
    closed_of: BTreeSet<SpiffeId>,
    /// Of what was renewed a second time, told after the others.
    again: Vec<[u64; 2]>,
    /// The newest of each line.
    newest: HashMap<SerialNumber, u64>,
    /// Those of each identity that live and that nothing follows, as far as is known, in their order.
    last: HashMap<SpiffeId, BTreeSet<u64>>,
}

/// A certificate, as its event says, or else as it does itself.
#[derive(Debug)]
struct Leaf {
    place: u64,
    spiffe_id: SpiffeId,
    serial_number: SerialNumber,
    /// At the log's newest time.
    lives: bool,
    /// It begins a line.
    is_first: bool,
}

impl Leaf {
    fn of(
        place: u64,
        entry: &[u8],
        announced: Option<Announced>,
        is_first: bool,
        head: &Head,
    ) -> Result<Self, StoreError> {
        let (spiffe_id, serial_number, not_after) = match announced {
            Some(Announced { subject, detail, .. }) => {
                (subject, detail.serial_number, detail.not_after)
            }
            None => {
                let unread = || format!("entry {place} of the log is no certificate");
                let said = said_by_leaf(place, entry);
                let said = said.ok_or_else(|| StoreError::Inconsistent(unread()))?;
                (said.spiffe_id, said.serial_number, said.not_after)
            }
        };
        let lives = not_after >= (head.at / 1000) as i64;
        Ok(Self { place, spiffe_id, serial_number, lives, is_first })
    }
}

impl Said {
    /// From the first certificate on that lives; one that has ended may have renewed it. The entries are
    /// proved to be under the head's root before.
    fn of(transaction: &Transaction<'_>, key: &HeadKey, head: &Head) -> Result<Self, StoreError> {
        let (mut said, mut event, mut has_begun) = (Self::default(), None, false);
        let sql = "SELECT place, bytes FROM entries WHERE place BETWEEN ?1 AND ?2 ORDER BY place";
        let mut entries = transaction.prepare(sql).map_err(unavailable)?;
        let of_the_log = [FIRST_PLACE, LAST_PLACE];
        let mut rows = entries.query(of_the_log).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            let place = number(row, 0).map_err(unavailable)? - FIRST_PLACE as u64;
            let entry = row.get_ref(1).and_then(|it| Ok(it.as_blob()?)).map_err(unavailable)?;
            if entry.first() == Some(&b'{') {
                event = Some((Announced::read(entry), is_of(entry, ISSUE)));
                continue;
            }
            let (announced, is_first) = event.take().unwrap_or_default();
            let leaf = Leaf::of(place, entry, announced, is_first, head)?;
            has_begun |= leaf.lives;
            if has_begun {
                said.leaf(transaction, key, leaf).map_err(unavailable)?;
            }
        }
        said.renewed.append(&mut said.again);
        Ok(said)
    }

    fn leaf(
        &mut self,
        transaction: &Transaction<'_>,
        key: &HeadKey,
        Leaf { place, spiffe_id, serial_number, lives, is_first }: Leaf,
    ) -> rusqlite::Result<()> {
        let recorded = record_at(transaction, key, place)?.and_then(in_line);
        // The log says of a first certificate that it begins a line.
        let line = match is_first {
            true => Some(serial_number),
            false => recorded.map(|(_, line)| line),
        };
        let last = self.last.entry(spiffe_id.clone()).or_default();
        let Some(line) = line else {
            last.extend(lives.then_some(place));
            if !last.is_empty() {
                self.closed.extend(mem::take(last));
                self.closed_of.insert(spiffe_id);
            }
            return Ok(());
        };
        if let Some(before) = self.newest.insert(line, place) {
            last.remove(&before);
            self.renewed.push([before, place]);
        }
        last.extend(lives.then_some(place));
        self.rows_of(transaction, key, (place, &serial_number), &line)
    }

    /// What rows say of a certificate; those of no meaning say nothing.
    fn rows_of(
        &mut self,
        transaction: &Transaction<'_>,
        key: &HeadKey,
        (place, serial_number): (u64, &SerialNumber),
        line: &SerialNumber,
    ) -> rusqlite::Result<()> {
        let is_shown = transaction
            .prepare_cached("SELECT 1 FROM seen WHERE serial_number = ?1")?
            .exists([serial_number.as_octets()])?;
        if is_shown {
            self.shown.push(place);
        }
        let by: Option<i64> = transaction
            .prepare_cached(
                "SELECT leaf_index FROM renewals WHERE serial_number = ?1 AND replaced <> 0
                 AND typeof(leaf_index) = 'integer' AND leaf_index > ?2",
            )?
            .query_row(params![serial_number.as_octets(), place as i64], |row| row.get(0))
            .optional()?;
        let Some(by) = by.and_then(|by| u64::try_from(by).ok()) else { return Ok(()) };
        let later = record_at(transaction, key, by)?;
        if later.and_then(in_line).is_some_and(|(_, its)| its == *line) {
            self.again.push([place, by]);
            // What took the place of another is not replaced itself.
            self.shown.push(by);
        }
        Ok(())
    }
}

/// None where it is gone, or not as this CA wrote it.
fn record_at(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    place: u64,
) -> rusqlite::Result<Option<Record>> {
    let record = transaction
        .prepare_cached(&format!("{RECORD_COLUMNS} WHERE r.leaf_index = ?1"))?
        .query_row([place as i64], |row| Ok(read::record_row(row, key)))
        .optional()?;
    Ok(record.flatten())
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
            UpgradeDetail { renewed: &[[newest, newest]; RENEWED], ..UpgradeDetail::default() },
            UpgradeDetail { shown: &[newest; SHOWN], ..UpgradeDetail::default() },
            UpgradeDetail { closed: &[newest; SHOWN], ..UpgradeDetail::default() },
        ];
        let group = details.iter().map(member).collect();
        let planned = plan(&Head::empty(), Found::default(), group, 0).unwrap();
        assert_eq!(planned.entries.len(), 3, "{:?}", planned.outcomes);
    }
}
