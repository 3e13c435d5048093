//! When to ask for a certificate: a pure schedule of time and chance.
//!
//! The CA names a window; each workload picks a moment in it by chance, so that a fleet that
//! started together does not renew together. After a failure it waits a second and a random time
//! below a bound that doubles (full jitter), up to five minutes; near the certificate's end the bound
//! shrinks to a twentieth of what is left, so that the last hour has more tries than the first.
//!
//! Pacing is all the budget that there is: no number of tries ends them, before the certificate's
//! end or after it, since the CA may come back then too. Two tries are at least a second apart, on
//! average 2.5 minutes in a long outage, and a thousand workloads that waited for the CA to come back
//! ask within the bound, not at once. A try is one renewal, and where the CA refuses that, one
//! attestation. The first certificate is another matter: a start gives up when its time is over.

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
    ///
    /// Never before a twentieth of what is left of its life has passed: a clock that is far ahead
    /// must not make it renew without end.
    pub(crate) fn new(
        window: RenewalWindow,
        not_after: OffsetDateTime,
        now: OffsetDateTime,
        chance: f64,
    ) -> Self {
        let left = (not_after - now).max(time::Duration::ZERO);
        let earliest = now + left / 20 + SHORTEST;
        let next = moment(window, chance).min(not_after).max(earliest);
        Self { next, not_after, backoff: Backoff::default() }
    }

    /// When to try next.
    pub(crate) fn next(&self) -> OffsetDateTime {
        self.next
    }

    /// Puts the next try off after one that failed.
    pub(crate) fn failed(&mut self, now: OffsetDateTime, chance: f64) {
        let left = Duration::try_from(self.not_after - now).unwrap_or_default();
        // Past the end there is no hurry any more, and everybody else is as late.
        let ceiling = if left.is_zero() { LONGEST } else { (left / TRIES_AT_LEAST).max(HASTIEST) };
        self.next = now + self.backoff.next(ceiling, chance);
    }

    /// Brings the next try forward to a moment of another window: the CA wishes it.
    pub(crate) fn hasten(&mut self, window: RenewalWindow, chance: f64) {
        self.next = self.next.min(moment(window, chance));
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

/// The moment in a window that `chance` stands for.
fn moment(window: RenewalWindow, chance: f64) -> OffsetDateTime {
    window.start + (window.end - window.start).max(time::Duration::ZERO) * clamp(chance)
}

/// A number from 0 to 1; what is none of them counts as one half.
fn clamp(chance: f64) -> f64 {
    if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 }
}

const SHORTEST: Duration = Duration::from_secs(1);
/// The longest bound of a pause.
pub(crate) const LONGEST: Duration = Duration::from_secs(5 * 60);
/// The shortest bound of a pause near the end.
const HASTIEST: Duration = Duration::from_secs(15);
/// However little time is left, it holds about this many tries or more.
const TRIES_AT_LEAST: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::retry::chance;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

    fn schedule(chance: f64) -> Schedule {
        let window = RenewalWindow { start: START, end: START + time::Duration::hours(2) };
        let now = START - time::Duration::hours(12);
        Schedule::new(window, START + time::Duration::hours(12), now, chance)
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
        let before = START - time::Duration::hours(12);
        let schedule = Schedule::new(window, START + time::Duration::hours(12), before, 1.0);
        assert_eq!(schedule.next(), START);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_renew_without_end() {
        let window = RenewalWindow { start: START, end: START };
        let (late, end) = (time::Duration::hours(11), time::Duration::hours(12));
        let schedule = Schedule::new(window, START + end, START + late, 0.0);
        assert_eq!(schedule.next() - (START + late), time::Duration::minutes(3) + SHORTEST);
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
    fn after_the_end_pauses_grow_as_ever() {
        let mut schedule = schedule(0.0);
        let mut now = START + time::Duration::hours(13);
        for _ in 0..12 {
            schedule.failed(now, 1.0);
            now = schedule.next();
        }
        schedule.failed(now, 1.0);
        assert_eq!(schedule.next() - now, time::Duration::seconds(301));
    }

    /// An hour before the end each pauses up to three minutes: once in 91 s. A thousand come as
    /// chance will have it, about a Poisson distribution; eight standard deviations are never seen.
    #[test]
    fn a_fleet_that_waited_for_hours_comes_back_one_by_one() {
        let (back, end) = (START + time::Duration::hours(11), START + time::Duration::hours(12));
        let mut came = std::collections::BTreeMap::<_, usize>::new();
        for _ in 0..1000 {
            let mut schedule = schedule(chance());
            while schedule.next() < back {
                schedule.failed(schedule.next(), chance());
            }
            assert!(schedule.next() < end);
            *came.entry((schedule.next() - back).whole_seconds()).or_default() += 1;
        }
        let expected: f64 = 1000.0 / 91.0;
        let peak = came.into_values().max().unwrap_or_default();
        assert!(peak as f64 <= expected + 8.0 * expected.sqrt(), "{peak} in one second");
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
        let at = |moment| RenewalWindow { start: moment, end: moment };
        schedule.hasten(at(START + time::Duration::hours(3)), 0.5);
        assert_eq!(schedule.next(), START + time::Duration::hours(1));
        schedule.hasten(at(START), 0.5);
        assert_eq!(schedule.next(), START);
    }
}
