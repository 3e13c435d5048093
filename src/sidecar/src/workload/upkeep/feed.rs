//! Hearing the feed: what is revoked, and which trust state the CA names.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api::ClosedConnections;
use identity::feed::{Assembly, FeedError, FeedState, FeedUpdate, Line};
use rustls::pki_types::UnixTime;

use super::Upkeep;
use crate::error::Error;
use crate::pace::renewal::Backoff;
use crate::pace::retry::chance;
use crate::revocations::lines::{Accepted, Kind, accept};
use crate::verification::Verification;

impl Upkeep {
    /// Hears the feed, connecting again whenever it ends, with more patience each time.
    pub(super) async fn keep_hearing(&self) {
        let kept = self.state().feed.take();
        let mut feed = kept.unwrap_or_else(|| {
            FeedState::new(self.verification.trust().state().trust_domain.clone())
        });
        let mut backoff = Backoff::default();
        loop {
            let heard_before = feed.newest_at();
            let ended = self.hear(&mut feed).await;
            if feed.newest_at() > heard_before {
                backoff = Backoff::default();
            }
            let Err(error) = ended else { continue };
            self.note_refusal(&error);
            // Keys that are new to us may have been made known while we did not listen.
            let of_other_keys = matches!(
                error,
                Error::Feed(FeedError::Checkpoint(_) | FeedError::UnknownKey { .. })
                    | Error::Peer { .. }
            );
            if of_other_keys {
                self.trust_is_old.notify_one();
            }
            self.state().feed_error = Some(error.to_string());
            if self.publish().cut_off.is_some_and(|cut_off| cut_off.rule.is_by_everybody()) {
                // That was told once, and is no fault of the feed's.
                tracing::debug!(%error, "the feed of revocations is not heard");
            } else {
                tracing::warn!(%error, "the feed of revocations is not heard");
            }
            let pause = backoff.next(LONGEST_SILENCE, chance());
            // Whoever was refused is not, perhaps, by another certificate.
            let _ = tokio::time::timeout(pause, self.renewed.notified()).await;
        }
    }

    /// Hears one connection to its end. A gap ends it too: the next asks for what is missing.
    async fn hear(&self, feed: &mut FeedState) -> Result<(), Error> {
        let heard = feed.newest_at().is_some() || feed.position().sequence > 0;
        let after = heard.then(|| feed.position().sequence);
        let client = self.authority()?;
        let wants_snapshot = after.is_some() && self.wants_snapshot().await?;
        let mut stream = match after {
            Some(after) if wants_snapshot => client.feed_with_snapshot(after).await?,
            after => client.feed(after).await?,
        };
        // What has come of a snapshot ends with its connection: the next begins with another head.
        let mut assembly = None;
        loop {
            // Between two lines only: one that is taken is applied before another is heard.
            let line = tokio::select! {
                line = stream.next() => line?,
                // The CA sees the new SVID only on a new connection.
                () = self.renewed.notified() => return Ok(()),
            };
            let Some(line) = line else {
                return if stream.has_expired() { Ok(()) } else { Err(Error::FeedEnded) };
            };
            if !self.take(feed, &mut assembly, line).await? {
                return Ok(());
            }
            // Asked for once a connection: what does not come then, does not come.
            let may_ask = assembly.is_none() && after.is_some() && !wants_snapshot;
            if may_ask && self.wants_snapshot().await? {
                return Ok(());
            }
        }
    }

    /// Takes one line; says whether the next can follow it.
    async fn take(
        &self,
        feed: &mut FeedState,
        assembly: &mut Option<Assembly>,
        line: Line,
    ) -> Result<bool, Error> {
        let kept = self.keeper.get().map(|_| line.clone());
        let Accepted { state, update, at, kind } = self.accept(feed, assembly.take(), line).await?;
        let is_new = update != FeedUpdate::Nothing;
        match update {
            FeedUpdate::Gap => return Ok(false),
            FeedUpdate::Assemble(begun) => {
                *assembly = Some(begun);
                if let Some(line) = kept {
                    self.keep(line, kind, false).await?;
                }
                return Ok(true);
            }
            update => self.apply(update, state.position().sequence).await?,
        }
        if let Some(line) = kept.filter(|_| is_new || kind != Kind::Delta) {
            self.keep(line, kind, true).await?;
        }
        self.note_let_in();
        let newest_before = feed.newest_at();
        *feed = state;
        // One that was sent again confirms nothing anew.
        let confirms = feed.newest_at() > newest_before;
        if confirms {
            let at = UnixTime::since_unix_epoch(Duration::from_millis(at));
            self.verification.confirm_revocations(at);
        }
        if let Some(checkpoint) = feed.checkpoint() {
            self.verification.keep_checkpoint(checkpoint);
        }
        let first = {
            let mut state = self.state();
            state.feed_sequence = feed.position().sequence;
            state.checkpoint_size = feed.checkpoint_size();
            state.feed_error.take().is_some()
        };
        let first = !self.heard.send_replace(true) || first;
        if is_new || first {
            self.news.notify_one();
            self.publish();
        }
        self.compare_clocks(at, confirms && kind == Kind::Heartbeat);
        if let Some(named) = feed.trust() {
            self.compare_trust(named);
        }
        Ok(true)
    }

    /// Verifies a line, and tells what it means to whoever stands here.
    async fn accept(
        &self,
        feed: &FeedState,
        assembly: Option<Assembly>,
        line: Line,
    ) -> Result<Accepted, Error> {
        let (state, trust) = (feed.clone(), self.verification.trust());
        let now = self.verification.now().as_secs().saturating_mul(1000);
        Ok(aside(move || accept(state, assembly, line, trust.state(), now)).await??)
    }

    /// Keeps for the next start a line that was taken, where that is wanted.
    async fn keep(&self, line: Line, kind: Kind, is_last: bool) -> Result<(), Error> {
        let Some(keeper) = self.keeper.get().map(Arc::clone) else { return Ok(()) };
        let kept = aside(move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            keeper.keep(&line, kind, is_last);
            keeper.error()
        });
        self.note_keeping(kept.await?);
        Ok(())
    }

    /// A line may still be on its way to the disk, whose task has ended: it is waited for, or comes too
    /// late, so that whoever starts next finds the folder free.
    pub(crate) async fn end_keeping(&self) {
        let Some(keeper) = self.keeper.get().map(Arc::clone) else { return };
        // It does not panic, and there is nothing else that it could fail by.
        let _ = aside(move || keeper.lock().unwrap_or_else(PoisonError::into_inner).end()).await;
    }

    /// Whether a snapshot is to be kept in place of what has grown old.
    async fn wants_snapshot(&self) -> Result<bool, Error> {
        let Some(keeper) = self.keeper.get().map(Arc::clone) else { return Ok(false) };
        aside(move || keeper.lock().unwrap_or_else(PoisonError::into_inner).wants_snapshot()).await
    }

    /// Applies what a message says, and counts the connections that it closed.
    pub(super) async fn apply(&self, update: FeedUpdate, sequence: u64) -> Result<(), Error> {
        let Some(update) = self.hold_back_from(update, sequence).await? else { return Ok(()) };
        match update {
            FeedUpdate::Assemble(_) | FeedUpdate::Gap | FeedUpdate::Nothing => {}
            FeedUpdate::Apply(items) if items.len() <= COUNTED_SINGLY => {
                for item in items {
                    let closed = Closed::by(&self.verification, || {
                        self.verification.update_and_count(|held| item.apply(held)).1
                    });
                    self.note_closed(item.log_index, closed);
                }
            }
            update => {
                let verification = Arc::clone(&self.verification);
                let change = move || {
                    Closed::by(&verification, || {
                        verification.update_revocations_aside(|held| update.clone().apply(held))
                    })
                };
                self.note_closed(sequence, aside(change).await?);
            }
        }
        Ok(())
    }

    /// Applies a message that revokes too many peers at once, but not to those, where the owner chose
    /// so. Returns every other one.
    async fn hold_back_from(
        &self,
        update: FeedUpdate,
        sequence: u64,
    ) -> Result<Option<FeedUpdate>, Error> {
        if !self.hold_back.is_chosen() || !is_of_revocations(&update) {
            return Ok(Some(update));
        }
        let first = match &update {
            FeedUpdate::Apply(items) => items.first().map_or(sequence, |item| item.log_index),
            _ => self.state().feed_sequence + 1,
        };
        let (hold_back, verification) =
            (Arc::clone(&self.hold_back), Arc::clone(&self.verification));
        let judge = move || {
            let mut stroke = None;
            let log_indexes = first.min(sequence)..=sequence;
            let closed = Closed::by(&verification, || {
                let applied = hold_back.apply_in_part(&verification, &update, log_indexes);
                let (held_back, closed) = applied.unzip();
                stroke = held_back;
                closed.unwrap_or(0)
            });
            match stroke {
                Some(stroke) => Err((stroke, closed)),
                None => Ok(update),
            }
        };
        match aside(judge).await? {
            Ok(update) => Ok(Some(update)),
            Err((stroke, closed)) => {
                stroke.tell();
                self.note_closed(sequence, closed);
                Ok(None)
            }
        }
    }

    pub(super) fn note_closed(&self, log_index: u64, Closed { open, connections }: Closed) {
        if connections == 0 {
            return;
        }
        tracing::info!(log_index, connections, "closed connections that are revoked");
        if open >= ALARM_FROM && connections * 2 > open as u64 {
            tracing::error!(log_index, connections, open, "one revocation closed most connections");
        }
        let mut state = self.state();
        // A report names each once.
        if let Some(known) = state.closed.iter_mut().find(|known| known.log_index == log_index) {
            known.connections += connections;
            return;
        }
        if state.closed.len() == MAX_CLOSED {
            state.closed.pop_front();
        }
        state.closed.push_back(ClosedConnections { log_index, connections });
    }
}

/// Connections that were open before a change, and how many it closed.
pub(super) struct Closed {
    open: usize,
    connections: u64,
}

impl Closed {
    /// By a change that says how many. Whatever else closes connections meanwhile is not its doing.
    pub(super) fn by(verification: &Verification, change: impl FnOnce() -> usize) -> Self {
        let open = verification.connections().open;
        Self { open, connections: change() as u64 }
    }
}

fn is_of_revocations(update: &FeedUpdate) -> bool {
    matches!(update, FeedUpdate::Apply(_) | FeedUpdate::Replace(_))
}

/// What may be a hundred thousand items is worked on beside the handshakes, not before them.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::FeedEnded)
}

/// While the CA is away, how long to wait between two tries at most.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// A message with so many items is applied at once and item by item, so that each knows what it
/// closed.
const COUNTED_SINGLY: usize = 16;
/// As many as a report may name.
const MAX_CLOSED: usize = 100;
/// Below so many connections, most of them are few.
const ALARM_FROM: usize = 10;
