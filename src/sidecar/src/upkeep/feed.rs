//! Hearing the feed: what is revoked, and which trust state the CA names.

use std::time::Duration;

use api::ClosedConnections;
use identity::feed::{Envelope, FeedError, FeedState, FeedUpdate, VerifiedMessage};
use rustls::pki_types::UnixTime;

use super::Upkeep;
use crate::error::Error;
use crate::renewal::Backoff;
use crate::retry::chance;

impl Upkeep {
    /// Hears the feed, connecting again whenever it ends, with more patience each time.
    pub(super) async fn keep_hearing(&self) {
        let mut feed = FeedState::new(self.verification.trust().state().trust_domain.clone());
        let mut backoff = Backoff::default();
        loop {
            let heard_before = feed.newest_at();
            let ended = tokio::select! {
                ended = self.hear(&mut feed) => ended,
                // The CA sees the new SVID only on a new connection.
                () = self.renewed.notified() => Ok(()),
            };
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
            tracing::warn!(%error, "the feed of revocations is not heard");
            self.state().feed_error = Some(error.to_string());
            self.publish();
            tokio::time::sleep(backoff.next(LONGEST_SILENCE, chance())).await;
        }
    }

    /// Hears one connection to its end. A gap ends it too: the next asks for what is missing.
    async fn hear(&self, feed: &mut FeedState) -> Result<(), Error> {
        let client = self.authority()?;
        let after = feed.newest_at().map(|_| feed.position().sequence);
        let mut stream = client.feed(after).await?;
        while let Some(envelope) = stream.next().await? {
            if !self.take(feed, envelope).await? {
                return Ok(());
            }
        }
        if stream.has_expired() { Ok(()) } else { Err(Error::FeedEnded) }
    }

    /// Takes one message; says whether the next can follow it.
    async fn take(&self, feed: &mut FeedState, envelope: Envelope) -> Result<bool, Error> {
        let message = self.verify(envelope).await?;
        let (at, newest_before) = (message.message().at, feed.newest_at());
        let now = self.verification.now().as_secs() * 1000;
        let update = feed.accept(message, now)?;
        if update == FeedUpdate::Gap {
            return Ok(false);
        }
        let news = update != FeedUpdate::Nothing;
        self.apply(update, feed.position().sequence);
        // One that was sent again confirms nothing anew.
        if feed.newest_at() > newest_before {
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
        if news || first {
            self.news.notify_one();
            self.publish();
        }
        if let Some(named) = feed.trust() {
            self.compare_trust(named);
        }
        Ok(true)
    }

    /// A snapshot of a hundred thousand items is verified beside the handshakes, not before them.
    async fn verify(&self, envelope: Envelope) -> Result<VerifiedMessage, Error> {
        let trust = self.verification.trust();
        let verify = move || envelope.verify(trust.state());
        let verified = tokio::task::spawn_blocking(verify).await;
        Ok(verified.map_err(|_| Error::FeedEnded)??)
    }

    /// Applies what a message says, and counts the connections that it closed.
    fn apply(&self, update: FeedUpdate, sequence: u64) {
        match update {
            FeedUpdate::Gap | FeedUpdate::Nothing => {}
            FeedUpdate::Apply(items) if items.len() <= COUNTED_SINGLY => {
                for item in items {
                    self.count_closed(item.log_index, || {
                        self.verification.update_revocations(|held| item.apply(held));
                    });
                }
            }
            FeedUpdate::Apply(items) => self.count_closed(sequence, || {
                self.verification.update_revocations(|held| {
                    items.iter().for_each(|item| item.apply(held));
                });
            }),
            FeedUpdate::Replace(snapshot) => self.count_closed(sequence, || {
                self.verification.update_revocations_aside(|held| snapshot.clone().apply(held));
            }),
        }
    }

    fn count_closed(&self, log_index: u64, change: impl FnOnce()) {
        let before = self.verification.connections();
        change();
        let after = self.verification.connections();
        let connections = after.closed_in_all() - before.closed_in_all();
        if connections == 0 {
            return;
        }
        tracing::info!(log_index, connections, "closed connections that are revoked");
        if before.open >= ALARM_FROM && connections * 2 > before.open as u64 {
            let open = before.open;
            tracing::error!(log_index, connections, open, "one revocation closed most connections");
        }
        let mut state = self.state();
        if state.closed.len() == MAX_CLOSED {
            state.closed.pop_front();
        }
        state.closed.push_back(ClosedConnections { log_index, connections });
    }
}

/// While the CA is away, how long to wait between two tries at most.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// A message with so many items is applied item by item, so that each knows what it closed.
const COUNTED_SINGLY: usize = 16;
/// As many as a report may name.
const MAX_CLOSED: usize = 100;
/// Below so many connections, most of them are few.
const ALARM_FROM: usize = 10;
