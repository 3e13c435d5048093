//! The CA's end of the revocation feed: messages are signed once, whoever listens.
//!
//! A delta leaves at every fold of new items, before the call that made the change returns. One
//! task at a time signs, so that messages leave in the order of their times. What a newcomer needs
//! first (a snapshot, or a delta from where it stands) is kept for as long as it may be told. It
//! takes its time and its content in turn, and is made beside: no revocation waits for a snapshot.

mod recent;
mod subscription;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use identity::feed::{
    Content, Delta, Envelope, Heartbeat, Message, Position, Snapshot, signed_text,
};
use tlog::Hash;
use tokio::sync::{Mutex, broadcast};

pub(crate) use recent::RecentItems;
use subscription::Places;
pub use subscription::{SUBSCRIPTIONS, Subscription};

use crate::authority::Authority;
use crate::error::Error;
use crate::signer::SignerError;

/// Who listens, and what they were told.
#[derive(Debug)]
pub(crate) struct Feed {
    listeners: broadcast::Sender<FeedMessage>,
    /// The sequence that listeners were told of.
    published: AtomicU64,
    turn: Mutex<Turn>,
    /// What newcomers are told first, by the sequence that they have; none for a snapshot. Locked
    /// before the turn.
    first: Mutex<HashMap<Option<u64>, FeedMessage>>,
    /// Subscriptions by certificate.
    places: Places,
}

/// What only one task at a time may change.
#[derive(Debug)]
struct Turn {
    /// The newest message's time.
    at: u64,
    /// The position that listeners were told of.
    published: Position,
}

impl Turn {
    /// The next message's time: each is later than the one before, unless that came from a clock
    /// far ahead. Those were refused, and to go on from them would be refused until the clock gets
    /// there.
    fn next_time(&mut self, now: u64) -> u64 {
        self.at = if self.at > now + CLOCK_STEP { now } else { now.max(self.at + 1) };
        self.at
    }
}

/// A signed message, shared by all who hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedMessage {
    at: u64,
    kind: Kind,
    sequence: u64,
    line: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Heartbeat,
    /// A delta or a snapshot.
    News,
}

impl FeedMessage {
    /// [`Envelope::encode`]'s line.
    pub fn line(&self) -> &Bytes {
        &self.line
    }
}

impl Feed {
    /// Nobody listens yet, and what is folded needs not be told.
    pub(crate) fn new(folded: Position) -> Self {
        let (listeners, _) = broadcast::channel(BACKLOG);
        let turn = Mutex::new(Turn { at: 0, published: folded });
        let published = AtomicU64::new(folded.sequence);
        let (first, places) = (Mutex::default(), Places::default());
        Self { listeners, published, turn, first, places }
    }

    /// Newcomers are told nothing more that an earlier key signed.
    pub(crate) async fn forget_first(&self) {
        self.first.lock().await.clear();
    }

    fn tell(&self, message: FeedMessage) {
        // An error says that nobody listens.
        drop(self.listeners.send(message));
    }
}

impl Authority {
    /// Tells subscribers of what was folded; returns once they are told.
    ///
    /// A key that does not sign holds nothing else up: the next refresh, a moment later, tries
    /// again, and until then subscribers hear no heartbeat either.
    pub(crate) async fn publish(&self) {
        let newest = self.folded().items.newest();
        if self.feed().published.load(Ordering::Acquire) == newest.sequence {
            return;
        }
        let now = self.clock().unix_milliseconds();
        let mut turn = self.feed().turn.lock().await;
        let told = self.tell_news(&mut turn, now).await;
        // That the key is absent was told at the start, and `/readyz` goes on telling it.
        if let Err(error) = told.or_else(absent_is_known) {
            tracing::error!(%error, "the feed cannot tell of a revocation");
        }
    }

    async fn tell_news(&self, turn: &mut Turn, now: u64) -> Result<(), Error> {
        let (position, content) = self.content_since(Some(turn.published.sequence), now);
        if position == turn.published {
            return Ok(());
        }
        let message = self.sign_message(turn.next_time(now), position, content).await?;
        turn.published = position;
        self.feed().tell(message);
        self.feed().published.store(position.sequence, Ordering::Release);
        Ok(())
    }

    /// Tells subscribers that they have heard of everything, and where log and trust stand.
    ///
    /// Fails, and tells nothing, where the store does not say what is new, or news cannot be told.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        // Read first: a slow store makes a heartbeat older, not fresher than what it says.
        let now = self.clock().unix_milliseconds();
        self.refresh().await?;
        if self.store().checkpoint().await?.is_none() {
            self.sign_checkpoint().await?;
        }
        let note = self.checkpoint().await?;
        let in_force = self.in_force();
        let heartbeat = Heartbeat {
            checkpoint: String::from_utf8_lossy(&note).into_owned(),
            trust_sequence: in_force.trust.state().sequence,
            trust_hash: Hash::of(&in_force.trust_note),
        };
        let mut turn = self.feed().turn.lock().await;
        self.tell_news(&mut turn, now).await?;
        let position = turn.published;
        let content = Content::Heartbeat(heartbeat);
        let message = self.sign_message(turn.next_time(now), position, content).await?;
        self.feed().tell(message);
        Ok(())
    }

    /// What a subscriber that has folded up to `after` is told first: nothing if that is all.
    async fn first_message(&self, after: Option<u64>) -> Result<Option<FeedMessage>, Error> {
        let now = self.clock().unix_milliseconds();
        // Newcomers who come at once are told the same, made once.
        let mut first = self.feed().first.lock().await;
        let (newest, from) = {
            let folded = self.folded();
            let from = after.filter(|after| folded.items.knows(*after));
            (folded.items.newest().sequence, from)
        };
        if after == Some(newest) {
            return Ok(None);
        }
        if from.is_none() && after.is_some_and(|after| after > 0) {
            // It stands where this log never was: a snapshot might lift what is denied.
            self.require_whole_log()?;
        }
        first.retain(|_, known| {
            known.sequence == newest && now.saturating_sub(known.at) < FIRST_LIFE
        });
        if let Some(known) = first.get(&from) {
            return Ok(Some(known.clone()));
        }
        let (at, (position, content)) = {
            // What listeners are told later has a later time, and what they were told is in it.
            let mut turn = self.feed().turn.lock().await;
            (turn.next_time(now), self.content_since(from, now))
        };
        let message = self.sign_message(at, position, content).await?;
        if first.len() >= FIRST_KEPT {
            first.clear();
        }
        first.insert(from, message.clone());
        Ok(Some(message))
    }

    /// The newest position, and what leads there: a delta where `after` is known, else a snapshot.
    fn content_since(&self, after: Option<u64>, now: u64) -> (Position, Content) {
        let folded = self.folded();
        let since = after.and_then(|after| folded.items.since(after));
        let content = match since {
            Some((previous, items)) => Content::Delta(Delta {
                previous_sequence: previous.sequence,
                previous_hash: previous.hash,
                items,
            }),
            None => Content::Snapshot(folded.snapshot(now)),
        };
        (folded.items.newest(), content)
    }

    async fn sign_message(
        &self,
        at: u64,
        position: Position,
        content: Content,
    ) -> Result<FeedMessage, Error> {
        let Position { sequence, hash } = position;
        let kind = match content {
            Content::Heartbeat(_) => Kind::Heartbeat,
            Content::Delta(_) | Content::Snapshot(_) => Kind::News,
        };
        let trust_domain = self.trust_domain().clone();
        let is_large = count(&content) > COUNTED_AS_LARGE;
        let message = Message { v: Message::VERSION, trust_domain, at, sequence, hash, content };
        let write = move || {
            let body = message.body();
            let text = signed_text(&message.trust_domain, &body);
            (body, text)
        };
        // Megabytes of JSON, and their hash: nobody else's request waits for them.
        let written = if is_large { tokio::task::spawn_blocking(write).await } else { Ok(write()) };
        let (body, text) = written.expect("to write plain data does not panic");
        let signer = Arc::clone(&self.in_force().feed);
        let signature = signer.sign(text.as_bytes()).await?;
        let line = Envelope::new(signer.public_key(), signature, body).encode().into();
        Ok(FeedMessage { at, kind, sequence, line })
    }
}

fn absent_is_known(error: Error) -> Result<(), Error> {
    if matches!(error, Error::Signer(SignerError::Absent { .. })) { Ok(()) } else { Err(error) }
}

/// What makes a message long.
fn count(content: &Content) -> usize {
    match content {
        Content::Delta(delta) => delta.items.len(),
        Content::Heartbeat(_) => 0,
        Content::Snapshot(Snapshot { serials, identities, denied }) => {
            serials.len() + identities.len() + denied.len()
        }
    }
}

/// Subscribers refuse what is a minute ahead of their clock.
const CLOCK_STEP: u64 = 60_000;
/// Messages that a subscriber may be behind: a minute of heartbeats and as many revocations more.
const BACKLOG: usize = 256;
/// Subscribers take a message that is 10 s older than one that they have seen.
const FIRST_LIFE: u64 = 5_000;
/// Subscribers that come back at once stand at few places.
const FIRST_KEPT: usize = 64;
/// A millisecond's work.
const COUNTED_AS_LARGE: usize = 1_000;
