//! Where time and randomness enter the engine, and nowhere else.

use aws_lc_rs::rand;
use identity::SerialNumber;
use time::OffsetDateTime;

use crate::signer::SignerError;

/// The time of day.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> OffsetDateTime;

    /// Now, in milliseconds since 1970.
    fn unix_milliseconds(&self) -> u64 {
        u64::try_from(self.now().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
    }
}

/// A serial number that nobody can guess, of this time.
pub(crate) fn fresh_serial_number(clock: &dyn Clock) -> Result<SerialNumber, SignerError> {
    let mut random = [0; 14];
    rand::fill(&mut random).map_err(|_| SignerError::Refused("no randomness".to_owned()))?;
    Ok(issuance::serial_number(clock.unix_milliseconds(), random))
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where time enters")]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// A clock that a test holds.
#[cfg(any(test, feature = "test-seams"))]
#[derive(Debug)]
pub struct ManualClock(std::sync::Mutex<OffsetDateTime>);

#[cfg(any(test, feature = "test-seams"))]
impl ManualClock {
    /// Stands still at this time.
    pub fn new(now: OffsetDateTime) -> Self {
        Self(std::sync::Mutex::new(now))
    }

    /// Moves, forward or back.
    pub fn advance(&self, by: time::Duration) {
        *self.0.lock().expect("no test panics while it holds the clock") += by;
    }
}

#[cfg(any(test, feature = "test-seams"))]
impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().expect("no test panics while it holds the clock")
    }
}

/// Milliseconds since 1970 as a time; what does not fit is the epoch itself.
pub(crate) fn from_milliseconds(milliseconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
