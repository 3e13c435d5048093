//! Making a CA: keys, log, trust state, the first policy set and the first operator.
//!
//! The log is made first; whatever a CA key then signs (root, issuer, request, trust state) stands
//! in it as an event with its hash before it is signed. A crash leaves a folder that `serve`
//! refuses and that `init` asks to be removed: nobody has trusted it yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::Secret;
use aws_lc_rs::rand;
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, Trust, TrustDomain, TrustPin,
    TrustState, pem,
};
use issuance::{CaCertificate, IssuerCertificate};
use time::{Duration, OffsetDateTime};
use tlog::{Hash, SignedNote};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::checkpoint::{CheckpointSigner, origin, verifier_key};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::files::{create_private_folder, write_private};
use crate::keys::{Keys, OfflineKeys, offline_folder, online_folder};
use crate::operations::policy_change;
use crate::policy::PolicySet;
use crate::sequencer::{ActMember, Effect, Member, Outcome};
use crate::signer::{Signer, SignerError};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

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

/// Makes a CA. Refuses a folder that has one.
pub async fn create(new: &NewAuthority<'_>, clock: &dyn Clock) -> Result<Created, Error> {
    identity::SpiffeId::operator(&new.trust_domain, new.operator)
        .map_err(|error| Error::Invalid { why: error.to_string(), next_step: None })?;
    for folder in [online_folder(new.state), offline_folder(new.state)] {
        create_private_folder(&folder)
            .map_err(|error| Error::Folder(format!("{}: {error}", folder.display())))?;
    }
    let store = Arc::new(SqliteStore::create(new.state, &new.trust_domain)?);
    let keys = Keys::generate(new.state, new.passphrase)?;
    let with_root = new.parent == Parent::Local;
    let offline = OfflineKeys::generate(new.state, new.offline_passphrase, with_root)?;
    let ceremony = Ceremony { trust_domain: &new.trust_domain, store: &*store, clock };
    ceremony.genesis(&keys, &offline).await?;
    let by = Act { actor: INIT, request_id: INIT };
    let (event, effect) = policy_change(new.policy, None, &by);
    ceremony.log(event, effect).await?;
    ceremony.operator(new.operator).await?;
    let outcome = match &offline.root {
        Some(root) => {
            let root = ceremony.root(&**root).await?;
            write_private(&offline_folder(new.state).join("root.pem"), root.pem.as_bytes())
                .map_err(|error| Error::Folder(error.to_string()))?;
            ceremony.issuer(&root, &*keys.issuer).await?;
            Outcomes::Ready(
                ceremony.trust_state(root.certificate.der(), &keys, &offline, new.state).await?,
            )
        }
        None => Outcomes::AwaitsCertificate(ceremony.request(&keys, new.state).await?),
    };
    let log = CheckpointSigner::new(&new.trust_domain, Arc::clone(&keys.log))?;
    log.sign_head(&*store).await?;
    Ok(Created { store, keys, outcome })
}

/// Takes the certificates by which a CA elsewhere certified the issuer: the issuer's, then that
/// CA's own, PEM. The second becomes the trust anchor.
pub async fn finish(
    trust_domain: &TrustDomain,
    state: &Path,
    passphrase: &Secret,
    offline_passphrase: &Secret,
    certificates: &str,
    clock: &dyn Clock,
) -> Result<Created, Error> {
    let store = Arc::new(SqliteStore::open(state, trust_domain)?);
    let keys = Keys::open(state, passphrase)?;
    let offline = OfflineKeys::open(state, offline_passphrase)?;
    let (issuer, parent) = parse_pair(certificates, &*keys.issuer)?;
    let ceremony = Ceremony { trust_domain, store: &*store, clock };
    let certificate = IssuerCertificate::from_der(&issuer)?;
    ceremony.add_issuer(&certificate, "parent elsewhere").await?;
    let pin = ceremony.trust_state(&parent, &keys, &offline, state).await?;
    let log = CheckpointSigner::new(trust_domain, Arc::clone(&keys.log))?;
    log.sign_head(&*store).await?;
    Ok(Created { store, keys, outcome: Outcomes::Ready(pin) })
}

/// Certifies the issuer's key again, under the root of this folder: what repairs an issuer that
/// has expired, or soon will.
pub async fn recertify_issuer(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    offline_passphrase: &Secret,
    clock: &dyn Clock,
) -> Result<(), Error> {
    let offline = OfflineKeys::open(state, offline_passphrase)?;
    let root = offline.root.ok_or_else(|| {
        Error::Folder("the parent is elsewhere: have the request certified again".to_owned())
    })?;
    let pem = fs::read_to_string(offline_folder(state).join("root.pem"))
        .map_err(|error| Error::Folder(format!("root.pem: {error}")))?;
    let der = blocks(&pem)?.pop().ok_or_else(|| Error::Folder("root.pem is empty".to_owned()))?;
    let root = Root { certificate: IssuerCertificate::from_der(&der)?, signer: &*root, pem };
    Ceremony { trust_domain, store, clock }.issuer(&root, &*keys.issuer).await
}

/// The pin of a finished CA, as its folder keeps it.
pub fn read_pin(state: &Path) -> Result<TrustPin, Error> {
    let path = state.join(PIN);
    let text = fs::read_to_string(&path).map_err(|error| {
        Error::Folder(format!("{}: {error}; `countersign init` makes a CA", path.display()))
    })?;
    Ok(text.parse()?)
}

/// What the steps of a ceremony share.
struct Ceremony<'a> {
    trust_domain: &'a TrustDomain,
    store: &'a dyn Store,
    clock: &'a dyn Clock,
}

/// A root with its key at hand.
struct Root<'a> {
    certificate: IssuerCertificate,
    signer: &'a dyn Signer,
    pem: String,
}

impl Ceremony<'_> {
    /// The first entry names the log and every key.
    async fn genesis(&self, keys: &Keys, offline: &OfflineKeys) -> Result<(), Error> {
        let key = |signer: &dyn Signer| format!("{:?}", Hash::of(signer.public_key()));
        let detail = serde_json::json!({
            "countersignature_key_sha256": key(&*keys.countersignature),
            "feed_key_sha256": key(&*keys.feed),
            "issuer_key_sha256": key(&*keys.issuer),
            "log_key": verifier_key(self.trust_domain, keys.log.public_key())?.to_string(),
            "root_key_sha256": offline.root.as_ref().map(|root| key(&**root)),
            "trust_key_sha256": key(&*offline.trust),
            "version": env!("CARGO_PKG_VERSION"),
        });
        let origin = origin(self.trust_domain);
        self.log(self.draft(event::LOG_GENESIS, &origin, &detail), Effect::None).await.map(drop)
    }

    async fn operator(&self, name: &str) -> Result<(), Error> {
        let id = identity::SpiffeId::operator(self.trust_domain, name)?;
        let detail = serde_json::json!({ "name": name });
        let event = self.draft(event::OPERATOR_CREATE, id.as_str(), &detail);
        self.log(event, Effect::CreateOperator { name: name.to_owned() }).await.map(drop)
    }

    async fn root<'a>(&self, signer: &'a dyn Signer) -> Result<Root<'a>, Error> {
        let now = self.clock.now();
        let tbs = issuance::prepare_root(&CaCertificate {
            trust_domain: self.trust_domain,
            common_name: "Countersign Root",
            public_key: signer.public_key(),
            serial_number: self.serial_number()?,
            not_before: now - BACKDATE,
            not_after: now + ROOT_LIFE,
        })?;
        self.log_tbs(event::KEY_ISSUER, "root", &tbs).await?;
        let der = issuance::assemble(&tbs, &signer.sign(&tbs).await?);
        let certificate = IssuerCertificate::from_der(&der)?;
        Ok(Root { certificate, signer, pem: pem("CERTIFICATE", &der) })
    }

    async fn issuer(&self, root: &Root<'_>, key: &dyn Signer) -> Result<(), Error> {
        let now = self.clock.now();
        let tbs = issuance::prepare_issuer(
            &CaCertificate {
                trust_domain: self.trust_domain,
                common_name: "Countersign Issuer",
                public_key: key.public_key(),
                serial_number: self.serial_number()?,
                not_before: now - BACKDATE,
                not_after: now + ISSUER_LIFE,
            },
            &root.certificate,
        )?;
        self.log_tbs(event::KEY_ISSUER, "issuer", &tbs).await?;
        let der = issuance::assemble(&tbs, &root.signer.sign(&tbs).await?);
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
        let effect =
            Effect::AddIssuer { certificate: issuer.der().to_vec(), key_hash: *issuer.key_hash() };
        self.log(event, effect).await.map(drop)
    }

    /// Writes the request for a CA elsewhere.
    async fn request(&self, keys: &Keys, state: &Path) -> Result<PathBuf, Error> {
        let tbs = issuance::prepare_issuer_request(
            self.trust_domain,
            "Countersign Issuer",
            keys.issuer.public_key(),
        )?;
        self.log_tbs(event::KEY_ISSUER, "request", &tbs).await?;
        let der = issuance::assemble(&tbs, &keys.issuer.sign(&tbs).await?);
        let path = state.join("issuer.csr");
        write_private(&path, pem("CERTIFICATE REQUEST", &der).as_bytes())
            .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))?;
        Ok(path)
    }

    /// Signs the first trust state, and writes its pin beside the keys.
    async fn trust_state(
        &self,
        anchor: &[u8],
        keys: &Keys,
        offline: &OfflineKeys,
        folder: &Path,
    ) -> Result<TrustPin, Error> {
        let state = TrustState {
            v: 1,
            trust_domain: self.trust_domain.clone(),
            sequence: 1,
            anchors: vec![Anchor {
                certificate: Der::new(anchor),
                countersignature: Countersignature::Required,
            }],
            countersignature_keys: vec![CountersignatureKey {
                key: Der::new(keys.countersignature.public_key()),
                not_before: 0,
                not_after: None,
            }],
            log: LogKey {
                origin: origin(self.trust_domain),
                key: verifier_key(self.trust_domain, keys.log.public_key())?.to_string(),
            },
            feed_keys: vec![Der::new(keys.feed.public_key())],
            trust_keys: vec![Der::new(offline.trust.public_key())],
            threshold: 1,
        };
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
        let signature = offline.trust.sign(text.as_bytes()).await?;
        let name = TrustState::signer_name(self.trust_domain);
        let id = tlog::ecdsa_key_id(offline.trust.public_key());
        let note = SignedNote::unsigned(text)
            .and_then(|note| note.with_signature(&name, id, &signature))
            .map_err(|error| SignerError::Refused(error.to_string()))?
            .encode();
        TrustState::verify_pinned(&note, &state.pin())?;
        let event = self.draft(event::TRUST_CHANGE, "activate", &detail);
        self.log(event, Effect::PublishTrust { sequence: state.sequence, note }).await?;
        let path = folder.join(PIN);
        write_private(&path, format!("{}\n", state.pin()).as_bytes())
            .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))?;
        Ok(state.pin())
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

    fn serial_number(&self) -> Result<identity::SerialNumber, Error> {
        let mut random = [0; 14];
        rand::fill(&mut random).map_err(|_| SignerError::Refused("no randomness".to_owned()))?;
        Ok(issuance::serial_number(self.clock.unix_milliseconds(), random))
    }
}

/// The issuer's certificate and its parent's, checked against our key and each other.
fn parse_pair(certificates: &str, key: &dyn Signer) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let invalid = |why: &str| Error::Invalid {
        why: why.to_owned(),
        next_step: Some(
            "give one file: the issuer's certificate, then the CA's that signed it".to_owned(),
        ),
    };
    let blocks = blocks(certificates)?;
    let [issuer, parent] = &blocks[..] else {
        return Err(invalid("it has not exactly two certificates"));
    };
    let parse = |der| X509Certificate::from_der(der).map(|(_, certificate)| certificate);
    let (Ok(child), Ok(above)) = (parse(issuer), parse(parent)) else {
        return Err(invalid("one of the certificates cannot be parsed"));
    };
    if child.public_key().raw != key.public_key() {
        return Err(invalid("the first certificate is not for this CA's issuer key"));
    }
    child
        .verify_signature(Some(above.public_key()))
        .map_err(|_| invalid("the second certificate's key did not sign the first"))?;
    Ok((issuer.clone(), parent.clone()))
}

fn blocks(pem: &str) -> Result<Vec<Vec<u8>>, Error> {
    Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.map(|block| block.contents))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Invalid {
            why: format!("its PEM is broken: {error}"),
            next_step: None,
        })
}

/// Whether the newest issuer's certificate ends so soon that it should be certified again.
pub async fn issuer_ends_soon(store: &dyn Store, now: OffsetDateTime) -> Result<bool, Error> {
    let Some(der) = store.issuers().await?.pop() else {
        return Ok(false);
    };
    let issuer = IssuerCertificate::from_der(&der)?;
    Ok(issuer.not_after() - now < ISSUER_LIFE / 4)
}

const INIT: &str = "init";
const PIN: &str = "trust.pin";
const BACKDATE: Duration = Duration::seconds(60);
const ROOT_LIFE: Duration = Duration::days(3650);
const ISSUER_LIFE: Duration = Duration::days(365);
