//! Which event of the log revoked what, and who is denied by whom: part of the fold.
//!
//! Of what is revoked only the places are kept, and the events are read when somebody asks, proved to
//! stand there: half a million certificates may be revoked. Denials in force are few.

use std::collections::{BTreeMap, HashMap};

use api::{Denial, RevokedBy};
use identity::feed::{FeedChange, FeedItem};
use identity::{Revocations, SerialNumber, SpiffeId};
use issuance::RevocationReason;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::event::{DENY, Event, REVOKE};

/// Who and what is revoked or denied by which event.
#[derive(Debug, Default)]
pub(crate) struct Revoking {
    /// Where each certificate was revoked by its number, first.
    serials: HashMap<SerialNumber, Place>,
    /// Where each identity was revoked or denied, in order.
    identities: HashMap<SpiffeId, Vec<Place>>,
    /// The denial in force of each: what lifts it names its place.
    denials: HashMap<SpiffeId, Denied>,
}

/// Where an event stands, when it was, and the reason that it gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) log_index: u64,
    pub(crate) at: OffsetDateTime,
    pub(crate) reason: RevocationReason,
}

impl Place {
    fn of(log_index: u64, event: &Event) -> Self {
        let given = reason(event);
        let read: Result<_, ValueError> =
            RevocationReason::deserialize(given.as_str().into_deserializer());
        let reason = read.unwrap_or(RevocationReason::Unspecified);
        Self { log_index, at: at(event), reason }
    }
}

/// A denial in force.
#[derive(Debug)]
struct Denied {
    log_index: u64,
    by: String,
    reason: String,
    at: OffsetDateTime,
    /// Of the first of several that nobody lifted.
    since: OffsetDateTime,
}

impl Revoking {
    /// Notes what an event revokes, denies or allows.
    pub(crate) fn note(&mut self, item: &FeedItem, event: &Event) {
        let log_index = item.log_index;
        let mut revoked = |id: &SpiffeId| {
            self.identities.entry(id.clone()).or_default().push(Place::of(log_index, event));
        };
        match &item.change {
            FeedChange::Allow(id) => drop(self.denials.remove(id)),
            FeedChange::Deny(id) => {
                revoked(id);
                let Event { actor, .. } = event;
                let (by, reason, at) = (actor.clone(), reason(event), at(event));
                let since = self.denials.get(id).map_or(at, |earlier| earlier.since);
                self.denials.insert(id.clone(), Denied { log_index, by, reason, at, since });
            }
            FeedChange::RevokeIdentity(id) => revoked(id),
            FeedChange::RevokeSerial { serial_number, .. } => {
                self.serials.entry(*serial_number).or_insert_with(|| Place::of(log_index, event));
            }
        }
    }

    /// Forgets where the certificates were revoked that are forgotten there.
    pub(crate) fn forget(&mut self, revocations: &Revocations) {
        self.serials.retain(|serial_number, _| revocations.is_serial_revoked(serial_number));
    }

    /// The place of the first event that revoked a certificate. What befell its identity once it had
    /// ended, by more than clocks differ, took nothing from it.
    pub(crate) fn first(
        &self,
        spiffe_id: &SpiffeId,
        serial_number: &SerialNumber,
        leaf_index: u64,
        not_after: OffsetDateTime,
    ) -> Option<u64> {
        let by_number = self.serials.get(serial_number).map(|place| place.log_index);
        let places = self.identities.get(spiffe_id).into_iter().flatten();
        let until = not_after.saturating_add(CLOCKS_DIFFER);
        let mut places = places.filter(|place| place.log_index > leaf_index && place.at <= until);
        let by_identity = places.next().map(|place| place.log_index);
        by_number.into_iter().chain(by_identity).min()
    }

    /// The place of the last event that revoked or denied an identity.
    pub(crate) fn last(&self, spiffe_id: &SpiffeId) -> Option<u64> {
        let places = self.identities.get(spiffe_id);
        places.and_then(|places| places.last()).map(|place| place.log_index)
    }

    /// Every certificate that was revoked by its number, and where first.
    pub(crate) fn serials(&self) -> impl Iterator<Item = (&SerialNumber, Place)> {
        self.serials.iter().map(|(serial_number, place)| (serial_number, *place))
    }

    /// Every identity that was revoked or denied, with all places of it, in order.
    pub(crate) fn identities(&self) -> impl Iterator<Item = (&SpiffeId, &[Place])> {
        self.identities.iter().map(|(id, places)| (id, &places[..]))
    }

    /// Whom the denial at this place denies, while it is the one in force.
    pub(crate) fn denied_at(&self, log_index: u64) -> Option<&SpiffeId> {
        self.denials.iter().find(|(_, denied)| denied.log_index == log_index).map(|(id, _)| id)
    }

    /// The place of the denial in force.
    pub(crate) fn denial_of(&self, spiffe_id: &SpiffeId) -> Option<u64> {
        self.denials.get(spiffe_id).map(|denied| denied.log_index)
    }

    /// The denial in force, as it is shown.
    pub(crate) fn denial(&self, spiffe_id: &SpiffeId) -> Option<Denial> {
        self.denials.get(spiffe_id).map(|denied| shown(spiffe_id, denied))
    }

    /// Every denial in force, by identity.
    pub(crate) fn denials(&self) -> Vec<Denial> {
        let shown = self.denials.iter().map(|(id, denied)| shown(id, denied));
        let mut denials: Vec<Denial> = shown.collect();
        denials.sort_by(|one, other| one.spiffe_id.cmp(&other.spiffe_id));
        denials
    }
}

/// What a revoking event says; none of another kind.
pub(crate) fn revoked_by(log_index: u64, event: Event) -> Option<RevokedBy> {
    if ![DENY, REVOKE].contains(&event.kind.as_str()) {
        return None;
    }
    let (at, reason) = (at(&event), reason(&event));
    let target = event.detail["serial_number"].as_str().map(str::to_owned);
    let target = target.unwrap_or(event.subject);
    Some(RevokedBy { kind: event.kind, target, by: event.actor, at, reason, log_index })
}

fn shown(spiffe_id: &SpiffeId, Denied { log_index, by, reason, at, since }: &Denied) -> Denial {
    Denial {
        id: log_index.to_string(),
        spiffe_id: spiffe_id.clone(),
        reason: reason.clone(),
        by: by.clone(),
        at: *at,
        since: (since != at).then_some(*since),
        review: Vec::new(),
        review_counts: BTreeMap::new(),
        review_more: 0,
        review_tokens_from: None,
    }
}

/// Of before there had to be one: none was given.
fn reason(event: &Event) -> String {
    event.detail["reason"].as_str().unwrap_or_default().to_owned()
}

/// The fold refuses an event without a time.
fn at(event: &Event) -> OffsetDateTime {
    OffsetDateTime::parse(&event.at, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A certificate that has ended is on lists for as long: somebody's clock may be behind.
const CLOCKS_DIFFER: Duration = Duration::DAY;
