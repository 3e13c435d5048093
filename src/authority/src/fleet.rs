//! The fleet: what each workload's instance reported last, and when it was heard of.
//!
//! In memory and bounded: a report says only something about who sent it, and a restart learns all
//! of it again within a minute. An instance is an identity with a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::{
    HeldBack, Page, Report, RevocationReach, WaitingInstance, WorkloadFilter, WorkloadInstance,
};
use identity::{SerialNumber, SpiffeId, VerifiedSvid};

use crate::authority::{Authority, Caller};
use crate::error::Error;
use crate::event::{ALLOW, DENY, REVOKE};
use crate::policy::Action;

/// The instances that this node has heard of.
#[derive(Debug, Default)]
pub(crate) struct Fleet(Mutex<BTreeMap<Key, Instance>>);

type Key = (SpiffeId, SerialNumber);

#[derive(Debug)]
struct Instance {
    leaf_index: Option<u64>,
    not_after: i64,
    /// When it reported or heard the feed, in milliseconds since 1970.
    seen_at: u64,
    /// Its newest report, and when.
    report: Option<(Report, u64)>,
}

impl Fleet {
    /// Notes that an instance is there.
    pub(crate) fn see(&self, svid: &VerifiedSvid, now: u64) {
        self.note(svid, now, |_| {});
    }

    /// Whether the holder of this certificate reported a trust state of at least this sequence.
    pub(crate) fn has_acknowledged(
        &self,
        id: &SpiffeId,
        serial_number: &SerialNumber,
        trust_sequence: u64,
    ) -> bool {
        let instances = self.instances();
        let instance = instances.get(&(id.clone(), *serial_number));
        let report = instance.and_then(|instance| instance.report.as_ref());
        report.is_some_and(|(report, _)| report.trust_sequence >= trust_sequence)
    }

    fn report(&self, svid: &VerifiedSvid, report: Report, now: u64) {
        if let Some(replaced) = report.replaces.filter(|replaced| replaced != svid.serial_number())
        {
            self.instances().remove(&(svid.spiffe_id().clone(), replaced));
        }
        self.note(svid, now, |instance| instance.report = Some((report, now)));
    }

    fn note(&self, svid: &VerifiedSvid, now: u64, change: impl FnOnce(&mut Instance)) {
        let key = (svid.spiffe_id().clone(), *svid.serial_number());
        let mut instances = self.instances();
        if !instances.contains_key(&key) {
            make_room(&mut instances, svid.spiffe_id());
        }
        let instance = instances.entry(key).or_insert_with(|| Instance {
            leaf_index: svid.leaf_index(),
            not_after: svid.not_after(),
            seen_at: now,
            report: None,
        });
        instance.seen_at = now;
        change(instance);
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<Key, Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One identity with many certificates makes nobody forget the others.
fn make_room(instances: &mut BTreeMap<Key, Instance>, id: &SpiffeId) {
    let own = |(key, _): &(&Key, &Instance)| key.0 == *id;
    let own_count = instances.iter().filter(own).count();
    let oldest = if own_count >= MAX_PER_IDENTITY {
        instances.iter().filter(own).min_by_key(|(_, instance)| instance.seen_at)
    } else if instances.len() >= MAX_INSTANCES {
        instances.iter().min_by_key(|(_, instance)| instance.seen_at)
    } else {
        return;
    };
    if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
        instances.remove(&oldest);
    }
}

impl Authority {
    /// Takes the report of the calling workload.
    pub async fn report(&self, caller: &Caller, report: Report) -> Result<(), Error> {
        let svid = self.authenticated(caller)?;
        self.require_live(svid)?;
        require_possible(&report)?;
        let report = self.believe(report, svid).await?;
        // Whoever reports holds it: its predecessor's one silent replacement is over.
        self.see(svid).await?;
        self.fleet().report(svid, report, self.clock().unix_milliseconds());
        Ok(())
    }

    /// What of a report can be true: nobody is further than we are, or lives longer than its
    /// certificate. Whoever claims more is believed as far as that.
    async fn believe(&self, report: Report, svid: &VerifiedSvid) -> Result<Report, Error> {
        if report.feed_sequence > self.folded().items.newest().sequence {
            // Another node may have told it what this one has not read yet.
            self.refresh().await?;
        }
        let log_size = match report.checkpoint_size {
            Some(size) if size > self.checkpoints().newest_size() => {
                self.store().head().await?.edge.size()
            }
            _ => u64::MAX,
        };
        let feed_sequence = report.feed_sequence.min(self.folded().items.newest().sequence);
        let left = svid.not_after() - self.clock().now().unix_timestamp();
        let left = u64::try_from(left).unwrap_or_default();
        let mut closed = report.closed;
        closed.retain(|closed| closed.log_index <= feed_sequence);
        let held_back = report.held_back.filter(|held| held.first <= feed_sequence);
        let held_back =
            held_back.map(|held| HeldBack { last: held.last.min(feed_sequence), ..held });
        Ok(Report {
            trust_sequence: report.trust_sequence.min(self.trust().state().sequence),
            feed_sequence,
            checkpoint_size: report.checkpoint_size.map(|size| size.min(log_size)),
            closed,
            peers: of_bounded_length(report.peers),
            seconds_without_authority: report.seconds_without_authority.min(left),
            held_back,
            ..report
        })
    }

    /// A page of the instances that this node has heard of, by identity and serial number.
    pub fn workloads(
        &self,
        caller: &Caller,
        filter: &WorkloadFilter,
    ) -> Result<Page<WorkloadInstance>, Error> {
        self.authorize(caller, Action::ListInventory, None)?;
        let after = filter.after.as_deref().map(parse_cursor).transpose()?;
        let limit = filter.limit.unwrap_or(100).clamp(1, 1000) as usize;
        let now = self.clock().unix_milliseconds();
        let mut instances = self.fleet().instances();
        instances.retain(|_, instance| now.saturating_sub(instance.seen_at) < FORGOTTEN);
        let mut rest = instances
            .iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .peekable();
        let mut items: Vec<WorkloadInstance> = Vec::new();
        while items.len() < limit
            && let Some((key, instance)) = rest.next()
        {
            items.push(show(key, instance, now));
        }
        let more = rest.peek().is_some();
        let next = items.last().filter(|_| more);
        let next = next.map(|last| format!("{} {}", last.spiffe_id, last.serial_number));
        Ok(Page { items, next })
    }

    /// How far a revocation, or a denial or its end, has come.
    pub async fn revocation_reach(
        &self,
        caller: &Caller,
        log_index: u64,
    ) -> Result<RevocationReach, Error> {
        self.authorize(caller, Action::ListInventory, None)?;
        self.require_revocation(log_index).await?;
        let now = self.clock().unix_milliseconds();
        let seconds = self.clock().now().unix_timestamp();
        let folded = self.folded();
        let instances = self.fleet().instances();
        let valid = instances.iter().filter(|((id, serial_number), instance)| {
            let checked = folded.revocations.check(id, serial_number, instance.leaf_index);
            let known = now.saturating_sub(instance.seen_at) < FORGOTTEN;
            known && instance.not_after >= seconds && checked.is_ok()
        });
        let mut reach = RevocationReach {
            log_index,
            live: 0,
            reached: 0,
            silent: 0,
            unreporting: 0,
            connections_closed: 0,
            waiting: vec![],
        };
        for ((id, serial_number), instance) in valid {
            // Whoever only listens is no witness, and nobody waits for it.
            let reported_at = instance.report.as_ref().map(|(_, at)| *at);
            let recent = reported_at.is_some_and(|at| now.saturating_sub(at) < LIVE);
            let kind = match reported_at {
                Some(_) if recent => &mut reach.live,
                Some(_) => &mut reach.silent,
                None => &mut reach.unreporting,
            };
            *kind += 1;
            let report = instance.report.as_ref().map(|(report, _)| report);
            let held_back = report.and_then(|report| report.held_back);
            let held_back = held_back.filter(|held| (held.first..=held.last).contains(&log_index));
            let has_it = report.is_some_and(|report| report.feed_sequence >= log_index);
            if has_it && held_back.is_none() {
                reach.reached += u64::from(recent);
                reach.silent -= u64::from(!recent);
            } else if reach.waiting.len() < MAX_WAITING {
                let (spiffe_id, serial_number) = (id.clone(), *serial_number);
                reach.waiting.push(WaitingInstance { spiffe_id, serial_number, held_back });
            }
        }
        let reports = instances.values().filter_map(|instance| instance.report.as_ref());
        let closed = reports.flat_map(|(report, _)| &report.closed);
        reach.connections_closed = closed
            .filter(|closed| closed.log_index == log_index)
            .fold(0, |sum, closed| sum.saturating_add(closed.connections));
        Ok(reach)
    }

    /// There must be an event at this place that the feed tells of.
    async fn require_revocation(&self, log_index: u64) -> Result<(), Error> {
        let none = || Error::NotFound(format!("revocation {log_index}"));
        if log_index > self.folded().items.newest().sequence {
            return Err(none());
        }
        let is_one = crate::loading::made_by(self.store(), log_index, |event| {
            [ALLOW, DENY, REVOKE].contains(&event.kind.as_str())
        });
        if is_one.await? { Ok(()) } else { Err(none()) }
    }
}

/// Refuses what no process can have seen, whole: a sum over it would say nothing.
fn require_possible(report: &Report) -> Result<(), Error> {
    let invalid = |why: String, next_step: &str| {
        metrics::counter!("countersign_reports_refused_total").increment(1);
        Err(Error::Invalid { why, next_step: Some(next_step.to_owned()) })
    };
    if report.closed.len() > MAX_CLOSED || report.peers.len() > MAX_PEERS {
        let why = format!("a report names at most {MAX_CLOSED} revocations, {MAX_PEERS} peers");
        return invalid(why, "send the newest");
    }
    let indexes: BTreeSet<u64> = report.closed.iter().map(|closed| closed.log_index).collect();
    if indexes.len() < report.closed.len() {
        let why = "a report names a revocation once".to_owned();
        return invalid(why, "add up what it closed");
    }
    let counts = report.closed.iter().map(|closed| closed.connections);
    let spared = report.held_back.map_or(0, |held| held.peers);
    if counts.chain([report.open_connections, spared]).any(|count| count > MAX_CONNECTIONS) {
        let why = format!("no process has more than {MAX_CONNECTIONS} connections");
        return invalid(why, "count connections that are open, or that one revocation closed");
    }
    if report.held_back.is_some_and(|held| held.first > held.last || held.seconds > DAY) {
        let why = "what is held back ends where it begins or later, and within a day".to_owned();
        return invalid(why, "give `first`, `last` and `seconds` in this order and range");
    }
    Ok(())
}

/// Identities may be long: the first of them, as far as there is room.
fn of_bounded_length(mut peers: Vec<SpiffeId>) -> Vec<SpiffeId> {
    let mut room = MAX_PEERS_BYTES;
    let fits = |peer: &SpiffeId| match room.checked_sub(peer.as_str().len()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    peers.retain(fits);
    peers
}

fn show((id, serial_number): &Key, instance: &Instance, now: u64) -> WorkloadInstance {
    let seconds_since = |at: u64| now.saturating_sub(at) / 1000;
    WorkloadInstance {
        spiffe_id: id.clone(),
        serial_number: *serial_number,
        seconds_ago: seconds_since(instance.seen_at),
        report_seconds_ago: instance.report.as_ref().map(|(_, at)| seconds_since(*at)),
        report: instance.report.as_ref().map(|(report, _)| report.clone()),
    }
}

fn parse_cursor(text: &str) -> Result<Key, Error> {
    let parsed = text.split_once(' ').and_then(|(id, serial_number)| {
        Some((SpiffeId::parse(id).ok()?, serial_number.parse().ok()?))
    });
    parsed.ok_or_else(|| Error::Invalid {
        why: "`after` is not the `next` of a page".to_owned(),
        next_step: None,
    })
}

const MAX_INSTANCES: usize = 10_000;
const MAX_PER_IDENTITY: usize = 200;
const MAX_CLOSED: usize = 100;
const MAX_PEERS: usize = 200;
/// What the peers of one report may take, in bytes of identities: ten thousand reports are kept.
const MAX_PEERS_BYTES: usize = 16 * 1024;
/// A connection is a file descriptor, and this is how many Linux lets one process have
/// (`fs.nr_open`, 2^20 unless somebody raised it).
const MAX_CONNECTIONS: u64 = 1 << 20;
/// In seconds: for longer nobody holds back.
const DAY: u64 = 86_400;
const MAX_WAITING: usize = 1000;
/// Whoever has not reported for so long, in milliseconds, is silent: it has ended, is cut off, or
/// never reports. Workloads of the library report every 20 s.
const LIVE: u64 = 60_000;
/// Listed, and asked about, for so long, in milliseconds.
const FORGOTTEN: u64 = 3_600_000;
