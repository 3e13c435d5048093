//! The engine: one certificate from request to stored bytes, readable from top to bottom.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use api::{IssueRequest, IssuedCertificate, KeyPurpose, KeyState, TrustQuery};
use arc_swap::ArcSwap;
use identity::feed::FeedItem;
use identity::{SerialNumber, SpiffeId, Trust, TrustDomain, TrustPin, TrustState, VerifiedSvid};
use issuance::IssuerCertificate;
use rustls_pki_types::{CertificateDer, UnixTime};
use tlog::Hash;

use crate::accounting;
use crate::attest::{Attested, INTERNAL, Purpose, TokenKind, again_by_token, refused};
use crate::budgets::Budgets;
use crate::checkpoint::{Checkpoints, origin};
use crate::clock::{Clock, fresh_serial_number};
use crate::completions::{Admission, Admitted, Completions};
use crate::crl::Crls;
use crate::error::Error;
use crate::feed::Feed;
use crate::fleet::Fleet;
use crate::hastened::Hastened;
use crate::issuer::Issued;
use crate::keys::Keys;
use crate::known_tokens::{KnownTokens, Reserved};
use crate::leaving::{Accounts, Leaving, gone};
use crate::lines::Lines;
use crate::loading::{Opening, proven_entry};
use crate::lost_rows::LostRows;
use crate::operations::{Listed, require_name};
use crate::own_names::OwnNames;
use crate::policy::{ActivePolicy, Principal};
use crate::policy_in_force::PolicyInForce;
use crate::present;
use crate::queue::Queue;
use crate::recent_log::RecentLog;
use crate::refusals::Refusals;
use crate::renewals::Renewals;
use crate::request::{Asked, Logged, Named};
use crate::revocation::Folded;
use crate::rotation::InForce;
use crate::sequencer::{
    AllowedUnder, COMPLETION_MILLISECONDS, CertificateMember, CompleteMember, Conflict, Consumes,
    IdempotencyKey, Member, Outcome, RecordDraft,
};
use crate::setup;
use crate::store::{Probe, Record, Store, StoreError};
use crate::turns::Turns;
use crate::under_way::LeftBehind;
use crate::witness::Witnesses;

/// The CA of one trust domain.
pub struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) crl_url: Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Queue,
    pub(crate) keys: Keys,
    pub(crate) trust_pin: TrustPin,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) policy: Arc<PolicyInForce>,
    /// Follows from the events of `folded`, a little later: whoever issues waits for it (`state`).
    pub(crate) in_force: ArcSwap<InForce>,
    pub(crate) opening: Opening,
    pub(crate) folded: RwLock<Folded>,
    pub(crate) listener: OnceLock<Box<Listener>>,
    pub(crate) feed: Feed,
    pub(crate) fleet: Fleet,
    pub(crate) witnesses: Witnesses,
    pub(crate) refusals: Refusals,
    pub(crate) renewals: Renewals,
    pub(crate) budgets: Budgets,
    pub(crate) lines: Lines,
    pub(crate) own_names: ArcSwap<OwnNames>,
    pub(crate) known_tokens: KnownTokens,
    pub(crate) recent_log: RecentLog,
    pub(crate) lost_rows: LostRows,
    pub(crate) listed: Listed,
    pub(crate) hastened: std::sync::Mutex<Hastened>,
    pub(crate) checkpoint_turn: tokio::sync::Mutex<()>,
    pub(crate) crls: Crls,
    pub(crate) turns: Turns,
    pub(crate) completions: Completions,
    pub(crate) left_behind: LeftBehind,
    pub(crate) accounts: Accounts,
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

/// Who calls, and in which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The certificate verified in the connection's handshake; none without one.
    pub svid: Option<VerifiedSvid>,
    /// What the server's diagnostics call the request.
    pub request_id: String,
    /// What the caller calls it, `Idempotency-Key`: it is done once. [`Authority::issue`] takes it
    /// as an argument, since some who ask for a certificate are known by their evidence alone.
    pub idempotency_key: Option<String>,
}

impl Caller {
    /// The caller's SPIFFE ID as actors of events are named.
    pub(crate) fn name(&self) -> &str {
        self.svid.as_ref().map_or("anonymous", |svid| svid.spiffe_id().as_str())
    }
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where issuers' CRLs are found; `{issuer}` stands for the issuer's id.
    pub crl_url: Option<String>,
    /// The names by which clients reach the CA: nobody else gets one.
    pub own_names: OwnNames,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keys that the engine signs with: those that the log's events name.
    pub keys: Keys,
    /// The pin that names the trust keys of one of the stored trust states; the later ones follow.
    pub trust_pin: TrustPin,
}

impl Authority {
    /// Issues or renews: attests, asks policy, prepares, logs, signs, stores, and only then
    /// answers. The same request again returns the same certificate.
    pub async fn issue(
        self: &Arc<Self>,
        caller: &Caller,
        body: &IssueRequest,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        self.require_whole_log()?;
        // Before a token or a certificate is found to have expired by a clock that is wrong.
        self.clock.require_steady().map_err(StoreError::from)?;
        let stranger = |error| {
            self.refusals.note_stranger();
            error
        };
        // Who proves nothing learns nothing of the rest.
        let proof = self.examine(caller, &body.attestation, body.spiffe_id.as_ref());
        let proof = proof.await.map_err(stranger)?;
        let asked = match Asked::parse(body, &self.trust_domain) {
            Ok(asked) => asked,
            Err(error) => {
                proof.require_unused().map_err(stranger)?;
                return Err(error);
            }
        };
        let attested = self.attest(proof, &asked).await.map_err(stranger)?;
        idempotency_key.map_or(Ok(()), require_name)?;
        let principal = attested.principal.name().to_owned();
        let issued = self.issue_attested(caller, asked, attested, idempotency_key).await;
        if let Err(error) = &issued {
            self.refusals.note_attested(self, &principal, caller, error).await;
        }
        issued
    }

    /// Issues one of the CA's own certificates (its own, an operator's at `init`), by the same
    /// pipeline and policy.
    pub async fn issue_internal(
        self: &Arc<Self>,
        body: &IssueRequest,
        request_id: &str,
    ) -> Result<IssuedCertificate, Error> {
        let caller =
            Caller { svid: None, request_id: request_id.to_owned(), idempotency_key: None };
        let asked = Asked::parse(body, &self.trust_domain)?;
        let spiffe_id = asked
            .spiffe_id
            .clone()
            .filter(SpiffeId::is_reserved)
            .ok_or_else(|| Error::NotFound("internal identity of that name".to_owned()))?;
        self.require_whole_log_for(&spiffe_id)?;
        let attested = Attested {
            principal: Principal::Authority,
            spiffe_id,
            purpose: Purpose::Issue,
            attestor: INTERNAL,
            attested_at: self.clock.unix_milliseconds(),
            consumes: Consumes::Nothing,
            maker: None,
            earlier: None,
        };
        self.issue_attested(&caller, asked, attested, None).await
    }

    async fn issue_attested(
        self: &Arc<Self>,
        caller: &Caller,
        asked: Asked,
        attested: Attested,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        let principal = match &attested.consumes {
            // Another token asks for another certificate, whatever the request is called.
            Consumes::Token { hash, .. } => format!("{} {hash:?}", attested.principal.name()),
            _ => attested.principal.name().to_owned(),
        };
        let idempotency = idempotency_key.map(|key| IdempotencyKey {
            principal: principal.clone(),
            key: key.to_owned(),
            request_hash: asked.hash(),
        });
        for _ in 0..RESTARTS {
            // Before anything is read that the wait for it would leave behind.
            let turn = self.turn_of(&attested.consumes).await;
            let policy = self.policy();
            let (epoch, in_force) = self.state_to_issue().await?;
            // After the epoch is read, on every turn: a caller revoked meanwhile goes no further.
            let by_token = matches!(attested.consumes, Consumes::Token { .. });
            if let Some(svid) = caller.svid.as_ref().filter(|_| !by_token) {
                self.require_live(svid)?;
            }
            if let Some(maker) = &attested.maker {
                self.require_maker(maker, &attested.spiffe_id, &policy)?;
                self.require_new(maker, &attested.spiffe_id).await?;
            }
            let own_names = self.own_names_now();
            let mut attested = attested.clone();
            self.decide_renewal(&mut attested.consumes, &attested.spiffe_id).await?;
            let authorized =
                asked.clone().authorize(attested.clone(), &policy, epoch, &own_names)?;
            self.refuse_denied(authorized.spiffe_id())?;
            authorized.require_permitted(&in_force)?;
            let serial_number = fresh_serial_number(&*self.clock)?;
            let now = self.clock.now();
            let issuer = in_force.issuer.certificate();
            let crl_url = self.crl_url_of(issuer);
            let prepared = authorized.prepare(issuer, serial_number, now, crl_url.as_deref())?;
            let member = Arc::new(prepared.into_member(&caller.request_id, idempotency.clone()));
            let place = self.completions.place_for_others()?;
            let (taken, spent) = match self.take_for_issue(caller, &attested, by_token).await {
                Ok(taken) => (taken, None),
                // What was asked for before is given again whatever is left.
                Err(spent @ Error::Budget { .. }) => (None, Some(spent)),
                Err(error) => return Err(error),
            };
            let asks = match &spent {
                None => Member::Certificate(Arc::clone(&member)),
                Some(_) => Member::Precedent(Arc::clone(&member)),
            };
            let reserved = self.reserve(&attested, &member.record.request_hash)?;
            let purpose = attested.purpose.clone();
            let admission = Admission { member, asks, purpose, taken, reserved, turn };
            let engine = Arc::clone(self);
            let admitted = place.finish(async move { engine.admit(admission).await }).await?;
            let outcome = match (admitted?, spent) {
                (Admitted::Issued(issued), _) => return Ok(*issued),
                (Admitted::Not(Outcome::Stored), Some(spent)) => return Err(spent),
                (Admitted::Not(outcome), _) => outcome,
            };
            match outcome {
                Outcome::Replay { leaf_index } => {
                    let turn = self.completions.turn(leaf_index).await;
                    let record = self.known_at(leaf_index).await?.recorded()?;
                    self.require_good(&record)?;
                    if let Some(given) = self.given_again(&record).await? {
                        return Ok(given);
                    }
                    drop(turn);
                    // It is signed by the issuer that it was logged for.
                    let Some(issuer) = in_force.issuer_of(&record.issuer_key_hash) else {
                        return Err(Error::Abandoned);
                    };
                    let issuer = issuer.certificate();
                    let crl_url = self.crl_url_of(issuer);
                    let asked = asked.named_as(&record.facts);
                    let authorized = asked.authorize(attested, &policy, epoch, &own_names)?;
                    let prepared =
                        authorized.prepare(issuer, serial_number, now, crl_url.as_deref())?;
                    let member = prepared.into_member(&caller.request_id, idempotency);
                    let logged = self.replay(&record, &member).await?;
                    let place = self.completions.place_for_others()?;
                    let engine = Arc::clone(self);
                    return place.finish(async move { engine.complete(logged).await }).await?;
                }
                Outcome::Moved => self.refresh().await?,
                Outcome::Refused(Conflict::SerialNumber) => {}
                Outcome::Refused(conflict) => {
                    self.refresh().await?;
                    return Err(refusal(conflict, &attested.spiffe_id));
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(self.restless())
    }

    /// Somebody has tried as often as is of use: it is looked at whether anything can be committed.
    pub(crate) fn restless(&self) -> Error {
        self.queue.failure().note_restless(self.folded().epoch);
        Error::Restless
    }

    /// Whether a bootstrap token with this SHA-256 was made here not long ago: a look-up, that says
    /// nothing of what the token is good for.
    pub fn is_live_token(&self, token: &Hash) -> bool {
        self.known_tokens.is_live(token, self.clock.unix_milliseconds())
    }

    /// Takes the token that a request uses, so that no other request has it at once.
    fn reserve(&self, attested: &Attested, request: &Hash) -> Result<Option<Reserved>, Error> {
        let Consumes::Token { hash, .. } = &attested.consumes else { return Ok(None) };
        let now = self.clock.unix_milliseconds();
        let reserved = self.known_tokens.reserve(*hash, *request, now);
        reserved.map(Some).ok_or_else(|| refusal(Conflict::TokenUsed, &attested.spiffe_id))
    }

    /// Countersigns, signs and stores what is logged. Whoever stores first wins; the others return
    /// the winner's bytes, where they are the leaf's certificate. One at a time: what others did of the
    /// leaf is known before it is signed.
    pub(crate) async fn complete(&self, logged: Logged) -> Result<IssuedCertificate, Error> {
        let leaf_index = logged.leaf().leaf_index;
        let _turn = self.completions.turn(leaf_index).await;
        if let Err(refused) = self.require_unstored(leaf_index).await {
            let record = self.known_at(leaf_index).await?.recorded()?;
            return self.given_again(&record).await?.ok_or(refused);
        }
        let (issued, mut epoch) = self.sign(logged).await?;
        let mut instead_of = None;
        for _ in 0..RESTARTS {
            self.require_unstored(leaf_index).await?;
            let complete = CompleteMember {
                leaf_index,
                certificate: issued.certificate.clone(),
                revocation_epoch: epoch,
                instead_of,
            };
            let stored = self.queue.submit(Member::Complete(complete)).await;
            self.accounts.note(&issued, &stored);
            let (named, issuer) = (issued.logged.named(), &issued.logged.leaf().issuer_key_hash);
            match stored? {
                Outcome::Stored => {
                    metrics::counter!("countersign_issued_total").increment(1);
                    let leaving = self.accounts.leave(leaf_index, &issued.certificate);
                    let leaving = leaving.ok_or_else(|| gone(leaf_index))?;
                    return Ok(self.present(named, leaving, issuer, leaf_index));
                }
                Outcome::Existing(first) => {
                    if let Some(leaving) = self.leaving(leaf_index, &first, issuer).await? {
                        return Ok(self.present(named, leaving, issuer, leaf_index));
                    }
                    instead_of = Some(Hash::of(&first));
                }
                Outcome::Abandoned => return Err(Error::Abandoned),
                Outcome::Moved => {
                    self.refresh().await?;
                    (epoch, _) = self.refuse_revoked(&issued.logged).await?;
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(self.restless())
    }

    /// Two signatures over logged bytes, unless they were revoked meanwhile. What was signed of them
    /// before, and may be stored, is what is stored.
    async fn sign(&self, logged: Logged) -> Result<(Arc<Issued>, u64), Error> {
        self.require_whole_log_for(&logged.named().spiffe_id)?;
        let age = self.clock.unix_milliseconds().saturating_sub(logged.leaf().timestamp);
        if age > COMPLETION_MILLISECONDS {
            return Err(Error::Abandoned);
        }
        let (epoch, in_force) = self.refuse_revoked(&logged).await?;
        if let Some(issued) = self.accounts.signed(logged.leaf().leaf_index) {
            return Ok((issued, epoch));
        }
        let key_hash = &logged.leaf().issuer_key_hash;
        let issuer = in_force.issuer_of(key_hash).ok_or(Error::Abandoned)?;
        let issuer = Arc::clone(issuer);
        let countersignature = in_force.countersigner.countersign(&logged).await?;
        let issued = issuer.issue(logged, &countersignature).await?;
        Ok((Arc::new(issued), epoch))
    }

    /// What was made of the same request is given again only while it is good. The commit found the
    /// state as it is folded here.
    fn require_good(&self, record: &Record) -> Result<(), Error> {
        let Record { spiffe_id, serial_number, .. } = record;
        let revocations = &self.folded().revocations;
        let stands = revocations.check(spiffe_id, serial_number, Some(record.leaf_index));
        let has_ended = record.not_after < self.clock.now().unix_timestamp();
        if stands.is_ok() && !has_ended {
            return Ok(());
        }
        let since = if has_ended { "has expired" } else { "was revoked" };
        Err(refused(
            format!("certificate {serial_number} was made of this request, and {since} since"),
            "make a new request, with a new token or another Idempotency-Key",
        ))
    }

    /// The same request again: what is logged and waits to be signed, proved to stand in the log.
    ///
    /// `prepared` is what policy and linter have just allowed for this very request. What is read
    /// back is signed only if it says the same: the database alone makes nothing that is signed.
    async fn replay(&self, record: &Record, prepared: &CertificateMember) -> Result<Logged, Error> {
        let leaf_index = record.leaf_index;
        let gone = || StoreError::Inconsistent(format!("entry {leaf_index} is gone"));
        let before = leaf_index.checked_sub(1).ok_or_else(gone)?;
        let event = proven_entry(&*self.store, before).await?.ok_or_else(gone)?;
        let leaf = proven_entry(&*self.store, leaf_index).await?.ok_or_else(gone)?;
        Logged::read_back(&event, &leaf, record, prepared)
    }

    pub(crate) fn present(
        &self,
        named: &Named,
        certificate: Leaving<'_>,
        issuer: &Hash,
        leaf_index: u64,
    ) -> IssuedCertificate {
        let in_force = self.in_force();
        let sequence = in_force.trust.state().sequence;
        present::issued(named, certificate, in_force.issuer_pem(issuer), leaf_index, sequence)
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

    /// Where the CRL of an issuer is found.
    fn crl_url_of(&self, issuer: &IssuerCertificate) -> Option<String> {
        let url = self.crl_url.as_ref()?;
        Some(url.replace("{issuer}", &issuer_id(issuer.key_hash())))
    }

    /// Refuses a caller whose certificate was revoked since its handshake, or has run out.
    pub(crate) fn require_live(&self, svid: &VerifiedSvid) -> Result<(), Error> {
        let folded = self.folded();
        folded
            .revocations
            .check(svid.spiffe_id(), svid.serial_number(), svid.leaf_index())
            .map_err(|refusal| {
                let id = svid.spiffe_id();
                let why = format!("your certificate is refused: {refusal}");
                let again = again_by_token(id);
                match refusal {
                    identity::Refusal::Denied => refused(
                        why,
                        format!("`countersign allow {id}`, by an operator; then {again}"),
                    ),
                    _ => refused(why, again),
                }
            })?;
        if svid.not_after() < self.clock.now().unix_timestamp() {
            self.clock.require_steady().map_err(StoreError::from)?;
            let again = again_by_token(svid.spiffe_id());
            return Err(refused("your certificate has expired", again));
        }
        Ok(())
    }

    /// Notes that the holder of a certificate exists: whoever has shown it in a handshake.
    pub fn note_shown(&self, svid: &VerifiedSvid) {
        if self.require_live(svid).is_ok() {
            self.see(svid);
        }
    }

    pub(crate) fn hastened(&self) -> std::sync::MutexGuard<'_, Hastened> {
        self.hastened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_denied(&self, spiffe_id: &SpiffeId) -> Result<(), Error> {
        if self.folded().revocations.is_denied(spiffe_id) {
            return Err(Error::Revoked(identity::Refusal::Denied));
        }
        Ok(())
    }

    /// Returns the epoch at which it is not revoked, and what is in force at it.
    async fn refuse_revoked(&self, logged: &Logged) -> Result<(u64, Arc<InForce>), Error> {
        // The epoch is read first: what is revoked from then on moves it.
        let state = self.state_to_issue().await?;
        let leaf_index = Some(logged.leaf().leaf_index);
        self.folded()
            .revocations
            .check(&logged.named().spiffe_id, &logged.named().serial_number, leaf_index)
            .map_err(Error::Revoked)?;
        Ok(state)
    }

    /// The same, for whoever is about to make certificates.
    async fn state_to_issue(&self) -> Result<(u64, Arc<InForce>), Error> {
        let state = self.state().await?;
        if state.1.require_to_issue().is_ok() {
            return Ok(state);
        }
        // Its file may be back.
        drop(self.follow_keys().await);
        let state = self.state().await?;
        state.1.require_to_issue()?;
        Ok(state)
    }

    /// The epoch, and what is in force at it: for whoever is about to make certificates, revocation
    /// lists or steps of a rotation. Fails while a key does not open that became active since the
    /// start; those that were absent then are told by whoever needs them.
    pub(crate) async fn state(&self) -> Result<(u64, Arc<InForce>), Error> {
        loop {
            if self.keys_moved() {
                // It may fail for a key that was absent before, and bring the others into force.
                let followed = self.follow_keys().await;
                if self.keys_moved() {
                    followed?;
                }
            }
            let folded = self.folded();
            let in_force = self.in_force();
            // Otherwise one more event was folded meanwhile.
            if in_force.ledger.newest() == folded.keys.newest() {
                return Ok((folded.epoch, in_force));
            }
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

    /// Takes part in the next commit.
    pub(crate) async fn submit(&self, member: Member) -> Result<Outcome, Error> {
        self.queue.submit(member).await
    }

    pub(crate) fn folded(&self) -> RwLockReadGuard<'_, Folded> {
        self.folded.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(crate) fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether the clock lets anything be written: it went steadily, and is not behind the log.
    pub async fn require_clock(&self) -> Result<(), Error> {
        self.clock.require_steady().map_err(StoreError::from)?;
        setup::require_clock(&*self.store, &*self.clock).await
    }

    /// Whether the certificate of the issuer that signs has begun.
    pub fn require_begun_issuer(&self) -> Result<(), Error> {
        Ok(self.in_force().issuer.certificate().require_begun(self.clock.now())?)
    }

    /// Whether the store took what was written last, and no write to it hangs; and what is allowed can be
    /// committed.
    pub fn require_commits(&self) -> Result<(), Error> {
        self.queue.failure().now().map_or(Ok(()), Err)
    }

    /// How many certificates and revocations are on their way into the log and out of it.
    pub fn completing(&self) -> usize {
        self.completions.open()
    }

    /// Writes to the store what changes nothing, and remembers what came of it: that there is no room
    /// is found out before somebody needs it, and that there is some again before somebody asks.
    pub async fn probe_store(&self) -> Result<(), Error> {
        let ends = self.queue.failure().probe().begin(self.clock.unix_milliseconds());
        let written = self.store.probe(Probe::Write).await;
        drop(ends);
        self.queue.failure().note_probe(&written);
        written?;
        if self.queue.failure().is_restless() {
            self.refresh().await?;
            // What was folded and the log's head are one state: what is allowed can be committed.
            let revocation_epoch = self.folded().epoch;
            let policy_hash = *self.policy().set().hash();
            if self.holds(AllowedUnder { policy_hash, revocation_epoch }).await? {
                self.queue.failure().note_rest();
            }
        }
        Ok(())
    }

    /// Finds out whether another process has the store locked, and remembers it.
    pub async fn probe_lock(&self) -> Result<(), Error> {
        let ends = self.queue.failure().probe().begin(self.clock.unix_milliseconds());
        let taken = self.store.probe(Probe::Lock).await;
        drop(ends);
        self.queue.failure().note_lock(&taken);
        Ok(taken?)
    }

    /// Whether whoever verifies as our library does believes a chain of this CA's, as the client or
    /// the server that it is.
    pub fn verify_as_peer(
        &self,
        chain: &[CertificateDer<'_>],
        usage: identity::Usage,
    ) -> Result<(), identity::Refusal> {
        let now = u64::try_from(self.clock.now().unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let (trust, folded) = (self.trust(), self.folded());
        identity::verify(chain, usage, now, &trust, &folded.revocations).map(drop)
    }

    /// Whether a certificate of the CA's own still counts for those who verify it.
    pub fn require_own(
        &self,
        serial_number: &SerialNumber,
        leaf_index: u64,
    ) -> Result<(), identity::Refusal> {
        let id = SpiffeId::authority(&self.trust_domain);
        self.folded().revocations.check(&id, serial_number, Some(leaf_index))
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

    /// Signs a checkpoint if the log has grown; returns the size covered. The log's key signs one
    /// history alone: nothing once the log was found to be another.
    pub async fn sign_checkpoint(&self) -> Result<u64, Error> {
        self.require_whole_log()?;
        // One at a time, each by the keys that are in force when its turn comes.
        let _turn = self.checkpoint_turn.lock().await;
        // Only what the events lead to that this process has folded.
        self.refresh().await?;
        let in_force = self.in_force();
        let origin = origin(&self.trust_domain);
        let failure = self.queue.failure();
        let size = self.checkpoints.sign_head(&*self.store, origin, &in_force.log, failure).await?;
        self.keep_checkpoint().await;
        Ok(size)
    }

    /// Logs how many strangers were refused since the last time, if any were.
    pub async fn summarise_refusals(&self) -> Result<(), Error> {
        self.refusals.summarise(self).await
    }

    /// Accounts for leaves as issued, abandoned or lost, and tells which certificates were shown; returns
    /// whether more may be due at once.
    pub async fn account(&self) -> Result<bool, Error> {
        self.follow_recent_log().await?;
        let shown = accounting::tell_shown(self).await;
        let accounted = accounting::account(self).await?;
        Ok(shown? || accounted)
    }

    /// Tells which certificates were shown, before this process ends: what it has not told is forgotten.
    pub async fn tell_shown(&self) -> Result<(), Error> {
        while accounting::tell_shown(self).await? {}
        Ok(())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// What the transaction refused, told as the earlier checks would have told it.
pub(crate) fn refusal(conflict: Conflict, spiffe_id: &SpiffeId) -> Error {
    let kind = TokenKind::needed_by(Some(spiffe_id));
    let new_token = kind.another();
    match conflict {
        Conflict::TokenExpired
        | Conflict::TokenKey
        | Conflict::TokenRevoked
        | Conflict::TokenUnknown
        | Conflict::TokenUsed => refused(conflict.to_string(), new_token),
        Conflict::RenewalRevoked => {
            refused(conflict.to_string(), format!("attest again: {}", again_by_token(spiffe_id)))
        }
        Conflict::LineageBroken | Conflict::RenewedTwice => refused(
            conflict.to_string(),
            format!(
                "somebody else may hold your key: `countersign revoke {spiffe_id} --reason \
                 key-compromise`, by {}",
                kind.begun_again()
            ),
        ),
        other => Error::Conflict(other),
    }
}

pub(crate) fn unexpected(outcome: &Outcome) -> Error {
    Error::Store(StoreError::Inconsistent(format!("the commit answered {outcome:?}")))
}

/// The hash of an issuer's public key, as its CRL is named.
pub(crate) fn issuer_id(key_hash: &Hash) -> String {
    format!("{key_hash:?}")
}

/// How often a request starts again because policy or revocations moved.
pub(crate) const RESTARTS: usize = 5;
