//! The CA's end of the revocation feed: messages are signed once, whoever listens.
//!
//! A delta leaves at every fold of new items, before the call that made the change returns. One
//! task at a time signs, so that messages leave in the order of their times. What a newcomer needs
//! first (a snapshot, or a delta from where it stands) is kept for as long as it may be told. It
//! takes its time in turn, and is made beside: no revocation waits for a snapshot. Where it does not
//! lead to the newest position, another first message follows it.

mod chunks;
mod recent;
mod subscription;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use identity::feed::{
    Content, Envelope, FeedChange, Heartbeat, MAX_LINE, Message, Position, Snapshot, signed_text,
};
use tlog::Hash;
use tokio::sync::{Mutex, broadcast};

use chunks::{Chunks, KeptChunks};
pub(crate) use recent::RecentItems;
use subscription::Places;
pub use subscription::{SUBSCRIBED_CERTIFICATES, SUBSCRIPTIONS, Subscription, TooSlow};

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
    /// What newcomers are told first. Locked before the turn.
    first: Mutex<First>,
    /// Subscriptions by line of renewals.
    places: Places,
}

/// What newcomers are told first, and of what it is made.
#[derive(Debug, Default)]
struct First {
    /// By the sequence that they have; none for a snapshot.
    told: HashMap<Option<u64>, FirstMessage>,
    snapshots: KeptChunks,
}

/// A first message, and what it does not say itself.
#[derive(Debug, Clone)]
struct FirstMessage {
    message: FeedMessage,
    /// What follows a snapshot's head.
    chunks: Option<Weak<Chunks>>,
    /// Whether it leads to where listeners go on from.
    is_whole: bool,
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

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After the item at this log index, all of which it has folded.
    After(u64),
    /// With the whole state: as it was at this log index, or later.
    Snapshot {
        /// The newest item that it has folded; 0 for none.
        at_least: u64,
    },
}

impl From<Option<u64>> for Start {
    fn from(after: Option<u64>) -> Self {
        after.map_or(Self::Snapshot { at_least: 0 }, Self::After)
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
    /// Listeners were not told of some items, and must come again.
    Cut,
    Heartbeat,
    /// A delta, or a snapshot's head or chunk.
    News,
}

impl FeedMessage {
    fn new(kind: Kind, at: u64, sequence: u64, line: impl Into<Bytes>) -> Self {
        Self { at, kind, sequence, line: line.into() }
    }

    /// The line that [`identity::feed::Line::parse`] reads.
    pub fn line(&self) -> &Bytes {
        &self.line
    }
}

impl Feed {
    /// Nobody listens yet, and what is folded needs not be told.
    pub(crate) fn new(folded: Position) -> Self {
        let (listeners, _) = broadcast::channel(FEED_BACKLOG);
        let turn = Mutex::new(Turn { at: 0, published: folded });
        let published = AtomicU64::new(folded.sequence);
        let (first, places) = (Mutex::default(), Places::default());
        Self { listeners, published, turn, first, places }
    }

    /// Newcomers are told nothing more that an earlier key signed.
    pub(crate) async fn forget_first(&self) {
        self.first.lock().await.told.clear();
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
            self.feed().tell(message);
            self.feed().published.store(position.sequence, Ordering::Release);
        }
    }

    /// Tells subscribers that they have heard of everything, and where log and trust stand.
    ///
    /// Fails, and tells nothing, where the store does not say what is new, or news cannot be told.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        // Read first: a slow store makes a heartbeat older, not fresher than what it says.
        let now = self.clock().unix_milliseconds();
        self.refresh().await?;
        if self.checkpoints().newest_note().is_none() {
            self.sign_checkpoint().await?;
        }
        let note = self.checkpoint()?;
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

    /// What a subscriber that begins here is told first: nothing where it has all.
    async fn first_message(&self, start: Start) -> Result<Option<FirstMessage>, Error> {
        let now = self.clock().unix_milliseconds();
        let (after, at_least) = match start {
            Start::After(after) => (Some(after), 0),
            Start::Snapshot { at_least } => (None, at_least),
        };
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
        // Nobody has folded more than there is.
        let at_least = at_least.min(newest);
        let First { told, snapshots } = &mut *first;
        told.retain(|from, known| {
            let is_of_now = from.is_none() || known.message.sequence == newest;
            is_of_now && now.saturating_sub(known.message.at) < FIRST_LIFE
        });
        if let Some(known) = told.get(&from).filter(|known| self.is_current(known, at_least, now)) {
            return Ok(Some(known.clone()));
        }
        let made = match from {
            Some(from) => self.first_delta(from, now).await?,
            None => self.first_snapshot(snapshots, at_least, now).await?,
        };
        if told.len() >= FIRST_KEPT {
            told.clear();
        }
        told.insert(from, made.clone());
        Ok(Some(made))
    }

    async fn first_delta(&self, from: u64, now: u64) -> Result<FirstMessage, Error> {
        let (at, (delta, position), newest) = {
            // What listeners are told later has a later time, and what they were told is in it.
            let mut turn = self.feed().turn.lock().await;
            let folded = self.folded();
            let newest = folded.items.newest();
            // Others may have come since this place was known.
            let delta = folded.items.since(from, MAX_DELTA).ok_or(Error::Restless)?;
            (turn.next_time(now), delta, newest)
        };
        let message = self.sign_message(at, position, Content::Delta(delta)).await?;
        Ok(FirstMessage { message, chunks: None, is_whole: position == newest })
    }

    async fn first_snapshot(
        &self,
        snapshots: &mut KeptChunks,
        at_least: u64,
        now: u64,
    ) -> Result<FirstMessage, Error> {
        snapshots.forget(now);
        let kept = snapshots.newest().filter(|kept| self.goes_on_from(kept, at_least, now));
        let chunks = match kept {
            Some(kept) => Arc::clone(kept),
            None => snapshots.keep(self.make_chunks(now).await?),
        };
        let at = self.feed().turn.lock().await.next_time(now);
        let content = Content::Snapshot(chunks.head.clone());
        let message = self.sign_message(at, chunks.position, content).await?;
        Ok(FirstMessage { message, chunks: Some(Arc::downgrade(&chunks)), is_whole: false })
    }

    async fn make_chunks(&self, now: u64) -> Result<Chunks, Error> {
        let (position, revocations) = {
            let folded = self.folded();
            (folded.items.newest(), folded.revocations.clone())
        };
        // Megabytes of JSON, and their hashes: nobody else's request waits for them.
        let make = move || Chunks::new(position, now, Snapshot::of(&revocations));
        let made = tokio::task::spawn_blocking(make).await;
        made.expect("to write plain data does not panic")
    }

    /// Whether what was told before is still right.
    fn is_current(&self, known: &FirstMessage, at_least: u64, now: u64) -> bool {
        let Some(chunks) = &known.chunks else { return true };
        chunks.upgrade().is_some_and(|chunks| self.goes_on_from(&chunks, at_least, now))
    }

    /// Whether newcomers can still be told this snapshot, and from there what came since. Where a
    /// denial was lifted since, it would be denied once more to those who have connections.
    ///
    /// Nobody makes us make one after the other: another is made where something came in between.
    fn goes_on_from(&self, chunks: &Chunks, at_least: u64, now: u64) -> bool {
        let is_young = now.saturating_sub(chunks.at) < SNAPSHOT_LIFE && chunks.at <= now;
        let is_young = is_young && chunks.position.sequence >= at_least;
        let folded = self.folded();
        let since = folded.items.after(chunks.position.sequence);
        is_young
            && since.is_some_and(|mut since| {
                let lifts = |change: &FeedChange| matches!(change, FeedChange::Allow(_));
                since.len() <= FAR_BEHIND && !since.any(|item| lifts(&item.change))
            })
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
        let change = FeedChange::RevokeIdentity(spiffe_id.expect("it is one"));
        for log_index in newest + 1..=newest + count {
            folded.items.push(identity::feed::FeedItem { log_index, change: change.clone() }, 0);
        }
    }

    async fn sign_message(
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
/// Subscribers take a message that is 10 s older than one that they have seen.
const FIRST_LIFE: u64 = 5_000;
/// Subscribers that come back at once stand at few places.
const FIRST_KEPT: usize = 64;
/// A snapshot is told to newcomers for so many milliseconds, with what came since.
const SNAPSHOT_LIFE: u64 = 5 * 60 * 1000;
/// Half of the items that are remembered: as many may come while it is read.
const FAR_BEHIND: usize = recent::KEPT / 2;
/// A delta's items in bytes: half of the longest line.
const MAX_DELTA: usize = MAX_LINE / 2;
/// A millisecond's work.
const COUNTED_AS_LARGE: usize = 1_000;
