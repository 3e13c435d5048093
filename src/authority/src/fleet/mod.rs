//! The fleet: what each workload's instance reported last, and when it was heard of.
//!
//! In memory and bounded: a report says only something about who sent it, and a restart learns all
//! of it again within a minute. An instance is an identity with a certificate.

mod instances;
pub(crate) mod reach;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{HeldBack, Page, Report, WorkloadFilter, WorkloadInstance};
use identity::{SerialNumber, SpiffeId, VerifiedSvid};

use self::instances::Key;
pub(crate) use self::instances::{Instance, Instances};
use crate::caller::Caller;
use crate::error::Error;
use crate::limits;
use crate::policy::Action;
use crate::view::View;
use crate::writer::Writer;

/// What workloads report.
#[derive(Debug)]
pub struct Fleet {
    view: Arc<View>,
    writer: Arc<Writer>,
    instances: Arc<Instances>,
}

impl Fleet {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>, instances: Arc<Instances>) -> Self {
        Self { view, writer, instances }
    }

    /// Takes the report of the calling workload.
    pub async fn report(&self, caller: &Caller, report: Report) -> Result<(), Error> {
        let svid = self.view.authenticated(caller)?;
        self.view.require_live(svid)?;
        require_possible(&report)?;
        let report = self.believe(report, svid).await?;
        // Whoever reports holds it: its predecessor's one silent replacement is over.
        self.view.see(svid);
        let replaced = self.replaced_by(svid, &report).await?;
        self.instances.report(svid, report, replaced, self.view.clock().unix_milliseconds());
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
        if !self.instances.knows(&(svid.spiffe_id().clone(), replaced)) {
            return Ok(None);
        }
        let (line, own) = (self.view.line_of(&replaced).await?, self.view.line(svid).await);
        Ok((line == own).then_some(replaced))
    }

    /// What of a report can be true: nobody is further than we are, or lives longer than its
    /// certificate. Whoever claims more is believed as far as that.
    async fn believe(&self, report: Report, svid: &VerifiedSvid) -> Result<Report, Error> {
        if report.feed_sequence > self.view.folded().items.newest().sequence {
            // Another node may have told it what this one has not read yet.
            self.view.refresh().await?;
        }
        let log_size = match report.checkpoint_size {
            Some(size) if size > self.writer.checkpoints().newest_size() => {
                self.view.store().head().await?.edge.size()
            }
            _ => u64::MAX,
        };
        let feed_sequence = report.feed_sequence.min(self.view.folded().items.newest().sequence);
        let left = svid.not_after() - self.view.clock().now().unix_timestamp();
        let left = u64::try_from(left).unwrap_or_default();
        let mut closed = report.closed;
        closed.retain(|closed| closed.log_index <= feed_sequence);
        let held_back = report.held_back.filter(|held| held.first <= feed_sequence);
        let held_back =
            held_back.map(|held| HeldBack { last: held.last.min(feed_sequence), ..held });
        Ok(Report {
            trust_sequence: report.trust_sequence.min(self.view.trust().state().sequence),
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
        self.view.authorize(caller, Action::ListInventory, None)?;
        let after = filter.after.as_deref().map(parse_cursor).transpose()?;
        let limit = filter.limit.unwrap_or(100).clamp(1, 1000) as usize;
        let now = self.view.clock().unix_milliseconds();
        let mut instances = self.instances.instances();
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

const MAX_INSTANCES: usize = limits::REPORTS.most();
const MAX_PER_IDENTITY: usize = limits::REPORTS_PER_IDENTITY.most();
const MAX_CLOSED: usize = limits::REPORT_REVOCATIONS.most();
const MAX_PEERS: usize = limits::REPORT_PEERS.most();
const MAX_PEERS_BYTES: usize = limits::REPORT_IDENTITIES.most();
const MAX_CONNECTIONS: u64 = limits::REPORT_CONNECTIONS.most() as u64;
/// In seconds: for longer nobody holds back.
const DAY: u64 = 86_400;
/// Connections that a process may have closed beyond what it had said to have open: between two reports
/// some come that none tells of.
const UNTOLD: u64 = 1024;
/// Listed, and asked about, for so long, in milliseconds.
pub(crate) const FORGOTTEN: u64 = 3_600_000;
