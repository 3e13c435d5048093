//! How far a revocation has come: who has it, who does not say so, and what was closed for it.
//!
//! Reports are claims. None moves anything but what operators are told, so each is counted as far as it
//! can be true, and whoever makes it is named. Who goes on reporting without what was told long before
//! is named at once and not waited for: one that is stuck, or lies, holds up no operator. It has not
//! acknowledged, though, and nobody says that everybody has.

use std::cmp::Reverse;

use api::{ClosedBy, Report, RevocationReach, WaitingInstance, WaitingState};
use identity::{SerialNumber, SpiffeId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Fleet;
use crate::caller::Caller;
use crate::error::Error;
use crate::event::{ALLOW, DENY, Event, REVOKE};
use crate::fleet::{FORGOTTEN, Instance};
use crate::fold::Folded;
use crate::limits;
use crate::policy::Action;
use crate::proven::proven_entry;

impl Fleet {
    /// How far a revocation, or a denial or its end, has come.
    pub async fn revocation_reach(
        &self,
        caller: &Caller,
        log_index: u64,
    ) -> Result<RevocationReach, Error> {
        self.view.authorize(caller, Action::ListInventory, None)?;
        let event = self.revoking_event(log_index).await?;
        let closes = self.closes_any(log_index, &event).await?;
        let now = self.view.clock().unix_milliseconds();
        let seconds = self.view.clock().now().unix_timestamp();
        let folded = self.view.folded();
        let instances = self.instances.instances();
        let mut reach = Reach::of(log_index);
        for ((id, serial_number), instance) in instances.iter() {
            // Who was revoked or denied since is neither waited for nor believed.
            if folded.revocations.check(id, serial_number, instance.leaf_index).is_err() {
                continue;
            }
            let who = Who { id, serial_number, instance };
            if closes {
                reach.count_closed(&who);
            }
            let is_known = now.saturating_sub(instance.seen_at) < FORGOTTEN;
            if is_known && instance.not_after >= seconds {
                reach.count(&who, &folded, now);
            }
        }
        Ok(reach.told())
    }

    /// There must be an event at this place that the feed tells of.
    async fn revoking_event(&self, log_index: u64) -> Result<Event, Error> {
        let none = || Error::NotFound(format!("revocation {log_index}"));
        if log_index > self.view.folded().items.newest().sequence {
            return Err(none());
        }
        let entry = proven_entry(self.view.store(), log_index).await?;
        let event = entry.and_then(|entry| Event::parse(&entry).ok());
        event.filter(|event| [ALLOW, DENY, REVOKE].contains(&&*event.kind)).ok_or_else(none)
    }

    /// Whether anybody can have had a connection that this closed: somebody had a certificate.
    async fn closes_any(&self, log_index: u64, event: &Event) -> Result<bool, Error> {
        if event.kind == ALLOW {
            return Ok(false);
        }
        // One that is revoked by its number is there.
        let (None, Ok(id)) = (event.detail.get("serial_number"), SpiffeId::parse(&event.subject))
        else {
            return Ok(true);
        };
        let at = OffsetDateTime::parse(&event.at, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let leaves = self.view.leaves_of(&[id], at.unix_timestamp() - CLOCKS_DIFFER).await?;
        Ok(leaves.iter().flatten().any(|leaf| leaf.index < log_index))
    }
}

/// An instance with its name.
struct Who<'a> {
    id: &'a SpiffeId,
    serial_number: &'a SerialNumber,
    instance: &'a Instance,
}

/// What is known so far.
struct Reach {
    told: RevocationReach,
    closed_by: Vec<ClosedBy>,
    waiting: Vec<WaitingInstance>,
}

impl Reach {
    fn of(log_index: u64) -> Self {
        let told = RevocationReach {
            log_index,
            live: 0,
            reached: 0,
            stuck: 0,
            silent: 0,
            unreporting: 0,
            connections_closed: 0,
            closed_by: vec![],
            waiting: vec![],
            waiting_more: 0,
        };
        Self { told, closed_by: vec![], waiting: vec![] }
    }

    /// Whether this one has it; whoever only listens is no witness, and nobody waits for it.
    fn count(&mut self, who: &Who<'_>, folded: &Folded, now: u64) {
        let log_index = self.told.log_index;
        let reported = who.instance.report.as_ref();
        let Some((report, at)) = reported else {
            self.told.unreporting += 1;
            return self.waits(who, WaitingState::Unreporting, now);
        };
        let is_live = now.saturating_sub(*at) < LIVE;
        self.told.live += u64::from(is_live);
        let holds_back = |report: &Report| {
            report.held_back.is_some_and(|held| (held.first..=held.last).contains(&log_index))
        };
        let state = match report.feed_sequence >= log_index {
            true if !holds_back(report) => {
                self.told.reached += u64::from(is_live);
                return;
            }
            _ if !is_live => {
                self.told.silent += 1;
                WaitingState::Silent
            }
            true => WaitingState::HeldBack,
            false if is_stuck(report, *at, folded) => {
                self.told.stuck += 1;
                WaitingState::Stuck
            }
            false => WaitingState::Late,
        };
        self.waits(who, state, now);
    }

    fn waits(&mut self, who: &Who<'_>, state: WaitingState, now: u64) {
        let Who { id, serial_number, instance } = who;
        let report = instance.report.as_ref();
        let held_back = report.and_then(|(report, _)| report.held_back);
        let of_this =
            |held: &api::HeldBack| (held.first..=held.last).contains(&self.told.log_index);
        self.waiting.push(WaitingInstance {
            spiffe_id: (*id).clone(),
            serial_number: **serial_number,
            held_back: held_back.filter(of_this),
            state: Some(state),
            feed_sequence: report.map(|(report, _)| report.feed_sequence),
            report_seconds_ago: report.map(|(_, at)| now.saturating_sub(*at) / 1000),
        });
    }

    fn count_closed(&mut self, who: &Who<'_>) {
        let Who { id, serial_number, instance } = who;
        let Some((claimed, connections)) = instance.closed_for(self.told.log_index) else { return };
        self.told.connections_closed = self.told.connections_closed.saturating_add(connections);
        self.closed_by.push(ClosedBy {
            spiffe_id: (*id).clone(),
            serial_number: **serial_number,
            connections,
            claimed: (claimed > connections).then_some(claimed),
        });
    }

    fn told(mut self) -> RevocationReach {
        self.closed_by.sort_by_key(|by| Reverse((by.claimed, by.connections)));
        self.closed_by.truncate(MAX_CLOSED_BY);
        // Who could answer yet comes first.
        self.waiting.sort_by_key(|waiting| waiting.state);
        let more = self.waiting.len().saturating_sub(MAX_WAITING);
        if more > 0 {
            limits::REACH_NAMED.reached();
        }
        self.waiting.truncate(MAX_WAITING);
        RevocationReach {
            closed_by: self.closed_by,
            waiting: self.waiting,
            waiting_more: more as u64,
            ..self.told
        }
    }
}

/// Whether it reported, long after something was told, that it does not have it.
fn is_stuck(report: &Report, reported_at: u64, folded: &Folded) -> bool {
    let told = folded.items.told_after(report.feed_sequence);
    told.is_some_and(|told| reported_at.saturating_sub(told) >= STUCK_AFTER)
}

const MAX_WAITING: usize = limits::REACH_NAMED.most();
/// Who closed most.
const MAX_CLOSED_BY: usize = 10;
/// Whoever has not reported for so long, in milliseconds, is silent: it has ended, is cut off, or
/// never reports. Workloads of the library report every 20 s.
const LIVE: u64 = 60_000;
/// Workloads of the library have what was told within a second; in milliseconds.
const STUCK_AFTER: u64 = 10_000;
/// A connection outlives its peer's certificate by little; in seconds.
const CLOCKS_DIFFER: i64 = 3600;
