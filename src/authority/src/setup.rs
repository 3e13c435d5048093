//! Making a CA: keys, log, trust state, the first policy set and the first operator.
//!
//! The log is made first; whatever a CA key then signs (root, issuer, request, trust state) stands
//! in it as an event with its hash before it is signed. All or nothing: `unfinished` has the crash
//! story.

mod certified_again;
mod halts;
mod lost;
mod policies;
mod root_again;
mod unfinished;

use crate::writer::checkpoints::Checkpoints;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{KeyPurpose, Secret};
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, SpiffeId, TextFault, Trust,
    TrustDomain, TrustPin, TrustState, pem, utf8_text,
};
use issuance::IssuerCertificate;
use tlog::Hash;

pub use self::certified_again::{Again, CertifiedAgain, certify_again, to_certify_again};
pub use self::halts::{Lifted, lift_halt, require_no_halt};
pub use self::lost::replace_lost_issuer;
pub use self::policies::{policies_in_force, replace_policies};
use self::unfinished::Unfinished;
pub use self::unfinished::next_by_parent;
use crate::checkpoint::{origin, verifier_key};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::evidence::LogKeys;
use crate::files::{MAX_STATE, create_private_folder, read_state, write_private};
use crate::fold::Folded;
use crate::fold::load_keys;
use crate::kept::KeptCheckpoint;
use crate::kept_file::KeptBeside;
use crate::keys::{Keys, offline_folder, online_folder};
use crate::operations::policy_change;
use crate::parent_chain::ParentChain;
use crate::policy::PolicySet;
use crate::rotation::ceremony;
use crate::sequencer::{self, ActMember, ChangedKeys, Effect, Member, Outcome};
use crate::shell::quoted;
use crate::signer::Signer;
use crate::store::sqlite::{Held, Migrated, SqliteStore};
use crate::store::{Store, StoreError};
use crate::view::in_force::InForce;
use crate::writer::queue::Failure;

/// What a new CA is made from.
#[derive(Debug)]
pub struct NewAuthority<'a> {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The state folder; made if it is not there.
    pub state: &'a Path,
    /// Seals the keys that `serve` opens.
    pub passphrase: &'a Secret,
    /// Seals the root and trust keys.
    pub offline_passphrase: &'a Secret,
    /// The first policy set.
    pub policy: &'a PolicySet,
    /// The first operator's name.
    pub operator: &'a str,
    /// Who certifies the issuer.
    pub parent: Parent,
}

/// Who certifies the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// A CA elsewhere, to which a request is carried by hand; [`finish`] takes its answer.
    Elsewhere,
    /// A root made here.
    Local,
}

/// A new CA.
#[derive(Debug)]
pub struct Created {
    /// Its store.
    pub store: Arc<SqliteStore>,
    /// Its keys.
    pub keys: Keys,
    /// What remains to be done.
    pub outcome: Outcomes,
}

/// What remains to be done with a new CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcomes {
    /// The request has to be certified; it is written to this file.
    AwaitsCertificate(PathBuf),
    /// Nothing: this pin names it.
    Ready(TrustPin),
}

/// Makes a CA, all of it or nothing. Refuses a folder that has one, or a part of one.
///
/// Where an earlier attempt was killed after its CA was whole, that one is taken, by its passphrase.
pub async fn create(new: &NewAuthority<'_>, clock: &dyn Clock) -> Result<Created, Error> {
    SpiffeId::operator(&new.trust_domain, new.operator)
        .map_err(|error| Error::Invalid { why: error.to_string(), next_step: None })?;
    new.policy.require_way_on(Some(&new.trust_domain), Some(new.operator))?;
    create_private_folder(new.state)
        .map_err(|error| Error::Folder(format!("{}: {error}", new.state.display())))?;
    let held = SqliteStore::hold(new.state)?;
    let unfinished = Unfinished::of(new.state);
    if unfinished.settle()? {
        let keys = Keys::open(new.state, new.passphrase)?;
        let created = placed(new, held, keys).await?;
        let_in(&new.trust_domain, &*created.store, new.operator, clock).await?;
        return Ok(created);
    }
    unfinished::require_vacant(new.state)?;
    unfinished.begin()?;
    let made = make(new, held.clone(), unfinished.folder(), clock).await;
    let made = made.and_then(|keys| unfinished.complete().map(|()| keys));
    let keys = made.map_err(|source| unfinished.given_up(source))?;
    unfinished.settle()?;
    placed(new, held, keys.moved_to(online_folder(new.state))).await
}

/// Refuses a folder in which [`create`] makes none, and says what goes on with what is there.
pub fn require_vacant(state: &Path) -> Result<(), Error> {
    match Unfinished::of(state).is_whole() {
        Ok(true) => Ok(()),
        _ => unfinished::require_vacant(state),
    }
}

/// A new CA, as it stands in its place.
async fn placed(new: &NewAuthority<'_>, held: Held, keys: Keys) -> Result<Created, Error> {
    let head_key = keys.head_key()?.ok_or_else(|| head_key_gone(new.state))?;
    let store = Arc::new(held.open(&new.trust_domain, &head_key)?);
    keep_newest(&new.trust_domain, new.state, &*store, &keys).await?;
    let outcome = match new.state.join(PIN).exists() {
        true => Outcomes::Ready(read_pin(new.state)?),
        false => Outcomes::AwaitsCertificate(new.state.join(REQUEST)),
    };
    Ok(Created { store, keys, outcome })
}

/// Keeps beside the database what it says of the log: its newest checkpoint and its head.
async fn keep_newest(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
) -> Result<(), Error> {
    let checkpoints = Checkpoints::default();
    let log_keys = LogKeys::load(trust_domain, store, keys).await?;
    checkpoints.verify_newest(store, log_keys.all()).await?;
    let beside = KeptBeside::of(state);
    if let Some((size, note)) = checkpoints.newest_note() {
        KeptCheckpoint::default()
            .keep(&beside, size, &note)
            .map_err(|error| Error::Folder(format!("{}: {error}", state.display())))?;
    }
    Ok(store.keep_heads(beside).await?)
}

/// Makes a CA in a folder that nobody looks into, and closes it again.
async fn make(
    new: &NewAuthority<'_>,
    held: Held,
    folder: &Path,
    clock: &dyn Clock,
) -> Result<Keys, Error> {
    let keys = Keys::generate(online_folder(folder), new.passphrase, ONLINE)?;
    let head_key = keys.head_key()?.ok_or_else(|| head_key_gone(folder))?;
    let store = held.create(folder, &new.trust_domain, &head_key)?;
    let offline = match new.parent {
        Parent::Local => OFFLINE,
        Parent::Elsewhere => &[KeyPurpose::Trust],
    };
    let offline = Keys::generate(offline_folder(folder), new.offline_passphrase, offline)?;
    let first = First::of(&keys, &offline)?;
    let ceremony = Ceremony { trust_domain: &new.trust_domain, store: &store, clock };
    ceremony.genesis(&first).await?;
    let by = Act { actor: INIT, request_id: INIT };
    let (event, effect) = policy_change(new.policy, None, &by);
    ceremony.log(event, effect).await?;
    ceremony.operator(new.operator).await?;
    match &first.root {
        Some(root) => {
            let certificate = ceremony.root(&**root).await?;
            ceremony.issuer(&certificate, &**root, &*first.issuer).await?;
            let anchor = Anchor {
                certificate: Der::new(certificate.der()),
                countersignature: Countersignature::Required,
            };
            let trust_state = ceremony.first_trust_state(vec![anchor], &first)?;
            ceremony.trust_state(trust_state, &first, folder).await?;
        }
        None => ceremony.request(&*first.issuer, folder).await?,
    }
    ceremony.sign_head(&first).await?;
    store.close()?;
    Ok(keys)
}

/// Opens the store of a CA. One of before heads were sealed is verified and sealed first; then
/// what was checked is returned, for the operator to see.
///
/// The new key is on the disk before the head is sealed by it, and counts as the folder's only
/// afterwards: a crash in between is gone through again. From then on an unsealed store is refused,
/// or whoever writes to the database could ask for a new seal.
pub fn open_store(
    state: &Path,
    trust_domain: &TrustDomain,
    keys: &Keys,
) -> Result<(SqliteStore, Option<Migrated>), Error> {
    if let Some(key) = keys.head_key()? {
        return Ok((SqliteStore::open(state, trust_domain, &key)?, None));
    }
    let (is_sealed, next) = (SqliteStore::is_sealed(state)?, keys.next_head_key()?);
    let opened = match (is_sealed, next) {
        (true, None) => return Err(head_key_gone(state)),
        (true, Some(key)) => (SqliteStore::open(state, trust_domain, &key)?, None),
        (false, next) => {
            let key = next.map_or_else(|| keys.make_next_head_key(), Ok)?;
            let (store, migrated) = SqliteStore::migrate(state, trust_domain, &key)?;
            (store, Some(migrated))
        }
    };
    keys.keep_next_head_key()?;
    Ok(opened)
}

fn head_key_gone(state: &Path) -> Error {
    let folder = online_folder(state);
    Error::Folder(format!(
        "{}/head.key is gone: restore it from a backup of that folder; without it nobody can tell \
         whether this CA wrote what the database says",
        folder.display()
    ))
}

/// What a CA elsewhere answered to the issuer's request.
#[derive(Debug, Clone, Copy)]
pub struct ParentAnswer<'a> {
    /// The issuer's certificate, then that CA's own, and so on to a root, PEM.
    pub certificates: &'a [u8],
    /// DNS names and IP addresses of the CA's own certificate, which has to be believed below them.
    pub names: &'a [String],
}

/// Takes the certificates by which a CA elsewhere certified the issuer. Those above the issuer
/// become trust anchors.
///
/// They are verified by the rules that peers use before anything is written.
pub async fn finish(
    trust_domain: &TrustDomain,
    state: &Path,
    passphrase: &Secret,
    offline_passphrase: &Secret,
    answer: ParentAnswer<'_>,
    clock: &dyn Clock,
) -> Result<Created, Error> {
    let keys = Keys::open(state, passphrase)?;
    let store = Arc::new(open_store(state, trust_domain, &keys)?.0);
    let ceremony = Ceremony { trust_domain, store: &*store, clock };
    let is_finished = !store.trust_states().await?.is_empty();
    // Before anything is certified, or begun, on a log that is not what it was.
    require_no_halt(trust_domain, state, &*store, &keys).await?;
    if is_finished && state.join(PIN).exists() {
        ceremony.certified_again(answer, state, &keys).await?;
        let pin = read_pin(state)?;
        return Ok(Created { store, keys, outcome: Outcomes::Ready(pin) });
    }
    let offline = Keys::open_offline(state, offline_passphrase)?;
    let first = First::of(&keys, &offline)?;
    if is_finished {
        // Killed before it had written the pin, which follows from the trust key alone.
        let pin = write_pin(&ceremony.first_trust_state(vec![], &first)?, state)?;
        return Ok(Created { store, keys, outcome: Outcomes::Ready(pin) });
    }
    let chain = ParentChain::parse(answer.certificates, &*first.issuer)?;
    let trust_state = ceremony.first_trust_state(chain.anchors(), &first)?;
    chain.verify(&trust_state, answer.names, clock)?;
    ceremony.add_issuer(&chain.issuer, "parent elsewhere").await?;
    let pin = ceremony.trust_state(trust_state, &first, state).await?;
    ceremony.sign_head(&first).await?;
    keep_newest(trust_domain, state, &*store, &keys).await?;
    Ok(Created { store, keys, outcome: Outcomes::Ready(pin) })
}

/// What [`let_in`] had to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetIn {
    /// Whose denials were lifted.
    pub allowed: Vec<SpiffeId>,
    /// Whether the operator was not known before.
    pub registered: bool,
}

/// Lets the CA itself and an operator act again: lifts what denies them, and makes the operator
/// known if it is not. Both are logged. What was revoked stays revoked: they get new certificates.
pub async fn let_in(
    trust_domain: &TrustDomain,
    store: &dyn Store,
    operator: &str,
    clock: &dyn Clock,
) -> Result<LetIn, Error> {
    let invalid =
        |error: identity::Error| Error::Invalid { why: error.to_string(), next_step: None };
    let id = SpiffeId::operator(trust_domain, operator).map_err(invalid)?;
    let ceremony = Ceremony { trust_domain, store, clock };
    let folded = Folded::load(store, trust_domain).await?;
    let mut done = LetIn::default();
    for spiffe_id in [SpiffeId::authority(trust_domain), id] {
        let Some(denied_at) = folded.revoking.denial_of(&spiffe_id) else { continue };
        let detail = serde_json::json!({ "denied_at": denied_at.to_string() });
        let event = ceremony.draft(event::ALLOW, spiffe_id.as_str(), &detail);
        ceremony.log(event, Effect::Allow { spiffe_id: spiffe_id.clone() }).await?;
        done.allowed.push(spiffe_id);
    }
    if !store.operators().await?.iter().any(|(name, _)| name == operator) {
        ceremony.operator(operator).await?;
        done.registered = true;
    }
    Ok(done)
}

/// Lets the log go on from the clock's time, where its own is ahead of it: written while a clock was
/// wrong. Returns by how many milliseconds it was; none where it was not.
///
/// The event `clock.reset` says so, and folds: the times of before stay what they were. Certificates
/// of then begin when they say; those of root and issuer are made again ([`certify_again`]). The caller has looked at the clock; nobody else can tell.
pub async fn reset_clock(
    trust_domain: &TrustDomain,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<Option<u64>, Error> {
    let (head, now) = (store.head().await?, clock.unix_milliseconds());
    let Some(ahead) = head.at.checked_sub(now).filter(|ahead| *ahead > 0) else { return Ok(None) };
    let detail = serde_json::json!({ "from_milliseconds": head.at, "to_milliseconds": now });
    let ceremony = Ceremony { trust_domain, store, clock };
    let event = ceremony.draft(event::CLOCK_RESET, &origin(trust_domain), &detail);
    ceremony.log(event, Effect::None).await?;
    Ok(Some(ahead))
}

/// Refuses while the clock is behind the log: nothing can be written.
pub async fn require_clock(store: &dyn Store, clock: &dyn Clock) -> Result<(), Error> {
    let head = store.head().await?;
    sequencer::require_clock(&head, clock.unix_milliseconds())
        .map_err(|behind| StoreError::ClockBehind { milliseconds: behind.milliseconds })?;
    Ok(())
}

/// The pin of a finished CA, as its folder keeps it.
pub fn read_pin(state: &Path) -> Result<TrustPin, Error> {
    let path = state.join(PIN);
    let damaged = |why: &dyn std::fmt::Display| {
        let shown = path.display();
        Error::Folder(format!("{shown} cannot be used: {why}; {}", restore_pin(&path)))
    };
    let text = read_state(&path, MAX_STATE).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Folder(without_pin(state, &path)),
        _ => Error::Folder(format!("{}: {error}", path.display())),
    })?;
    let text = utf8_text(&text).map_err(|fault| match fault {
        // Base32 in another encoding is base32.
        TextFault::NotUtf8 { .. } => damaged(&"it holds no text"),
        fault => damaged(&fault),
    })?;
    if text.trim().is_empty() {
        return Err(damaged(&"it is empty"));
    }
    text.parse().map_err(|error| damaged(&error))
}

/// The step that brings `trust.pin` back.
fn restore_pin(path: &Path) -> String {
    format!(
        "restore it from a backup, or from the context of an operator of this CA: countersign trust \
         pin > {}",
        quoted(path)
    )
}

fn without_pin(state: &Path, path: &Path) -> String {
    if state.join(REQUEST).exists() {
        return format!(
            "{} waits for its issuer's certificate: countersign init --certificate FILE",
            state.display()
        );
    }
    if !online_folder(state).exists() {
        return format!(
            "there is no CA in {}: look at `state` in the configuration; `countersign init` makes one",
            state.display()
        );
    }
    format!("{} is gone: {}", path.display(), restore_pin(path))
}

/// Writes the pin of a trust state beside the keys.
fn write_pin(trust_state: &TrustState, folder: &Path) -> Result<TrustPin, Error> {
    let (path, pin) = (folder.join(PIN), trust_state.pin());
    write_private(&path, format!("{pin}\n").as_bytes())
        .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))?;
    Ok(pin)
}

/// What the steps of a ceremony share.
struct Ceremony<'a> {
    trust_domain: &'a TrustDomain,
    store: &'a dyn Store,
    clock: &'a dyn Clock,
}

/// The keys that `init` makes.
struct First {
    countersignature: Arc<dyn Signer>,
    feed: Arc<dyn Signer>,
    issuer: Arc<dyn Signer>,
    log: Arc<dyn Signer>,
    /// None where a parent elsewhere certifies the issuer.
    root: Option<Arc<dyn Signer>>,
    trust: Arc<dyn Signer>,
}

impl First {
    fn of(online: &Keys, offline: &Keys) -> Result<Self, Error> {
        let made = |keys: &Keys, purpose| {
            keys.first(purpose)
                .ok_or_else(|| Error::Folder(format!("the state folder has no {purpose} key")))
        };
        Ok(Self {
            countersignature: made(online, KeyPurpose::Countersignature)?,
            feed: made(online, KeyPurpose::Feed)?,
            issuer: made(online, KeyPurpose::Issuer)?,
            log: made(online, KeyPurpose::Log)?,
            root: offline.first(KeyPurpose::Root),
            trust: made(offline, KeyPurpose::Trust)?,
        })
    }

    fn by_purpose(&self) -> impl Iterator<Item = (KeyPurpose, &Arc<dyn Signer>)> {
        [
            (KeyPurpose::Countersignature, &self.countersignature),
            (KeyPurpose::Feed, &self.feed),
            (KeyPurpose::Issuer, &self.issuer),
            (KeyPurpose::Log, &self.log),
            (KeyPurpose::Trust, &self.trust),
        ]
        .into_iter()
        .chain(self.root.as_ref().map(|root| (KeyPurpose::Root, root)))
    }
}

impl Ceremony<'_> {
    /// The first entry names the log and every key.
    async fn genesis(&self, first: &First) -> Result<(), Error> {
        let keys: BTreeMap<&str, String> = first
            .by_purpose()
            .map(|(purpose, key)| (purpose.name(), String::from(Der::new(key.public_key()))))
            .collect();
        let detail = serde_json::json!({ "keys": keys, "version": env!("CARGO_PKG_VERSION") });
        let origin = origin(self.trust_domain);
        self.log(self.draft(event::LOG_GENESIS, &origin, &detail), Effect::None).await.map(drop)
    }

    async fn sign_head(&self, first: &First) -> Result<(), Error> {
        let key = verifier_key(self.trust_domain, first.log.public_key())?;
        let signers = [(key, Arc::clone(&first.log))];
        let origin = origin(self.trust_domain);
        let failure = Failure::default();
        let signed = Checkpoints::default().sign_head(self.store, origin, &signers, &failure).await;
        signed.map(drop)
    }

    async fn operator(&self, name: &str) -> Result<(), Error> {
        let id = SpiffeId::operator(self.trust_domain, name)?;
        let detail = serde_json::json!({ "name": name });
        let event = self.draft(event::OPERATOR_CREATE, id.as_str(), &detail);
        self.log(event, Effect::CreateOperator { name: name.to_owned() }).await.map(drop)
    }

    async fn root(&self, signer: &dyn Signer) -> Result<IssuerCertificate, Error> {
        let key = signer.public_key();
        let tbs = ceremony::root_tbs(self.trust_domain, key, self.clock)?;
        self.log_tbs(event::KEY_ISSUER, "root", &tbs).await?;
        let der = issuance::assemble(&tbs, &signer.sign(&tbs).await?);
        Ok(IssuerCertificate::from_der(&der)?)
    }

    async fn issuer(
        &self,
        root: &IssuerCertificate,
        signer: &dyn Signer,
        key: &dyn Signer,
    ) -> Result<(), Error> {
        let tbs = ceremony::issuer_tbs(self.trust_domain, key.public_key(), root, self.clock)?;
        self.log_tbs(event::KEY_ISSUER, "issuer", &tbs).await?;
        let der = issuance::assemble(&tbs, &signer.sign(&tbs).await?);
        self.add_issuer(&IssuerCertificate::from_der(&der)?, "local root").await
    }

    async fn add_issuer(&self, issuer: &IssuerCertificate, parent: &str) -> Result<(), Error> {
        let detail = serde_json::json!({
            "certificate_sha256": format!("{:?}", Hash::of(issuer.der())),
            "not_after": issuer.not_after().unix_timestamp(),
            "parent": parent,
            "serial_number": issuer.serial_number().to_string(),
        });
        let event = self.draft(event::KEY_ISSUER, "issuer", &detail);
        let effect = Effect::ChangeKeys(ChangedKeys {
            issuer: Some((issuer.der().to_vec(), *issuer.key_hash())),
            trust_state: None,
        });
        self.log(event, effect).await.map(drop)
    }

    /// What is in force in a folder whose CA is stopped, and has not halted.
    async fn in_force(&self, state: &Path, keys: &Keys) -> Result<InForce, Error> {
        require_no_halt(self.trust_domain, state, self.store, keys).await?;
        let ledger = load_keys(self.store, self.trust_domain).await?;
        InForce::open(ledger, keys, self.store, self.trust_domain, &read_pin(state)?).await
    }

    /// A CA elsewhere has certified the active issuer's key once more.
    async fn certified_again(
        &self,
        answer: ParentAnswer<'_>,
        state: &Path,
        keys: &Keys,
    ) -> Result<(), Error> {
        let in_force = self.in_force(state, keys).await?;
        let chain = ParentChain::parse(answer.certificates, in_force.issuer.signer())?;
        let trust_state = in_force.trust.state();
        chain.verify(trust_state, answer.names, self.clock)?;
        if chain.anchors().first().is_none_or(|parent| !trust_state.anchors.contains(parent)) {
            return Err(Error::Invalid {
                why: "the second certificate is no anchor of this CA's trust state".to_owned(),
                next_step: Some("have it certified by the same CA as before".to_owned()),
            });
        }
        self.add_issuer(&chain.issuer, "parent elsewhere").await
    }

    /// Writes the request for a CA elsewhere.
    async fn request(&self, issuer: &dyn Signer, folder: &Path) -> Result<(), Error> {
        let tbs = issuance::prepare_issuer_request(
            self.trust_domain,
            "Countersign Issuer",
            issuer.public_key(),
        )?;
        self.log_tbs(event::KEY_ISSUER, "request", &tbs).await?;
        let der = issuance::assemble(&tbs, &issuer.sign(&tbs).await?);
        let path = folder.join(REQUEST);
        write_private(&path, pem("CERTIFICATE REQUEST", &der).as_bytes())
            .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))
    }

    /// What the first trust state will say.
    fn first_trust_state(&self, anchors: Vec<Anchor>, first: &First) -> Result<TrustState, Error> {
        Ok(TrustState {
            v: 1,
            trust_domain: self.trust_domain.clone(),
            sequence: 1,
            anchors,
            countersignature_keys: vec![CountersignatureKey {
                key: Der::new(first.countersignature.public_key()),
                not_before: 0,
                not_after: None,
            }],
            log: LogKey {
                origin: origin(self.trust_domain),
                key: verifier_key(self.trust_domain, first.log.public_key())?.to_string(),
            },
            feed_keys: vec![Der::new(first.feed.public_key())],
            trust_keys: vec![Der::new(first.trust.public_key())],
            threshold: 1,
        })
    }

    /// Signs the first trust state, and writes its pin beside the keys.
    async fn trust_state(
        &self,
        state: TrustState,
        first: &First,
        folder: &Path,
    ) -> Result<TrustPin, Error> {
        Trust::new(state.clone())?;
        let text = state.text();
        let detail = serde_json::json!({
            "note_text_sha256": format!("{:?}", Hash::of(text.as_bytes())),
            "pin": state.pin().to_string(),
            "sequence": state.sequence,
        });
        // Logged with its hash before the trust key signs it; stored once it is signed.
        let intent = self.draft(event::TRUST_CHANGE, "prepare", &detail);
        self.log(intent, Effect::None).await?;
        let note = ceremony::sign_trust(&state, &[Arc::clone(&first.trust)]).await?;
        TrustState::verify_pinned(&note, &state.pin())?;
        let event = self.draft(event::TRUST_CHANGE, "activate", &detail);
        let changed = ChangedKeys { issuer: None, trust_state: Some((state.sequence, note)) };
        self.log(event, Effect::ChangeKeys(changed)).await?;
        write_pin(&state, folder)
    }

    async fn log_tbs(&self, kind: &'static str, what: &str, tbs: &[u8]) -> Result<(), Error> {
        let detail = serde_json::json!({ "tbs_sha256": format!("{:?}", Hash::of(tbs)) });
        self.log(self.draft(kind, what, &detail), Effect::None).await.map(drop)
    }

    fn draft(&self, kind: &'static str, subject: &str, detail: &serde_json::Value) -> EventDraft {
        EventDraft::new(kind, &Act { actor: INIT, request_id: INIT }, subject, detail)
    }

    async fn log(&self, event: EventDraft, effect: Effect) -> Result<u64, Error> {
        let act = ActMember { event, effect, allowed_under: None };
        let group = vec![Member::Act(Box::new(act))];
        match self.store.commit(group, self.clock.unix_milliseconds()).await?.pop() {
            Some(Outcome::Done { log_index }) => Ok(log_index),
            Some(Outcome::Refused(conflict)) => Err(Error::Conflict(conflict)),
            other => Err(Error::Folder(format!("the store answered {other:?}"))),
        }
    }
}

const INIT: &str = "init";
const PIN: &str = "trust.pin";
/// The request for a CA elsewhere.
const REQUEST: &str = "issuer.csr";
/// The keys that `serve` opens.
const ONLINE: &[KeyPurpose] =
    &[KeyPurpose::Countersignature, KeyPurpose::Feed, KeyPurpose::Issuer, KeyPurpose::Log];
/// The keys that only `init` and `rotate` open.
const OFFLINE: &[KeyPurpose] = &[KeyPurpose::Root, KeyPurpose::Trust];
