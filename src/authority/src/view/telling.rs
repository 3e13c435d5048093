//! Tells those who listen to the feed of what was folded: messages are signed once, whoever listens.
//!
//! A delta leaves at every fold of new items, before the call that made the change returns. One
//! task at a time signs, so that messages leave in the order of their times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use identity::feed::{Content, Envelope, MAX_LINE, Message, Position, signed_text};
use tokio::sync::{Mutex, MutexGuard, broadcast};

use super::View;
use crate::error::Error;
use crate::signer::SignerError;

/// Who listens, and what they were told.
#[derive(Debug)]
pub(crate) struct Telling {
    listeners: broadcast::Sender<FeedMessage>,
    /// The sequence that listeners were told of.
    published: AtomicU64,
    turn: Mutex<Turn>,
}

/// What only one task at a time may change.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The newest message's time.
    at: u64,
    /// The position that listeners were told of.
    pub(crate) published: Position,
}

impl Turn {
    /// The next message's time: each is later than the one before, unless that came from a clock
    /// far ahead. Those were refused, and to go on from them would be refused until the clock gets
    /// there.
    pub(crate) fn next_time(&mut self, now: u64) -> u64 {
        self.at = if self.at > now + CLOCK_STEP { now } else { now.max(self.at + 1) };
        self.at
    }
}

/// A signed message, shared by all who hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedMessage {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    line: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Listeners were not told of some items, and must come again.
    Cut,
    Heartbeat,
    /// A delta, or a snapshot's head or chunk.
    News,
}

impl FeedMessage {
    pub(crate) fn new(kind: Kind, at: u64, sequence: u64, line: impl Into<Bytes>) -> Self {
        Self { at, kind, sequence, line: line.into() }
    }

    /// The line that [`identity::feed::Line::parse`] reads.
    pub fn line(&self) -> &Bytes {
        &self.line
    }
}

impl Telling {
    /// Nobody listens yet, and what is folded needs not be told.
    pub(crate) fn new(folded: Position) -> Self {
        let (listeners, _) = broadcast::channel(FEED_BACKLOG);
        let turn = Mutex::new(Turn { at: 0, published: folded });
        Self { listeners, published: AtomicU64::new(folded.sequence), turn }
    }

    /// Hears all that is told from then on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<FeedMessage> {
        self.listeners.subscribe()
    }

    pub(crate) async fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().await
    }

    pub(crate) fn tell(&self, message: FeedMessage) {
        // An error says that nobody listens.
        drop(self.listeners.send(message));
    }
}

impl View {
    /// Tells subscribers of what was folded; returns once they are told.
    ///
    /// A key that does not sign holds nothing else up: the next refresh, a moment later, tries
    /// again, and until then subscribers hear no heartbeat either.
    pub(crate) async fn publish(&self) {
        let newest = self.folded().items.newest();
        if self.telling.published.load(Ordering::Acquire) == newest.sequence {
            return;
        }
        let now = self.clock().unix_milliseconds();
        let mut turn = self.telling.turn.lock().await;
        let told = self.tell_news(&mut turn, now).await;
        // That the key is absent was told at the start, and `/readyz` goes on telling it.
        if let Err(error) = told.or_else(absent_is_known) {
            tracing::error!(%error, "the feed cannot tell of a revocation");
        }
    }

    pub(crate) async fn tell_news(&self, turn: &mut Turn, now: u64) -> Result<(), Error> {
        loop {
            let published = turn.published;
            let told = {
                let folded = self.folded();
                let newest = folded.items.newest();
                if newest == published {
                    return Ok(());
                }
                folded.items.since(published.sequence, MAX_DELTA).ok_or(newest)
            };
            let (message, position) = match told {
                Ok((content, position)) => {
                    let at = turn.next_time(now);
                    (self.sign_message(at, position, Content::Delta(content)).await?, position)
                }
                // More came at once than is remembered: whoever listens asks again, and is told all.
                Err(newest) => {
                    let at = turn.next_time(now);
                    (FeedMessage::new(Kind::Cut, at, newest.sequence, Bytes::new()), newest)
                }
            };
            turn.published = position;
            self.telling.tell(message);
            self.telling.published.store(position.sequence, Ordering::Release);
        }
    }

    /// Revokes what no event of the log does.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn pretend_revoked(&self, revoke: impl FnOnce(&mut identity::Revocations)) {
        let mut folded = self.folded.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        revoke(&mut folded.revocations);
    }

    /// Folds so many items that no event of the log is, and tells nobody yet.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn pretend_told(&self, count: u64) {
        let mut folded = self.folded.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let newest = folded.items.newest().sequence;
        let spiffe_id = identity::SpiffeId::new(self.trust_domain(), "/prod/reports");
        let change = identity::feed::FeedChange::RevokeIdentity(spiffe_id.expect("it is one"));
        for log_index in newest + 1..=newest + count {
            folded.items.push(identity::feed::FeedItem { log_index, change: change.clone() }, 0);
        }
    }

    pub(crate) async fn sign_message(
        &self,
        at: u64,
        position: Position,
        content: Content,
    ) -> Result<FeedMessage, Error> {
        let Position { sequence, hash } = position;
        let (kind, is_large) = match &content {
            Content::Delta(delta) => (Kind::News, delta.items.len() > COUNTED_AS_LARGE),
            Content::Heartbeat(_) => (Kind::Heartbeat, false),
            Content::Snapshot(head) => (Kind::News, head.chunks.len() > COUNTED_AS_LARGE),
        };
        let trust_domain = self.trust_domain().clone();
        let message = Message { v: Message::VERSION, trust_domain, at, sequence, hash, content };
        let write = move || {
            let body = message.body();
            let text = signed_text(&message.trust_domain, &body);
            (body, text)
        };
        // A megabyte of JSON, and its hash: nobody else's request waits for it.
        let written = if is_large { tokio::task::spawn_blocking(write).await } else { Ok(write()) };
        let (body, text) = written.expect("to write plain data does not panic");
        let signer = Arc::clone(&self.in_force().feed);
        let signature = signer.sign(text.as_bytes()).await?;
        let line = Envelope::new(signer.public_key(), signature, body).encode();
        Ok(FeedMessage::new(kind, at, sequence, line))
    }
}

fn absent_is_known(error: Error) -> Result<(), Error> {
    if matches!(error, Error::Signer(SignerError::Absent { .. })) { Ok(()) } else { Err(error) }
}

/// Subscribers refuse what is a minute ahead of their clock.
const CLOCK_STEP: u64 = 60_000;
/// Messages that a subscriber may be behind: a minute of heartbeats and as many revocations more.
pub const FEED_BACKLOG: usize = 256;
/// A delta's items in bytes: half of the longest line.
pub(crate) const MAX_DELTA: usize = MAX_LINE / 2;
/// A millisecond's work.
const COUNTED_AS_LARGE: usize = 1_000;
