//! Times as the TLS library counts them, for who counts otherwise. They come from a [`TimeProvider`]
//! that whoever starts something gives.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use time::OffsetDateTime;

/// The time by a clock. Without one everything is expired.
pub(crate) fn now(clock: &dyn TimeProvider) -> UnixTime {
    clock.current_time().unwrap_or(END_OF_TIME)
}

/// Seconds since 1970, as certificates count them.
pub(crate) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A date; that of a time beyond all dates is the last of them.
pub(crate) fn date(time: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds(time)).unwrap_or(END_OF_DATES)
}

/// Later than any certificate's end.
const END_OF_TIME: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(i64::MAX as u64));
const END_OF_DATES: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59 UTC);
