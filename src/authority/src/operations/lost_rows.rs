//! Certificates whose rows the database has lost: the log holds each of them, the database its record
//! and itself. A row that is gone, or not as this CA wrote it, is noticed here, before its holder cannot
//! renew or an operator does not find it.
//!
//! Every leaf that may still be used is looked up in its turn, a batch at a time: all of them once
//! after a start, then round after round. A batch costs some milliseconds.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::Duration;

use super::Operations;
use crate::error::Error;
use crate::store::{Record, RecordKey};
use crate::view::known::ROW_LOST_NEXT_STEP;
use crate::view::recent_log::Fate;

/// What was found, and what is to be looked at next.
#[derive(Debug, Default)]
pub(crate) struct LostRows(Mutex<Rounds>);

#[derive(Debug, Default)]
struct Rounds {
    /// Places in order; the newest are looked at first.
    ahead: Vec<u64>,
    lost: BTreeSet<u64>,
    /// How many were told.
    told: usize,
}

impl LostRows {
    /// Places of those from one on and before another, in order.
    pub(crate) fn between(&self, first: u64, before: u64) -> Vec<u64> {
        match first < before {
            true => self.rounds().lost.range(first..before).copied().collect(),
            false => Vec::new(),
        }
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_batch(&self) -> Vec<u64> {
        let ahead = &self.rounds().ahead;
        ahead[ahead.len().saturating_sub(BATCH)..].to_vec()
    }

    /// The same was looked at, to its end: what fails is looked at again.
    fn passed(&self, batch: usize) {
        let ahead = &mut self.rounds().ahead;
        ahead.truncate(ahead.len() - batch);
    }

    /// Those that have ended meanwhile are lost no more.
    fn begin(&self, places: Vec<u64>) {
        let mut rounds = self.rounds();
        rounds.lost.retain(|place| places.binary_search(place).is_ok());
        rounds.ahead = places;
    }
}

impl Operations {
    /// Looks for the rows of some certificates; returns whether more are due in this round. What was
    /// found is told, as a metric, too.
    pub async fn look_for_lost_rows(&self) -> Result<bool, Error> {
        if self.lost_rows.rounds().ahead.is_empty() {
            let ended = (self.view.clock().now() - KEPT).unix_timestamp();
            self.lost_rows.begin(self.view.leaves_ending_after(ended).await?);
        }
        let batch = self.lost_rows.next_batch();
        let keys = batch.iter().map(|place| RecordKey::LeafIndex(*place)).collect();
        let found = self.view.store().records_of(keys).await?;
        let passed = batch.len();
        for (place, record) in batch.into_iter().zip(found) {
            let is_whole = record.is_some_and(|record| record.certificate.is_some());
            let is_lost = !is_whole && self.is_lost(place).await?;
            let lost = &mut self.lost_rows.rounds().lost;
            if is_lost {
                lost.insert(place)
            } else {
                lost.remove(&place)
            };
        }
        self.lost_rows.passed(passed);
        self.tell_lost_rows().await?;
        Ok(!self.lost_rows.rounds().ahead.is_empty())
    }

    /// What the log says is asked first: what is stored in between is not lost. Where the log says that
    /// nobody knows, as after a crash, there may never have been more than the record.
    async fn is_lost(&self, place: u64) -> Result<bool, Error> {
        let fate = self.view.fate_of(place).await?;
        let record = self.view.store().records_of(vec![RecordKey::LeafIndex(place)]).await?.pop();
        Ok(match record.flatten() {
            Some(record) => record.certificate.is_none() && fate == Fate::Issued,
            None => true,
        })
    }

    async fn tell_lost_rows(&self) -> Result<(), Error> {
        let (lost, told, newest) = {
            let rounds = self.lost_rows.rounds();
            (rounds.lost.len(), rounds.told, rounds.lost.last().copied())
        };
        metrics::gauge!("countersign_lost_rows").set(lost as f64);
        match newest {
            Some(newest) if lost > told => {
                let known = self.view.known_at(newest).await?;
                let Record { serial_number, spiffe_id, .. } = known.record();
                tracing::error!(
                    certificates = lost, %serial_number, %spiffe_id, next_step = ROW_LOST_NEXT_STEP,
                    "the database has lost rows of certificates that the log holds: the newest is named"
                );
            }
            None if told > 0 => tracing::info!("every certificate has its rows again"),
            _ => {}
        }
        self.lost_rows.rounds().told = lost;
        Ok(())
    }

    /// What the database has lost, as far as it was noticed; none where that is nothing.
    pub async fn lost_rows(&self) -> Result<Option<api::LostRows>, Error> {
        let (count, places) = {
            let rounds = self.lost_rows.rounds();
            let newest = rounds.lost.iter().rev().take(SHOWN);
            (rounds.lost.len(), newest.copied().collect::<Vec<u64>>())
        };
        let mut newest = Vec::with_capacity(places.len());
        for place in places {
            let known = self.view.known_at(place).await?;
            let Record { serial_number, spiffe_id, .. } = known.record().clone();
            newest.push(api::LostRow { serial_number, spiffe_id });
        }
        let next_step = ROW_LOST_NEXT_STEP.to_owned();
        let lost = api::LostRows { certificates: count as u64, newest, next_step };
        Ok(Some(lost).filter(|lost| lost.certificates > 0))
    }
}

/// Looked up at a time.
const BATCH: usize = 1_000;
/// Named in a status.
const SHOWN: usize = 20;
/// How long one that has ended stands on CRLs.
const KEPT: Duration = Duration::days(1);
