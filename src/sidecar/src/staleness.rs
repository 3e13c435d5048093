//! How old the revocations may be that a verifier goes by.

use std::time::{Duration, Instant};

use identity::Refusal;
use rustls::pki_types::UnixTime;

/// What a verifier does that hears nothing of revocations any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// How long it may hear nothing.
    pub max_staleness: Duration,
    /// What happens after that.
    pub then: WhenStale,
}

/// What happens to new handshakes once the revocations are too old. Open connections go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenStale {
    /// They go on: what was revoked meanwhile gets in until its certificate expires.
    #[default]
    Continue,
    /// They are refused: nobody gets in while the CA is away. Before the first news too.
    Refuse,
}

impl Default for Staleness {
    /// Continue, and be stale after 60 s.
    fn default() -> Self {
        Self { max_staleness: Duration::from_secs(60), then: WhenStale::default() }
    }
}

/// When the revocations were last those of now, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    pub(crate) staleness: Staleness,
    confirmed: Option<(UnixTime, Instant)>,
}

impl Freshness {
    pub(crate) fn confirm(&mut self, at: UnixTime, now: UnixTime) {
        // Of a time to come it cannot be known what is revoked then.
        let at = at.min(now);
        if self.confirmed.is_none_or(|(before, _)| at > before) {
            self.confirmed = Some((at, Instant::now()));
        }
    }

    /// By the clock, or by what has passed since: a clock that was set back makes nothing younger.
    pub(crate) fn age(&self, now: UnixTime) -> Option<Duration> {
        let (confirmed, heard) = self.confirmed?;
        let by_clock = now.as_secs().saturating_sub(confirmed.as_secs());
        Some(Duration::from_secs(by_clock.max(heard.elapsed().as_secs())))
    }

    pub(crate) fn check(&self, now: UnixTime) -> Result<(), Refusal> {
        let Staleness { max_staleness, then } = self.staleness;
        let age = self.age(now);
        if then == WhenStale::Continue || age.is_some_and(|age| age <= max_staleness) {
            return Ok(());
        }
        let age = age.map(|age| age.as_secs());
        Err(Refusal::StaleRevocations { age, max_staleness: max_staleness.as_secs() })
    }
}
