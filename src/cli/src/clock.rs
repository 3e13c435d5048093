//! The one place where this program reads the clock.

use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

/// The time now, in UTC, to the second.
#[expect(clippy::disallowed_methods, reason = "time enters here and is passed down")]
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// The same time as verifiers take it; times before 1970 are 1970.
pub(crate) fn unix(time: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(time.unix_timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}
