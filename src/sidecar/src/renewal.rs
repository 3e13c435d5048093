//! When to ask for a certificate: a pure schedule of time and chance.
//!
//! The CA names a window; each workload picks a moment in it by chance, so that a fleet that
//! started together does not renew together. After a failure it waits a random time below a bound
//! that doubles (full jitter), from a second to five minutes; near the certificate's end the bound
//! shrinks, so that the last hour has more tries than the first. That is its budget: whatever
//! happens, one workload asks at most once a second, and a thousand that waited for the CA to come
//! back ask within the bound, not at once.

use std::time::Duration;

use api::RenewalWindow;
use time::OffsetDateTime;

/// When to renew one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    next: OffsetDateTime,
    not_after: OffsetDateTime,
    backoff: Backoff,
}

impl Schedule {
    /// Picks the moment in the window that `chance`, from 0 to 1, stands for.
    pub(crate) fn new(window: RenewalWindow, not_after: OffsetDateTime, chance: f64) -> Self {
        let width = (window.end - window.start).max(time::Duration::ZERO);
        let next = (window.start + width * clamp(chance)).min(not_after);
        Self { next, not_after, backoff: Backoff::default() }
    }

    /// When to try next.
    pub(crate) fn next(&self) -> OffsetDateTime {
        self.next
    }

    /// Puts the next try off after one that failed.
    pub(crate) fn failed(&mut self, now: OffsetDateTime, chance: f64) {
        let left = Duration::try_from(self.not_after - now).unwrap_or_default();
        self.next = now + self.backoff.next(left / TRIES_AT_LEAST, chance);
    }

    /// Brings the next try forward: the CA wishes it.
    pub(crate) fn hasten(&mut self, to: OffsetDateTime) {
        self.next = self.next.min(to);
    }
}

/// How long to wait after each failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: a second, and by chance up to a bound that doubles, at most `ceiling`.
    pub(crate) fn next(&mut self, ceiling: Duration, chance: f64) -> Duration {
        let doubled = SHORTEST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let bound = doubled.min(LONGEST).min(ceiling.max(SHORTEST));
        SHORTEST + bound.mul_f64(clamp(chance))
    }
}

/// A number from 0 to 1; what is none of them counts as one half.
fn clamp(chance: f64) -> f64 {
    if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 }
}

const SHORTEST: Duration = Duration::from_secs(1);
/// The longest bound of a pause.
pub(crate) const LONGEST: Duration = Duration::from_secs(5 * 60);
/// However little time is left, it holds about this many tries or more.
const TRIES_AT_LEAST: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

    fn schedule(chance: f64) -> Schedule {
        let window = RenewalWindow { start: START, end: START + time::Duration::hours(2) };
        Schedule::new(window, START + time::Duration::hours(12), chance)
    }

    #[test]
    fn a_moment_in_the_window_is_chosen_by_chance() {
        assert_eq!(schedule(0.0).next(), START);
        assert_eq!(schedule(0.5).next(), START + time::Duration::hours(1));
        assert_eq!(schedule(1.0).next(), START + time::Duration::hours(2));
        assert_eq!(schedule(f64::NAN).next(), schedule(0.5).next());
    }

    #[test]
    fn a_window_that_ends_before_it_begins_is_its_beginning() {
        let window = RenewalWindow { start: START, end: START - time::Duration::hours(1) };
        let schedule = Schedule::new(window, START + time::Duration::hours(12), 1.0);
        assert_eq!(schedule.next(), START);
    }

    #[test]
    fn pauses_grow_to_five_minutes_and_no_further() {
        let mut schedule = schedule(0.0);
        let mut now = START;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            schedule.failed(now, 1.0);
            pauses.push((schedule.next() - now).whole_seconds());
            now = schedule.next();
        }
        assert_eq!(pauses[..5], [2, 3, 5, 9, 17]);
        assert_eq!(pauses[9..], [301, 301, 301]);
    }

    #[test]
    fn the_last_minutes_have_tries_enough() {
        let mut schedule = schedule(0.0);
        let mut now = START + time::Duration::hours(11);
        let (mut tries, end) = (0, START + time::Duration::hours(12));
        while now < end {
            schedule.failed(now, 1.0);
            now = schedule.next();
            tries += 1;
        }
        assert!((40..=200).contains(&tries), "{tries}");
    }

    #[test]
    fn nobody_asks_more_than_once_a_second() {
        let mut schedule = schedule(0.0);
        let after_the_end = START + time::Duration::hours(13);
        schedule.failed(after_the_end, 0.0);
        assert_eq!(schedule.next() - after_the_end, time::Duration::seconds(1));
    }

    #[test]
    fn the_authority_can_bring_a_renewal_forward_and_not_put_it_off() {
        let mut schedule = schedule(0.5);
        schedule.hasten(START + time::Duration::hours(3));
        assert_eq!(schedule.next(), START + time::Duration::hours(1));
        schedule.hasten(START);
        assert_eq!(schedule.next(), START);
    }
}
