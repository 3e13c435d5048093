//! What this node has read of the log: whatever is decided, is decided from here.
//!
//! The log is followed at one place (`following`), as far as the store's head leads, and of what that
//! changes everybody hears before whoever asked goes on: the verifier of the CA's own connections, and those
//! who listen to the feed (`telling`). What the fold keeps of it (`crate::fold`) was true at an epoch;
//! what is written names that epoch, and the commit compares it.
//!
//! | of | is known | from |
//! |---|---|---|
//! | revocations, operators, keys, lifted halts | all of them | the fold of the whole log, at the start and then as it grows |
//! | certificates, CRLs, what became of each leaf, renewals | those of the last days | `recent_log`, read once and proved |
//! | tokens | those that could be used | what was done here, and the log (`known_tokens`) |
//! | lines of renewals | those that were asked for | records, which are sealed (`lines`) |
//!
//! All of it is memory, made anew at a start; who writes tells what it has written (`leaving`,
//! `known_tokens`), so that nobody waits for the log to be read again.

pub(crate) mod fates;
mod following;
pub(crate) mod halts;
pub(crate) mod in_force;
mod keys_in_force;
pub(crate) mod known;
pub(crate) mod known_tokens;
pub(crate) mod leaves;
pub(crate) mod leaving;
pub(crate) mod lines;
pub(crate) mod loading;
mod permits;
mod policy_in_force;
pub(crate) mod recent_log;
pub(crate) mod renewals;
pub(crate) mod telling;
pub(crate) mod vouching;

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use api::{KeyPurpose, KeyState, TrustQuery};
use arc_swap::ArcSwap;
use identity::feed::FeedItem;
use identity::{SpiffeId, Trust, TrustDomain, TrustPin, TrustState};
use tlog::Hash;

use self::halts::Halts;
use self::in_force::InForce;
use self::keys_in_force::Opening;
use self::known_tokens::KnownTokens;
use self::leaving::Accounts;
use self::lines::Lines;
use self::policy_in_force::PolicyInForce;
use self::recent_log::RecentLog;
use self::renewals::Renewals;
use self::telling::Telling;
use crate::certificate::issuer::issuer_id;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::Event;
use crate::fold::Folded;
use crate::keys::Keys;
use crate::own_names::OwnNames;
use crate::policy::ActivePolicy;
use crate::proven::proven_entry;
use crate::sequencer::{
    self, Conflict, IdempotencyKey, KEPT_MILLISECONDS, KeptRequest, RecordDraft,
};
use crate::store::{Store, StoreError};

/// What this node has read.
pub struct View {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    keys: Keys,
    trust_pin: TrustPin,
    folded: RwLock<Folded>,
    policy: Arc<PolicyInForce>,
    /// Follows from the events of `folded`, a little later: whoever issues waits for it (`state`).
    in_force: ArcSwap<InForce>,
    opening: Opening,
    listener: OnceLock<Box<Listener>>,
    pub(crate) telling: Telling,
    pub(crate) halts: Halts,
    recent_log: RecentLog,
    pub(crate) renewals: Renewals,
    pub(crate) accounts: Accounts,
    pub(crate) known_tokens: KnownTokens,
    pub(crate) lines: Lines,
    own_names: ArcSwap<OwnNames>,
}

/// Hears of each change of the revocation state before the call that made it returns.
pub type Listener = dyn Fn(&[FeedItem]) + Send + Sync;

/// A trust state as it was signed.
#[derive(Debug, Clone)]
pub struct SignedTrust {
    /// Its sequence.
    pub sequence: u64,
    /// The note.
    pub note: Arc<[u8]>,
}

impl View {
    /// Whether a bootstrap token with this SHA-256 was made here not long ago: a look-up, that says
    /// nothing of what the token is good for.
    pub fn is_live_token(&self, token: &Hash) -> bool {
        self.known_tokens.is_live(token, self.clock.unix_milliseconds())
    }

    /// The CA's own names at this moment.
    pub(crate) fn own_names_now(&self) -> Arc<OwnNames> {
        let now = self.clock.now().unix_timestamp();
        let own_names = self.own_names.load_full();
        if own_names.is_current(now) {
            return own_names;
        }
        self.own_names.rcu(|own_names| own_names.at(now));
        self.own_names.load_full()
    }

    /// What a certificate of the CA's own bears is nobody else's from then on.
    pub(crate) fn note_own_names(&self, draft: &RecordDraft) {
        if draft.spiffe_id == SpiffeId::authority(&self.trust_domain) {
            self.own_names.rcu(|own_names| own_names.with(&draft.facts, draft.not_after));
        }
    }

    /// The keys and the trust state in force.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// The sealed keys.
    pub(crate) fn key_files(&self) -> &Keys {
        &self.keys
    }

    /// Hears of revocations from now on; the state until now is shown first. Once only.
    pub fn listen(&self, until_now: impl FnOnce(&identity::Revocations), listener: Box<Listener>) {
        let folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
        until_now(&folded.revocations);
        if self.listener.set(listener).is_err() {
            tracing::error!("a second listener for revocations is ignored");
        }
    }

    pub(crate) fn folded(&self) -> RwLockReadGuard<'_, Folded> {
        self.folded.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether the clock lets anything be written: it went steadily, and is not behind the log.
    pub async fn require_clock(&self) -> Result<(), Error> {
        self.clock.require_steady().map_err(StoreError::from)?;
        require_clock(&*self.store, &*self.clock).await
    }

    /// Whether the certificate of the issuer that signs has begun.
    pub fn require_begun_issuer(&self) -> Result<(), Error> {
        Ok(self.in_force().issuer.certificate().require_begun(self.clock.now())?)
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The policy set in force.
    pub fn policy(&self) -> Arc<ActivePolicy> {
        self.policy.now()
    }

    /// The active issuer's id: its CRL is `/crl/{id}`.
    pub fn issuer_id(&self) -> String {
        issuer_id(self.in_force().issuer.certificate().key_hash())
    }

    /// The active issuer's certificate, DER.
    pub fn issuer_certificate(&self) -> Vec<u8> {
        self.in_force().issuer.certificate().der().to_vec()
    }

    /// The place of the event that made the newest of the keys active that certificates are signed
    /// with: it grows whenever another takes over.
    pub fn signing_since(&self) -> u64 {
        let ledger = &self.in_force().ledger;
        let purposes = [KeyPurpose::Countersignature, KeyPurpose::Issuer];
        let active = purposes.map(|purpose| ledger.find(purpose, KeyState::Active));
        active.into_iter().flatten().map(|key| key.log_index).max().unwrap_or_default()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust state in force.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.in_force().trust)
    }

    /// The trust state that a query asks for.
    pub fn trust_state(&self, query: &TrustQuery) -> Result<SignedTrust, Error> {
        let in_force = self.in_force();
        let signed = |(state, note): &(TrustState, Arc<[u8]>)| SignedTrust {
            sequence: state.sequence,
            note: Arc::clone(note),
        };
        match (&query.pin, query.after) {
            (Some(_), Some(_)) => Err(Error::Invalid {
                why: "`pin` and `after` ask for two things".to_owned(),
                next_step: None,
            }),
            (Some(pin), None) => {
                let pin = pin.parse::<TrustPin>().map_err(|error| Error::Invalid {
                    why: error.to_string(),
                    next_step: Some("countersign trust pin".to_owned()),
                })?;
                let found = in_force.trust_by_pin(&pin).map(signed);
                found.ok_or_else(|| Error::NotFound("trust state of that pin".to_owned()))
            }
            (None, Some(after)) => {
                let found = in_force.trust_after(after).map(signed);
                found.ok_or_else(|| Error::NotFound(format!("trust state {after}")))
            }
            (None, None) => Ok(SignedTrust {
                sequence: in_force.trust.state().sequence,
                note: Arc::clone(&in_force.trust_note),
            }),
        }
    }

    /// The trust state in force, as its signed note.
    pub fn trust_note(&self) -> Arc<[u8]> {
        Arc::clone(&self.in_force().trust_note)
    }

    /// How many entries the log has.
    pub async fn log_size(&self) -> Result<u64, Error> {
        Ok(self.store().head().await?.edge.size())
    }

    /// A tile of the log.
    pub async fn tile(&self, tile: tlog::Tile) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound(format!("{} in a log of this size", tile.path()));
        let tile = self.store().tile(tile).await?;
        // Nobody outside hears of what is not kept.
        self.log_size().await?;
        tile.ok_or_else(none)
    }

    /// The event at this place of the log, proved to stand there; none where there is another entry.
    pub(super) async fn event_at(&self, log_index: u64) -> Result<Option<Event>, Error> {
        let entry = proven_entry(self.store(), log_index).await?;
        Ok(entry.and_then(|entry| Event::parse(&entry).ok()))
    }

    /// What was done of the same request before. To be asked after the state was read under which
    /// it is allowed: what is done later either moves that, or the commit finds it.
    pub(crate) async fn kept(
        &self,
        named: Option<&IdempotencyKey>,
    ) -> Result<Option<KeptRequest>, Error> {
        let Some(IdempotencyKey { principal, key, request_hash }) = named else {
            return Ok(None);
        };
        let since = self.clock().unix_milliseconds().saturating_sub(KEPT_MILLISECONDS);
        let kept = self.store().kept_request(principal.clone(), key.clone(), since).await?;
        match kept {
            Some(kept) if kept.request_hash == *request_hash => {
                metrics::counter!("countersign_requests_repeated_total").increment(1);
                Ok(Some(kept))
            }
            Some(_) => Err(Error::Conflict(Conflict::IdempotencyMismatch)),
            None => Ok(None),
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// Refuses while the clock is behind the log: nothing can be written.
pub async fn require_clock(store: &dyn Store, clock: &dyn Clock) -> Result<(), Error> {
    let head = store.head().await?;
    sequencer::require_clock(&head, clock.unix_milliseconds())
        .map_err(|behind| StoreError::ClockBehind { milliseconds: behind.milliseconds })?;
    Ok(())
}
