//! Following the trust state: the next one is taken, and what is none is said.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use identity::{Trust, TrustState};
use metrics::counter;
use tlog::Hash;

use super::Upkeep;
use crate::authority::bootstrap::follow_steps;
use crate::error::Error;
use crate::pace::renewal::Backoff;
use crate::pace::retry::chance;

impl Upkeep {
    /// Compares the trust state that a heartbeat names with the one held.
    ///
    /// A heartbeat is signed by an online key, a trust state by others: what is named here is not
    /// believed, and only the state itself, fetched, is. A name that differs is said.
    pub(super) fn compare_trust(&self, named: (u64, Hash)) {
        let held = self.state().trust;
        if named == held {
            if self.state().trust_error.take().is_some() {
                self.publish();
            }
        } else if named.0 == held.0 {
            self.note_trust_error(&identity::Error::TrustFork { sequence: held.0 }.into());
        } else {
            // Newer; or older, by a heartbeat of a moment ago, or since an older database was put
            // back: the answer tells.
            self.trust_is_old.notify_one();
        }
    }

    /// Follows the trust state whenever there is another one, beside the feed and not before it. A
    /// fleet hears of it in the same moment: each fetches it a moment of its own later.
    pub(super) async fn keep_trusting(&self) {
        let mut backoff = Backoff::default();
        loop {
            self.trust_is_old.notified().await;
            tokio::time::sleep(SPREAD.mul_f64(chance())).await;
            if self.take_successor().await {
                backoff = Backoff::default();
            } else {
                tokio::time::sleep(backoff.next(LONGEST_WAIT, chance())).await;
            }
        }
    }

    /// Takes the trust state in force, if the one held is older than this.
    pub(super) async fn follow_trust(&self, sequence: u64) {
        if sequence > self.verification.trust().state().sequence {
            self.take_successor().await;
        }
    }

    async fn take_successor(&self) -> bool {
        match self.fetch_successor().await {
            Ok(None) => false,
            Ok(Some((trust, hash, notes))) => {
                let sequence = trust.state().sequence;
                self.keep_trust(notes, trust.state().clone()).await;
                let closed = self.verification.replace_trust(trust);
                tracing::info!(sequence, closed, "took a new trust state");
                {
                    let mut state = self.state();
                    (state.trust, state.trust_error) = ((sequence, hash), None);
                }
                self.news.notify_one();
                self.publish();
                true
            }
            // The CA is away: nothing is wrong with the trust, and the feed says that already.
            Err(error) if error.is_temporary() => {
                tracing::warn!(%error, "the newest trust state is not fetched");
                false
            }
            Err(error) => {
                self.note_trust_error(&error);
                false
            }
        }
    }

    /// The newest state, SHA-256 of its note, and the notes that lead there.
    async fn fetch_successor(&self) -> Result<Option<(Trust, Hash, Vec<Vec<u8>>)>, Error> {
        let held = self.verification.trust();
        let steps = follow_steps(&self.url, held.state()).await?;
        let Some(newest) = steps.last() else { return Ok(None) };
        let (trust, hash) = (Trust::new(newest.state.clone())?, Hash::of(&newest.note));
        Ok(Some((trust, hash, steps.into_iter().map(|step| step.note).collect())))
    }

    /// For the next start, which believes what is kept only by these.
    async fn keep_trust(&self, notes: Vec<Vec<u8>>, trust: TrustState) {
        let Some(keeper) = self.keeper.get().map(Arc::clone) else { return };
        let kept = tokio::task::spawn_blocking(move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            keeper.follow_trust(notes, &trust);
            keeper.error()
        });
        if let Ok(error) = kept.await {
            self.note_keeping(error);
        }
    }

    /// Says once why the trust state in force is not taken; heartbeats bring it up again and again.
    fn note_trust_error(&self, error: &Error) {
        let text = error.to_string();
        if self.state().trust_error.replace(text.clone()).is_some_and(|known| known == text) {
            return;
        }
        counter!(REFUSED).increment(1);
        tracing::error!(%error, "the trust state of the CA is not taken; the one held stays");
        self.publish();
    }
}

const REFUSED: &str = "countersign_trust_states_refused_total";
/// Over how long a fleet fetches what it hears of at once.
const SPREAD: Duration = Duration::from_secs(3);
/// How long to wait at most until it is asked for again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
