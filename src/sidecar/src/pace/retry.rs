//! Trying again while the CA does not answer, within a limit.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand;
use identity::Refusal;
use tokio::time::Instant;

use crate::error::Error;
use crate::pace::renewal::Backoff;

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
            if !may_pass(&error) || Instant::now() + pause > self.until {
                return Err(error);
            }
            tracing::warn!(%error, "waiting for {what}; trying again in {:.0?}", pause);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether it may succeed later: the CA comes back, or our clock is set that is behind so far that
/// the CA's own certificate is not valid yet.
fn may_pass(error: &Error) -> bool {
    error.is_temporary()
        || matches!(error, Error::Peer { refusal: Refusal::NotYetValid { .. }, .. })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_authority_that_is_not_valid_yet_is_waited_for() {
        let serial_number = "8f2c".parse().unwrap();
        let too_early = Refusal::NotYetValid { serial_number, not_before: 7 };
        let mut answers = [too_early, Refusal::Revoked { serial_number }].into_iter();
        let mut retry = Retry::until(Duration::from_secs(60));
        let refused: Result<(), Error> = retry
            .run("a test", || {
                let refusal = answers.next().unwrap();
                std::future::ready(Err(Error::Peer { refusal, peer: String::new() }))
            })
            .await;
        assert!(matches!(refused, Err(Error::Peer { refusal: Refusal::Revoked { .. }, .. })));
    }
}
