//! Where time and randomness enter the engine, and nowhere else.
//!
//! The time of day may be wrong, and the log's time never goes back: what is written while the clock
//! is ahead holds everything up afterwards. A second clock tells: the one that counts since the
//! machine started and that nobody sets (`CLOCK_BOOTTIME`; it counts on while a laptop sleeps). Where
//! the time of day leaps ahead of it, nothing is written until it comes back or has stayed so for ten
//! minutes ([`Steadiness`]). A machine that started with a wrong clock, or was paused by its host, is
//! not told from one that was off: for what was written then, the log's time has a way back
//! (`setup::reset_clock`).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand;
use identity::SerialNumber;
use time::OffsetDateTime;

use crate::files::{MAX_STATE, read_state, write_private};
use crate::signer::SignerError;

/// The time of day.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> OffsetDateTime;

    /// Whether the time of day has gone steadily since it was looked at last.
    fn require_steady(&self) -> Result<(), ClockLeapt> {
        Ok(())
    }

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

/// The time of day went ahead by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock leapt ahead by {}: nothing is written until it is set right, or has \
     stayed so for {} s more; if it is right now: stop the CA, countersign init --recover \
     --accept-clock", time::Duration::seconds((milliseconds / 1000).cast_signed()), settles_in / 1000
)]
pub struct ClockLeapt {
    /// By how much.
    pub milliseconds: u64,
    /// After how many milliseconds it is taken for right.
    pub settles_in: u64,
}

/// Follows how the time of day goes beside a clock that nobody sets.
#[derive(Debug, Default)]
pub struct Steadiness {
    /// Time of day less time since start, in milliseconds, as it is believed.
    believed: Option<i64>,
    /// What it is measured by, and since when: it follows what is believed no faster than a clock is
    /// slewed, so that small steps do not add up.
    followed: Option<(i64, u64)>,
    /// Another difference, and since when by the clock that nobody sets.
    other: Option<(i64, u64)>,
}

impl Steadiness {
    /// Begins with a difference that was believed before.
    pub fn from_believed(difference: Option<i64>) -> Self {
        Self { believed: difference, ..Self::default() }
    }

    /// The difference that is believed.
    pub fn believed(&self) -> Option<i64> {
        self.believed
    }

    /// Compares the time of day with the time since start, both in milliseconds. To be asked often:
    /// what a clock is slewed by is believed bit by bit.
    ///
    /// A clock that went back writes nothing that does harm, so it is not refused here; nor believed
    /// until it has stayed, so that it may return.
    pub fn look(&mut self, time_of_day: u64, since_start: u64) -> Result<(), ClockLeapt> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let difference = signed(time_of_day).saturating_sub(signed(since_start));
        let believed = *self.believed.get_or_insert(difference);
        let leap = difference.saturating_sub(believed);
        let (followed, at) = *self.followed.get_or_insert((believed, since_start));
        let slewed = signed(since_start.saturating_sub(at) / SLEWED);
        let followed = followed + difference.saturating_sub(followed).clamp(-slewed, slewed);
        if leap.unsigned_abs() <= MAX_LEAP && difference.abs_diff(followed) <= MAX_LEAP {
            self.believed = Some(difference);
            self.other = None;
            if slewed > 0 {
                self.followed = Some((followed, since_start));
            }
            return Ok(());
        }
        let since = match self.other {
            Some((other, since)) if other.abs_diff(difference) <= MAX_LEAP => since,
            _ => since_start,
        };
        self.other = Some((difference, since));
        let stayed = since_start.saturating_sub(since);
        if stayed >= SETTLED {
            *self = Self::from_believed(Some(difference));
            return Ok(());
        }
        if leap < 0 {
            return Ok(());
        }
        Err(ClockLeapt { milliseconds: leap.unsigned_abs(), settles_in: SETTLED - stayed })
    }
}

/// The machine's clock, watched; what is believed of it outlives a restart in the state folder, for as
/// long as the machine runs.
#[derive(Debug)]
pub struct SteadyClock {
    path: PathBuf,
    start: String,
    watched: Mutex<Watched>,
}

#[derive(Debug)]
struct Watched {
    steadiness: Steadiness,
    written: Option<i64>,
}

impl SteadyClock {
    /// Watches from now on, or on from what is kept in the state folder.
    pub fn watch(state: &Path) -> Self {
        let path = kept_path(state);
        let start = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        let kept = read_state(&path, MAX_STATE).ok();
        let kept = kept.and_then(|kept| String::from_utf8(kept).ok());
        let written = kept.and_then(|kept| {
            let (kept_start, difference) = kept.trim().split_once(' ')?;
            difference.parse().ok().filter(|_| kept_start == start && !start.is_empty())
        });
        let steadiness = Steadiness::from_believed(written);
        Self { path, start, watched: Mutex::new(Watched { steadiness, written }) }
    }

    /// Forgets what is kept: whatever the clock says now is right.
    pub fn accept(state: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(kept_path(state)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A file that cannot be written is missed after a restart, and no reason to stop.
    fn keep(&self, watched: &mut Watched) {
        let Some(believed) = watched.steadiness.believed() else { return };
        let is_kept = watched.written.is_some_and(|it| it.abs_diff(believed) < WORTH_KEEPING);
        if is_kept || self.start.is_empty() {
            return;
        }
        watched.written = Some(believed);
        let text = format!("{} {believed}\n", self.start);
        if let Err(error) = write_private(&self.path, text.as_bytes()) {
            tracing::warn!(%error, "cannot keep how the clock goes");
        }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now()
    }

    fn require_steady(&self) -> Result<(), ClockLeapt> {
        let Some(since_start) = since_start() else { return Ok(()) };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.steadiness.look(self.unix_milliseconds(), since_start)?;
        self.keep(&mut watched);
        Ok(())
    }
}

fn kept_path(state: &Path) -> PathBuf {
    state.join("clock")
}

/// Milliseconds since the machine started, those asleep included.
#[cfg(target_os = "linux")]
fn since_start() -> Option<u64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).ok()?;
    Some(seconds * 1000 + u64::try_from(time.tv_nsec).ok()? / 1_000_000)
}

/// No such clock: nothing is compared.
#[cfg(not(target_os = "linux"))]
fn since_start() -> Option<u64> {
    None
}

/// A clock that a test holds.
#[cfg(any(test, feature = "test-seams"))]
#[derive(Debug)]
pub struct ManualClock(Mutex<Manual>);

#[cfg(any(test, feature = "test-seams"))]
#[derive(Debug)]
struct Manual {
    now: OffsetDateTime,
    since_start: time::Duration,
    steadiness: Steadiness,
}

#[cfg(any(test, feature = "test-seams"))]
impl ManualClock {
    /// Stands still at this time.
    pub fn new(now: OffsetDateTime) -> Self {
        let since_start = time::Duration::days(1);
        Self(Mutex::new(Manual { now, since_start, steadiness: Steadiness::default() }))
    }

    /// Time passes; or never did, where it goes back.
    pub fn advance(&self, by: time::Duration) {
        let mut manual = self.manual();
        manual.now += by;
        manual.since_start += by;
    }

    /// Somebody sets it so much ahead, or back.
    pub fn leap(&self, by: time::Duration) {
        self.manual().now += by;
    }

    fn manual(&self) -> std::sync::MutexGuard<'_, Manual> {
        self.0.lock().expect("no test panics while it holds the clock")
    }
}

#[cfg(any(test, feature = "test-seams"))]
impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        self.manual().now
    }

    fn require_steady(&self) -> Result<(), ClockLeapt> {
        let now = self.unix_milliseconds();
        let mut manual = self.manual();
        let since_start = manual.since_start.whole_milliseconds().try_into().unwrap_or_default();
        manual.steadiness.look(now, since_start)
    }
}

/// Milliseconds since 1970 as a time; what does not fit is the epoch itself.
pub(crate) fn from_milliseconds(milliseconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What the time of day may go ahead by between two looks, in milliseconds. Beyond the tolerance of
/// what is behind (5 s) by no more than is soon waited for; a step of NTP is smaller.
const MAX_LEAP: u64 = 10_000;
/// Of so many milliseconds, one may be slewed; chrony takes one of twelve.
const SLEWED: u64 = 8;
/// A leap that has stayed for so long, in milliseconds, is the time.
const SETTLED: u64 = 600_000;
/// The kept difference is written again when it has changed by so much, in milliseconds.
const WORTH_KEEPING: u64 = 1000;
/// Names one run of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn a_clock_that_is_slewed_or_sleeps_is_believed() {
        let mut steadiness = Steadiness::default();
        for second in 0..200_000 {
            // 500 ppm, and time passes alike for both while a laptop sleeps.
            let slept = if second > 1000 { 3 * DAY } else { 0 };
            let since_start = DAY + second * 1000 + slept;
            let time_of_day = 20_000 * DAY + second * 1000 + slept + second / 2;
            assert_eq!(steadiness.look(time_of_day, since_start), Ok(()));
        }
    }

    #[test]
    fn a_leap_ahead_is_refused_until_it_comes_back_or_has_stayed() {
        let mut steadiness = Steadiness::default();
        let mut look = |second: u64, ahead: u64| {
            steadiness.look(20_000 * DAY + second * 1000 + ahead, DAY + second * 1000)
        };
        assert_eq!(look(0, 0), Ok(()));
        let refused = look(1, 3 * DAY).unwrap_err();
        assert_eq!((refused.milliseconds, refused.settles_in), (3 * DAY, SETTLED));
        assert_eq!(look(5, 0), Ok(()), "it came back");
        assert!(look(6, 3 * DAY).is_err());
        assert!(look(300, 4 * DAY).is_err(), "it leapt again: it begins anew");
        assert!(look(899, 4 * DAY).is_err());
        assert_eq!(look(901, 4 * DAY), Ok(()));
        assert_eq!(look(902, 4 * DAY + MAX_LEAP), Ok(()), "as NTP steps it");
    }

    #[test]
    fn small_steps_do_not_add_up_and_what_is_slewed_does() {
        let look = |steadiness: &mut Steadiness, second: u64, ahead: u64| {
            steadiness.look(20_000 * DAY + second * 1000 + ahead, DAY + second * 1000)
        };
        let mut stepped = Steadiness::default();
        assert_eq!(look(&mut stepped, 0, 0), Ok(()));
        assert_eq!(look(&mut stepped, 1, 9_000), Ok(()));
        assert!((2..40).all(|second| look(&mut stepped, second, second * 9_000).is_err()));
        assert_eq!(look(&mut stepped, 41, 9_000), Ok(()), "it came back");
        let mut slewed = Steadiness::default();
        assert!((0..3600).all(|second| look(&mut slewed, second, second * 83).is_ok()));
        assert!((0..10_000).all(|_| look(&mut slewed, 3601, 3600 * 83).is_ok()));
    }

    #[test]
    fn a_clock_that_went_back_may_return() {
        let mut steadiness = Steadiness::default();
        assert_eq!(steadiness.look(20_000 * DAY, DAY), Ok(()));
        assert_eq!(steadiness.look(19_000 * DAY, DAY + 1000), Ok(()));
        assert_eq!(steadiness.look(20_000 * DAY + 2000, DAY + 2000), Ok(()));
    }

    #[test]
    fn what_is_believed_outlives_a_restart_and_no_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        SteadyClock::watch(state).require_steady().unwrap();
        let kept = std::fs::read_to_string(kept_path(state)).unwrap();
        let (start, difference) = kept.trim().split_once(' ').unwrap();
        let difference: i64 = difference.parse().unwrap();
        let keep = |start: &str, difference: i64| {
            write_private(&kept_path(state), format!("{start} {difference}").as_bytes()).unwrap();
        };
        keep(start, difference - 3 * 86_400_000);
        assert!(SteadyClock::watch(state).require_steady().is_err(), "it is three days ahead");
        keep("another-run", difference - 3 * 86_400_000);
        assert_eq!(SteadyClock::watch(state).require_steady(), Ok(()));
        keep(start, difference - 3 * 86_400_000);
        SteadyClock::accept(state).unwrap();
        assert_eq!(SteadyClock::watch(state).require_steady(), Ok(()));
    }
}
