//! One subscriber's place in the feed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{SerialNumber, VerifiedSvid};
use tokio::sync::broadcast::{self, error::RecvError};

use super::chunks::{Next, Reading};
use super::{Feed, FirstMessage, Start};
use crate::caller::Caller;
use crate::error::Error;
use crate::limits;
use crate::view::telling::{FEED_BACKLOG, FeedMessage, Kind};

/// The messages that one subscriber hears, in order.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    svid: VerifiedSvid,
    /// What it is told before all others.
    first: Option<FirstMessage>,
    /// What follows that.
    rest: Option<Rest>,
    /// Messages up to this time are in what it was told first.
    from: u64,
    messages: broadcast::Receiver<FeedMessage>,
    /// It was told already that it is too slow.
    is_slow: bool,
    _place: Place,
}

/// What was told first does not lead to what listeners hear.
#[derive(Debug)]
struct Rest {
    /// The chunks that come next.
    reading: Option<Reading>,
    /// The head or delta, and where it leads.
    at: u64,
    sequence: u64,
}

/// Which subscriptions each line of renewals has: how many by each certificate.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<SerialNumber, HashMap<SerialNumber, usize>>>>);

/// One of them, given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    line: SerialNumber,
    serial_number: SerialNumber,
}

impl Places {
    /// Takes a place; where the line has its share, fails with how many that is. The first of a
    /// certificate is beside that: whatever others of its line do, it hears of revocations.
    fn take(&self, line: SerialNumber, serial_number: SerialNumber) -> Result<Place, usize> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_line = taken.entry(line).or_default();
        let has: usize = of_line.values().sum();
        let is_another = of_line.contains_key(&serial_number);
        if is_another && has >= SUBSCRIPTIONS {
            limits::FEED_SUBSCRIPTIONS.reached();
            return Err(has);
        }
        if !is_another && of_line.len() >= SUBSCRIBED_CERTIFICATES {
            limits::FEED_CERTIFICATES.reached();
            return Err(has);
        }
        *of_line.entry(serial_number).or_default() += 1;
        metrics::gauge!(SUBSCRIBERS).increment(1.0);
        Ok(Place { places: self.clone(), line, serial_number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!(SUBSCRIBERS).decrement(1.0);
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_line) = taken.get_mut(&self.line) else { return };
        if let Some(count) = of_line.get_mut(&self.serial_number) {
            *count -= 1;
            if *count == 0 {
                of_line.remove(&self.serial_number);
            }
        }
        if of_line.is_empty() {
            taken.remove(&self.line);
        }
    }
}

impl Feed {
    /// Subscribes a caller that begins here; or, by an option, after an item, or with nothing.
    ///
    /// Any certificate of the trust domain may listen, for as long as it is valid.
    pub async fn subscribe(
        self: &Arc<Self>,
        caller: &Caller,
        start: impl Into<Start>,
    ) -> Result<Subscription, Error> {
        let start = start.into();
        let svid = self.view.authenticated(caller)?;
        self.view.require_live(svid)?;
        let line = self.view.line(svid).await;
        let place = self.places.take(line, *svid.serial_number());
        let place = place.map_err(Error::Subscriptions)?;
        let (Start::After(has) | Start::Snapshot { at_least: has }) = start;
        if has > self.view.folded().items.newest().sequence {
            // Another node may have told of what this one has not read yet.
            self.view.refresh().await?;
        }
        self.view.see(svid);
        let mut subscription = Subscription {
            feed: Arc::clone(self),
            svid: svid.clone(),
            first: None,
            rest: None,
            from: 0,
            messages: self.view.telling.listen(),
            is_slow: false,
            _place: place,
        };
        subscription.begin(start).await?;
        Ok(subscription)
    }
}

impl Subscription {
    /// The next message, or chunk of the snapshot told; none once the subscriber is too slow, or its
    /// certificate has come to its end.
    pub async fn next(&mut self) -> Option<FeedMessage> {
        let message = match self.first.take() {
            Some(first) => self.open(first),
            None => match self.next_chunk() {
                Ok(Some(chunk)) => chunk,
                Ok(None) => self.next_after_first().await?,
                Err(TooSlow) => return None,
            },
        };
        self.feed.view.require_live(&self.svid).ok()?;
        self.feed.instances.see(&self.svid, self.feed.view.clock().unix_milliseconds());
        Some(message)
    }

    /// Is told first what it lacks.
    async fn begin(&mut self, start: Start) -> Result<(), Error> {
        // Listen first: what is told between both is heard twice, and not missed.
        let messages = self.feed.view.telling.listen();
        let first = self.feed.first_message(start).await?;
        self.rest = None;
        // Where nothing came since, what it has not heard yet are heartbeats.
        if first.is_some() || self.messages.len() > FEED_BACKLOG {
            self.messages = messages;
        }
        self.from = first.as_ref().map_or(self.from, |first| first.message.at);
        self.first = first;
        Ok(())
    }

    fn open(&mut self, first: FirstMessage) -> FeedMessage {
        let FirstMessage { message, chunks, is_whole } = first;
        let FeedMessage { at, sequence, .. } = message;
        let reading = chunks.as_ref().map(Reading::new);
        self.rest = (!is_whole).then_some(Rest { reading, at, sequence });
        message
    }

    /// The next chunk of the snapshot that it was told; none where no more follow.
    fn next_chunk(&mut self) -> Result<Option<FeedMessage>, TooSlow> {
        let Some(Rest { reading: Some(reading), at, sequence }) = &mut self.rest else {
            return Ok(None);
        };
        match reading.next() {
            Next::Chunk(line) => Ok(Some(FeedMessage::new(Kind::News, *at, *sequence, line))),
            Next::End => Ok(None),
            Next::Gone => {
                self.note_slow("a newer snapshot, and no more of the one that it reads");
                Err(TooSlow)
            }
        }
    }

    /// What came since, where it was told where it stands; then what all hear.
    async fn next_after_first(&mut self) -> Option<FeedMessage> {
        while let Some(rest) = &self.rest {
            let sequence = rest.sequence;
            if let Err(error) = self.begin(Start::After(sequence)).await {
                tracing::warn!(%error, "a subscriber cannot be told what came since");
                return None;
            }
            if let Some(first) = self.first.take() {
                return Some(self.open(first));
            }
        }
        self.heard().await
    }

    /// What the subscriber is told first, or the next message that is no heartbeat. When none comes
    /// in time, the newest heartbeat, so that the subscriber knows that there is nothing.
    pub async fn next_news(&mut self, wait: Duration) -> Option<FeedMessage> {
        if self.first.is_some() {
            return self.next().await;
        }
        let mut newest = None;
        let told = tokio::time::timeout(wait, async {
            loop {
                let message = self.next().await?;
                if message.kind == Kind::News {
                    return Some(message);
                }
                newest = Some(message);
            }
        });
        match told.await {
            Ok(message) => message,
            Err(_) => newest,
        }
    }

    /// The rest of the snapshot whose head a poll was answered with; fails where it is gone.
    pub fn next_of_snapshot(&mut self) -> Option<Result<FeedMessage, TooSlow>> {
        self.next_chunk().transpose()
    }

    async fn heard(&mut self) -> Option<FeedMessage> {
        loop {
            match self.messages.recv().await {
                Ok(message) if message.at <= self.from => {}
                Ok(FeedMessage { kind: Kind::Cut, .. }) | Err(RecvError::Closed) => return None,
                Ok(message) => return Some(message),
                Err(RecvError::Lagged(missed)) => {
                    self.note_slow(&format!("{missed} messages"));
                    return None;
                }
            }
        }
    }

    fn note_slow(&mut self, missed: &str) {
        self.is_slow = true;
        metrics::counter!("countersign_feed_dropped_total").increment(1);
        tracing::info!(subscriber = %self.svid.spiffe_id(), missed, "too slow");
    }
}

/// One that reads nothing at all never comes to hear that it is too slow: its connection is cut.
impl Drop for Subscription {
    fn drop(&mut self) {
        let behind = self.messages.len();
        // A snapshot that is still read has its own end: see `next_chunk`.
        if behind > FEED_BACKLOG && self.rest.is_none() && !self.is_slow {
            self.note_slow(&format!("{behind} messages, and took none"));
        }
    }
}

/// The subscriber reads more slowly than the feed keeps what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was read too slowly, and is gone: ask again")]
pub struct TooSlow;

/// The subscriptions to the feed that one line of renewals may have, beside the first of each of its
/// certificates. One is enough; those that were cut off take a moment to be noticed.
pub const SUBSCRIPTIONS: usize = limits::FEED_SUBSCRIPTIONS.most();
/// The certificates of one line that may listen: more than an honest one ever has in use at once.
pub const SUBSCRIBED_CERTIFICATES: usize = limits::FEED_CERTIFICATES.most();
const SUBSCRIBERS: &str = "countersign_feed_subscribers";
