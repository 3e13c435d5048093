//! Whether this node can do its work, and why not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{ConnectionsStatus, Status};
use authority::Authority;
use countersign::Places;

use crate::own_certificate::OwnCertificate;

/// What a node needs to be ready: the store answers, its own certificate is of use, it has not
/// halted, and whoever comes finds a place.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    pub(crate) own: Arc<OwnCertificate>,
    pub(crate) places: Places,
    /// What the places were made of.
    pub(crate) open_files: usize,
    pub(crate) told: Arc<Told>,
    pub(crate) as_typed: AsTyped,
}

/// A text in which each command of `countersign` has what it needs to be typed on the CA's host: where
/// the configuration is another than the usual one, its path.
pub type AsTyped = fn(&str) -> String;

/// What is known of a node's readiness: the metric, the log, `/readyz` and a status tell the same.
#[derive(Debug, Default)]
pub(crate) struct Told {
    begun: AtomicU64,
    newest: Mutex<Verdict>,
}

#[derive(Debug, Default)]
struct Verdict {
    /// Counts those that were begun.
    number: u64,
    why: Option<String>,
}

impl Readiness {
    /// Finds it out now. What changes is told.
    pub(crate) async fn require(&self) -> Result<(), String> {
        let number = self.told.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let found = tokio::time::timeout(PATIENCE, self.judge()).await;
        let found = found.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(format!("the store has not answered for {seconds} s; look at its disk"))
        });
        let found = found.map_err(|why| (self.as_typed)(&why));
        self.told.tell(number, &found);
        found
    }

    async fn judge(&self) -> Result<(), String> {
        self.places.require_room().map_err(|crowded| crowded.to_string())?;
        self.own.ready().await
    }

    /// Finds it out each second. Beside it the store is tried, which may take its time.
    pub(crate) async fn watch(self, authority: Arc<Authority>) {
        let judging = async {
            loop {
                // It was told.
                drop(self.require().await);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::join!(judging, probe(&authority));
    }

    /// A status with what only this node knows.
    pub(crate) async fn complete(&self, mut status: Status) -> Status {
        let limits = self.places.limits();
        let connections = ConnectionsStatus {
            open: self.places.taken() as u64,
            limit: limits.connections as u64,
            strangers: self.places.handshaking() as u64,
            strangers_limit: limits.handshakes as u64,
            open_files_limit: self.open_files as u64,
        };
        let lost = status.lost_rows.iter_mut().map(|lost| &mut lost.next_step);
        let ending = status.warnings.iter_mut().map(|warning| &mut warning.next_step);
        for step in status.halted_next_step.iter_mut().chain(lost).chain(ending) {
            *step = (self.as_typed)(step);
        }
        Status { not_ready: self.require().await.err(), connections: Some(connections), ..status }
    }
}

impl Told {
    /// Takes a verdict, unless one that was begun later is known already.
    fn tell(&self, number: u64, found: &Result<(), String>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if number < newest.number {
            return;
        }
        let why = found.as_ref().err();
        metrics::gauge!("countersign_ready").set(f64::from(u8::from(why.is_none())));
        match (&newest.why, why) {
            (None, Some(why)) => tracing::warn!(%why, "not ready"),
            (Some(_), None) => tracing::info!("ready again"),
            _ => {}
        }
        *newest = Verdict { number, why: why.cloned() };
    }
}

/// Tries whether another process has the store locked; whether it takes what is written is tried now
/// and then, and each second once it did not. What came of it is remembered.
async fn probe(authority: &Authority) {
    for turn in 0_u64.. {
        let has_failed = authority.writer.require_commits().is_err();
        let every = if has_failed { LOOK_AGAIN } else { Duration::from_secs(PROBE_EVERY) };
        let turns = every.as_millis() / PROBE_LOCK_EVERY.as_millis();
        drop(match u128::from(turn) % turns {
            0 => authority.writer.probe_store().await,
            _ => authority.writer.probe_lock().await,
        });
        tokio::time::sleep(PROBE_LOCK_EVERY).await;
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// In seconds. It costs a page and a sync, and what is not committed.
pub(crate) const PROBE_EVERY: u64 = 5;
/// It costs a look-up and a lock.
const PROBE_LOCK_EVERY: Duration = Duration::from_millis(500);
/// As long as a store may take that answers at all.
const PATIENCE: Duration = Duration::from_secs(5);
