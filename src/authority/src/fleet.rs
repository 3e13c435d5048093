//! The fleet: what each workload's instance reported last, and when it was heard of.
//!
//! In memory and bounded: a report says only something about who sent it, and a restart learns all
//! of it again within a minute. An instance is an identity with a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::{HeldBack, Page, Report, WorkloadFilter, WorkloadInstance};
use identity::{SerialNumber, SpiffeId, VerifiedSvid};

use crate::authority::{Authority, Caller};
use crate::error::Error;
use crate::limits;
use crate::policy::Action;

/// The instances that this node has heard of.
#[derive(Debug, Default)]
pub(crate) struct Fleet(Mutex<BTreeMap<Key, Instance>>);

type Key = (SpiffeId, SerialNumber);

/// Somebody with a certificate.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) leaf_index: Option<u64>,
    pub(crate) not_after: i64,
    /// When it reported or heard the feed, in milliseconds since 1970.
    pub(crate) seen_at: u64,
    /// Its newest report, and when.
    pub(crate) report: Option<(Report, u64)>,
    told: Told,
}

/// What an instance said before, by which its later claims are measured.
#[derive(Debug, Default)]
struct Told {
    /// The most connections that it ever said to have open.
    most_open: u64,
    /// By the place of a revocation, how many it may have closed for it: from its first word on that.
    bounds: BTreeMap<u64, u64>,
}

impl Instance {
    /// How many connections it claims to have closed for a revocation, and how many of them count.
    pub(crate) fn closed_for(&self, log_index: u64) -> Option<(u64, u64)> {
        let (report, _) = self.report.as_ref()?;
        let claimed = report.closed.iter().find(|closed| closed.log_index == log_index)?;
        let bound = self.told.bounds.get(&log_index).copied().unwrap_or(UNTOLD);
        Some((claimed.connections, claimed.connections.min(bound)))
    }
}

impl Told {
    /// Whoever says to have closed more than they ever had open is believed as far as that, and as many
    /// as may have come since their last report.
    fn hear(&mut self, report: &Report) {
        let most = self.most_open.max(UNTOLD);
        let bounds = report.closed.iter().map(|closed| {
            let bound = self.bounds.get(&closed.log_index).copied();
            if bound.is_none() && closed.connections > most {
                metrics::counter!("countersign_reports_doubted_total").increment(1);
            }
            (closed.log_index, bound.unwrap_or(most))
        });
        self.bounds = bounds.collect();
        self.most_open = self.most_open.max(report.open_connections);
    }

    fn inherit(&mut self, Self { most_open, bounds }: Self) {
        self.most_open = self.most_open.max(most_open);
        for (log_index, bound) in bounds {
            self.bounds.entry(log_index).or_insert(bound);
        }
    }
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

    /// What it said with its certificate of before is its own word still.
    fn report(
        &self,
        svid: &VerifiedSvid,
        report: Report,
        replaced: Option<SerialNumber>,
        now: u64,
    ) {
        let key = replaced.map(|replaced| (svid.spiffe_id().clone(), replaced));
        let replaced = key.and_then(|key| self.instances().remove(&key));
        self.note(svid, now, |instance| {
            if let Some(replaced) = replaced {
                instance.told.inherit(replaced.told);
            }
            instance.told.hear(&report);
            instance.report = Some((report, now));
        });
    }

    fn knows(&self, key: &Key) -> bool {
        self.instances().contains_key(key)
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
            told: Told::default(),
        });
        instance.seen_at = now;
        change(instance);
    }

    pub(crate) fn instances(&self) -> MutexGuard<'_, BTreeMap<Key, Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One identity with many certificates makes nobody forget the others.
fn make_room(instances: &mut BTreeMap<Key, Instance>, id: &SpiffeId) {
    let own = |(key, _): &(&Key, &Instance)| key.0 == *id;
    let own_count = instances.iter().filter(own).count();
    let oldest = if own_count >= MAX_PER_IDENTITY {
        limits::REPORTS_PER_IDENTITY.reached();
        instances.iter().filter(own).min_by_key(|(_, instance)| instance.seen_at)
    } else if instances.len() >= MAX_INSTANCES {
        limits::REPORTS.reached();
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
        self.see(svid);
        let replaced = self.replaced_by(svid, &report).await?;
        self.fleet().report(svid, report, replaced, self.clock().unix_milliseconds());
        Ok(())
    }

    /// The certificate whose report this one takes the place of: one of its own line of renewals. Nobody
    /// silences another who has the same identity.
    async fn replaced_by(
        &self,
        svid: &VerifiedSvid,
        report: &Report,
    ) -> Result<Option<SerialNumber>, Error> {
        let Some(replaced) = report.replaces.filter(|it| it != svid.serial_number()) else {
            return Ok(None);
        };
        if !self.fleet().knows(&(svid.spiffe_id().clone(), replaced)) {
            return Ok(None);
        }
        let (line, own) = (self.line_of(&replaced).await?, self.line(svid).await);
        Ok((line == own).then_some(replaced))
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
}

/// Refuses what no process can have seen, whole: a sum over it would say nothing.
fn require_possible(report: &Report) -> Result<(), Error> {
    let invalid = |why: String, next_step: &str| {
        metrics::counter!("countersign_reports_refused_total").increment(1);
        Err(Error::Invalid { why, next_step: Some(next_step.to_owned()) })
    };
    if report.closed.len() > MAX_CLOSED || report.peers.len() > MAX_PEERS {
        match report.closed.len() > MAX_CLOSED {
            true => limits::REPORT_REVOCATIONS.reached(),
            false => limits::REPORT_PEERS.reached(),
        }
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
        limits::REPORT_CONNECTIONS.reached();
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
    let named = peers.len();
    peers.retain(fits);
    if peers.len() < named {
        limits::REPORT_IDENTITIES.reached();
    }
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

pub(crate) const MAX_INSTANCES: usize = 10_000;
pub(crate) const MAX_PER_IDENTITY: usize = 200;
pub(crate) const MAX_CLOSED: usize = 100;
pub(crate) const MAX_PEERS: usize = 200;
/// What the peers of one report may take, in bytes of identities: ten thousand reports are kept.
pub(crate) const MAX_PEERS_BYTES: usize = 16 * 1024;
/// A connection is a file descriptor, and this is how many Linux lets one process have
/// (`fs.nr_open`, 2^20 unless somebody raised it).
pub(crate) const MAX_CONNECTIONS: u64 = 1 << 20;
/// In seconds: for longer nobody holds back.
const DAY: u64 = 86_400;
/// Connections that a process may have closed beyond what it had said to have open: between two reports
/// some come that none tells of.
const UNTOLD: u64 = 1024;
/// Listed, and asked about, for so long, in milliseconds.
pub(crate) const FORGOTTEN: u64 = 3_600_000;
