//! What was begun is completed by the engine, whatever becomes of the connection on which it was asked
//! for: from the commit on, a certificate is signed and stored, and tokens and budgets are settled, by
//! a task of its own. A request only waits for it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::IssuedCertificate;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::attest::Purpose;
use crate::authority::Authority;
use crate::budgets::Taken;
use crate::error::Error;
use crate::known_tokens::Reserved;
use crate::limits;
use crate::one_at_a_time::{OneAtATime, Turn};
use crate::queue::{MAX_WAITING, RESERVED};
use crate::request::{Logged, Named};
use crate::sequencer::{CertificateMember, Member, Outcome};
use crate::store::{Record, StoreError};

/// So many at once; those beyond are told to come again, as by the queue before the log.
#[derive(Debug)]
pub(crate) struct Completions {
    places: Arc<Semaphore>,
    /// By the leaves' places in the log.
    turns: OneAtATime<u64>,
}

impl Default for Completions {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_COMPLETIONS));
        Self { places, turns: OneAtATime::default() }
    }
}

/// Room for one, to be had before anything is taken for it.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Completions {
    pub(crate) fn open(&self) -> usize {
        MAX_COMPLETIONS - self.places.available_permits()
    }

    /// Waits until none is open, for so long at most.
    async fn ended(&self, within: Duration) {
        let all = self.places.acquire_many(MAX_COMPLETIONS as u32);
        drop(tokio::time::timeout(within, all).await);
    }

    /// Waits until nobody else completes the leaf at this place of the log, or gives its certificate again.
    pub(crate) async fn turn(&self, leaf_index: u64) -> Turn {
        self.turns.turn(leaf_index).await
    }

    /// For what is not urgent: some places are left for what takes away.
    pub(crate) fn place_for_others(&self) -> Result<Place, Error> {
        if self.places.available_permits() <= RESERVED {
            limits::COMPLETIONS.reached();
            return Err(Error::Overloaded);
        }
        self.place()
    }

    pub(crate) fn place(&self) -> Result<Place, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(|_permit| Place { _permit }).map_err(|_| {
            limits::COMPLETIONS.reached();
            Error::Overloaded
        })
    }
}

impl Place {
    /// Does it to its end, and returns what came of it. Fails where the process ends first.
    pub(crate) async fn finish<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        finish(async move {
            let done = work.await;
            drop(self);
            done
        })
        .await
    }
}

/// The same, for what is done one at a time.
pub(crate) async fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Error> {
    let ended = |_| StoreError::Unavailable("the task that was to do it has ended".to_owned());
    Ok(tokio::spawn(work).await.map_err(ended)?)
}

/// A request for a certificate on its way into the log, with what was taken for it.
pub(crate) struct Admission {
    pub(crate) member: Arc<CertificateMember>,
    pub(crate) asks: Member,
    pub(crate) purpose: Purpose,
    pub(crate) taken: Option<Taken>,
    pub(crate) reserved: Option<Reserved>,
    pub(crate) turn: Option<Turn>,
}

/// What came of it.
pub(crate) enum Admitted {
    Issued(Box<IssuedCertificate>),
    Not(Outcome),
}

impl Authority {
    /// Commits, and completes what was logged: to its end, whatever becomes of who asked. What was
    /// taken for it is settled by what came of the commit.
    pub(crate) async fn admit(&self, admission: Admission) -> Result<Admitted, Error> {
        let Admission { member, asks, purpose, taken, reserved, turn } = admission;
        let outcome = self.queue.submit(asks).await;
        self.settle(reserved.as_ref(), &outcome);
        drop(turn);
        if !matches!(outcome, Ok(Outcome::Logged { .. })) {
            self.budgets.give_back(taken);
        }
        let (leaf_index, timestamp) = match outcome? {
            Outcome::Logged { leaf_index, timestamp } => (leaf_index, timestamp),
            outcome => return Ok(Admitted::Not(outcome)),
        };
        metrics::counter!("countersign_logged_total").increment(1);
        self.accounts.begin(leaf_index);
        self.note_own_names(&member.record);
        let serial_number = member.record.serial_number;
        let line = match purpose {
            Purpose::Renew { lineage } => lineage,
            Purpose::Issue => serial_number,
        };
        self.lines.learn(serial_number, line);
        let logged = Logged::committed(&member, leaf_index, timestamp);
        Ok(Admitted::Issued(Box::new(self.complete(logged).await?)))
    }

    /// What is stored of a leaf leaves again, where it is its certificate; to be asked in the leaf's turn.
    pub(crate) async fn given_again(
        &self,
        record: &Record,
    ) -> Result<Option<IssuedCertificate>, Error> {
        let Record { certificate: Some(certificate), issuer_key_hash, leaf_index, .. } = record
        else {
            return Ok(None);
        };
        let leaving = self.leaving(*leaf_index, certificate, issuer_key_hash).await?;
        let present =
            |leaving| self.present(&Named::from(record), leaving, issuer_key_hash, *leaf_index);
        Ok(leaving.map(present))
    }

    /// Lets what was begun come to its end, for so long at most; says how much has not. To be called once
    /// nobody can ask any more: what was logged and is not signed then never will be.
    pub async fn finish_completions(&self, within: Duration) -> usize {
        let begun = Instant::now();
        // They may begin what is to be completed.
        let left_behind = self.left_behind.ended(within).await;
        self.completions.ended(within.saturating_sub(begun.elapsed())).await;
        left_behind + self.completing()
    }

    fn settle(&self, reserved: Option<&Reserved>, outcome: &Result<Outcome, Error>) {
        let Some(reserved) = reserved else { return };
        match outcome {
            Ok(Outcome::Logged { .. } | Outcome::Replay { .. }) => {
                self.known_tokens.settle(reserved)
            }
            Ok(_) | Err(Error::Overloaded | Error::Store(StoreError::Hangs { .. })) => {
                self.known_tokens.give_back(reserved)
            }
            Err(_) => self.known_tokens.lose(reserved),
        }
    }
}

/// As many as may wait for the log.
pub(crate) const MAX_COMPLETIONS: usize = MAX_WAITING;
