//! Hearing the feed: what is revoked, and which trust state the CA names.

use std::sync::Arc;
use std::time::Duration;

use api::ClosedConnections;
use identity::feed::{Assembly, Content, FeedError, FeedState, FeedUpdate, Line};
use rustls::pki_types::UnixTime;

use super::Upkeep;
use crate::error::Error;
use crate::renewal::Backoff;
use crate::retry::chance;
use crate::verification::Verification;

impl Upkeep {
    /// Hears the feed, connecting again whenever it ends, with more patience each time.
    pub(super) async fn keep_hearing(&self) {
        let mut feed = FeedState::new(self.verification.trust().state().trust_domain.clone());
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
            tracing::warn!(%error, "the feed of revocations is not heard");
            self.state().feed_error = Some(error.to_string());
            self.publish();
            tokio::time::sleep(backoff.next(LONGEST_SILENCE, chance())).await;
        }
    }

    /// Hears one connection to its end. A gap ends it too: the next asks for what is missing.
    async fn hear(&self, feed: &mut FeedState) -> Result<(), Error> {
        let heard = feed.newest_at().is_some() || feed.position().sequence > 0;
        let after = heard.then(|| feed.position().sequence);
        let client = self.authority()?;
        let mut stream = client.feed(after).await?;
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
        }
    }

    /// Takes one line; says whether the next can follow it.
    async fn take(
        &self,
        feed: &mut FeedState,
        assembly: &mut Option<Assembly>,
        line: Line,
    ) -> Result<bool, Error> {
        let accepted = self.accept(feed, assembly.take(), line).await?;
        let Accepted { state, update, at, is_heartbeat } = accepted;
        let update = match update {
            FeedUpdate::Gap => return Ok(false),
            FeedUpdate::Assemble(begun) => {
                *assembly = Some(begun);
                return Ok(true);
            }
            update => update,
        };
        let news = update != FeedUpdate::Nothing;
        self.apply(update, state.position().sequence).await?;
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
        if news || first {
            self.news.notify_one();
            self.publish();
        }
        self.compare_clocks(at, confirms && is_heartbeat);
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
        let (mut state, trust) = (feed.clone(), self.verification.trust());
        let now = self.verification.now().as_secs().saturating_mul(1000);
        let accept = move || {
            let (at, is_heartbeat, update) = match (line, assembly) {
                (Line::Message(_), Some(assembly)) => {
                    return Err(FeedError::Incomplete { missing: assembly.missing() });
                }
                (Line::Chunk(_), None) => return Err(FeedError::ChunkWithoutHead),
                (Line::Chunk(chunk), Some(mut assembly)) => {
                    assembly.take(&chunk)?;
                    let at = assembly.at();
                    let update = match assembly.missing() {
                        0 => state.complete(assembly, now)?,
                        _ => FeedUpdate::Assemble(assembly),
                    };
                    (at, false, update)
                }
                (Line::Message(envelope), None) => {
                    let message = envelope.verify(trust.state())?;
                    let at = message.message().at;
                    let is_heartbeat = matches!(message.message().content, Content::Heartbeat(_));
                    (at, is_heartbeat, state.accept(message, now)?)
                }
            };
            Ok::<_, FeedError>(Accepted { state, update, at, is_heartbeat })
        };
        Ok(aside(accept).await??)
    }

    /// Applies what a message says, and counts the connections that it closed.
    pub(super) async fn apply(&self, update: FeedUpdate, sequence: u64) -> Result<(), Error> {
        match update {
            FeedUpdate::Assemble(_) | FeedUpdate::Gap | FeedUpdate::Nothing => {}
            FeedUpdate::Apply(items) if items.len() <= COUNTED_SINGLY => {
                for item in items {
                    let closed = Closed::by(&self.verification, || {
                        self.verification.update_revocations(|held| item.apply(held));
                    });
                    self.note_closed(item.log_index, closed);
                }
            }
            update => {
                let verification = Arc::clone(&self.verification);
                let change = move || {
                    Closed::by(&verification, || {
                        verification.update_revocations_aside(|held| update.clone().apply(held));
                    })
                };
                self.note_closed(sequence, aside(change).await?);
            }
        }
        Ok(())
    }

    fn note_closed(&self, log_index: u64, Closed { open, connections }: Closed) {
        if connections == 0 {
            return;
        }
        tracing::info!(log_index, connections, "closed connections that are revoked");
        if open >= ALARM_FROM && connections * 2 > open as u64 {
            tracing::error!(log_index, connections, open, "one revocation closed most connections");
        }
        let mut state = self.state();
        if state.closed.len() == MAX_CLOSED {
            state.closed.pop_front();
        }
        state.closed.push_back(ClosedConnections { log_index, connections });
    }
}

/// A line that was verified: where it leads, and what is to be done.
struct Accepted {
    state: FeedState,
    update: FeedUpdate,
    /// When its message was signed, in milliseconds since 1970.
    at: u64,
    is_heartbeat: bool,
}

/// Connections that were open before a change, and how many it closed.
struct Closed {
    open: usize,
    connections: u64,
}

impl Closed {
    fn by(verification: &Verification, change: impl FnOnce()) -> Self {
        let before = verification.connections();
        change();
        let connections = verification.connections().closed_in_all() - before.closed_in_all();
        Self { open: before.open, connections }
    }
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
