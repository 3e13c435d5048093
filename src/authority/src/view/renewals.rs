//! Which certificates were renewed, and which were shown to us, as the log says: not as rows do, which
//! whoever writes to the database takes away or puts there.
//!
//! Each is decided from the log of the last days (`recent_log`), which is proved, as it is by then; what
//! is logged between that and its commit is looked at under the head lock (`sequencer::News`), so that no
//! two certificates are renewed from one, however many processes write. Renewals of one line take turns
//! in this process: that only spares the work.
//!
//! That a certificate was shown is logged by the batch (`accounting`): of the seconds before a crash it
//! may be forgotten. Then whoever holds the certificate before it replaces it once more, and the line
//! breaks when either renews.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use identity::{SerialNumber, SpiffeId, VerifiedSvid};

use super::View;
use crate::attest::{again_by_token, refusal, refused};
use crate::error::Error;
use crate::sequencer::{Conflict, Consumes, Renewed};
use crate::view::known::Known;

/// What is known of renewals.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    known: Mutex<Renewing>,
}

/// Certificates are named by their places in the log.
#[derive(Debug, Default)]
struct Renewing {
    /// By the certificate renewed.
    renewed: HashMap<u64, Renewal>,
    shown: HashSet<u64>,
    /// Shown, as rows of a version of before said. Whoever wrote to the database may have put them there:
    /// they are not replaced, and nothing else follows from it.
    claimed: HashSet<u64>,
    /// Renewed, perhaps, by what a version of before recorded and nobody can read: not renewed any more.
    closed: HashSet<u64>,
    /// Revoked by their own serial numbers.
    revoked: HashSet<u64>,
    /// Those that were shown of which the log does not tell yet.
    untold: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Renewal {
    by: u64,
    /// It took the place of an earlier renewal of the same certificate, or was replaced itself.
    replaced: bool,
}

/// What the log says of renewals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Rows of a version of before said that these were shown.
    Claimed(Vec<u64>),
    /// Of these nobody can tell whether a version of before renewed them.
    Closed(Vec<u64>),
    /// The certificate at one place was renewed by that at another.
    Renewed { of: u64, by: u64 },
    /// This one was revoked by its serial number.
    Revoked(u64),
    /// These certificates were shown.
    Shown(Vec<u64>),
}

impl Renewals {
    /// What the log says, in its order.
    pub(crate) fn hear(&self, told: impl IntoIterator<Item = Told>) {
        let mut known = self.known();
        for told in told {
            match told {
                Told::Claimed(places) => known.claimed.extend(places),
                Told::Closed(places) => known.closed.extend(places),
                Told::Renewed { of, by } => known.note(of, by),
                Told::Revoked(place) => drop(known.revoked.insert(place)),
                Told::Shown(places) => {
                    for place in &places {
                        known.untold.remove(place);
                    }
                    known.shown.extend(places);
                }
            }
        }
    }

    /// Forgets what was before the first certificate that still lives.
    pub(crate) fn forget_before(&self, first: u64) {
        let mut known = self.known();
        known.renewed.retain(|place, _| *place >= first);
        known.renewed.shrink_to_fit();
        known.shown.retain(|place| *place >= first);
        known.shown.shrink_to_fit();
        known.claimed.retain(|place| *place >= first);
        known.claimed.shrink_to_fit();
        known.closed.retain(|place| *place >= first);
        known.closed.shrink_to_fit();
        known.revoked.retain(|place| *place >= first);
        known.revoked.shrink_to_fit();
        known.untold.retain(|place| *place >= first);
    }

    /// Whether a certificate was renewed by one that was shown since: its holder has the new one.
    pub(crate) fn is_taken_over(&self, place: u64) -> bool {
        let known = self.known();
        known.renewed.get(&place).is_some_and(|renewal| known.is_shown(renewal.by))
    }

    /// The first of those that were shown and are not told of, in order.
    pub(crate) fn untold(&self, most: usize) -> Vec<u64> {
        self.known().untold.iter().take(most).copied().collect()
    }

    fn known(&self) -> MutexGuard<'_, Renewing> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Renewing {
    /// A second renewal replaces the first, whose certificate must not renew on its own: it counts as
    /// renewed, too. What was told before changes nothing.
    fn note(&mut self, of: u64, by: u64) {
        let first = self.renewed.get(&of).copied();
        if first.is_some_and(|first| first.by >= by) {
            return;
        }
        self.renewed.insert(of, Renewal { by, replaced: first.is_some() });
        if let Some(first) = first {
            self.renewed.insert(first.by, Renewal { by, replaced: true });
        }
    }

    /// Whoever has renewed with a certificate has shown it.
    fn is_shown(&self, place: u64) -> bool {
        self.shown.contains(&place) || self.renewed.contains_key(&place)
    }

    fn counts_as_shown(&self, place: u64) -> bool {
        self.is_shown(place) || self.claimed.contains(&place)
    }
}

impl View {
    /// Notes that the holder of a certificate exists.
    pub(crate) fn see(&self, svid: &VerifiedSvid) {
        // Each of ours has a place: the verifier has taken its countersignature.
        let Some(place) = svid.leaf_index() else { return };
        let mut known = self.renewals.known();
        if known.shown.insert(place) {
            known.untold.insert(place);
        }
    }

    /// Whether it is known that the certificate at this place of the log was shown.
    pub fn has_seen(&self, log_index: u64) -> bool {
        self.renewals.known().shown.contains(&log_index)
    }

    /// Refuses where the line broke, whatever rows say.
    pub(crate) fn require_unbroken(
        &self,
        lineage: &SerialNumber,
        spiffe_id: &SpiffeId,
    ) -> Result<(), Error> {
        match self.folded().is_broken(lineage) {
            true => Err(refusal(Conflict::LineageBroken, spiffe_id)),
            false => Ok(()),
        }
    }

    /// Says what a certificate was renewed by before, as the log does by now; to be asked once the
    /// revocation state is read under which it is to be renewed.
    pub(crate) async fn decide_renewal(
        &self,
        consumes: &mut Consumes,
        spiffe_id: &SpiffeId,
    ) -> Result<(), Error> {
        let Consumes::Renewal { leaf_index, serial_number, lineage, before, read_to } = consumes
        else {
            return Ok(());
        };
        self.require_unbroken(lineage, spiffe_id)?;
        *read_to = self.follow_recent_log().await?;
        *before = self.renewed_before(*leaf_index, serial_number, spiffe_id).await?;
        Ok(())
    }

    /// What a certificate was renewed by; refused where the record of that is gone, because then
    /// nobody can tell its own retry from a second renewal.
    async fn renewed_before(
        &self,
        place: u64,
        serial_number: &SerialNumber,
        spiffe_id: &SpiffeId,
    ) -> Result<Option<Renewed>, Error> {
        let (Renewal { by, replaced }, seen, revoked) = {
            let known = self.renewals.known();
            if known.closed.contains(&place) {
                return Err(refused(
                    format!(
                        "whether certificate {serial_number} was renewed already cannot be told: the \
                         record of a renewal of its identity was gone when the database was brought up \
                         to date"
                    ),
                    format!("attest again: {}", again_by_token(spiffe_id)),
                ));
            }
            let Some(renewal) = known.renewed.get(&place).copied() else { return Ok(None) };
            (renewal, known.counts_as_shown(renewal.by), known.revoked.contains(&renewal.by))
        };
        match self.known_at(by).await? {
            Known::Recorded(record) => Ok(Some(Renewed {
                leaf_index: by,
                serial_number: record.serial_number,
                request_hash: record.request_hash,
                seen,
                revoked,
                replaced,
            })),
            Known::Logged(record) => Err(refused(
                format!(
                    "certificate {serial_number} was renewed already, by {}, whose record is gone from \
                     the database, or is not as this CA wrote it: whether this is the same request \
                     cannot be told",
                    record.serial_number
                ),
                format!("attest again: {}", again_by_token(spiffe_id)),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_certificate_counts_as_renewed_and_what_is_told_twice_changes_nothing() {
        let renewals = Renewals::default();
        for _ in 0..2 {
            let told = [(1, 3), (1, 5), (5, 7)].map(|(of, by)| Told::Renewed { of, by });
            renewals.hear(told);
            let known = renewals.known();
            let says = |place| known.renewed.get(&place).map(|it| (it.by, it.replaced));
            assert_eq!(says(1), Some((5, true)));
            assert_eq!(says(3), Some((5, true)));
            assert_eq!(says(5), Some((7, false)));
        }
        renewals.forget_before(5);
        assert_eq!(renewals.known().renewed.len(), 1);
    }

    #[test]
    fn what_was_shown_is_told_once() {
        let renewals = Renewals::default();
        renewals.known().shown.extend([1, 3]);
        renewals.known().untold.extend([1, 3]);
        assert_eq!(renewals.untold(1), [1]);
        renewals.hear([Told::Shown(vec![1])]);
        assert_eq!(renewals.untold(9), [3]);
        renewals.hear([Told::Renewed { of: 0, by: 1 }]);
        assert!(renewals.is_taken_over(0) && !renewals.is_taken_over(1));
    }
}
