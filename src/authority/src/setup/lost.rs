//! Another issuer in the place of one whose key is lost: without its certificate `serve` may not even
//! start, so this is done on the host, with the root at hand and the CA stopped.
//!
//! Crash story: the new key is on the disk before it is certified, the intent in the log before the
//! root signs, the certificate beside `key.prepare`. Killed in between, the same command goes on with
//! what there is. A root that is not valid now is made again first (`root_again`). The lost key retires as any other: what it certified stays good.

use std::path::Path;
use std::sync::Arc;

use api::{KeyPurpose, KeyState, Secret};
use identity::{Der, TrustDomain};
use issuance::IssuerCertificate;
use tlog::Hash;

use super::root_again::ValidRoot;
use super::{Ceremony, CertifiedAgain};
use crate::clock::Clock;
use crate::error::Error;
use crate::event;
use crate::fold::load_keys;
use crate::keys::Keys;
use crate::rotation::ceremony;
use crate::sequencer::{ChangedKeys, Effect};
use crate::signer::{Signer, SignerError};
use crate::store::Store;
use crate::view::in_force::InForce;

/// Makes a new issuer, certified by the active root, which is made again where it is not valid now, and
/// lets it sign. Refuses while the active
/// issuer's key is there, or its file is and does not open.
pub async fn replace_lost_issuer(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    offline_passphrase: &Secret,
    clock: &dyn Clock,
) -> Result<CertifiedAgain, Error> {
    let ceremony = Ceremony { trust_domain, store, clock };
    let in_force = ceremony.in_force(state, keys).await?;
    require_lost(&in_force, keys)?;
    let mut done = CertifiedAgain::Issuer;
    let prepared = in_force.ledger.find(KeyPurpose::Issuer, KeyState::Prepared);
    let next = match prepared {
        Some(prepared) => keys.signer(KeyPurpose::Issuer, &prepared.id)?,
        None => {
            let root = in_force.ledger.find(KeyPurpose::Root, KeyState::Active);
            let root = root.ok_or_else(parent_is_elsewhere)?;
            let offline = Keys::open_offline(state, offline_passphrase)?;
            let root = ceremony.valid_root(&in_force, root, &offline).await?;
            if root.was_made_again {
                done = CertifiedAgain::RootAndIssuer;
            }
            ceremony.prepare_issuer(&in_force, &root, keys).await?
        }
    };
    let trust_sequence = load_keys(store, trust_domain).await?.trust_sequence();
    let activate = ceremony.issuer_event(event::KEY_ACTIVATE, trust_sequence, &*next);
    ceremony.log(activate, Effect::ChangeKeys(ChangedKeys::default())).await?;
    Ok(done)
}

/// What it has certified is the key that is lost, and what it would certify has to be in the trust
/// state: that is no repair, and may as well be a new CA.
fn parent_is_elsewhere() -> Error {
    Error::Invalid {
        why: "the parent is elsewhere, and certifies the key that is lost".to_owned(),
        next_step: Some(
            "put keys/issuer.key back from a backup; without one, services go on until their \
             certificates end: make a new CA by then (`countersign init --context NAME`, with a \
             `state` of its own), and move them to it"
                .to_owned(),
        ),
    }
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
        root: &ValidRoot,
        keys: &Keys,
    ) -> Result<Arc<dyn Signer>, Error> {
        let known: Vec<String> =
            in_force.ledger.keys().map(|key| format!("{:?}", key.id)).collect();
        let next = keys.unused_or_new(KeyPurpose::Issuer, &known)?;
        let public_key = next.public_key();
        let above = &root.certificate;
        let tbs = ceremony::issuer_tbs(self.trust_domain, public_key, above, self.clock)?;
        let tbs = self.logged("issuer", tbs).await?;
        let der = tbs.sign(&*root.signer).await?;
        let issuer =
            Some((IssuerCertificate::from_der(&der)?.der().to_vec(), Hash::of(public_key)));
        let prepare = self.issuer_event(event::KEY_PREPARE, root.trust_sequence, &*next);
        self.log(prepare, Effect::ChangeKeys(ChangedKeys { issuer, trust_state: None })).await?;
        Ok(next)
    }

    /// A step of the issuer's, which changes nothing of the trust state.
    fn issuer_event(
        &self,
        kind: &'static str,
        trust_sequence: u64,
        key: &dyn Signer,
    ) -> event::EventDraft {
        let mut detail = serde_json::json!({
            "key_sha256": format!("{:?}", Hash::of(key.public_key())),
            "trust_sequence": trust_sequence,
        });
        if kind == event::KEY_PREPARE {
            detail["public_key"] = String::from(Der::new(key.public_key())).into();
        }
        self.draft(kind, KeyPurpose::Issuer.name(), &detail)
    }
}
