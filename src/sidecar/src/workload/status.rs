//! How a workload is doing.

use identity::{SerialNumber, SpiffeId};
use time::OffsetDateTime;

use crate::connections::ConnectionCounts;
use crate::revocations::hold_back::HeldBack;
use crate::workload::cut_off::CutOff;

/// What a workload holds, and how long it can go on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Its certificate.
    pub serial_number: SerialNumber,
    /// Its certificate's last second.
    pub not_after: OffsetDateTime,
    /// When it asks for the next one.
    pub next_renewal: OffsetDateTime,
    /// How long it can go on without the CA, in seconds: until its certificate's end, or until the
    /// revocations are too old for a workload that [refuses](crate::WhenStale::Refuse) then.
    pub seconds_without_authority: u64,
    /// The sequence of the trust state held.
    pub trust_sequence: u64,
    /// The log index of the newest revocation applied.
    pub feed_sequence: u64,
    /// Seconds since the revocations were last confirmed; none before the first time.
    pub feed_age: Option<u64>,
    /// Whether nothing was heard of revocations for longer than
    /// [`max_staleness`](crate::Staleness::max_staleness), or never since the start. What passed while it
    /// was [cut off](Self::cut_off) by everybody does not count: the feed is closed to it then.
    pub stale: bool,
    /// Until when peers are let in although nothing is known of revocations: see
    /// [`Builder::start_without_revocations`](crate::Builder::start_without_revocations). None where
    /// something is, or they are refused.
    pub without_revocations_until: Option<OffsetDateTime>,
    /// Revocations that are not applied to some peers yet: see
    /// [`Builder::hold_back_above`](crate::Builder::hold_back_above). None while all are.
    pub held_back: Option<HeldBack>,
    /// Connections, open and closed.
    pub connections: ConnectionCounts,
    /// Whether it can serve.
    pub ready: bool,
    /// Why its certificate is refused: it is revoked, say. None while it is taken.
    pub cut_off: Option<CutOff>,
    /// Why the newest renewal failed; none once one has succeeded.
    pub renewal_error: Option<String>,
    /// Why the feed is not heard; none while it is.
    pub feed_error: Option<String>,
    /// Why what is heard of revocations is not kept for the next start, or what was kept is not used;
    /// none while all is well, and where nothing is to be kept.
    pub keeping_error: Option<String>,
    /// Why the trust state that the CA has in force is not the one held; none while it is.
    pub trust_error: Option<String>,
    /// How our clock differs from the CA's, as the feed shows it; none while both go together.
    pub clock_error: Option<String>,
}

impl Status {
    /// Why nothing is heard of revocations, where that is known.
    pub(crate) fn why_unheard(&self) -> Option<String> {
        let cut_off = self.cut_off.as_ref().map(ToString::to_string);
        cut_off.or_else(|| self.clock_error.clone()).or_else(|| self.feed_error.clone())
    }

    /// Whether nothing but time has passed between the two.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let Self { seconds_without_authority, feed_age, .. } = other.clone();
        Self { seconds_without_authority, feed_age, ..self.clone() } == *other
    }
}
