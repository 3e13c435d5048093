//! Trying again while the CA does not answer, within a limit.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::time::Instant;

use crate::error::Error;
use crate::renewal::Backoff;

/// Tries that share one limit of time.
pub(crate) struct Retry {
    until: Instant,
    backoff: Backoff,
}

impl Retry {
    pub(crate) fn until(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, backoff: Backoff::default() }
    }

    /// Tries until it succeeds, fails for good, or the limit has passed: then the last error.
    pub(crate) async fn run<T, F>(
        &mut self,
        what: impl fmt::Display,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let pause = self.backoff.next(LONGEST, chance());
            if !error.is_temporary() || Instant::now() + pause > self.until {
                return Err(error);
            }
            tracing::warn!(%error, "waiting for {what}; trying again in {:.0?}", pause);
            tokio::time::sleep(pause).await;
        }
    }
}

/// A random number from 0 to 1.
pub(crate) fn chance() -> f64 {
    let mut random = [0; 8];
    // Without randomness everybody waits half as long as they may: nothing depends on it.
    match rand::fill(&mut random) {
        Ok(()) => (u64::from_le_bytes(random) >> 11) as f64 / (1_u64 << 53) as f64,
        Err(_) => 0.5,
    }
}

/// The longest bound of a pause while a start waits.
const LONGEST: Duration = Duration::from_secs(15);
