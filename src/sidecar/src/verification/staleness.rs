//! How old the revocations may be that a verifier goes by.

use std::time::{Duration, Instant};

use identity::Refusal;
use rustls::pki_types::UnixTime;

/// What a verifier does that hears nothing of revocations any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// How long it may hear nothing. Longer is said, whatever follows: by
    /// [`Status::stale`](crate::Status::stale), an error in the log, and a metric. Where it is because
    /// its own certificate is refused, that is said instead: [`Status::cut_off`](crate::Status::cut_off).
    pub max_staleness: Duration,
    /// What happens after that.
    pub then: WhenStale,
}

/// What happens to new handshakes once the revocations are too old. Open connections go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenStale {
    /// They go on: what was revoked meanwhile gets in until its certificate expires. A
    /// [`Workload`](crate::Workload) goes on only from what it has heard once: see
    /// [`Builder::start_without_revocations`](crate::Builder::start_without_revocations).
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

/// What happens to handshakes before anything is known of revocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum BeforeNews {
    /// They are refused, but for so long after the start.
    RefuseAfter(Duration),
    /// As once the revocations are too old.
    #[default]
    WhenStale,
}

/// When the revocations were last those of now, and what follows from it.
#[derive(Debug)]
pub(crate) struct Freshness {
    pub(crate) staleness: Staleness,
    pub(crate) before_news: BeforeNews,
    began: Moment,
    confirmed: Option<Moment>,
}

/// A time by the clock given, and when it was noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: UnixTime,
    noted: Instant,
}

impl Moment {
    pub(crate) fn new(at: UnixTime) -> Self {
        Self { at, noted: Instant::now() }
    }

    /// By the clock, or by what has passed since: a clock that was set back makes nothing younger.
    pub(crate) fn age(&self, now: UnixTime) -> Duration {
        let by_clock = now.as_secs().saturating_sub(self.at.as_secs());
        Duration::from_secs(by_clock.max(self.noted.elapsed().as_secs()))
    }
}

impl Freshness {
    /// Nothing was heard yet.
    pub(crate) fn new(now: UnixTime) -> Self {
        let (staleness, before_news) = (Staleness::default(), BeforeNews::default());
        Self { staleness, before_news, began: Moment::new(now), confirmed: None }
    }

    pub(crate) fn confirm(&mut self, at: UnixTime, now: UnixTime) {
        // Of a time to come it cannot be known what is revoked then.
        let at = at.min(now);
        if self.confirmed.is_none_or(|before| at > before.at) {
            self.confirmed = Some(Moment::new(at));
        }
    }

    /// None before the first news.
    pub(crate) fn age(&self, now: UnixTime) -> Option<Duration> {
        self.confirmed.map(|confirmed| confirmed.age(now))
    }

    /// How long nothing was heard: since the newest news, or since the beginning.
    pub(crate) fn silence(&self, now: UnixTime) -> Duration {
        self.confirmed.unwrap_or(self.began).age(now)
    }

    pub(crate) fn is_stale(&self, now: UnixTime, explained: Duration) -> bool {
        self.silence(now).saturating_sub(explained) > self.staleness.max_staleness
    }

    /// How long handshakes go on without news; none where they always do.
    pub(crate) fn left(&self, now: UnixTime) -> Option<Duration> {
        let Staleness { max_staleness, then } = self.staleness;
        let Some(age) = self.age(now) else { return self.left_before_news(now) };
        (then == WhenStale::Refuse).then(|| max_staleness.saturating_sub(age))
    }

    fn left_before_news(&self, now: UnixTime) -> Option<Duration> {
        match (self.before_news, self.staleness.then) {
            (BeforeNews::RefuseAfter(limit), _) => Some(limit.saturating_sub(self.began.age(now))),
            (BeforeNews::WhenStale, WhenStale::Continue) => None,
            (BeforeNews::WhenStale, WhenStale::Refuse) => Some(Duration::ZERO),
        }
    }

    /// How long handshakes go on although nothing is known of revocations; none where something is.
    pub(crate) fn left_without(&self, now: UnixTime) -> Option<Duration> {
        let BeforeNews::RefuseAfter(_) = self.before_news else { return None };
        let left = self.confirmed.is_none().then(|| self.left_before_news(now));
        left.flatten()
    }

    pub(crate) fn check(&self, now: UnixTime) -> Result<(), Refusal> {
        let Staleness { max_staleness, then } = self.staleness;
        let goes_on = match self.age(now) {
            None => self.left_before_news(now).is_none_or(|left| !left.is_zero()),
            Some(age) => then == WhenStale::Continue || age <= max_staleness,
        };
        if goes_on {
            return Ok(());
        }
        let age = self.age(now).map(|age| age.as_secs());
        Err(Refusal::StaleRevocations { age, max_staleness: max_staleness.as_secs() })
    }
}
