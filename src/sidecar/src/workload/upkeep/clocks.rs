//! Whether our clock and the CA's go together: the feed shows it.
//!
//! A clock that is behind finds what the CA says in the future: it is applied and confirms nothing,
//! so that a workload which refuses without news refuses everybody. One that is ahead finds all news
//! old, with the same end. Neither is seen by whom it hits, who looks for the fault in the network.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Upkeep;
use crate::clock::date;

/// How our clock differs from the CA's, as it was when this was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClockFault {
    way: Way,
    ours: OffsetDateTime,
    theirs: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ahead,
    Behind,
}

impl Upkeep {
    /// Compares our clock with that of a message that was signed at `at`, in milliseconds since 1970;
    /// `is_of_now` where it is signed anew every other second, and was heard for the first time.
    pub(super) fn compare_clocks(&self, at: u64, is_of_now: bool) {
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at));
        let (ours, theirs) = (self.now(), date(at));
        let way = match () {
            () if theirs - ours > TOO_FAR_BEHIND => Some(Way::Behind),
            () if !is_of_now => return,
            () if ours - theirs > TOO_FAR_AHEAD => Some(Way::Ahead),
            () => None,
        };
        let fault = way.map(|way| ClockFault { way, ours, theirs });
        let mut state = self.state();
        if state.clock_fault.as_ref().map(|known| known.way) == way {
            return;
        }
        match &fault {
            Some(fault) => tracing::error!("{fault}"),
            None => tracing::info!("our clock and the CA's go together again"),
        }
        state.clock_fault = fault;
        drop(state);
        self.publish();
    }
}

impl fmt::Display for ClockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (self.ours - self.theirs).whole_seconds().unsigned_abs();
        let text =
            |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_else(|_| time.to_string());
        let (ours, theirs) = (text(self.ours), text(self.theirs));
        match self.way {
            Way::Ahead => write!(
                f,
                "our clock ({ours}) is {seconds} s ahead of the CA's ({theirs}), or the feed is held \
                 up on its way: set the clock. Whatever is heard counts as old"
            ),
            Way::Behind => write!(
                f,
                "our clock ({ours}) is {seconds} s behind the CA's ({theirs}): set it. Revocations \
                 are applied, but do not count as those of now"
            ),
        }
    }
}

/// What [`identity::feed::FeedState::accept`] takes for the future.
const TOO_FAR_BEHIND: time::Duration = time::Duration::seconds(60);
/// Half of what is too old by default: it is said before anybody is refused.
const TOO_FAR_AHEAD: time::Duration = time::Duration::seconds(30);
