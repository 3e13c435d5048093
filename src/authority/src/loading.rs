//! Loading the state, and catching up with the log.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use api::RevocationExtent;
use arc_swap::ArcSwap;
use identity::{SpiffeId, TrustDomain};
use tlog::{Hash, leaf_hash};
use tokio::runtime::Handle;

use crate::authority::{Authority, Parts};
use crate::budgets::Budgets;
use crate::checkpoint::Checkpoints;
use crate::completions::Completions;
use crate::crl::Crls;
use crate::error::Error;
use crate::event::{Event, FOLDING};
use crate::feed::Feed;
use crate::fleet::Fleet;
use crate::known_tokens::KnownTokens;
use crate::leaving::Accounts;
use crate::lines::Lines;
use crate::lost_rows::LostRows;
use crate::operations::Listed;
use crate::own_names::OwnNames;
use crate::policy::{Action, ActivePolicy, PolicyError, Principal, Query};
use crate::policy_in_force::{self, PolicyInForce};
use crate::queue::Queue;
use crate::recent_log::RecentLog;
use crate::refusals::Refusals;
use crate::renewals::Renewals;
use crate::revocation::{Extent, Folded};
use crate::rotation::{InForce, KeyLedger};
use crate::sequencer::{Head, Outcome};
use crate::signer::SignerError;
use crate::signer::absent::AbsentKey;
use crate::store::{RecordQuery, Store, StoreError, newest_head};
use crate::subtrees::Subtrees;
use crate::turns::Turns;
use crate::under_way::LeftBehind;
use crate::witness::Witnesses;

/// Held by who opens keys: how the last attempt failed.
pub(crate) type Opening = Arc<tokio::sync::Mutex<Option<Failed>>>;

/// An attempt to open keys that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// When, in milliseconds since 1970.
    at: u64,
    why: String,
    /// The newest key event that it was for.
    newest: u64,
}

impl Authority {
    /// Loads the state and refuses on any disagreement: log against tables, log against
    /// checkpoint, keys against trust state.
    pub async fn open(parts: Parts) -> Result<Self, Error> {
        let Parts { trust_domain, crl_url, own_names, clock, store, keys, trust_pin } = parts;
        let folded = Folded::load(&*store, &trust_domain).await?;
        let head = store.head().await?;
        folded.require_head(&head)?;
        let ledger = folded.keys.clone();
        let in_force = InForce::open(ledger, &keys, &*store, &trust_domain, &trust_pin).await?;
        for key in &in_force.absent {
            tracing::error!(error = %key.error(), "started without an active key");
        }
        let checkpoints = Checkpoints::default();
        checkpoints.verify_newest(&*store, &in_force.log_keys).await?;
        require_operators(&*store, &folded.operators()).await?;
        let operators = folded.operators();
        let policy =
            policy_in_force::load(&*store, &trust_domain, head.policy_hash, operators).await?;
        warn_of_extent(&policy);
        let now = clock.now().unix_timestamp();
        let own_names = with_certified_names(own_names, &*store, &trust_domain, now).await?;
        // Of before this was refused: no certificate bears it any more, the rest of the row counts.
        if let Err(error) = own_names.refuse_rows(policy.set().workloads()) {
            tracing::warn!(%error, "the policy set in force gives away a name of the CA's");
        }
        warn_of_names(in_force.refuse_rows(policy.set().workloads()));
        Ok(Self {
            queue: Queue::start(Arc::clone(&store), Arc::clone(&clock))?,
            policy: Arc::new(PolicyInForce::new(policy)),
            feed: Feed::new(folded.items.newest()),
            in_force: ArcSwap::from_pointee(in_force),
            opening: Opening::default(),
            folded: RwLock::new(folded),
            listener: OnceLock::new(),
            fleet: Fleet::default(),
            witnesses: Witnesses::default(),
            refusals: Refusals::default(),
            renewals: Renewals::default(),
            budgets: Budgets::default(),
            lines: Lines::default(),
            own_names: ArcSwap::from_pointee(own_names),
            known_tokens: KnownTokens::default(),
            recent_log: RecentLog::default(),
            lost_rows: LostRows::default(),
            listed: Listed::default(),
            hastened: std::sync::Mutex::default(),
            checkpoint_turn: tokio::sync::Mutex::default(),
            crls: Crls::default(),
            turns: Turns::default(),
            completions: Completions::default(),
            left_behind: LeftBehind::default(),
            accounts: Accounts::from(head.swept),
            trust_domain,
            crl_url,
            clock,
            store,
            keys,
            trust_pin,
            checkpoints,
        })
    }

    /// Catches up with the log: revoking events, of which the feed's subscribers hear before this
    /// returns, and the policy set in force. It waits for no key:
    /// [`follow_keys`](Self::follow_keys) does.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.follow_log().await.map(drop)
    }

    /// The same; returns how many entries the log has. Fails while the newest commit is not kept beside
    /// the database: then everybody hears of what it restricts, and of nothing else.
    pub(crate) async fn follow_log(&self) -> Result<u64, Error> {
        let head = self.whole_head().await;
        if let Err(Error::Store(StoreError::Unkept { head, .. })) = &head {
            self.fold(head, Extent::Restrictions).await?;
        }
        let head = head?;
        self.fold(&head, Extent::All).await?;
        self.follow_policy(&head).await?;
        Ok(head.edge.size())
    }

    /// Catches up as far as whoever decides anew, or asks who is denied, may know: while no head is kept,
    /// with what restricts. What grants is refused by the commit.
    pub(crate) async fn refresh_to_decide(&self) -> Result<(), Error> {
        match self.refresh().await {
            Err(Error::Store(StoreError::Unkept { .. })) => Ok(()),
            refreshed => refreshed,
        }
    }

    /// Folds the log up to a head, and tells of it.
    async fn fold(&self, head: &Head, extent: Extent) -> Result<(), Error> {
        if !self.folded().has_reached(head) {
            let from = self.folded().next_index();
            let entries = self.store.folding_entries(from).await?;
            // Told under the lock, so that nobody hears of an allow before the deny that it lifts.
            let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
            let items = folded.follow(entries, head, extent)?;
            if let Some(listener) = self.listener.get().filter(|_| !items.is_empty()) {
                listener(&items);
            }
        }
        self.publish().await;
        Ok(())
    }

    /// Catches up after a commit that wrote an event of this kind, and refuses to acknowledge what the
    /// log, read back, does not hold, or the fold of it: whatever the store has answered.
    pub(crate) async fn require_done(&self, kind: &str, outcome: &Outcome) -> Result<(), Error> {
        let size = self.follow_log().await?;
        let Outcome::Done { log_index } = outcome else { return Ok(()) };
        let is_folded = !FOLDING.contains(&kind) || self.folded().next_index() > *log_index;
        if size > *log_index && is_folded {
            return Ok(());
        }
        let why = format!(
            "{kind:?} was committed as entry {log_index}, and the log that is read back does not hold \
             it: something in the database undoes what is written"
        );
        Err(StoreError::Inconsistent(why).into())
    }

    /// Forgets the certificates revoked that ended a day ago, and says by which time, in seconds since
    /// 1970: that of the clock, but no later than the log's newest entry, and none while the clock is
    /// not steady. So a clock that went ahead makes nobody forget what still counts: what is
    /// forgotten, only a restart brings back, which folds the whole log.
    pub async fn forget_expired(&self) -> Result<u64, Error> {
        self.clock.require_steady().map_err(StoreError::from)?;
        let logged = self.store.head().await?.at;
        let now = self.clock.unix_milliseconds().min(logged) / 1000;
        if self.folded().revocations.has_expired(now) {
            let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
            let forgotten = folded.forget_expired(now);
            tracing::info!(forgotten, "forgot revocations of certificates that ended a day ago");
        }
        metrics::gauge!(REVOKED).set(self.folded().revocations.serials().count() as f64);
        Ok(now)
    }

    /// Brings the keys into force that the log's events lead to. While they do not open, nothing is
    /// issued (`state`); feed and checkpoints are signed by the keys before. Looks again for those
    /// without which the CA was started, and fails while one is absent.
    ///
    /// One attempt at a time, told where it fails, and then none for a while: each costs 600,000
    /// rounds for every file that does not open.
    pub async fn follow_keys(&self) -> Result<(), Error> {
        if !self.keys_moved() && self.in_force().absent.is_empty() {
            return Ok(());
        }
        let mut failed = Arc::clone(&self.opening).lock_owned().await;
        let held = self.in_force();
        if !self.keys_moved() && held.absent.is_empty() {
            return Ok(());
        }
        let now = self.clock.unix_milliseconds();
        let ledger = self.folded().keys.clone();
        let newest = ledger.newest();
        if let Some(Failed { at, why, newest: before }) = &*failed
            && now.abs_diff(*at) < PAUSE
            && *before == newest
        {
            return Err(SignerError::NotInForce(why.clone()).into());
        }
        let (keys, store) = (self.keys.clone(), Arc::clone(&self.store));
        let (domain, pin) = (self.trust_domain.clone(), self.trust_pin);
        let runtime = Handle::current();
        // The turn goes with the attempt, which ends even where its caller goes away.
        let attempt = tokio::task::spawn_blocking(move || {
            let opened = runtime.block_on(InForce::open(ledger, &keys, &*store, &domain, &pin));
            // What was there goes on by the keys before; what was absent at the start may stay so.
            let opened = opened.and_then(|opened| match opened.newly_absent(&held) {
                Some(key) => Err(key.why.clone().into()),
                None => Ok(opened),
            });
            let why = match &opened {
                Err(error) => Some(error.to_string()),
                Ok(opened) => opened.absent.first().map(|key| key.error().to_string()),
            };
            let before = failed.take().map(|failed| failed.why);
            match &opened {
                Err(error) if why != before => {
                    tracing::error!(%error, "nothing is issued: a key that the log names is missing");
                }
                Ok(opened) => held.tell_found(opened),
                Err(_) => {}
            }
            *failed = why.map(|why| Failed { at: now, why, newest });
            (failed, opened)
        });
        let died = |_| SignerError::Refused("the thread that opened keys died".to_owned());
        let (_turn, opened) = attempt.await.map_err(died)?;
        let in_force = Arc::new(opened?);
        let still_absent = in_force.absent.first().map(AbsentKey::error);
        self.keys.forget(|id| in_force.ledger.is_retired(id));
        self.in_force.store(in_force);
        warn_of_names(self.require_permitted_rows());
        // A newcomer who comes in between may be told what the feed key before signed: that one is
        // retiring, and believed until a later event retires it.
        self.feed.forget_first().await;
        still_absent.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Refuses where a row of the policy set in force lists a name that a CA above the issuer does not
    /// permit: nobody gets a certificate with it.
    pub fn require_permitted_rows(&self) -> Result<(), PolicyError> {
        self.in_force().refuse_rows(self.policy().set().workloads())
    }

    /// How often the CAs above the issuer were verified for the names of somebody.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn names_verified(&self) -> usize {
        self.in_force().names_verified()
    }

    /// How many active keys it was started without, and goes on without.
    pub fn absent_keys(&self) -> usize {
        self.in_force().absent.len()
    }

    /// Whether the log's events lead to other keys than those in force.
    pub(crate) fn keys_moved(&self) -> bool {
        self.folded().keys.newest() != self.in_force().ledger.newest()
    }
}

/// The issuer may be below another CA than the set was applied under.
fn warn_of_names(rows: Result<(), PolicyError>) {
    if let Err(error) = rows {
        tracing::warn!(%error, "a row of the policy set in force lists a name that cannot be had");
    }
}

/// A set of before `Revoke` had an extent stays as it was: whoever administers decides.
fn warn_of_extent(policy: &ActivePolicy) {
    let Some(row) = policy.set().workloads().rows().next() else { return };
    let Ok(spiffe_id) = SpiffeId::new(policy.trust_domain(), &row.id) else { return };
    let principal = Principal::of(&spiffe_id);
    let action = Action::Revoke(RevocationExtent::Identity);
    if policy.decide(&Query { principal, action, resource: Some(spiffe_id) }).allowed {
        tracing::warn!(
            "the policy set in force lets one replica revoke its whole identity; the shipped \
             policies let it revoke its own certificate (workload-revokes-its-own): with the \
             new schema.cedarschema, countersign policy apply DIR"
        );
    }
}

/// The CA's names, with those of its own certificates that have not expired.
async fn with_certified_names(
    mut own_names: OwnNames,
    store: &dyn Store,
    trust_domain: &TrustDomain,
    now: i64,
) -> Result<OwnNames, StoreError> {
    let query = RecordQuery {
        spiffe_id: Some(SpiffeId::authority(trust_domain)),
        ends_after: Some(now - 1),
        limit: OWN_CERTIFICATES,
        ..RecordQuery::default()
    };
    for record in store.records(query).await? {
        own_names = own_names.with(&record.facts, record.not_after);
    }
    Ok(own_names)
}

/// The keys that a log names.
pub(crate) async fn load_keys(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<KeyLedger, Error> {
    Ok(Folded::load(store, trust_domain).await?.keys)
}

/// The table of operators must name those whose events were folded, and nobody else.
async fn require_operators(store: &dyn Store, folded: &HashSet<String>) -> Result<(), StoreError> {
    let rows = store.operators().await?;
    if let Some((name, log_index)) = rows.iter().find(|(name, _)| !folded.contains(name)) {
        let why = format!("operator {name:?} was not made by entry {log_index}");
        return Err(StoreError::Inconsistent(why));
    }
    let is_row = |name: &&String| rows.iter().any(|(row, _)| row == *name);
    match folded.iter().find(|name| !is_row(name)) {
        Some(name) => {
            Err(StoreError::Inconsistent(format!("the row of operator {name:?} is gone")))
        }
        None => Ok(()),
    }
}

/// Whether the event at this place of the log is the one that a row says made it.
pub(crate) async fn made_by(
    store: &dyn Store,
    log_index: u64,
    is_it: impl FnOnce(&Event) -> bool,
) -> Result<bool, StoreError> {
    let entry = proven_entry(store, log_index).await?;
    let event = entry.and_then(|entry| Event::parse(&entry).ok());
    Ok(event.is_some_and(|event| is_it(&event)))
}

/// The entry at this place, proved to be under the head's root: whoever only writes to the database
/// puts none there. None beyond the log's end.
pub(crate) async fn proven_entry(
    store: &dyn Store,
    log_index: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let head = newest_head(store).await?;
    let (size, root) = (head.edge.size(), head.edge.root());
    let entry = store.entries(log_index, 1).await?.pop();
    let Some(entry) = entry.filter(|_| log_index < size) else { return Ok(None) };
    let inconsistent =
        |why: String| StoreError::Inconsistent(format!("the proof of entry {log_index}: {why}"));
    let mut needed = Vec::new();
    let placeholder = |subtree| {
        needed.push(subtree);
        Ok::<_, std::convert::Infallible>(Hash::new([0; 32]))
    };
    tlog::inclusion_proof(log_index, size, placeholder)
        .map_err(|error| inconsistent(error.to_string()))?;
    let (mut subtrees, mut hashes) = (Subtrees::of(store, size), Vec::with_capacity(needed.len()));
    for subtree in needed {
        hashes.push(subtrees.hash(subtree).await?);
    }
    // Asked for in the same order.
    let mut hashes = hashes.into_iter();
    let read = |_| hashes.next().ok_or(());
    let proof = tlog::inclusion_proof(log_index, size, read)
        .map_err(|_| inconsistent("it has another shape".to_owned()))?;
    tlog::verify_inclusion(&leaf_hash(&entry), log_index, size, &root, &proof)
        .map_err(|_| inconsistent("the entry is not the one that was logged".to_owned()))?;
    Ok(Some(entry))
}

/// More than the CA makes for itself while one of them lives, were it restarted every minute.
const OWN_CERTIFICATES: u32 = 10_000;
const REVOKED: &str = "countersign_revoked_certificates";
/// Between two attempts to open keys, in milliseconds.
const PAUSE: u64 = 5_000;
