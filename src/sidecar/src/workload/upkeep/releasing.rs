//! Applying what was held back: when its owner says so, or its time is over.

use std::time::Duration;

use super::Upkeep;
use super::feed::Closed;
use crate::revocations::hold_back::{Choice, HeldBack, HoldBack};
use crate::verification::Verification;

impl Upkeep {
    /// Holds back what revokes too many peers at once. To be said before the start.
    pub(crate) fn hold_back(&self, choice: Choice) {
        let own = self.state().identity.spiffe_id().clone();
        self.hold_back.choose(choice, own);
    }

    /// Applies what is held back, and says to how many peers.
    pub(crate) fn release_revocations(&self) -> usize {
        self.release_by(HoldBack::release, "as its owner says")
    }

    /// Applies what was held back for long enough.
    pub(super) async fn keep_releasing(&self) {
        loop {
            // In slices: clocks are set, and machines sleep.
            tokio::time::sleep(LOOK_AGAIN).await;
            self.release_due();
        }
    }

    pub(super) fn release_due(&self) -> usize {
        self.release_by(HoldBack::release_due, "its time is over")
    }

    fn release_by(
        &self,
        release: impl FnOnce(&HoldBack, &Verification) -> Option<(HeldBack, usize)>,
        why: &'static str,
    ) -> usize {
        let mut released = None;
        let closed = Closed::by(&self.verification, || {
            let (held_back, closed) = release(&self.hold_back, &self.verification).unzip();
            released = held_back;
            closed.unwrap_or(0)
        });
        let Some(HeldBack { peers, log_indexes, .. }) = released else { return 0 };
        tracing::warn!(peers, ?log_indexes, why, "revocations that were held back are applied");
        self.note_closed(*log_indexes.end(), closed);
        self.news.notify_one();
        self.publish();
        peers
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
