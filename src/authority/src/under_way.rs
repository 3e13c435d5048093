//! Writes to the store that are under way. A disk that stalls (NFS, EBS) lets a write neither fail nor
//! return: then nothing can be committed, and whoever waits is told so within seconds.
//!
//! What waits behind such a write may still be committed: whoever asked for it hears that this is not
//! known, and the same request finds what was done. Of what comes meanwhile, only what restricts and what
//! is logged already is let in (`queue`): of the rest nothing was done, and it can be asked for elsewhere.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::error::Error;
use crate::store::StoreError;

/// The commits and probes of one process. What else holds up the store holds up the next probe, too.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    count: u64,
    /// In the order in which they began.
    writes: BTreeMap<u64, Write>,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    begun: Instant,
    /// The same, in milliseconds since 1970.
    at: u64,
}

/// A write, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    of: &'a UnderWay,
    number: u64,
}

impl UnderWay {
    /// A write begins, at this time in milliseconds since 1970.
    pub(crate) fn begin(&self, at: u64) -> Ends<'_> {
        let mut begun = self.begun();
        begun.count += 1;
        let number = begun.count;
        begun.writes.insert(number, Write { begun: Instant::now(), at });
        Ends { of: self, number }
    }

    /// Since when the oldest has not ended, in milliseconds since 1970; none while each may yet end.
    pub(crate) fn hangs_since(&self) -> Option<u64> {
        let begun = self.begun();
        let oldest = begun.writes.values().next();
        oldest.filter(|write| write.begun.elapsed() >= HANGS_AFTER).map(|write| write.at)
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.of.begun().writes.remove(&self.number);
    }
}

impl Authority {
    /// What comes of a request, unless a write to the store hangs on which it may wait. Then it goes on
    /// without whoever asked: whether it is done is not known.
    pub async fn unless_it_hangs<T>(&self, request: impl Future<Output = T>) -> Result<T, Error> {
        let mut request = pin!(request);
        loop {
            if let Ok(done) = tokio::time::timeout(LOOKS_EVERY, &mut request).await {
                return Ok(done);
            }
            if let Some(since) = self.queue.failure().under_way().hangs_since() {
                return Err(StoreError::Unsure { since }.into());
            }
        }
    }
}

/// As long as a disk may take that answers at all: readiness is as patient.
const HANGS_AFTER: Duration = Duration::from_secs(5);
/// Whoever comes while a write hangs waits no longer.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
