//! A write to the store that is under way. A disk that stalls (NFS, EBS) lets a write neither fail nor
//! return: then nothing can be committed, and whoever waits is told so within seconds.
//!
//! What waits behind such a write may still be committed: whoever asked for it hears that this is not
//! known, what they asked for goes on to its end without them, and the same request finds what was done. Of
//! what comes meanwhile, only what restricts and what is logged already is let in (`queue`): of the rest
//! nothing was done, and it can be asked for elsewhere.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Writer;
use crate::error::Error;
use crate::store::StoreError;

/// The newest of those that are made one after another; none once it has ended.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<Option<Write>>);

#[derive(Debug, Clone, Copy)]
struct Write {
    begun: Instant,
    /// The same, in milliseconds since 1970.
    at: u64,
}

/// A write, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ends<'a>(&'a UnderWay);

impl UnderWay {
    /// A write begins, at this time in milliseconds since 1970.
    pub(crate) fn begin(&self, at: u64) -> Ends<'_> {
        *self.write() = Some(Write { begun: Instant::now(), at });
        Ends(self)
    }

    /// Since when it has not ended, in milliseconds since 1970; none before so long has passed.
    pub(crate) fn hangs_since(&self, after: Duration) -> Option<u64> {
        self.write().filter(|write| write.begun.elapsed() >= after).map(|write| write.at)
    }

    fn write(&self) -> MutexGuard<'_, Option<Write>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        *self.0.write() = None;
    }
}

/// Requests that go on without whoever asked.
#[derive(Debug)]
pub(crate) struct LeftBehind(Arc<Semaphore>);

impl LeftBehind {
    /// Waits until none is left, for so long at most; says how many are.
    pub(crate) async fn ended(&self, within: Duration) -> usize {
        let all = self.0.acquire_many(MAX_LEFT_BEHIND as u32);
        drop(tokio::time::timeout(within, all).await);
        MAX_LEFT_BEHIND - self.0.available_permits()
    }
}

impl Default for LeftBehind {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LEFT_BEHIND)))
    }
}

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// To be given a certificate: what is logged of it is completed whoever waits (`tasks`).
    ToBeCertified,
    /// That something is done.
    ToBeDone,
    /// To be told something.
    ToBeTold,
}

/// As long as a disk may take that answers at all: readiness is as patient.
pub(crate) const NOT_READY_AFTER: Duration = Duration::from_secs(5);
/// Longer than 64 MiB of pages take, which a commit may have to move (SQLite's WAL).
pub(crate) const HANGS_AFTER: Duration = Duration::from_secs(10);
/// Whoever comes while a write hangs waits no longer.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// Requests that go on without whoever asked: each is an act, and waits for one commit.
pub const MAX_LEFT_BEHIND: usize = 1024;

impl Writer {
    /// What comes of a request, unless a write hangs on which it may wait. Then whoever asked hears so
    /// now, and what is to be done goes on to its end, which is shown to `ended`.
    pub async fn unless_it_hangs<T: Send + 'static>(
        &self,
        asks: Asks,
        request: impl Future<Output = T> + Send + 'static,
        ended: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, Error> {
        let mut request = Box::pin(request);
        loop {
            if let Ok(done) = tokio::time::timeout(LOOKS_EVERY, &mut request).await {
                return Ok(done);
            }
            let failure = self.queue.failure();
            let probe = || failure.probe().hangs_since(HANGS_AFTER);
            let Some(since) = failure.commit_hangs_since().or_else(probe) else { continue };
            let place = match asks {
                Asks::ToBeTold => return Err(StoreError::Hangs { since }.into()),
                Asks::ToBeCertified => None,
                // Beyond these it is as where a client goes away.
                Asks::ToBeDone => Arc::clone(&self.left_behind.0).try_acquire_owned().ok(),
            };
            if let Some(place) = place {
                tokio::spawn(async move {
                    ended(request.await);
                    drop(place);
                });
            }
            return Err(StoreError::Unsure { since }.into());
        }
    }
}
