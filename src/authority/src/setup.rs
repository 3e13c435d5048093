//! Making a CA: keys, log, trust state, the first policy set and the first operator.
//!
//! The log is made first; whatever a CA key then signs (root, issuer, request, trust state) stands
//! in it as an event with its hash before it is signed. All or nothing: `unfinished` has the crash
//! story.

mod certified_again;
mod halts;
mod lost;
mod making;
mod opening;
mod policies;
mod root_again;
mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{KeyPurpose, Secret};
use identity::{Anchor, Countersignature, Der, SpiffeId, TrustDomain, TrustPin};
use time::OffsetDateTime;

pub use self::certified_again::{Again, CertifiedAgain, certify_again, to_certify_again};
pub use self::halts::{Lifted, lift_halt, require_no_halt};
pub use self::lost::replace_lost_issuer;
use self::making::{Ceremony, First};
use self::opening::{PIN, head_key_gone, write_pin};
pub use self::opening::{open_store, read_pin};
pub use self::policies::{policies_in_force, replace_policies};
use self::unfinished::Unfinished;
pub use self::unfinished::next_by_parent;
use crate::beside::kept_file::KeptBeside;
use crate::checkpoint::origin;
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{self, Act};
use crate::evidence::LogKeys;
use crate::evidence::kept::KeptCheckpoint;
use crate::files::create_private_folder;
use crate::fold::Folded;
use crate::keys::{Keys, offline_folder, online_folder};
use crate::operations::policy_change;
use crate::parent_chain::ParentChain;
use crate::policy::PolicySet;
use crate::sequencer::Effect;
use crate::store::Store;
use crate::store::sqlite::{Held, SqliteStore};
pub use crate::view::require_clock;
use crate::writer::checkpoints::Checkpoints;

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

/// What a CA elsewhere answered to the issuer's request.
#[derive(Debug, Clone, Copy)]
pub struct ParentAnswer<'a> {
    /// The issuer's certificate, then that CA's own, and so on to a root, PEM.
    pub certificates: &'a [u8],
    /// DNS names and IP addresses of the CA's own certificate, which has to be believed below them.
    pub names: &'a [String],
    /// Whether that certificate may end before the one in use.
    pub earlier_end: EarlierEnd,
}

/// What becomes of an issuer's certificate that ends before the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierEnd {
    /// It takes the other's place.
    Allowed,
    /// It is refused: an old file, most likely.
    Refused,
}

/// A CA whose issuer a CA elsewhere has certified.
#[derive(Debug)]
pub struct Certified {
    /// Its store.
    pub store: Arc<SqliteStore>,
    /// Its keys.
    pub keys: Keys,
    /// What names it.
    pub pin: TrustPin,
    /// What the certificates changed.
    pub change: Change,
}

/// What the certificates of a CA elsewhere changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The CA is finished by them.
    Finished,
    /// Nothing: the issuer's certificate is the one in use.
    Nothing {
        /// When that ends.
        until: OffsetDateTime,
    },
    /// The issuer has another certificate for the same key.
    Renewed {
        /// When the one before ends.
        before: OffsetDateTime,
        /// When the new one ends.
        until: OffsetDateTime,
    },
}

/// Takes the certificates by which a CA elsewhere certified the issuer. Those above the issuer
/// become trust anchors. Of a CA that is finished, the issuer's certificate alone is replaced.
///
/// They are verified by the rules that peers use before anything is written.
pub async fn finish(
    trust_domain: &TrustDomain,
    state: &Path,
    passphrase: &Secret,
    offline_passphrase: &Secret,
    answer: ParentAnswer<'_>,
    clock: &dyn Clock,
) -> Result<Certified, Error> {
    let keys = Keys::open(state, passphrase)?;
    let store = Arc::new(open_store(state, trust_domain, &keys)?.0);
    let ceremony = Ceremony { trust_domain, store: &*store, clock };
    let is_finished = !store.trust_states().await?.is_empty();
    // Before anything is certified, or begun, on a log that is not what it was.
    require_no_halt(trust_domain, state, &*store, &keys).await?;
    if is_finished && state.join(PIN).exists() {
        let change = ceremony.certified_again(answer, state, &keys).await?;
        let pin = read_pin(state)?;
        return Ok(Certified { store, keys, pin, change });
    }
    let offline = Keys::open_offline(state, offline_passphrase)?;
    let first = First::of(&keys, &offline)?;
    if is_finished {
        // Killed before it had written the pin, which follows from the trust key alone.
        let pin = write_pin(&ceremony.first_trust_state(vec![], &first)?, state)?;
        return Ok(Certified { store, keys, pin, change: Change::Finished });
    }
    let chain = ParentChain::parse(answer.certificates, first.issuer.public_key())?;
    let trust_state = ceremony.first_trust_state(chain.anchors(), &first)?;
    chain.verify(&trust_state, answer.names, clock)?;
    ceremony.add_issuer(&chain.issuer, "parent elsewhere").await?;
    let pin = ceremony.trust_state(trust_state, &first, state).await?;
    ceremony.sign_head(&first).await?;
    keep_newest(trust_domain, state, &*store, &keys).await?;
    Ok(Certified { store, keys, pin, change: Change::Finished })
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

const INIT: &str = "init";
/// The request for a CA elsewhere.
const REQUEST: &str = "issuer.csr";
/// The keys that `serve` opens.
const ONLINE: &[KeyPurpose] =
    &[KeyPurpose::Countersignature, KeyPurpose::Feed, KeyPurpose::Issuer, KeyPurpose::Log];
/// The keys that only `init` and `rotate` open.
const OFFLINE: &[KeyPurpose] = &[KeyPurpose::Root, KeyPurpose::Trust];
