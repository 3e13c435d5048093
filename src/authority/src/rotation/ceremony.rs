//! The part of a rotation that `serve` has no keys for: done where the offline keys are, by whoever
//! runs `rotate`. What is signed here is made here, from the trust state that was verified here.

use std::sync::Arc;

use api::{
    KeyPurpose, KeyRecord, KeyState, KeyStep, KeyStepOutcome, KeyStepRequest, OfflineSignature,
};
use identity::{Der, TrustDomain, TrustState};
use issuance::{CaCertificate, IssuerCertificate};
use time::Duration;
use tlog::{Hash, SignedNote};

use super::{TrustChange, changes_trust};
use crate::clock::{Clock, fresh_serial_number};
use crate::error::Error;
use crate::keys::Keys;
use crate::sequencer::COMPLETION_MILLISECONDS;
use crate::signer::{Signer, SignerError};

/// What a ceremony is made with.
#[derive(Debug)]
pub struct Ceremonies<'a> {
    /// The keys that `serve` opens: a new one is put there.
    pub online: &'a Keys,
    /// Root and trust keys, where [`needs_offline`] says that the step takes them.
    pub offline: Option<&'a Keys>,
    /// The trust state in force, verified by whoever calls.
    pub trust: &'a TrustState,
    /// Every key there was, as the CA lists them.
    pub keys: &'a [KeyRecord],
    /// The clock.
    pub clock: &'a dyn Clock,
}

/// Whether root or trust keys are needed for a step.
pub fn needs_offline(purpose: KeyPurpose, step: KeyStep) -> bool {
    purpose.is_offline()
        || changes_trust(purpose, step)
        || (purpose, step) == (KeyPurpose::Issuer, KeyStep::Prepare)
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The key's id.
    pub id: String,
    /// The step's place in the log.
    pub log_index: u64,
    /// The trust state that came with it.
    pub trust: Option<TrustState>,
}

impl Ceremonies<'_> {
    /// Takes a step for a purpose. `ask` carries it to the CA: `POST /v1/keys/{id}/{step}`.
    ///
    /// A key that an interrupted attempt left behind is used before another is made, so that the
    /// same call may be repeated. Once a key is retired its file is removed.
    pub async fn take<E: From<Error>>(
        &self,
        purpose: KeyPurpose,
        step: KeyStep,
        ask: impl AsyncFn(&str, KeyStep, &KeyStepRequest) -> Result<KeyStepOutcome, E>,
    ) -> Result<Taken, E> {
        self.remove_retired(self.trust)?;
        let is_certified = matches!(purpose, KeyPurpose::Issuer | KeyPurpose::Root);
        let parent = match step {
            // Looked for first: no key is made that cannot be certified.
            KeyStep::Prepare if is_certified => self.parent(purpose)?,
            _ => None,
        };
        let subject = self.subject(purpose, step)?;
        let mut request = KeyStepRequest {
            purpose,
            public_key: (step == KeyStep::Prepare).then(|| subject.public_key.clone()),
            certificate: None,
            trust_state: None,
        };
        let id = format!("{:?}", subject.hash);
        if step == KeyStep::Prepare && is_certified {
            let tbs = self.certificate_tbs(&subject, parent.as_ref())?;
            request.certificate =
                Some(OfflineSignature::Announced { to_be_signed: Der::new(tbs.clone()) });
            let announced_at = announced(ask(&id, step, &request).await?, Announced::Certificate)?;
            let signed = self.sign_certificate(&subject, parent.as_ref(), &tbs).await?;
            request.certificate = Some(OfflineSignature::Signed { announced_at, signed });
        }
        let mut trust = None;
        let key = subject.public_key.clone();
        let certificate = request.certificate.as_ref().and_then(OfflineSignature::signed);
        // What is logged already may be countersigned by it yet.
        let from = self.clock.unix_milliseconds().saturating_sub(2 * COMPLETION_MILLISECONDS);
        let domain = &self.trust.trust_domain;
        if let Some(change) = TrustChange::of((purpose, step), key, from, certificate, domain)? {
            let next = change.apply(self.trust);
            request.trust_state =
                Some(OfflineSignature::Announced { to_be_signed: Der::new(next.text()) });
            let announced_at = announced(ask(&id, step, &request).await?, Announced::Trust)?;
            let signed = Der::new(self.sign_trust(&next).await?);
            request.trust_state = Some(OfflineSignature::Signed { announced_at, signed });
            trust = Some(next);
        }
        let log_index = match ask(&id, step, &request).await? {
            KeyStepOutcome::Done { log_index } => log_index,
            KeyStepOutcome::Announced { .. } => return Err(unexpected().into()),
        };
        if step == KeyStep::Retire {
            let trust = trust.as_ref().unwrap_or(self.trust);
            self.remove(&id, trust)?;
        }
        Ok(Taken { id, log_index, trust })
    }

    /// The key that the step is about.
    fn subject(&self, purpose: KeyPurpose, step: KeyStep) -> Result<Subject, Error> {
        if step == KeyStep::Prepare {
            self.require_no_rotation(purpose)?;
            let known: Vec<String> = self.keys.iter().map(|key| key.id.clone()).collect();
            let signer = self.folder(purpose)?.unused_or_new(purpose, &known)?;
            return Ok(Subject::new(purpose, Der::new(signer.public_key())));
        }
        let states: &[KeyState] = match step {
            // A key that was prepared and shall not be used goes the same way.
            KeyStep::Retire => &[KeyState::Retiring, KeyState::Prepared],
            _ => &[KeyState::Prepared],
        };
        let mut keys = self.keys.iter().filter(|key| key.purpose == purpose);
        let key = keys.find(|key| states.contains(&key.state)).ok_or_else(|| Error::Invalid {
            why: format!("there is no {purpose} key to {step}"),
            next_step: Some("countersign key list".to_owned()),
        })?;
        Ok(Subject::new(purpose, key.public_key.clone()))
    }

    /// The root that certifies an issuer: its certificate is an anchor of the trust state.
    fn parent(&self, purpose: KeyPurpose) -> Result<Option<IssuerCertificate>, Error> {
        if purpose == KeyPurpose::Root {
            return Ok(None);
        }
        let root = self.active(KeyPurpose::Root)?;
        let anchors = self.trust.anchors.iter();
        let mut anchors =
            anchors.filter_map(|it| IssuerCertificate::from_der(it.certificate.as_bytes()).ok());
        let parent = anchors.find(|anchor| format!("{:?}", anchor.key_hash()) == root.id);
        parent.map(Some).ok_or_else(|| {
            Error::Folder(format!("the trust state has no anchor for the root key {}", root.id))
        })
    }

    fn active(&self, purpose: KeyPurpose) -> Result<&KeyRecord, Error> {
        let mut keys = self.keys.iter();
        let active = keys.find(|key| key.purpose == purpose && key.state == KeyState::Active);
        active.ok_or_else(|| Error::Invalid {
            why: format!("this CA has no {purpose} key: its parent is elsewhere"),
            next_step: None,
        })
    }

    fn certificate_tbs(
        &self,
        subject: &Subject,
        parent: Option<&IssuerCertificate>,
    ) -> Result<Vec<u8>, Error> {
        let (key, domain) = (subject.public_key.as_bytes(), &self.trust.trust_domain);
        match parent {
            Some(parent) => issuer_tbs(domain, key, parent, self.clock),
            None => root_tbs(domain, key, self.clock),
        }
    }

    async fn sign_certificate(
        &self,
        subject: &Subject,
        parent: Option<&IssuerCertificate>,
        tbs: &[u8],
    ) -> Result<Der, Error> {
        let signer = match parent {
            Some(parent) => {
                self.folder(KeyPurpose::Root)?.signer(KeyPurpose::Root, parent.key_hash())?
            }
            None => self.signer_of(subject)?,
        };
        let signature = signer.sign(tbs).await?;
        Ok(Der::new(issuance::assemble(tbs, &signature)))
    }

    fn signer_of(&self, subject: &Subject) -> Result<Arc<dyn Signer>, Error> {
        Ok(self.folder(subject.purpose)?.signer(subject.purpose, &subject.hash)?)
    }

    fn folder(&self, purpose: KeyPurpose) -> Result<&Keys, Error> {
        if !purpose.is_offline() {
            return Ok(self.online);
        }
        self.offline.ok_or_else(|| Error::Folder("the offline keys are not at hand".to_owned()))
    }

    fn require_no_rotation(&self, purpose: KeyPurpose) -> Result<(), Error> {
        let moving = |key: &&KeyRecord| {
            key.purpose == purpose && matches!(key.state, KeyState::Prepared | KeyState::Retiring)
        };
        self.keys.iter().find(moving).map_or(Ok(()), |key| {
            Err(Error::Invalid {
                why: format!("the {purpose} key {} is on its way already", key.id),
                next_step: Some("`countersign rotate` goes on with it".to_owned()),
            })
        })
    }

    /// Removes what an interrupted call left: the files of keys that count no more.
    fn remove_retired(&self, trust: &TrustState) -> Result<(), Error> {
        let mut retired = self.keys.iter().filter(|key| key.state == KeyState::Retired);
        retired.try_for_each(|key| self.remove(&key.id, trust))
    }

    /// Removes a key's file. Which keys are retired is the CA's word; what the trust state names is
    /// not removed on it.
    fn remove(&self, id: &str, trust: &TrustState) -> Result<(), Error> {
        if names(trust, id) {
            let why = format!(
                "the CA calls key {id} retired, and trust state {} names it",
                trust.sequence
            );
            return Err(Error::Folder(why));
        }
        for keys in [Some(self.online), self.offline].into_iter().flatten() {
            keys.destroy(id)?;
        }
        Ok(())
    }

    /// Signed by the keys of the state before, and by its own: it is believed from both sides.
    async fn sign_trust(&self, next: &TrustState) -> Result<Vec<u8>, Error> {
        let mut keys: Vec<&Der> = self.trust.trust_keys.iter().chain(&next.trust_keys).collect();
        keys.sort();
        keys.dedup();
        let folder = self.folder(KeyPurpose::Trust)?;
        let signers: Result<Vec<_>, SignerError> = keys
            .into_iter()
            .map(|key| folder.signer(KeyPurpose::Trust, &Hash::of(key.as_bytes())))
            .collect();
        sign_trust(next, &signers?).await
    }
}

/// A root's certificate, to be signed by its own key.
pub(crate) fn root_tbs(
    trust_domain: &TrustDomain,
    public_key: &[u8],
    clock: &dyn Clock,
) -> Result<Vec<u8>, Error> {
    let root = ca_certificate(trust_domain, "Countersign Root", public_key, ROOT_LIFE, clock)?;
    Ok(issuance::prepare_root(&root)?)
}

/// An issuer's certificate, to be signed by its root.
pub(crate) fn issuer_tbs(
    trust_domain: &TrustDomain,
    public_key: &[u8],
    root: &IssuerCertificate,
    clock: &dyn Clock,
) -> Result<Vec<u8>, Error> {
    let name = "Countersign Issuer";
    let issuer = ca_certificate(trust_domain, name, public_key, ISSUER_LIFE, clock)?;
    Ok(issuance::prepare_issuer(&issuer, root)?)
}

fn ca_certificate<'a>(
    trust_domain: &'a TrustDomain,
    common_name: &'a str,
    public_key: &'a [u8],
    life: Duration,
    clock: &dyn Clock,
) -> Result<CaCertificate<'a>, Error> {
    let now = clock.now();
    Ok(CaCertificate {
        trust_domain,
        common_name,
        public_key,
        serial_number: fresh_serial_number(clock)?,
        not_before: now - BACKDATE,
        not_after: now + life,
    })
}

/// A trust state as a note, signed by each of these trust keys.
pub(crate) async fn sign_trust(
    state: &TrustState,
    signers: &[Arc<dyn Signer>],
) -> Result<Vec<u8>, Error> {
    let (text, name) = (state.text(), TrustState::signer_name(&state.trust_domain));
    let refused = |error: tlog::Error| SignerError::Refused(error.to_string());
    let mut note = SignedNote::unsigned(text.clone()).map_err(refused)?;
    for signer in signers {
        let signature = signer.sign(text.as_bytes()).await?;
        let id = tlog::ecdsa_key_id(signer.public_key());
        note = note.with_signature(&name, id, &signature).map_err(refused)?;
    }
    Ok(note.encode())
}

/// The key that a step is about.
struct Subject {
    purpose: KeyPurpose,
    public_key: Der,
    hash: Hash,
}

impl Subject {
    fn new(purpose: KeyPurpose, public_key: Der) -> Self {
        Self { purpose, hash: Hash::of(public_key.as_bytes()), public_key }
    }
}

/// Whether a trust state names the key with this id.
fn names(trust: &TrustState, id: &str) -> bool {
    let is_it = |public_key: &[u8]| format!("{:?}", Hash::of(public_key)) == id;
    let mut anchors = trust.anchors.iter();
    let mut countersigning = trust.countersignature_keys.iter();
    let mut others = trust.feed_keys.iter().chain(&trust.trust_keys);
    anchors.any(|anchor| {
        IssuerCertificate::from_der(anchor.certificate.as_bytes())
            .is_ok_and(|anchor| is_it(anchor.public_key()))
    }) || countersigning.any(|named| is_it(named.key.as_bytes()))
        || others.any(|key| is_it(key.as_bytes()))
}

enum Announced {
    Certificate,
    Trust,
}

fn announced(outcome: KeyStepOutcome, what: Announced) -> Result<u64, Error> {
    let KeyStepOutcome::Announced { certificate, trust_state } = outcome else {
        return Err(unexpected());
    };
    let at = match what {
        Announced::Certificate => certificate,
        Announced::Trust => trust_state,
    };
    at.ok_or_else(unexpected)
}

fn unexpected() -> Error {
    Error::Invalid {
        why: "the CA did not answer as this step goes".to_owned(),
        next_step: Some("is its version another than this program's?".to_owned()),
    }
}

/// Certificates and keys count from a little before they are made: clocks differ.
const BACKDATE: Duration = Duration::seconds(60);
const ROOT_LIFE: Duration = Duration::days(3650);
const ISSUER_LIFE: Duration = Duration::days(365);
/// An issuer whose certificate ends sooner is replaced, or certified again.
pub const ISSUER_ENDS_SOON: Duration = Duration::days(91);
