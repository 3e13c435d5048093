//! What `init` and `init --recover` make: each step is logged before it is signed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api::KeyPurpose;
use identity::{
    Anchor, CountersignatureKey, Der, LogKey, SpiffeId, Trust, TrustDomain, TrustPin, TrustState,
    pem,
};
use issuance::IssuerCertificate;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tlog::Hash;

use super::opening::{read_pin, write_pin};
use super::{Change, EarlierEnd, INIT, ParentAnswer, REQUEST, require_no_halt};
use crate::certificate::to_be_signed::LoggedCa;
use crate::checkpoint::{origin, verifier_key};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::files::write_private;
use crate::fold::load_keys;
use crate::keys::Keys;
use crate::parent_chain::ParentChain;
use crate::rotation::ceremony;
use crate::sequencer::{ActMember, Acted, ChangedKeys, Effect, Member, Outcome};
use crate::signer::Signer;
use crate::store::Store;
use crate::view::in_force::InForce;
use crate::writer::checkpoints::Checkpoints;
use crate::writer::queue::Failure;

/// What the steps of a ceremony share.
pub(super) struct Ceremony<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) store: &'a dyn Store,
    pub(super) clock: &'a dyn Clock,
}

/// The keys that `init` makes.
pub(super) struct First {
    pub(super) countersignature: Arc<dyn Signer>,
    pub(super) feed: Arc<dyn Signer>,
    pub(super) issuer: Arc<dyn Signer>,
    pub(super) log: Arc<dyn Signer>,
    /// None where a parent elsewhere certifies the issuer.
    pub(super) root: Option<Arc<dyn Signer>>,
    pub(super) trust: Arc<dyn Signer>,
}

impl First {
    pub(super) fn of(online: &Keys, offline: &Keys) -> Result<Self, Error> {
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

    pub(super) fn by_purpose(&self) -> impl Iterator<Item = (KeyPurpose, &Arc<dyn Signer>)> {
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
    pub(super) async fn genesis(&self, first: &First) -> Result<(), Error> {
        let keys: BTreeMap<&str, String> = first
            .by_purpose()
            .map(|(purpose, key)| (purpose.name(), String::from(Der::new(key.public_key()))))
            .collect();
        let detail = serde_json::json!({ "keys": keys, "version": env!("CARGO_PKG_VERSION") });
        let origin = origin(self.trust_domain);
        self.log(self.draft(event::LOG_GENESIS, &origin, &detail), Effect::None).await.map(drop)
    }

    pub(super) async fn sign_head(&self, first: &First) -> Result<(), Error> {
        let key = verifier_key(self.trust_domain, first.log.public_key())?;
        let signers = [(key, Arc::clone(&first.log))];
        let origin = origin(self.trust_domain);
        let failure = Failure::default();
        let signed = Checkpoints::default().sign_head(self.store, origin, &signers, &failure).await;
        signed.map(drop)
    }

    pub(super) async fn operator(&self, name: &str) -> Result<(), Error> {
        let id = SpiffeId::operator(self.trust_domain, name)?;
        let detail = serde_json::json!({ "name": name });
        let event = self.draft(event::OPERATOR_CREATE, id.as_str(), &detail);
        self.log(event, Effect::CreateOperator { name: name.to_owned() }).await.map(drop)
    }

    pub(super) async fn root(&self, signer: &dyn Signer) -> Result<IssuerCertificate, Error> {
        let key = signer.public_key();
        let tbs = ceremony::root_tbs(self.trust_domain, key, self.clock)?;
        let der = self.logged("root", tbs).await?.sign(signer).await?;
        Ok(IssuerCertificate::from_der(&der)?)
    }

    pub(super) async fn issuer(
        &self,
        root: &IssuerCertificate,
        signer: &dyn Signer,
        key: &dyn Signer,
    ) -> Result<(), Error> {
        let tbs = ceremony::issuer_tbs(self.trust_domain, key.public_key(), root, self.clock)?;
        let der = self.logged("issuer", tbs).await?.sign(signer).await?;
        self.add_issuer(&IssuerCertificate::from_der(&der)?, "local root").await
    }

    pub(super) async fn add_issuer(
        &self,
        issuer: &IssuerCertificate,
        parent: &str,
    ) -> Result<(), Error> {
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
    pub(super) async fn in_force(&self, state: &Path, keys: &Keys) -> Result<InForce, Error> {
        require_no_halt(self.trust_domain, state, self.store, keys).await?;
        let ledger = load_keys(self.store, self.trust_domain).await?;
        InForce::open(ledger, keys, self.store, self.trust_domain, &read_pin(state)?).await
    }

    /// A CA elsewhere has certified the active issuer's key once more.
    pub(super) async fn certified_again(
        &self,
        answer: ParentAnswer<'_>,
        state: &Path,
        keys: &Keys,
    ) -> Result<Change, Error> {
        let in_force = self.in_force(state, keys).await?;
        let in_use = in_force.issuer.certificate();
        let chain = ParentChain::parse(answer.certificates, in_use.public_key())?;
        let trust_state = in_force.trust.state();
        chain.verify(trust_state, answer.names, self.clock)?;
        if chain.anchors().first().is_none_or(|parent| !trust_state.anchors.contains(parent)) {
            return Err(Error::Invalid {
                why: "the second certificate is no anchor of this CA's trust state".to_owned(),
                next_step: Some("have it certified by the same CA as before".to_owned()),
            });
        }
        let (before, until) = (in_use.not_after(), chain.issuer.not_after());
        if chain.issuer.der() == in_use.der() {
            return Ok(Change::Nothing { until });
        }
        if until < before && answer.earlier_end == EarlierEnd::Refused {
            return Err(ends_earlier(until, before));
        }
        self.add_issuer(&chain.issuer, "parent elsewhere").await?;
        Ok(Change::Renewed { before, until })
    }

    /// Writes the request for a CA elsewhere.
    pub(super) async fn request(&self, issuer: &dyn Signer, folder: &Path) -> Result<(), Error> {
        let tbs = issuance::prepare_issuer_request(
            self.trust_domain,
            "Countersign Issuer",
            issuer.public_key(),
        )?;
        let der = self.logged("request", tbs).await?.sign(issuer).await?;
        let path = folder.join(REQUEST);
        write_private(&path, pem("CERTIFICATE REQUEST", &der).as_bytes())
            .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))
    }

    /// What the first trust state will say.
    pub(super) fn first_trust_state(
        &self,
        anchors: Vec<Anchor>,
        first: &First,
    ) -> Result<TrustState, Error> {
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
    pub(super) async fn trust_state(
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

    /// Logs what is to be signed.
    pub(super) async fn logged(&self, what: &str, tbs: Vec<u8>) -> Result<LoggedCa, Error> {
        let detail = serde_json::json!({ "tbs_sha256": format!("{:?}", Hash::of(&tbs)) });
        let log_index =
            self.log(self.draft(event::KEY_ISSUER, what, &detail), Effect::None).await?;
        LoggedCa::at(self.store, log_index, tbs).await
    }

    pub(super) fn draft(
        &self,
        kind: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> EventDraft {
        EventDraft::new(kind, &Act { actor: INIT, request_id: INIT }, subject, detail)
    }

    pub(super) async fn log(&self, event: EventDraft, effect: Effect) -> Result<u64, Error> {
        let act = ActMember { event, effect, allowed_under: None };
        let group = vec![Member::Act(Box::new(act))];
        match self.store.commit(group, self.clock.unix_milliseconds()).await?.pop() {
            Some(Outcome::Act(Acted::Done { log_index })) => Ok(log_index),
            Some(Outcome::Act(Acted::Refused(conflict))) => Err(Error::Conflict(conflict)),
            other => Err(Error::Folder(format!("the store answered {other:?}"))),
        }
    }
}

fn ends_earlier(until: OffsetDateTime, before: OffsetDateTime) -> Error {
    let told = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let (until, before) = (told(until), told(before));
    Error::Invalid {
        why: format!(
            "the issuer's certificate in it ends at {until}, before the one in use, which ends at \
             {before}: nothing was changed"
        ),
        next_step: Some(
            "give the newest that the parent made; or, where it is to end earlier: countersign init \
             --certificate FILE --allow-earlier-end"
                .to_owned(),
        ),
    }
}
