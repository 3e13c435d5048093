//! Catching up with the log.

use std::sync::PoisonError;

use super::View;
use crate::error::Error;
use crate::fold::Extent;
use crate::sequencer::Head;
use crate::store::StoreError;

impl View {
    /// Catches up with the log: revoking events, of which the feed's subscribers hear before this
    /// returns, and the policy set in force. It waits for no key:
    /// [`follow_keys`](Self::follow_keys) does.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.follow_log().await.map(drop)
    }

    /// The same; returns how many entries the log has. Fails while the newest commit is not kept beside
    /// the database: then everybody hears of what it restricts, and of nothing else.
    pub(crate) async fn follow_log(&self) -> Result<u64, Error> {
        let head = self.whole_head().await;
        if let Err(Error::Store(StoreError::Unkept { head, .. })) = &head {
            self.fold(head, Extent::Restrictions).await?;
        }
        let head = head?;
        self.fold(&head, Extent::All).await?;
        self.follow_policy(&head).await?;
        Ok(head.edge.size())
    }

    /// Catches up as far as whoever decides anew, or asks who is denied, may know: while no head is kept,
    /// with what restricts. What grants is refused by the commit.
    pub(crate) async fn refresh_to_decide(&self) -> Result<(), Error> {
        match self.refresh().await {
            Err(Error::Store(StoreError::Unkept { .. })) => Ok(()),
            refreshed => refreshed,
        }
    }

    /// Folds the log up to a head, and tells of it.
    async fn fold(&self, head: &Head, extent: Extent) -> Result<(), Error> {
        if !self.folded().has_reached(head) {
            let from = self.folded().next_index();
            let entries = self.store.folding_entries(from).await?;
            // Told under the lock, so that nobody hears of an allow before the deny that it lifts.
            let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
            let items = folded.follow(entries, head, extent)?;
            if let Some(listener) = self.listener.get().filter(|_| !items.is_empty()) {
                listener(&items);
            }
        }
        self.publish().await;
        Ok(())
    }

    /// Forgets the certificates revoked that ended a day ago, and says by which time, in seconds since
    /// 1970: that of the clock, but no later than the log's newest entry, and none while the clock is
    /// not steady. So a clock that went ahead makes nobody forget what still counts: what is
    /// forgotten, only a restart brings back, which folds the whole log.
    pub async fn forget_expired(&self) -> Result<u64, Error> {
        self.clock.require_steady().map_err(StoreError::from)?;
        let logged = self.store.head().await?.at;
        let now = self.clock.unix_milliseconds().min(logged) / 1000;
        if self.folded().revocations.has_expired(now) {
            let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
            let forgotten = folded.forget_expired(now);
            tracing::info!(forgotten, "forgot revocations of certificates that ended a day ago");
        }
        metrics::gauge!(REVOKED).set(self.folded().revocations.serials().count() as f64);
        Ok(now)
    }
}

const REVOKED: &str = "countersign_revoked_certificates";
