//! Another issuer in the place of one whose key is lost: without its certificate `serve` may not even
//! start, so this is done on the host, with the root at hand and the CA stopped.
//!
//! Crash story: the new key is on the disk before it is certified, the intent in the log before the
//! root signs, the certificate beside `key.prepare`. Killed in between, the same command goes on with
//! what there is. The lost key retires as any other: what it certified stays good.

use std::path::Path;
use std::sync::Arc;

use api::{KeyPurpose, KeyState, Secret};
use identity::{Der, TrustDomain};
use issuance::IssuerCertificate;
use tlog::Hash;

use super::{Ceremony, read_pin, require_no_halt};
use crate::clock::Clock;
use crate::error::Error;
use crate::event;
use crate::keys::Keys;
use crate::loading::load_keys;
use crate::rotation::{InForce, ceremony};
use crate::sequencer::{ChangedKeys, Effect};
use crate::signer::{Signer, SignerError};
use crate::store::Store;

/// Makes a new issuer, certified by the active root, and lets it sign. Refuses while the active
/// issuer's key is there, or its file is and does not open.
pub async fn replace_lost_issuer(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    offline_passphrase: &Secret,
    clock: &dyn Clock,
) -> Result<(), Error> {
    require_no_halt(trust_domain, state, store, keys).await?;
    let ledger = load_keys(store, trust_domain).await?;
    let in_force = InForce::open(ledger, keys, store, trust_domain, &read_pin(state)?).await?;
    let ceremony = Ceremony { trust_domain, store, clock };
    require_lost(&in_force, keys)?;
    let prepared = in_force.ledger.find(KeyPurpose::Issuer, KeyState::Prepared);
    let next = match prepared {
        Some(prepared) => keys.signer(KeyPurpose::Issuer, &prepared.id)?,
        None => {
            let offline = Keys::open_offline(state, offline_passphrase)?;
            ceremony.prepare_issuer(&in_force, keys, &offline).await?
        }
    };
    let activate = ceremony.issuer_event(event::KEY_ACTIVATE, &in_force, &*next);
    ceremony.log(activate, Effect::ChangeKeys(ChangedKeys::default())).await.map(drop)
}

fn require_lost(in_force: &InForce, keys: &Keys) -> Result<(), Error> {
    let active = in_force.ledger.find(KeyPurpose::Issuer, KeyState::Active);
    let active =
        active.ok_or_else(|| Error::Folder("the log names no active issuer".to_owned()))?;
    match keys.signer(KeyPurpose::Issuer, &active.id) {
        Err(SignerError::Missing { .. }) => Ok(()),
        Err(error @ (SignerError::Damaged { .. } | SignerError::OtherPassphrase { .. })) => {
            Err(Error::Invalid {
                why: error.to_string(),
                next_step: Some(
                    "where there is no backup, move the file away; then the same command again"
                        .to_owned(),
                ),
            })
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err(Error::Invalid {
            why: "the issuer's key is there: it is not lost".to_owned(),
            next_step: Some(
                "to replace it while the CA serves: countersign issuer prepare; countersign rotate"
                    .to_owned(),
            ),
        }),
    }
}

impl Ceremony<'_> {
    async fn prepare_issuer(
        &self,
        in_force: &InForce,
        keys: &Keys,
        offline: &Keys,
    ) -> Result<Arc<dyn Signer>, Error> {
        let root = in_force.ledger.find(KeyPurpose::Root, KeyState::Active);
        let root = root.ok_or_else(|| {
            Error::Folder(
                "the parent is elsewhere, and certifies the key that is lost: put issuer.key back \
                 from a backup"
                    .to_owned(),
            )
        })?;
        let anchors = in_force.trust.state().anchors.iter();
        let mut anchors =
            anchors.filter_map(|it| IssuerCertificate::from_der(it.certificate.as_bytes()).ok());
        let certificate =
            anchors.find(|anchor| *anchor.key_hash() == root.id).ok_or_else(|| {
                Error::Folder("the trust state has no anchor for the active root".to_owned())
            })?;
        let root = offline.signer(KeyPurpose::Root, &root.id)?;
        let known: Vec<String> =
            in_force.ledger.keys().map(|key| format!("{:?}", key.id)).collect();
        let next = keys.unused_or_new(KeyPurpose::Issuer, &known)?;
        let public_key = next.public_key();
        let tbs = ceremony::issuer_tbs(self.trust_domain, public_key, &certificate, self.clock)?;
        self.log_tbs(event::KEY_ISSUER, "issuer", &tbs).await?;
        let der = issuance::assemble(&tbs, &root.sign(&tbs).await?);
        let issuer =
            Some((IssuerCertificate::from_der(&der)?.der().to_vec(), Hash::of(public_key)));
        let prepare = self.issuer_event(event::KEY_PREPARE, in_force, &*next);
        self.log(prepare, Effect::ChangeKeys(ChangedKeys { issuer, trust_state: None })).await?;
        Ok(next)
    }

    /// A step of the issuer's, which changes nothing of the trust state.
    fn issuer_event(
        &self,
        kind: &'static str,
        in_force: &InForce,
        key: &dyn Signer,
    ) -> event::EventDraft {
        let mut detail = serde_json::json!({
            "key_sha256": format!("{:?}", Hash::of(key.public_key())),
            "trust_sequence": in_force.ledger.trust_sequence(),
        });
        if kind == event::KEY_PREPARE {
            detail["public_key"] = String::from(Der::new(key.public_key())).into();
        }
        self.draft(kind, KeyPurpose::Issuer.name(), &detail)
    }
}
