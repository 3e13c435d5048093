//! The keys and the trust state in force, opened and ready: one value, exchanged as a whole.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{KeyPurpose, KeyState};
use identity::{Trust, TrustDomain, TrustPin, TrustState};
use issuance::{DnsName, IssuerCertificate};
use time::OffsetDateTime;
use tlog::{Hash, VerifierKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::countersigner::Countersigner;
use crate::certificate::issuer::Issuer;
use crate::checkpoint::{LogSigner, verifier_key, verify};
use crate::error::Error;
use crate::fold::ledger::{KeyLedger, LedgerKey};
use crate::keys::Keys;
use crate::permitted_names::PermittedNames;
use crate::policy::workloads::Workloads;
use crate::policy::{NotPermitted, PolicyError};
use crate::signer::absent::AbsentKey;
use crate::signer::{Signer, SignerError};
use crate::store::{Store, StoreError};

/// What the engine signs with, and what it believes.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) ledger: KeyLedger,
    /// The issuer that signs new certificates.
    pub(crate) issuer: Arc<Issuer>,
    /// Every issuer that may finish what it began, by the hash of its key.
    issuers: HashMap<Hash, Arc<Issuer>>,
    /// Every issuer's certificate there ever was, also as PEM, by the hash of its key.
    certificates: HashMap<Hash, (Arc<IssuerCertificate>, String)>,
    pub(crate) countersigner: Countersigner,
    pub(crate) feed: Arc<dyn Signer>,
    /// Those who sign checkpoints, the newest key last.
    pub(crate) log: Vec<LogSigner>,
    /// Every key whose checkpoints count: none that is retired, which may have been stolen.
    pub(crate) log_keys: Vec<VerifierKey>,
    /// Which names may be had below that issuer; none where nothing above constrains them.
    permitted: Option<PermittedNames>,
    /// Active keys that cannot be had.
    pub(crate) absent: Vec<AbsentKey>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) trust_note: Arc<[u8]>,
    /// From the state that the pin names to the one in force, each with its note.
    history: Vec<(TrustState, Arc<[u8]>)>,
}

impl InForce {
    /// Opens what the ledger says is in force; refuses on any disagreement of keys, certificates
    /// and trust state. Active keys that do not open are named (`absent`), and sign nothing.
    pub(crate) async fn open(
        ledger: KeyLedger,
        keys: &Keys,
        store: &dyn Store,
        trust_domain: &TrustDomain,
        pin: &TrustPin,
    ) -> Result<Self, Error> {
        let history = follow_trust(store, pin, ledger.trust_sequence()).await?;
        let (state, trust_note) = history.last().cloned().expect("it begins with the pin's");
        let certificates = certificates(store, &ledger, &history).await?;
        let mut absent = Vec::new();
        let mut issuers = HashMap::new();
        for key in ledger.in_use(KeyPurpose::Issuer) {
            let Some((certificate, _)) = certificates.get(&key.id) else { continue };
            let Some(signer) = open_if_there(keys, key, &mut absent) else { continue };
            let issuer = Issuer::new(Arc::clone(certificate), signer)?;
            issuers.insert(key.id, Arc::new(issuer));
        }
        let active = |purpose| {
            ledger
                .find(purpose, KeyState::Active)
                .ok_or_else(|| Error::Folder(format!("the log names no active {purpose} key")))
        };
        let issuer = issuers.get(&active(KeyPurpose::Issuer)?.id).cloned();
        let gone = "the certificate of the active issuer is gone";
        let issuer = issuer.ok_or_else(|| StoreError::Inconsistent(gone.to_owned()))?;
        let countersigner = open_active(keys, active(KeyPurpose::Countersignature)?, &mut absent);
        let feed = open_active(keys, active(KeyPurpose::Feed)?, &mut absent);
        let mut log = Vec::new();
        for key in ledger.in_use(KeyPurpose::Log) {
            if let Some(signer) = open_if_there(keys, key, &mut absent) {
                log.push((verifier_key(trust_domain, &key.public_key)?, signer));
            }
        }
        let log_keys = ledger.in_use(KeyPurpose::Log);
        let log_keys = log_keys.map(|key| verifier_key(trust_domain, &key.public_key));
        let in_force = Self {
            permitted: PermittedNames::below(issuer.shared_certificate(), &state)?,
            issuer,
            issuers,
            certificates,
            countersigner: Countersigner::new(countersigner),
            feed,
            log,
            log_keys: log_keys.collect::<Result<_, _>>()?,
            absent,
            trust: Arc::new(Trust::new(state)?),
            trust_note,
            history,
            ledger,
        };
        in_force.require_agreement(trust_domain)?;
        Ok(in_force)
    }

    /// Refuses where a key is absent that a certificate needs: to make it, or to prove it.
    pub(crate) fn require_to_issue(&self) -> Result<(), SignerError> {
        let needed = self.absent.iter().find(|key| key.purpose != KeyPurpose::Feed);
        needed.map_or(Ok(()), |key| Err(key.error()))
    }

    /// Refuses names of which a certificate by the active issuer would be refused by peers.
    pub(crate) fn refuse_names(&self, dns: &[DnsName], ip: &[IpAddr]) -> Result<(), NotPermitted> {
        let is_named = !dns.is_empty() || !ip.is_empty();
        let permitted = self.permitted.as_ref().filter(|_| is_named);
        permitted.map_or(Ok(()), |permitted| permitted.refuse(dns, ip))
    }

    /// The same, of a workload table of which a row lists one.
    pub(crate) fn refuse_rows(&self, workloads: &Workloads) -> Result<(), PolicyError> {
        self.permitted.as_ref().map_or(Ok(()), |permitted| permitted.refuse_rows(workloads))
    }

    /// How often the CAs above the issuer were verified for the names of somebody.
    #[cfg(any(test, feature = "test-seams"))]
    pub(crate) fn names_verified(&self) -> usize {
        self.permitted.as_ref().map_or(0, PermittedNames::verified)
    }

    /// Why an active key of this purpose is not there, if it is not.
    pub(crate) fn require_key(&self, purpose: KeyPurpose) -> Result<(), SignerError> {
        let absent = self.absent.iter().find(|key| key.purpose == purpose);
        absent.map_or(Ok(()), |key| Err(key.error()))
    }

    /// Says which absent keys are there again.
    pub(crate) fn tell_found(&self, opened: &Self) {
        for key in self.absent.iter().filter(|key| opened.require_key(key.purpose).is_ok()) {
            tracing::info!(purpose = %key.purpose, "a key without which the CA was started is there");
        }
    }

    /// What is absent here and was not before.
    pub(crate) fn newly_absent(&self, before: &Self) -> Option<&AbsentKey> {
        let was_absent = |key: &AbsentKey| before.require_key(key.purpose).is_err();
        self.absent.iter().find(|key| !was_absent(key))
    }

    /// The certificates of the issuers that count, the active one first.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &IssuerCertificate> {
        let active = self.issuer.certificate();
        let others = self.issuers.values().map(|issuer| issuer.certificate());
        std::iter::once(active).chain(others.filter(|it| it.key_hash() != active.key_hash()))
    }

    /// Those of the log's keys that count which signed this checkpoint.
    pub(crate) fn signers_of(&self, checkpoint: &[u8]) -> Vec<Hash> {
        let keys = self.ledger.in_use(KeyPurpose::Log).zip(&self.log_keys);
        let signed = keys.filter(|(_, key)| verify(checkpoint, [*key]).is_some());
        signed.map(|(key, _)| key.id).collect()
    }

    /// The issuer whose key has this hash, if it may still sign.
    pub(crate) fn issuer_of(&self, key_hash: &Hash) -> Option<&Arc<Issuer>> {
        self.issuers.get(key_hash)
    }

    /// The certificate of the issuer whose key has this hash, PEM; empty for a stranger's.
    pub(crate) fn issuer_pem(&self, key_hash: &Hash) -> &str {
        self.certificates.get(key_hash).map_or("", |(_, pem)| pem)
    }

    /// The root below which this issuer's certificate is; none for a parent elsewhere.
    pub(crate) fn root_of(&self, issuer: &LedgerKey) -> Option<&LedgerKey> {
        let certificate = self.certificate(&issuer.id)?;
        let mut roots = self.ledger.in_use(KeyPurpose::Root);
        roots.find(|root| issuance::is_signed_by(certificate.der(), &root.public_key))
    }

    /// The certificate of an issuer, whatever its state.
    pub(crate) fn certificate(&self, key_hash: &Hash) -> Option<&IssuerCertificate> {
        self.certificates.get(key_hash).map(|(certificate, _)| &**certificate)
    }

    /// The newest trust state that this pin's keys signed.
    pub(crate) fn trust_by_pin(&self, pin: &TrustPin) -> Option<&(TrustState, Arc<[u8]>)> {
        self.history.iter().rev().find(|(state, _)| pin.names(state))
    }

    /// The newest trust state that the keys of the state with this sequence signed: where they were
    /// replaced since, the one that names their successors.
    pub(crate) fn trust_after(&self, sequence: u64) -> Option<&(TrustState, Arc<[u8]>)> {
        let held = self.history.iter().position(|(state, _)| state.sequence == sequence)?;
        let pin = self.history[held].0.pin();
        let later = &self.history[held..];
        later.iter().find(|(state, _)| !pin.names(state)).or_else(|| later.last())
    }

    /// When the certificate of an issuer or a root begins and ends.
    pub(crate) fn validity(&self, key: &LedgerKey) -> Option<(OffsetDateTime, OffsetDateTime)> {
        match key.purpose {
            KeyPurpose::Issuer => {
                self.certificate(&key.id).map(|it| (it.not_before(), it.not_after()))
            }
            KeyPurpose::Root => {
                let root = self.roots().find(|(id, ..)| *id == key.id);
                root.map(|(_, not_before, not_after)| (not_before, not_after))
            }
            _ => None,
        }
    }

    /// The hash of each root's key, and when its certificate begins and ends. That of a parent
    /// elsewhere may be of another kind than ours.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (Hash, OffsetDateTime, OffsetDateTime)> {
        self.trust.state().anchors.iter().filter_map(|anchor| {
            let (_, root) = X509Certificate::from_der(anchor.certificate.as_bytes()).ok()?;
            let validity = root.validity();
            let [not_before, not_after] =
                [validity.not_before, validity.not_after].map(|at| at.to_datetime());
            Some((Hash::of(root.public_key().raw), not_before, not_after))
        })
    }

    /// The trust state names every key that the ledger says it should, and none that is retired.
    fn require_agreement(&self, trust_domain: &TrustDomain) -> Result<(), Error> {
        let state = self.trust.state();
        let ids = |purpose| {
            let mut ids: Vec<Hash> = self.ledger.in_use(purpose).map(|key| key.id).collect();
            ids.sort();
            ids
        };
        let mut countersigns: Vec<Hash> =
            state.countersignature_keys.iter().map(|key| Hash::of(key.key.as_bytes())).collect();
        countersigns.sort();
        let mut feeds: Vec<Hash> =
            state.feed_keys.iter().map(|key| Hash::of(key.as_bytes())).collect();
        feeds.sort();
        let mut anchors: Vec<Hash> = state
            .anchors
            .iter()
            .filter_map(|anchor| IssuerCertificate::from_der(anchor.certificate.as_bytes()).ok())
            .map(|anchor| *anchor.key_hash())
            .collect();
        anchors.sort();
        // With a parent elsewhere its root is no key of ours.
        let roots = ids(KeyPurpose::Root);
        let trust = self.ledger.find(KeyPurpose::Trust, KeyState::Active);
        let trusts = trust.is_some_and(|key| {
            state.trust_keys.iter().any(|named| named.as_bytes() == key.public_key)
        });
        let log = self.ledger.find(KeyPurpose::Log, KeyState::Active);
        let log = log.map(|key| verifier_key(trust_domain, &key.public_key)).transpose()?;
        if countersigns == ids(KeyPurpose::Countersignature)
            && feeds == ids(KeyPurpose::Feed)
            && roots.iter().all(|root| anchors.contains(root))
            && trusts
            && log.is_some_and(|log| log.to_string() == state.log.key)
            && self.ledger.trust_sequence() == state.sequence
        {
            return Ok(());
        }
        Err(Error::Folder(format!(
            "trust state {} does not name the keys that the log says are in use: the state folder \
             mixes files of two CAs, or of two times",
            state.sequence
        )))
    }
}

/// One that is not needed to go on is missed aloud: it can be retired.
fn open_if_there(
    keys: &Keys,
    key: &LedgerKey,
    absent: &mut Vec<AbsentKey>,
) -> Option<Arc<dyn Signer>> {
    if key.state == KeyState::Active {
        return Some(open_active(keys, key, absent));
    }
    let opened = keys.signer(key.purpose, &key.id).inspect_err(|error| {
        tracing::error!(%error, state = ?key.state, "a key of a rotation is missed");
    });
    opened.ok()
}

fn open_active(keys: &Keys, key: &LedgerKey, absent: &mut Vec<AbsentKey>) -> Arc<dyn Signer> {
    keys.signer(key.purpose, &key.id).unwrap_or_else(|why| {
        let key = AbsentKey::new(key.purpose, &key.public_key, why);
        absent.push(key.clone());
        Arc::new(key)
    })
}

/// From the pin to the state that the log's events lead to, each signed by keys of the one before.
async fn follow_trust(
    store: &dyn Store,
    pin: &TrustPin,
    up_to: u64,
) -> Result<Vec<(TrustState, Arc<[u8]>)>, Error> {
    let mut history: Vec<(TrustState, Arc<[u8]>)> = Vec::new();
    let notes = store.trust_states().await?;
    let is_empty = notes.is_empty();
    for note in notes {
        let next = match history.last() {
            None => TrustState::verify_pinned(&note, pin).ok(),
            Some((state, _)) if state.sequence >= up_to => break,
            Some((state, _)) => Some(state.verify_successor(&note)?),
        };
        history.extend(next.map(|state| (state, note.into())));
    }
    if is_empty {
        let why = format!("trust state {up_to} is gone");
        return Err(StoreError::Inconsistent(why).into());
    }
    if history.is_empty() {
        return Err(Error::Folder(format!(
            "there is no trust state that the pin {pin} names: `trust.pin` in the state folder is \
             another CA's; restore it from a backup, or have an operator of this CA print it: \
             countersign trust pin"
        )));
    }
    Ok(history)
}

/// Every issuer's certificate, signed by an anchor that this CA ever had: a database can hold another
/// name or end for the same key, and whoever verifies would refuse what is issued below that.
async fn certificates(
    store: &dyn Store,
    ledger: &KeyLedger,
    history: &[(TrustState, Arc<[u8]>)],
) -> Result<HashMap<Hash, (Arc<IssuerCertificate>, String)>, Error> {
    let anchors = history.iter().flat_map(|(state, _)| &state.anchors);
    let anchors: HashSet<&[u8]> = anchors.map(|anchor| anchor.certificate.as_bytes()).collect();
    let is_signed = |der: &[u8]| {
        anchors.iter().any(|anchor| {
            X509Certificate::from_der(anchor)
                .is_ok_and(|(_, anchor)| issuance::is_signed_by(der, anchor.public_key().raw))
        })
    };
    let mut certificates = HashMap::new();
    for der in store.issuers().await? {
        let certificate = IssuerCertificate::from_der(&der)?;
        // The anchor of one that is retired may be from before the pin.
        let mut in_use = ledger.in_use(KeyPurpose::Issuer);
        if in_use.any(|key| key.id == *certificate.key_hash()) && !is_signed(&der) {
            return Err(StoreError::Inconsistent(format!(
                "the certificate of issuer {:?} is signed by no root of this CA: somebody changed it",
                certificate.key_hash()
            ))
            .into());
        }
        let pem = identity::pem("CERTIFICATE", &der);
        certificates.insert(*certificate.key_hash(), (Arc::new(certificate), pem));
    }
    Ok(certificates)
}
