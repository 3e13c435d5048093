//! Revocations that would take most of a workload's peers at one stroke: by mistake, or by a thief.
//!
//! Where its owner chose so, those are held back: the peers concerned go on, and get in, until the
//! owner has looked. For these, and for so long, no revocation bites; everything else that the same
//! message says is applied at once.
//!
//! - A peer is an identity, and is lost when nothing that it has shown on the connections open now is
//!   left: whoever keeps one replica keeps its service. Fewer than [`FEW`] lost are never most.
//! - Who was lost in the last [`WINDOW`] counts with it: a list that is revoked one by one is one
//!   stroke as well. What is applied by then stays applied.
//! - A revoked issuer is held back like the rest: nothing takes more peers at once.
//! - Our own identity is never spared, nor is the CA's, whose connections are not counted either.
//! - What is told of these peers later, and by itself, counts for them.
//! - Nothing is put off twice: what is held back later ends with what was first.
//! - A restart applies everything: it has no peers yet.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use identity::feed::FeedUpdate;
use identity::{Revocations, SpiffeId};
use metrics::gauge;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use crate::clock::date;
use crate::error::ConfigurationFault;
use crate::verification::Verification;
use crate::verification::staleness::Moment;

/// Revocations that a workload has heard and does not apply to some of its peers yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldBack {
    /// How many peers, by their identities, go on nevertheless.
    pub peers: usize,
    /// Where the messages that told of them begin in the log, and end.
    pub log_indexes: RangeInclusive<u64>,
    /// Since when.
    pub since: OffsetDateTime,
    /// When they are applied at the latest.
    pub until: OffsetDateTime,
}

/// What the owner of a workload chose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    above: f64,
    limit: Duration,
}

impl Choice {
    /// Above which share of the peers, and for how long.
    pub(crate) fn new(above: f64, limit: Duration) -> Result<Self, ConfigurationFault> {
        let malformed = |variable, given: String, why: &str| {
            Err(ConfigurationFault::Malformed { variable, given, why: why.to_owned() })
        };
        if !(0.0..1.0).contains(&above) {
            let why = "a share of the peers is from 0 to below 1, such as 0.5";
            return malformed(HOLD_BACK_ABOVE, above.to_string(), why);
        }
        if limit.is_zero() || limit > LONGEST {
            let why = "revocations are held back for up to 24h";
            return malformed(HOLD_BACK_FOR, format!("{} s", limit.as_secs()), why);
        }
        Ok(Self { above, limit })
    }
}

/// Holds back, where that was chosen.
#[derive(Default)]
pub(crate) struct HoldBack {
    chosen: OnceLock<(Choice, SpiffeId)>,
    /// Locked before what a [`Verification`] holds.
    standing: Mutex<Standing>,
    /// To be read while a large message is judged.
    told: ArcSwapOption<HeldBack>,
}

#[derive(Default)]
struct Standing {
    /// Whom each message of late took, or would have taken.
    lost: VecDeque<(Moment, BTreeSet<SpiffeId>)>,
    held: Option<(Moment, HeldBack)>,
}

impl HoldBack {
    /// To be said once, before the first message, by this identity.
    pub(crate) fn choose(&self, choice: Choice, own: SpiffeId) {
        if self.chosen.set((choice, own)).is_err() {
            tracing::error!("what is held back of revocations is chosen once");
        }
    }

    pub(crate) fn is_chosen(&self) -> bool {
        self.chosen.get().is_some()
    }

    /// Says by the metric how many peers go on, where that may be.
    pub(crate) fn measure(&self) {
        if self.is_chosen() {
            gauge!(HELD_BACK).set(self.told().map_or(0, |held| held.peers) as f64);
        }
    }

    /// What is held back now.
    pub(crate) fn told(&self) -> Option<HeldBack> {
        self.told.load_full().map(|held| (*held).clone())
    }

    /// Applies an update that takes too many peers, but not to those, and says which, and how many
    /// connections that closed. Every other is left to be applied as ever.
    pub(crate) fn apply_in_part(
        &self,
        verification: &Verification,
        update: &FeedUpdate,
        log_indexes: RangeInclusive<u64>,
    ) -> Option<(Stroke, usize)> {
        let (choice, own) = self.chosen.get()?;
        let registry = verification.registry();
        if registry.peers(1).is_empty() {
            return None;
        }
        let now = verification.now();
        let mut standing = self.standing();
        standing.lost.retain(|(at, _)| at.age(now) < WINDOW);
        let before: BTreeSet<SpiffeId> =
            standing.lost.iter().flat_map(|(_, lost)| lost).cloned().collect();
        let spared = verification.with_revocations(|held| held.spared().clone());
        let told = Revocations::told_by(update.clone(), &spared);
        let mut peers = registry.refused_whole(|peer| told.check_svid(peer.svid()).is_err());
        peers.remove(own);
        let of_lost = |(id, is_lost): (&SpiffeId, &bool)| is_lost.then(|| id.clone());
        let lost: BTreeSet<SpiffeId> = peers.iter().filter_map(of_lost).collect();
        if lost.is_empty() {
            return None;
        }
        let all_lost = lost.union(&before).count();
        let all = peers.keys().filter(|id| !before.contains(*id)).count() + before.len();
        let is_most = all_lost >= FEW && all_lost as f64 > choice.above * all as f64;
        standing.lost.push_back((Moment::new(now), lost.clone()));
        if !is_most {
            return None;
        }
        let closed = verification.update_revocations_aside(|held| {
            held.apply_but_for(&lost, &told, update.clone());
        });
        let peers = verification.with_revocations(|held| held.spared().len());
        let held = self.hold(&mut standing, choice.limit, now, peers, log_indexes);
        Some((Stroke { lost, revoked: all_lost, of: all, held }, closed))
    }

    fn hold(
        &self,
        standing: &mut Standing,
        limit: Duration,
        now: UnixTime,
        peers: usize,
        log_indexes: RangeInclusive<u64>,
    ) -> HeldBack {
        let since = date(now);
        let (_, held) = standing.held.get_or_insert_with(|| {
            let until = since + limit;
            (Moment::new(now), HeldBack { peers, log_indexes: log_indexes.clone(), since, until })
        });
        let first = *held.log_indexes.start().min(log_indexes.start());
        let last = *held.log_indexes.end().max(log_indexes.end());
        (held.peers, held.log_indexes) = (peers, first..=last);
        self.told.store(Some(Arc::new(held.clone())));
        self.measure();
        held.clone()
    }

    /// Applies what is held back, and closes what it concerns before it returns; says what it was, and
    /// how many connections that closed.
    pub(crate) fn release(&self, verification: &Verification) -> Option<(HeldBack, usize)> {
        self.release_held(&mut self.standing(), verification)
    }

    /// The same where it was held back for long enough.
    pub(crate) fn release_due(&self, verification: &Verification) -> Option<(HeldBack, usize)> {
        let (choice, _) = self.chosen.get()?;
        let mut standing = self.standing();
        let (since, _) = standing.held.as_ref()?;
        if since.age(verification.now()) < choice.limit {
            return None;
        }
        self.release_held(&mut standing, verification)
    }

    fn release_held(
        &self,
        standing: &mut Standing,
        verification: &Verification,
    ) -> Option<(HeldBack, usize)> {
        let (_, held) = standing.held.take()?;
        // Whoever has looked means it: what follows is counted anew.
        standing.lost.clear();
        let ((), closed) = verification.update_and_count(Revocations::spare_nobody);
        self.told.store(None);
        self.measure();
        Some((held, closed))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that would have taken too many peers.
pub(crate) struct Stroke {
    lost: BTreeSet<SpiffeId>,
    revoked: usize,
    of: usize,
    held: HeldBack,
}

impl Stroke {
    /// Says so, and what to do about it.
    pub(crate) fn tell(&self) {
        let Self { lost, revoked, of, held: HeldBack { log_indexes, until, .. } } = self;
        let named: Vec<&str> = lost.iter().take(NAMED).map(SpiffeId::as_str).collect();
        let more = lost.len() - named.len();
        tracing::error!(
            revoked, of, ?log_indexes, %until, peers = named.join(" "), more,
            "most peers are revoked at one stroke: held back, these peers go on and get in. If it \
             is right, Workload::release_revocations applies it now, and so does a restart; it is \
             applied by itself at the time named"
        );
    }
}

/// Fewer peers than these are no stroke: two of two callers are revoked by whoever means to.
const FEW: usize = 3;
/// Messages within so long count as one.
const WINDOW: Duration = Duration::from_secs(10);
/// Held back for longer, it would have to be kept over restarts.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How many identities a line of the log names.
const NAMED: usize = 10;
pub(crate) const HOLD_BACK_ABOVE: &str = "COUNTERSIGN_HOLD_BACK_ABOVE";
pub(crate) const HOLD_BACK_FOR: &str = "COUNTERSIGN_HOLD_BACK_FOR";
const HELD_BACK: &str = "countersign_revocations_held_back";
