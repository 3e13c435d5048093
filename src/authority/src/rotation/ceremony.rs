//! The part of a rotation that `serve` has no keys for: done where the offline keys are, by whoever
//! runs `rotate`. What is signed here is made here, from the trust state that was verified here.

use api::{Ceremony, KeyPurpose, KeyRecord, KeyState, KeyStep, KeyStepOutcome, KeyStepRequest};
use aws_lc_rs::rand;
use identity::{Der, TrustState};
use issuance::{CaCertificate, IssuerCertificate};
use time::Duration;
use tlog::{Hash, SignedNote};

use super::{TrustChange, changes_trust};
use crate::clock::Clock;
use crate::error::Error;
use crate::keys::Keys;
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
    /// The keys in use, as the CA lists them.
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
        self.remove_retired()?;
        let subject = self.subject(purpose, step)?;
        let mut request = KeyStepRequest {
            purpose,
            public_key: subject.public_key.clone(),
            certificate: None,
            trust_state: None,
        };
        let id = subject.id.clone();
        if step == KeyStep::Prepare && matches!(purpose, KeyPurpose::Issuer | KeyPurpose::Root) {
            let parent = self.parent(purpose)?;
            let tbs = self.certificate_tbs(&subject, parent.as_ref())?;
            request.certificate = Some(Ceremony::Announced { to_be_signed: Der::new(tbs.clone()) });
            let announced_at = announced(ask(&id, step, &request).await?, Announced::Certificate)?;
            let signed = self.sign_certificate(&subject, parent.as_ref(), &tbs).await?;
            request.certificate = Some(Ceremony::Signed { announced_at, signed });
        }
        let mut trust = None;
        let key = Der::new(self.signer_of(&subject)?.public_key());
        let certificate = request.certificate.as_ref().and_then(Ceremony::signed);
        let (now, domain) = (self.clock.unix_milliseconds(), &self.trust.trust_domain);
        if let Some(change) = TrustChange::of((purpose, step), key, now, certificate, domain)? {
            let next = change.apply(self.trust);
            request.trust_state = Some(Ceremony::Announced { to_be_signed: Der::new(next.text()) });
            let announced_at = announced(ask(&id, step, &request).await?, Announced::Trust)?;
            let signed = Der::new(self.sign_trust(&next).await?);
            request.trust_state = Some(Ceremony::Signed { announced_at, signed });
            trust = Some(next);
        }
        let log_index = match ask(&id, step, &request).await? {
            KeyStepOutcome::Done { log_index } => log_index,
            KeyStepOutcome::Announced { .. } => return Err(unexpected().into()),
        };
        if step == KeyStep::Retire {
            self.folder(purpose)?.destroy(&subject.id).map_err(Error::from)?;
        }
        Ok(Taken { id, log_index, trust })
    }

    /// The key that the step is about.
    fn subject(&self, purpose: KeyPurpose, step: KeyStep) -> Result<Subject, Error> {
        let keys = self.folder(purpose)?;
        if step == KeyStep::Prepare {
            self.require_no_rotation(purpose)?;
            let known: Vec<String> = self.keys.iter().map(|key| key.id.clone()).collect();
            let signer = keys.unused_or_new(purpose, &known)?;
            let hash = Hash::of(signer.public_key());
            let public_key = Some(Der::new(signer.public_key()));
            return Ok(Subject { purpose, id: format!("{hash:?}"), hash, public_key });
        }
        let state = match step {
            KeyStep::Retire => KeyState::Retiring,
            _ => KeyState::Prepared,
        };
        let key = self.keys.iter().find(|key| key.purpose == purpose && key.state == state);
        let key = key.ok_or_else(|| Error::Invalid {
            why: format!("there is no {purpose} key to {step}"),
            next_step: Some("countersign key list".to_owned()),
        })?;
        let hash = keys.find_by_id(&key.id);
        let hash = hash.ok_or_else(|| SignerError::Missing {
            purpose: purpose.name(),
            id: key.id.clone(),
            folder: keys.folder().display().to_string(),
        })?;
        Ok(Subject { purpose, id: key.id.clone(), hash, public_key: None })
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
        let mut random = [0; 14];
        rand::fill(&mut random).map_err(|_| SignerError::Refused("no randomness".to_owned()))?;
        let now = self.clock.now();
        let (common_name, life) = match parent {
            Some(_) => ("Countersign Issuer", ISSUER_LIFE),
            None => ("Countersign Root", ROOT_LIFE),
        };
        let signer = self.signer_of(subject)?;
        let certificate = CaCertificate {
            trust_domain: &self.trust.trust_domain,
            common_name,
            public_key: signer.public_key(),
            serial_number: issuance::serial_number(self.clock.unix_milliseconds(), random),
            not_before: now - BACKDATE,
            not_after: now + life,
        };
        Ok(match parent {
            Some(parent) => issuance::prepare_issuer(&certificate, parent)?,
            None => issuance::prepare_root(&certificate)?,
        })
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

    fn signer_of(&self, subject: &Subject) -> Result<std::sync::Arc<dyn Signer>, Error> {
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
                next_step: Some("countersign rotate goes on with it".to_owned()),
            })
        })
    }

    /// Removes what an interrupted call left: the files of keys that count no more.
    fn remove_retired(&self) -> Result<(), Error> {
        for key in self.keys.iter().filter(|key| key.state == KeyState::Retired) {
            for keys in [Some(self.online), self.offline].into_iter().flatten() {
                keys.destroy(&key.id)?;
            }
        }
        Ok(())
    }

    /// Signed by the keys of the state before, and by its own: it is believed from both sides.
    async fn sign_trust(&self, next: &TrustState) -> Result<Vec<u8>, Error> {
        let text = next.text();
        let name = TrustState::signer_name(&next.trust_domain);
        let refused = |error: tlog::Error| SignerError::Refused(error.to_string());
        let mut keys: Vec<&Der> = self.trust.trust_keys.iter().chain(&next.trust_keys).collect();
        keys.sort();
        keys.dedup();
        let mut note = SignedNote::unsigned(text.clone()).map_err(refused)?;
        for key in keys {
            let signer = self.folder(KeyPurpose::Trust)?;
            let signer = signer.signer(KeyPurpose::Trust, &Hash::of(key.as_bytes()))?;
            let signature = signer.sign(text.as_bytes()).await?;
            let id = tlog::ecdsa_key_id(key.as_bytes());
            note = note.with_signature(&name, id, &signature).map_err(refused)?;
        }
        Ok(note.encode())
    }
}

struct Subject {
    purpose: KeyPurpose,
    id: String,
    hash: Hash,
    /// Only to prepare it.
    public_key: Option<Der>,
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

pub(crate) const BACKDATE: Duration = Duration::seconds(60);
pub(crate) const ROOT_LIFE: Duration = Duration::days(3650);
pub(crate) const ISSUER_LIFE: Duration = Duration::days(365);
