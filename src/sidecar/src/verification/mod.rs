//! What all verifiers of a process share, and the cache before them.

pub(crate) mod admission;
mod chain_cache;
pub(crate) mod epoch;
pub(crate) mod staleness;

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::time::Duration;

use arc_swap::ArcSwapOption;
use identity::{Refusal, Revocations, Trust, Usage, VerifiedSvid};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use crate::clock;
use crate::connections::{ConnectionCounts, Connections, Open};
use crate::peers::peer::Peer;
use crate::verification::chain_cache::{ChainCache, cache_key};
use crate::verification::epoch::Epoch;
use crate::verification::staleness::{BeforeNews, Freshness, Staleness};

/// The trust and the revocations that every verifier of a process obeys, both replaceable.
///
/// A change counts for every handshake that verifies after it, and for every connection of
/// [`Stream`](crate::Stream) that is open: those that it no longer covers are closed before the
/// call that makes it returns.
pub struct Verification {
    held: RwLock<Held>,
    cache: Mutex<ChainCache>,
    freshness: Mutex<Freshness>,
    checkpoint: ArcSwapOption<String>,
    connections: Arc<Connections>,
    clock: Arc<dyn TimeProvider>,
}

struct Held {
    trust: Arc<Trust>,
    revocations: Revocations,
    epoch: Epoch,
}

impl Verification {
    /// Trusts a trust state; nothing is revoked yet.
    pub fn new(trust: Trust) -> Arc<Self> {
        Self::with_clock(trust, Arc::new(DefaultTimeProvider))
    }

    /// As [`new`](Self::new), by this clock: for validity, expiry of open connections, and the age
    /// of the revocations.
    pub fn with_clock(trust: Trust, clock: Arc<dyn TimeProvider>) -> Arc<Self> {
        let (revocations, epoch) = (Revocations::default(), Epoch::default());
        let held = Held { trust: Arc::new(trust), revocations, epoch };
        let now = clock::now(&*clock);
        Arc::new(Self {
            held: RwLock::new(held),
            cache: Mutex::default(),
            freshness: Mutex::new(Freshness::new(now)),
            checkpoint: ArcSwapOption::empty(),
            connections: Connections::new(Arc::clone(&clock)),
            clock,
        })
    }

    /// The trust held now.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.held().trust)
    }

    /// The epoch held now.
    pub fn epoch(&self) -> Epoch {
        self.held().epoch
    }

    /// Trusts another state from now on, and closes the open connections whose chains it does not
    /// cover; says how many.
    ///
    /// Each chain is verified again: some 0.2 ms for each peer's certificate, on this thread.
    pub fn replace_trust(&self, trust: Trust) -> usize {
        let mut held = self.held_exclusively();
        held.epoch.trust += 1;
        held.trust = Arc::new(trust);
        drop(held);
        let refused = self.connections.refused_slowly(|open| self.verify_again(open));
        self.connections.close_all(refused)
    }

    /// Changes the revocations in place: they may have a million entries. Open connections that are
    /// revoked now are closed before this returns; [`connections`](Self::connections) counts them.
    ///
    /// No handshake verifies meanwhile, so prepare outside what can be prepared; `update` must not
    /// call back.
    pub fn update_revocations<R>(&self, update: impl FnOnce(&mut Revocations) -> R) -> R {
        self.update_and_count(update).0
    }

    /// The same; says, too, how many connections that closed.
    pub(crate) fn update_and_count<R>(
        &self,
        update: impl FnOnce(&mut Revocations) -> R,
    ) -> (R, usize) {
        self.sweep_after(|held| update(&mut held.revocations))
    }

    /// The same for a change that takes its time, such as a snapshot of a million entries: it is made
    /// on a copy while handshakes go on, and the two are exchanged. Made once more, in place, where
    /// another change came between: that one is in no copy. Says how many connections that closed.
    pub fn update_revocations_aside(&self, update: impl Fn(&mut Revocations)) -> usize {
        let (epoch, mut changed) = {
            let held = self.held();
            (held.epoch.revocations, held.revocations.clone())
        };
        update(&mut changed);
        let exchange = |held: &mut Held| match held.epoch.revocations == epoch + 1 {
            true => std::mem::swap(&mut held.revocations, &mut changed),
            false => update(&mut held.revocations),
        };
        self.sweep_after(exchange).1
    }

    /// Changes what is held in a new epoch, and closes what is revoked then; says how many.
    fn sweep_after<R>(&self, change: impl FnOnce(&mut Held) -> R) -> (R, usize) {
        let closed = Cell::new(0);
        let changed = {
            // Dropped last, so that connections are judged even should the change panic half way.
            let _sweep = Sweep { verification: self, closed: &closed };
            let mut held = self.held_exclusively();
            // Before the change: should that panic half way, nothing verified before it is believed.
            held.epoch.revocations += 1;
            change(&mut held)
        };
        (changed, closed.get())
    }

    /// Forgets the revoked certificates that ended a day before the revocations were last confirmed,
    /// and says how many. That is the CA's time as far as ours has come: one of the two clocks that
    /// goes ahead makes nobody forget what still counts.
    pub(crate) fn forget_expired(&self) -> usize {
        let Some(age) = self.revocations_age() else { return 0 };
        let confirmed = self.now().as_secs().saturating_sub(age.as_secs());
        if !self.with_revocations(|held| held.has_expired(confirmed)) {
            return 0;
        }
        let count = || self.with_revocations(|held| held.serials().count());
        let before = count();
        self.update_revocations_aside(|held| {
            held.forget_expired(confirmed);
        });
        before.saturating_sub(count())
    }

    /// Reads the revocations; `read` must not call back.
    pub fn with_revocations<R>(&self, read: impl FnOnce(&Revocations) -> R) -> R {
        read(&self.held().revocations)
    }

    /// Says what to do without news of revocations. Until it is said, handshakes go on.
    pub fn set_staleness(&self, staleness: Staleness) {
        self.freshness().staleness = staleness;
    }

    /// Says what to do before anything is known of revocations: refuse, but for so long from the
    /// beginning.
    pub(crate) fn refuse_before_news(&self, after: Duration) {
        self.freshness().before_news = BeforeNews::RefuseAfter(after);
    }

    /// Notes that the revocations held are those of `at`, the time of a heartbeat, say; none later
    /// than now is believed, and an earlier one than before changes nothing.
    pub fn confirm_revocations(&self, at: UnixTime) {
        let now = self.now();
        self.freshness().confirm(at, now);
    }

    /// How long ago the revocations were last confirmed; none if they never were.
    pub fn revocations_age(&self) -> Option<Duration> {
        let now = self.now();
        self.freshness().age(now)
    }

    /// Whether handshakes go on: they do unless it is [`WhenStale::Refuse`](crate::WhenStale) and
    /// the revocations are too old.
    pub fn is_fresh(&self) -> bool {
        let now = self.now();
        self.freshness().check(now).is_ok()
    }

    /// How long nothing was heard of revocations.
    pub(crate) fn silence(&self) -> Duration {
        let now = self.now();
        self.freshness().silence(now)
    }

    /// Whether that is longer than it may be, but for so long that something else explains.
    pub(crate) fn is_stale(&self, explained: Duration) -> bool {
        let now = self.now();
        self.freshness().is_stale(now, explained)
    }

    /// How long handshakes go on without news of revocations; none where they always do.
    pub(crate) fn goes_on_for(&self) -> Option<Duration> {
        let now = self.now();
        self.freshness().left(now)
    }

    /// How long handshakes go on although nothing is known of revocations; none where something is.
    pub(crate) fn goes_on_without(&self) -> Option<Duration> {
        let now = self.now();
        self.freshness().left_without(now)
    }

    /// How many connections are open, and how many were closed for which rule.
    pub fn connections(&self) -> ConnectionCounts {
        self.registry().counts()
    }

    /// Verifies the chain that a peer presents, as [`identity::verify`] does.
    ///
    /// A chain that passed before in the same epoch costs a hash and a look-up; its validity is
    /// compared with `now` again each time. Refusals are never cached.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedSvid, Refusal> {
        self.verify_in_epoch(chain, usage, now).map(|(peer, _)| peer.svid().clone())
    }

    /// Verifies the chain of a handshake: as [`verify`](Self::verify) does, unless the revocations
    /// are too old to say anything. Returns the epoch of the verdict too.
    pub(crate) fn admit(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(Peer, Epoch), Refusal> {
        self.freshness().check(now)?;
        self.verify_in_epoch(chain, usage, now)
    }

    /// Keeps the newest checkpoint of the log that was verified, a signed note. All that speak with
    /// the CA show it this one: a workload has several clients, and only one of them hears the feed.
    pub(crate) fn keep_checkpoint(&self, note: &str) {
        self.checkpoint.store(Some(Arc::new(note.to_owned())));
    }

    /// The checkpoint that was kept last.
    pub(crate) fn checkpoint(&self) -> Option<Arc<String>> {
        self.checkpoint.load_full()
    }

    /// The time by the clock given. Without one everything is expired.
    pub(crate) fn now(&self) -> UnixTime {
        clock::now(&*self.clock)
    }

    pub(crate) fn clock(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn registry(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Ends the connections whose peers' certificates have expired.
    pub(crate) fn end_expired(&self) {
        self.connections.end_expired();
    }

    pub(crate) fn verify_in_epoch(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(Peer, Epoch), Refusal> {
        let key = cache_key(chain, usage);
        // Held to the end: no update comes between the verdict and its entry under this epoch.
        let held = self.held();
        if let Some(peer) = self.cache().find(&key, held.epoch, now) {
            return Ok((peer, held.epoch));
        }
        let svid = identity::verify(chain, usage, now, &held.trust, &held.revocations)?;
        let peer = Peer::from(svid);
        self.cache().insert(key, held.epoch, chain, &peer);
        Ok((peer, held.epoch))
    }

    /// Judges an open connection by the trust of now. What has expired has its own way to end.
    fn verify_again(&self, open: &Open) -> Result<(), Refusal> {
        let chain = open.connection.chain();
        if chain.is_empty() {
            return Ok(());
        }
        let last_second = u64::try_from(open.peer.not_after()).unwrap_or_default();
        let last_second = UnixTime::since_unix_epoch(Duration::from_secs(last_second));
        let now = self.now().min(last_second);
        self.verify_in_epoch(&chain, open.connection.usage(), now).map(drop)
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_exclusively(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked after `held`, never before it.
    fn cache(&self) -> MutexGuard<'_, ChainCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges every open connection by the revocations when it is dropped, and counts those closed.
struct Sweep<'a> {
    verification: &'a Verification,
    closed: &'a Cell<usize>,
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        let Self { verification, closed } = self;
        let refused = {
            let Held { revocations, .. } = &*verification.held();
            verification.connections.refused(|open| revocations.check_svid(open.peer.svid()))
        };
        closed.set(verification.connections.close_all(refused));
    }
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}
