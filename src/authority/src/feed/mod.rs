//! The CA's end of the revocation feed. What all hear is told by [`View`], at every fold.
//!
//! What a newcomer needs first (a snapshot, or a delta from where it stands) is kept for as long as it
//! may be told. It takes its time in turn, and is made beside: no revocation waits for a snapshot. Where
//! it does not lead to the newest position, another first message follows it.

mod chunks;
mod subscription;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use chunks::{Chunks, KeptChunks};
use identity::feed::{Content, FeedChange, Heartbeat, Snapshot};
use subscription::Places;
pub use subscription::{SUBSCRIBED_CERTIFICATES, SUBSCRIPTIONS, Subscription, TooSlow};
use tlog::Hash;
use tokio::sync::Mutex;

use crate::error::Error;
use crate::fleet::Instances;
use crate::fold::recent_items;
use crate::view::View;
use crate::view::telling::{FeedMessage, MAX_DELTA};
use crate::writer::Writer;

/// What newcomers are told, and who listens.
#[derive(Debug)]
pub struct Feed {
    view: Arc<View>,
    writer: Arc<Writer>,
    instances: Arc<Instances>,
    /// What newcomers are told first. Locked before the turn of who tells.
    first: Mutex<First>,
    /// Subscriptions by line of renewals.
    places: Places,
}

/// What newcomers are told first, and of what it is made.
#[derive(Debug, Default)]
struct First {
    /// The key that signed it: newcomers are told nothing more that an earlier one did.
    signed_by: Option<Hash>,
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

impl Feed {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>, instances: Arc<Instances>) -> Self {
        Self { view, writer, instances, first: Mutex::default(), places: Places::default() }
    }

    /// Tells subscribers that they have heard of everything, and where log and trust stand.
    ///
    /// Fails, and tells nothing, where the store does not say what is new, or news cannot be told.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        // Read first: a slow store makes a heartbeat older, not fresher than what it says.
        let now = self.view.clock().unix_milliseconds();
        self.view.refresh().await?;
        if self.writer.checkpoints().newest_note().is_none() {
            self.writer.sign_checkpoint().await?;
        }
        let note = self.writer.checkpoint()?;
        let in_force = self.view.in_force();
        let heartbeat = Heartbeat {
            checkpoint: String::from_utf8_lossy(&note).into_owned(),
            trust_sequence: in_force.trust.state().sequence,
            trust_hash: Hash::of(&in_force.trust_note),
        };
        let mut turn = self.view.telling.turn().await;
        self.view.tell_news(&mut turn, now).await?;
        let position = turn.published;
        let content = Content::Heartbeat(heartbeat);
        let message = self.view.sign_message(turn.next_time(now), position, content).await?;
        self.view.telling.tell(message);
        Ok(())
    }

    /// What a subscriber that begins here is told first: nothing where it has all.
    async fn first_message(&self, start: Start) -> Result<Option<FirstMessage>, Error> {
        let now = self.view.clock().unix_milliseconds();
        let (after, at_least) = match start {
            Start::After(after) => (Some(after), 0),
            Start::Snapshot { at_least } => (None, at_least),
        };
        // Newcomers who come at once are told the same, made once.
        let mut first = self.first.lock().await;
        let (newest, from) = {
            let folded = self.view.folded();
            let from = after.filter(|after| folded.items.knows(*after));
            (folded.items.newest().sequence, from)
        };
        if after == Some(newest) {
            return Ok(None);
        }
        if from.is_none() && after.is_some_and(|after| after > 0) {
            // It stands where this log never was: a snapshot might lift what is denied.
            self.view.require_whole_log()?;
        }
        // Nobody has folded more than there is.
        let at_least = at_least.min(newest);
        let First { signed_by, told, snapshots } = &mut *first;
        // A newcomer who came in between was told what the key before signed: that one is retiring, and
        // believed until a later event retires it.
        let key = Hash::of(self.view.in_force().feed.public_key());
        if signed_by.replace(key) != Some(key) {
            told.clear();
        }
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
            let mut turn = self.view.telling.turn().await;
            let folded = self.view.folded();
            let newest = folded.items.newest();
            // Others may have come since this place was known.
            let delta = folded.items.since(from, MAX_DELTA).ok_or(Error::Restless)?;
            (turn.next_time(now), delta, newest)
        };
        let message = self.view.sign_message(at, position, Content::Delta(delta)).await?;
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
        let at = self.view.telling.turn().await.next_time(now);
        let content = Content::Snapshot(chunks.head.clone());
        let message = self.view.sign_message(at, chunks.position, content).await?;
        Ok(FirstMessage { message, chunks: Some(Arc::downgrade(&chunks)), is_whole: false })
    }

    async fn make_chunks(&self, now: u64) -> Result<Chunks, Error> {
        let (position, revocations) = {
            let folded = self.view.folded();
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
        let folded = self.view.folded();
        let since = folded.items.after(chunks.position.sequence);
        is_young
            && since.is_some_and(|mut since| {
                let lifts = |change: &FeedChange| matches!(change, FeedChange::Allow(_));
                since.len() <= FAR_BEHIND && !since.any(|item| lifts(&item.change))
            })
    }
}

/// Subscribers take a message that is 10 s older than one that they have seen.
const FIRST_LIFE: u64 = 5_000;
/// Subscribers that come back at once stand at few places.
const FIRST_KEPT: usize = 64;
/// A snapshot is told to newcomers for so many milliseconds, with what came since.
const SNAPSHOT_LIFE: u64 = 5 * 60 * 1000;
/// Half of the items that are remembered: as many may come while it is read.
const FAR_BEHIND: usize = recent_items::KEPT / 2;
