//! One subscriber's place in the feed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{SerialNumber, VerifiedSvid};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{FeedMessage, Kind};
use crate::authority::{Authority, Caller};
use crate::error::Error;

/// The messages that one subscriber hears, in order.
#[derive(Debug)]
pub struct Subscription {
    authority: Arc<Authority>,
    svid: VerifiedSvid,
    /// What it is told before all others.
    first: Option<FeedMessage>,
    /// Messages up to this time are in what it was told first.
    from: u64,
    messages: broadcast::Receiver<FeedMessage>,
    _place: Place,
}

/// How many subscriptions each certificate has.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<SerialNumber, usize>>>);

/// One of them, given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    serial_number: SerialNumber,
}

impl Places {
    /// Takes a place; none where the certificate has its share.
    fn take(&self, serial_number: SerialNumber) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(serial_number).or_default();
        if *count >= SUBSCRIPTIONS {
            return None;
        }
        *count += 1;
        metrics::gauge!(SUBSCRIBERS).increment(1.0);
        Some(Place { places: self.clone(), serial_number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!(SUBSCRIBERS).decrement(1.0);
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.serial_number) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.serial_number);
            }
        }
    }
}

impl Authority {
    /// Subscribes a caller that has folded the feed up to `after`, or nothing of it.
    ///
    /// Any certificate of the trust domain may listen, for as long as it is valid.
    pub async fn subscribe(
        self: &Arc<Self>,
        caller: &Caller,
        after: Option<u64>,
    ) -> Result<Subscription, Error> {
        let svid = self.authenticated(caller)?;
        self.require_live(svid)?;
        let place = self.feed().places.take(*svid.serial_number());
        let place = place.ok_or(Error::Subscriptions(SUBSCRIPTIONS))?;
        if after.is_some_and(|after| after > self.folded().items.newest().sequence) {
            // Another node may have told of what this one has not read yet.
            self.refresh().await?;
        }
        self.see(svid).await?;
        // Listen first: what is told between both is heard twice, and not missed.
        let messages = self.feed().listeners.subscribe();
        let first = self.first_message(after).await?;
        Ok(Subscription {
            authority: Arc::clone(self),
            svid: svid.clone(),
            from: first.as_ref().map_or(0, |first| first.at),
            first,
            messages,
            _place: place,
        })
    }
}

impl Subscription {
    /// The next message; none once the subscriber is too slow, or its certificate has come to its
    /// end.
    pub async fn next(&mut self) -> Option<FeedMessage> {
        let message = match self.first.take() {
            Some(first) => first,
            None => self.heard().await?,
        };
        self.authority.require_live(&self.svid).ok()?;
        self.authority.fleet().see(&self.svid, self.authority.clock().unix_milliseconds());
        Some(message)
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

    async fn heard(&mut self) -> Option<FeedMessage> {
        loop {
            match self.messages.recv().await {
                Ok(message) if message.at <= self.from => {}
                Ok(message) => return Some(message),
                Err(RecvError::Lagged(missed)) => {
                    metrics::counter!("countersign_feed_dropped_total").increment(1);
                    tracing::info!(subscriber = %self.svid.spiffe_id(), missed, "too slow");
                    return None;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// The subscriptions to the feed that one certificate may have. One is enough; those that were cut
/// off take a moment to be noticed.
pub const SUBSCRIPTIONS: usize = 16;
const SUBSCRIBERS: &str = "countersign_feed_subscribers";
