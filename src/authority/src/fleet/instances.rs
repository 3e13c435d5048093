//! The instances that this node has heard of: what each said, and when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::Report;
use identity::{SerialNumber, SpiffeId, VerifiedSvid};

use super::{MAX_INSTANCES, MAX_PER_IDENTITY, UNTOLD};
use crate::limits;

/// The instances that this node has heard of.
#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<BTreeMap<Key, Instance>>);

pub(super) type Key = (SpiffeId, SerialNumber);

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

impl Instances {
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
    pub(super) fn report(
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

    pub(super) fn knows(&self, key: &Key) -> bool {
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
