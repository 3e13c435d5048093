//! The engine: one certificate from request to stored bytes, readable from top to bottom.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use api::{Attestation, IssueRequest, IssuedCertificate};
use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use identity::feed::FeedItem;
use identity::{SerialNumber, SpiffeId, Trust, TrustDomain, VerifiedSvid};
use tlog::Hash;

use crate::attest::{self, Attested, INTERNAL, Purpose, refused};
use crate::checkpoint::CheckpointSigner;
use crate::clock::Clock;
use crate::countersigner::Countersigner;
use crate::error::Error;
use crate::event::{Event, OPERATOR_CREATE, POLICY_CHANGE};
use crate::feed::Feed;
use crate::fleet::Fleet;
use crate::hastened::Hastened;
use crate::issuer::{Issued, Issuer};
use crate::keys::Keys;
use crate::policy::{ActivePolicy, PolicySet, Principal};
use crate::present;
use crate::queue::Queue;
use crate::refusals::Refusals;
use crate::request::{Asked, Logged, Named};
use crate::revocation::Folded;
use crate::sequencer::{
    CertificateMember, CompleteMember, Conflict, Consumes, IdempotencyKey, Member, Outcome,
};
use crate::store::{Record, RecordKey, Store, StoreError};
use crate::witness::Witnesses;

/// The CA of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    crl_url: Option<String>,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    queue: Queue,
    issuer: Issuer,
    countersigner: Countersigner,
    checkpoints: CheckpointSigner,
    trust: Trust,
    trust_note: Vec<u8>,
    policy: ArcSwap<ActivePolicy>,
    folded: RwLock<Folded>,
    listener: OnceLock<Box<Listener>>,
    feed: Feed,
    fleet: Fleet,
    witnesses: Witnesses,
    seen: std::sync::Mutex<HashSet<SerialNumber>>,
    refusals: Refusals,
    hastened: std::sync::Mutex<Hastened>,
    pub(crate) crl_turn: tokio::sync::Mutex<()>,
}

/// Hears of each change of the revocation state before the call that made it returns.
pub type Listener = dyn Fn(&[FeedItem]) + Send + Sync;

/// Who calls, and in which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The certificate verified in the connection's handshake; none without one.
    pub svid: Option<VerifiedSvid>,
    /// What the server's diagnostics call the request.
    pub request_id: String,
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
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keys that the engine signs with.
    pub keys: Keys,
    /// The pin that the stored trust state must fit.
    pub trust_pin: identity::TrustPin,
}

impl Authority {
    /// Loads the state and refuses on any disagreement: log against tables, log against
    /// checkpoint, keys against trust state.
    pub async fn open(parts: Parts) -> Result<Self, Error> {
        let Parts { trust_domain, crl_url, clock, store, keys, trust_pin } = parts;
        let trust_note = store
            .trust_state()
            .await?
            .ok_or_else(|| Error::Folder("there is no trust state: `init` is unfinished".into()))?;
        let state = identity::TrustState::verify_pinned(&trust_note, &trust_pin)?;
        let checkpoints = CheckpointSigner::new(&trust_domain, Arc::clone(&keys.log))?;
        checkpoints.verify_newest(&*store).await?;
        require_keys(&state, &keys, &checkpoints)?;
        let trust = Trust::new(state)?;
        let certificate = store
            .issuers()
            .await?
            .pop()
            .ok_or_else(|| Error::Folder("there is no issuer: `init` is unfinished".into()))?;
        let certificate = issuance::IssuerCertificate::from_der(&certificate)?;
        let crl_url =
            crl_url.map(|url| url.replace("{issuer}", &format!("{:?}", certificate.key_hash())));
        let policy = load_policy(&*store, &trust_domain).await?;
        let folded = Folded::load(&*store, &trust_domain).await?;
        folded.require_head(&store.head().await?)?;
        Ok(Self {
            queue: Queue::start(Arc::clone(&store), Arc::clone(&clock))?,
            issuer: Issuer::new(certificate, keys.issuer)?,
            countersigner: Countersigner::new(keys.countersignature),
            policy: ArcSwap::from_pointee(policy),
            feed: Feed::new(keys.feed, folded.items.newest()),
            folded: RwLock::new(folded),
            listener: OnceLock::new(),
            fleet: Fleet::default(),
            witnesses: Witnesses::default(),
            seen: std::sync::Mutex::default(),
            refusals: Refusals::default(),
            hastened: std::sync::Mutex::default(),
            crl_turn: tokio::sync::Mutex::default(),
            trust_domain,
            crl_url,
            clock,
            store,
            checkpoints,
            trust,
            trust_note,
        })
    }

    /// Issues or renews: attests, asks policy, prepares, logs, signs, stores, and only then
    /// answers. The same request again returns the same certificate.
    pub async fn issue(
        &self,
        caller: &Caller,
        body: &IssueRequest,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        self.require_whole_log()?;
        let asked = Asked::parse(body, &self.trust_domain)?;
        let attested = match self.attest(caller, &body.attestation, &asked).await {
            Ok(attested) => attested,
            Err(error) => {
                self.refusals.note_stranger();
                return Err(error);
            }
        };
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
        &self,
        body: &IssueRequest,
        request_id: &str,
    ) -> Result<IssuedCertificate, Error> {
        self.require_whole_log()?;
        let caller = Caller { svid: None, request_id: request_id.to_owned() };
        let asked = Asked::parse(body, &self.trust_domain)?;
        let spiffe_id = asked
            .spiffe_id
            .clone()
            .filter(SpiffeId::is_reserved)
            .ok_or_else(|| Error::NotFound("internal identity of that name".to_owned()))?;
        let attested = Attested {
            principal: Principal::Authority,
            spiffe_id,
            purpose: Purpose::Issue,
            attestor: INTERNAL,
            attested_at: self.clock.unix_milliseconds(),
            consumes: Consumes::Nothing,
            earlier: None,
        };
        self.issue_attested(&caller, asked, attested, None).await
    }

    async fn issue_attested(
        &self,
        caller: &Caller,
        asked: Asked,
        attested: Attested,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        let idempotency = idempotency_key.map(|key| IdempotencyKey {
            principal: attested.principal.name().to_owned(),
            key: key.to_owned(),
            request_hash: asked.hash(),
        });
        for _ in 0..RESTARTS {
            let policy = self.policy.load_full();
            let epoch = self.folded().epoch;
            // After the epoch is read, on every turn: a caller revoked meanwhile goes no further.
            let by_token = matches!(attested.consumes, Consumes::Token { .. });
            if let Some(svid) = caller.svid.as_ref().filter(|_| !by_token) {
                self.require_live(svid)?;
            }
            let authorized = asked.clone().authorize(attested.clone(), &policy, epoch)?;
            self.refuse_denied(authorized.spiffe_id())?;
            let serial_number = self.fresh_serial_number()?;
            let now = self.clock.now();
            let prepared = authorized.prepare(
                self.issuer.certificate(),
                serial_number,
                now,
                self.crl_url.as_deref(),
            )?;
            let member = Arc::new(prepared.into_member(&caller.request_id, idempotency.clone()));
            let certificate = Member::Certificate(Arc::clone(&member));
            match self.queue.submit(certificate).await? {
                Outcome::Logged { leaf_index, timestamp } => {
                    metrics::counter!("countersign_logged_total").increment(1);
                    let logged = Logged::committed(&member, leaf_index, timestamp);
                    return self.complete(logged).await;
                }
                Outcome::Replay { leaf_index } => return self.replay(leaf_index, &member).await,
                Outcome::Moved => self.refresh().await?,
                Outcome::Refused(Conflict::SerialNumber) => {}
                Outcome::Refused(conflict) => {
                    self.refresh().await?;
                    return Err(refusal(conflict));
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(Error::Restless)
    }

    /// Countersigns, signs and stores what is logged. Whoever stores first wins; the others return
    /// the winner's bytes.
    async fn complete(&self, logged: Logged) -> Result<IssuedCertificate, Error> {
        let leaf_index = logged.leaf().leaf_index;
        let (mut issued, mut epoch) = self.sign(logged).await?;
        for _ in 0..RESTARTS {
            let complete = CompleteMember {
                leaf_index,
                certificate: issued.certificate.clone(),
                revocation_epoch: epoch,
            };
            match self.queue.submit(Member::Complete(complete)).await? {
                Outcome::Stored => {
                    metrics::counter!("countersign_issued_total").increment(1);
                    return Ok(self.present(
                        issued.logged.named(),
                        &issued.certificate,
                        leaf_index,
                    ));
                }
                Outcome::Existing(first) => {
                    return Ok(self.present(issued.logged.named(), &first, leaf_index));
                }
                Outcome::Abandoned => return Err(Error::Abandoned),
                Outcome::Moved => {
                    self.refresh().await?;
                    (issued, epoch) = self.check_again(issued)?;
                }
                other => return Err(unexpected(&other)),
            }
        }
        Err(Error::Restless)
    }

    /// Two signatures over logged bytes, unless they were revoked meanwhile.
    async fn sign(&self, logged: Logged) -> Result<(Issued, u64), Error> {
        self.require_whole_log()?;
        let epoch = self.refuse_revoked(&logged)?;
        let countersignature = self.countersigner.countersign(&logged).await?;
        let issued = self.issuer.issue(logged, &countersignature).await?;
        Ok((issued, epoch))
    }

    fn check_again(&self, issued: Issued) -> Result<(Issued, u64), Error> {
        let epoch = self.refuse_revoked(&issued.logged)?;
        Ok((issued, epoch))
    }

    /// The same request again: what was stored, or what is logged and waits to be signed.
    ///
    /// `prepared` is what policy and linter have just allowed for this very request. What is read
    /// back is signed only if it says the same: the database alone makes nothing that is signed.
    async fn replay(
        &self,
        leaf_index: u64,
        prepared: &CertificateMember,
    ) -> Result<IssuedCertificate, Error> {
        let record = self.record_at(leaf_index).await?;
        if let Some(certificate) = &record.certificate {
            return Ok(self.present(&Named::from(&record), certificate, leaf_index));
        }
        let entries = self.store.entries(leaf_index.saturating_sub(1), 2).await?;
        let [event, leaf] = &entries[..] else {
            return Err(StoreError::Inconsistent(format!("entry {leaf_index} is gone")).into());
        };
        self.complete(Logged::read_back(event, leaf, &record, prepared)?).await
    }

    async fn record_at(&self, leaf_index: u64) -> Result<Record, Error> {
        let record = self.store.record(RecordKey::LeafIndex(leaf_index)).await?;
        let gone = || StoreError::Inconsistent(format!("record {leaf_index} is gone"));
        Ok(record.ok_or_else(gone)?)
    }

    fn present(&self, named: &Named, certificate: &[u8], leaf_index: u64) -> IssuedCertificate {
        let sequence = self.trust.state().sequence;
        present::issued(named, certificate, self.issuer.pem(), leaf_index, sequence)
    }

    async fn attest(
        &self,
        caller: &Caller,
        evidence: &Attestation,
        asked: &Asked,
    ) -> Result<Attested, Error> {
        let spiffe_id = asked.spiffe_id.as_ref();
        let now = self.clock.unix_milliseconds();
        match (evidence, &caller.svid) {
            (Attestation::Token { token }, _) => {
                attest::token::attest(&*self.store, token, &asked.request, spiffe_id, now).await
            }
            (Attestation::Svid {}, Some(svid)) => {
                self.require_live(svid)?;
                self.see(svid).await?;
                attest::svid::attest(&*self.store, svid, spiffe_id, now).await
            }
            (Attestation::Svid {}, None) => Err(refused(
                "attestation svid needs a client certificate, and this connection has none",
                "connect with your certificate and key, or use attestation token",
            )),
        }
    }

    /// Refuses a caller whose certificate was revoked since its handshake, or has run out.
    pub(crate) fn require_live(&self, svid: &VerifiedSvid) -> Result<(), Error> {
        let folded = self.folded();
        folded
            .revocations
            .check(svid.spiffe_id(), svid.serial_number(), svid.leaf_index())
            .map_err(|refusal| {
                refused(
                    format!("your certificate is refused: {refusal}"),
                    "attest afresh (`countersign issue --attest token`); a denied identity first \
                     needs `countersign allow`",
                )
            })?;
        if svid.not_after() < self.clock.now().unix_timestamp() {
            return Err(refused("your certificate has expired", "attest afresh"));
        }
        Ok(())
    }

    /// Notes, once for each certificate, that its holder exists.
    pub(crate) async fn see(&self, svid: &VerifiedSvid) -> Result<(), Error> {
        let serial_number = *svid.serial_number();
        if self.seen().contains(&serial_number) {
            return Ok(());
        }
        self.queue.submit(Member::Seen(serial_number)).await?;
        let mut seen = self.seen();
        if seen.len() >= SEEN_LIMIT {
            seen.clear();
        }
        seen.insert(serial_number);
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashSet<SerialNumber>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Returns the epoch at which it is not revoked.
    fn refuse_revoked(&self, logged: &Logged) -> Result<u64, Error> {
        let folded = self.folded();
        let leaf_index = Some(logged.leaf().leaf_index);
        folded
            .revocations
            .check(&logged.named().spiffe_id, &logged.named().serial_number, leaf_index)
            .map_err(Error::Revoked)?;
        Ok(folded.epoch)
    }

    fn fresh_serial_number(&self) -> Result<SerialNumber, Error> {
        let mut random = [0; 14];
        rand::fill(&mut random)
            .map_err(|_| crate::signer::SignerError::Refused("no randomness".to_owned()))?;
        Ok(issuance::serial_number(self.clock.unix_milliseconds(), random))
    }

    /// Catches up with the log: revoking events, of which the feed's subscribers hear before this
    /// returns, and the policy set in force.
    pub async fn refresh(&self) -> Result<(), Error> {
        let signed = self.checkpoints.newest_size();
        let head = self.store.head().await?;
        self.require_growth(signed, head.edge.size())?;
        if head.revocation_epoch != self.folded().epoch {
            let from = self.folded().next_index();
            let entries = self.store.folding_entries(from).await?;
            // Told under the lock, so that nobody hears of an allow before the deny that it lifts.
            let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
            let items = folded.fold(&entries)?;
            if let Some(listener) = self.listener.get().filter(|_| !items.is_empty()) {
                listener(&items);
            }
        }
        self.publish().await;
        if head.policy_hash != *self.policy.load().set().hash() {
            self.policy.store(Arc::new(load_policy(&*self.store, &self.trust_domain).await?));
        }
        Ok(())
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

    pub(crate) fn checkpoints(&self) -> &CheckpointSigner {
        &self.checkpoints
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The policy set in force.
    pub fn policy(&self) -> Arc<ActivePolicy> {
        self.policy.load_full()
    }

    /// The issuer's id: its CRL is `/crl/{id}`.
    pub fn issuer_id(&self) -> String {
        issuer_id(self.issuer.certificate().key_hash())
    }

    /// The issuer's certificate, DER.
    pub fn issuer_certificate(&self) -> &[u8] {
        self.issuer.certificate().der()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust state in force.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The trust state in force, as its signed note.
    pub fn trust_note(&self) -> &[u8] {
        &self.trust_note
    }

    /// Signs a checkpoint if the log has grown; returns the size covered. The log's key signs one
    /// history alone: nothing once the log was found to be another.
    pub async fn sign_checkpoint(&self) -> Result<u64, Error> {
        self.require_whole_log()?;
        self.checkpoints.sign_head(&*self.store).await
    }

    /// Logs how many strangers were refused since the last time, if any were.
    pub async fn summarise_refusals(&self) -> Result<(), Error> {
        self.refusals.summarise(self).await
    }

    /// Accounts for leaves as issued or abandoned; returns whether more may be due at once.
    pub async fn account(&self) -> Result<bool, Error> {
        crate::accounting::account(self).await
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// The keys that sign must be those that the trust state names.
fn require_keys(
    state: &identity::TrustState,
    keys: &Keys,
    checkpoints: &CheckpointSigner,
) -> Result<(), Error> {
    let countersigns = state
        .countersignature_keys
        .iter()
        .any(|named| named.key.as_bytes() == keys.countersignature.public_key());
    let feeds = state.feed_keys.iter().any(|named| named.as_bytes() == keys.feed.public_key());
    if !countersigns || !feeds || state.log.key != checkpoints.verifier_key().to_string() {
        return Err(Error::Folder(
            "the log's or the feed's key files are not those that the trust state names: the \
             folder mixes files of two CAs"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Loads the policy set that the head names, and the operators whose events stand in the log.
pub(crate) async fn load_policy(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<ActivePolicy, Error> {
    let hash = store.head().await?.policy_hash;
    let gone = || StoreError::Inconsistent(format!("policy set {hash:?} is gone"));
    let (files, log_index) = store.policy(hash).await?.ok_or_else(gone)?;
    let made = made_by(store, log_index, |event| {
        event.kind == POLICY_CHANGE && event.detail["hash"] == format!("{hash:?}")
    });
    if !made.await? {
        let why = format!("policy set {hash:?} was not put into force by entry {log_index}");
        return Err(StoreError::Inconsistent(why).into());
    }
    let files = serde_json::from_str(&files)
        .map_err(|error| StoreError::Inconsistent(format!("policy set {hash:?}: {error}")))?;
    let set = PolicySet::parse(&files)?;
    if *set.hash() != hash {
        return Err(gone().into());
    }
    let operators = load_operators(store).await?;
    Ok(ActivePolicy::new(set, trust_domain.clone(), operators)?)
}

/// An operator's row does not count without the event that made it.
async fn load_operators(store: &dyn Store) -> Result<HashSet<String>, Error> {
    let mut operators = HashSet::new();
    for (name, log_index) in store.operators().await? {
        let made = made_by(store, log_index, |event| {
            event.kind == OPERATOR_CREATE && event.detail["name"] == name.as_str()
        });
        if !made.await? {
            return Err(StoreError::Inconsistent(format!(
                "operator {name:?} was not made by entry {log_index}"
            ))
            .into());
        }
        operators.insert(name);
    }
    Ok(operators)
}

/// Whether the event at this place of the log is the one that a row says made it.
pub(crate) async fn made_by(
    store: &dyn Store,
    log_index: u64,
    is_it: impl FnOnce(&Event) -> bool,
) -> Result<bool, StoreError> {
    let entries = store.entries(log_index, 1).await?;
    let event = entries.first().and_then(|entry| Event::parse(entry).ok());
    Ok(event.is_some_and(|event| is_it(&event)))
}

/// What the transaction refused, told as the earlier checks would have told it.
fn refusal(conflict: Conflict) -> Error {
    let new_token = "ask an operator for a new one: countersign token create SPIFFE_ID";
    match conflict {
        Conflict::TokenExpired
        | Conflict::TokenKey
        | Conflict::TokenRevoked
        | Conflict::TokenUnknown
        | Conflict::TokenUsed => refused(conflict.to_string(), new_token),
        Conflict::LineageBroken | Conflict::RenewedTwice => refused(
            conflict.to_string(),
            "somebody else may hold your key: revoke the identity, then attest afresh",
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
/// Serial numbers remembered as seen; the store remembers all.
const SEEN_LIMIT: usize = 100_000;
