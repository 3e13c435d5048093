//! When an SVID is renewed.

use api::RenewalWindow;
use identity::SerialNumber;
use time::OffsetDateTime;

/// Whether an SVID is to be renewed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Not before this time.
    Later(OffsetDateTime),
    /// Now.
    Now,
}

impl Due {
    /// The CA's window asks for "a random moment between both". It follows from the serial number's
    /// random octets: a fleet spreads over the window, and each SVID has one moment that `--check`
    /// and `renew` agree on.
    pub(crate) fn within(
        window: &RenewalWindow,
        serial_number: &SerialNumber,
        now: OffsetDateTime,
    ) -> Self {
        let last_octet = serial_number.as_octets().last().copied().unwrap_or_default();
        let length = (window.end - window.start).max(time::Duration::ZERO);
        Self::from(window.start + length * f64::from(last_octet) / 256.0, now)
    }

    /// When, if it is not now.
    pub(crate) fn later(self) -> Option<OffsetDateTime> {
        match self {
            Self::Later(moment) => Some(moment),
            Self::Now => None,
        }
    }

    /// Operators come and go: theirs is renewed when it is used in the second half of its life.
    pub(crate) fn at_half_life(
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Self {
        Self::from(not_before + (not_after - not_before) / 2, now)
    }

    /// In whole seconds, as it is told.
    fn from(moment: OffsetDateTime, now: OffsetDateTime) -> Self {
        let moment = match i64::from(moment.nanosecond()) {
            0 => moment,
            part => moment + time::Duration::SECOND - time::Duration::nanoseconds(part),
        };
        if moment <= now { Self::Now } else { Self::Later(moment) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-01-01 0:00 UTC);

    fn window(hours: i64) -> RenewalWindow {
        RenewalWindow { start: START, end: START + Duration::hours(hours) }
    }

    fn serial(last_octet: u8) -> SerialNumber {
        SerialNumber::from_octets(&[1, last_octet]).unwrap()
    }

    #[test]
    fn each_serial_number_has_its_own_moment_within_the_window() {
        let moment = START + Duration::hours(2);
        let just_before = moment - Duration::SECOND;
        assert_eq!(Due::within(&window(4), &serial(128), just_before), Due::Later(moment));
        assert_eq!(Due::within(&window(4), &serial(128), moment), Due::Now);
        assert_eq!(Due::within(&window(4), &serial(0), START), Due::Now);
        let end = START + Duration::hours(4);
        assert_eq!(Due::within(&window(4), &serial(255), end), Due::Now);
    }

    #[test]
    fn a_moment_is_a_whole_second_within_the_window() {
        let due = Due::within(&window(4), &serial(1), START);
        assert_eq!(due, Due::Later(datetime!(2026-01-01 0:00:57 UTC)), "56.25 s behind its start");
    }

    #[test]
    fn a_window_pulled_forward_makes_it_due() {
        let now = START + Duration::SECOND;
        assert_eq!(Due::within(&window(0), &serial(255), now), Due::Now);
        assert_eq!(Due::within(&window(-9), &serial(255), now), Due::Now);
    }

    #[test]
    fn an_operators_svid_is_due_in_the_second_half_of_its_life() {
        let not_after = START + Duration::days(7);
        let half = START + Duration::hours(84);
        let due = |now| Due::at_half_life(START, not_after, now);
        assert_eq!(due(half - Duration::SECOND), Due::Later(half));
        assert_eq!(due(half), Due::Now);
    }
}
