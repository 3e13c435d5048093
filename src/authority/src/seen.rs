//! Certificates whose holder is known to exist: it has shown them in a handshake, which proves that it
//! has the key. Until then the one before may replace its successor once, as one that never arrived.
//!
//! One place notes it, for connections and for requests: what is under way for a certificate is
//! waited for and not begun again, and few are under way at once, whatever becomes of the store. What it
//! does not take now, the next request tells it again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::{SerialNumber, VerifiedSvid};
use tokio::sync::watch;

use crate::authority::Authority;
use crate::error::Error;
use crate::limits;
use crate::sequencer::Member;

/// What is remembered; the store remembers all.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    seen: HashSet<SerialNumber>,
    under_way: HashMap<SerialNumber, watch::Receiver<()>>,
}

/// That a certificate was shown, on its way to the store.
#[derive(Debug)]
pub struct Noting(Option<watch::Receiver<()>>);

/// Its way; it ends when this is dropped.
struct UnderWay {
    authority: Arc<Authority>,
    serial_number: SerialNumber,
    _ends: watch::Sender<()>,
}

impl Seen {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None where another has begun it: that is waited for. Nothing is where too many are under way.
    fn begin(&self, serial_number: SerialNumber) -> (Option<watch::Sender<()>>, Noting) {
        let mut known = self.known();
        if let Some(ends) = known.under_way.get(&serial_number) {
            return (None, Noting(Some(ends.clone())));
        }
        if known.under_way.len() >= NOTED_AT_ONCE {
            limits::NOTED_AT_ONCE.reached();
            return (None, Noting(None));
        }
        let (sender, ends) = watch::channel(());
        known.under_way.insert(serial_number, ends.clone());
        (Some(sender), Noting(Some(ends)))
    }
}

impl Noting {
    /// Returns once it is noted, or could not be; in a second at the latest.
    pub async fn ended(self) {
        if let Some(mut ends) = self.0 {
            drop(tokio::time::timeout(NOTED_WITHIN, ends.changed()).await);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.authority.seen.known().under_way.remove(&self.serial_number);
    }
}

impl Authority {
    /// Notes, once for each certificate, that its holder exists: to be called for whoever has shown one
    /// in a handshake, and for each of their requests, which may wait for it.
    pub fn note_shown(self: &Arc<Self>, svid: &VerifiedSvid) -> Noting {
        let serial_number = *svid.serial_number();
        if self.has_seen(&serial_number) || self.require_live(svid).is_err() {
            return Noting(None);
        }
        let (begun, noting) = self.seen.begin(serial_number);
        if let Some(ends) = begun {
            let under_way = UnderWay { authority: Arc::clone(self), serial_number, _ends: ends };
            tokio::spawn(async move {
                if let Err(error) = under_way.authority.see(serial_number).await {
                    tracing::debug!(%error, "that a certificate was shown is not noted yet");
                }
            });
        }
        noting
    }

    /// Whether it is remembered here that the holder of this certificate exists.
    pub fn has_seen(&self, serial_number: &SerialNumber) -> bool {
        self.seen.known().seen.contains(serial_number)
    }

    /// Notes, once for each certificate, that its holder exists; fails where the store does not take it.
    pub(crate) async fn see(&self, serial_number: SerialNumber) -> Result<(), Error> {
        if self.has_seen(&serial_number) {
            return Ok(());
        }
        self.submit(Member::Seen(serial_number)).await?;
        let mut known = self.seen.known();
        if known.seen.len() >= REMEMBERED {
            known.seen.clear();
        }
        known.seen.insert(serial_number);
        Ok(())
    }
}

/// A commit's worth: a sixteenth of the places before the log.
pub(crate) const NOTED_AT_ONCE: usize = 256;
/// Commits take milliseconds.
const NOTED_WITHIN: Duration = Duration::from_secs(1);
/// Some 3 MiB.
const REMEMBERED: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_under_way_at_once_and_each_is_begun_by_one() {
        let seen = Seen::default();
        let serial = |number: usize| {
            let octets = [&[1; 12][..], &(number as u32).to_be_bytes()].concat();
            SerialNumber::from_octets(&octets).unwrap()
        };
        let begun: Vec<_> =
            (0..NOTED_AT_ONCE).map(|number| seen.begin(serial(number)).0.unwrap()).collect();
        let (again, waits) = seen.begin(serial(0));
        assert!(again.is_none() && waits.0.is_some(), "it is waited for");
        let (beyond, waits) = seen.begin(serial(NOTED_AT_ONCE));
        assert!(beyond.is_none() && waits.0.is_none(), "the next request tells it again");
        assert_eq!(begun.len(), NOTED_AT_ONCE);
    }
}
