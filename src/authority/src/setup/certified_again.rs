//! Issuer and root certified again, for the keys that they have: done on the host, with the root at
//! hand and the CA stopped. It repairs certificates that end soon or have ended, and those that begin
//! only later, because the clock was ahead when they were made.
//!
//! A root that is not valid now certifies nobody: it is made again first, for the same key, so that
//! what it certified stays below it. The trust state after it differs in that anchor alone, and the
//! pin stays. Our verifiers go on by the anchor that they have, whatever it says of its time; other
//! software needs the new bundle.
//!
//! Crash story: intent, signature, then one commit with the new trust state, as anywhere; the issuer
//! follows. Killed in between, the same command finds the issuer still to be certified.

use std::path::Path;
use std::sync::Arc;

use api::{KeyPurpose, KeyState, Secret};
use identity::{Der, Trust, TrustDomain, TrustState};
use issuance::IssuerCertificate;
use time::OffsetDateTime;
use tlog::Hash;

use super::{Ceremony, read_pin, require_no_halt};
use crate::clock::Clock;
use crate::error::Error;
use crate::event;
use crate::keys::Keys;
use crate::loading::load_keys;
use crate::rotation::ceremony::{self, ISSUER_ENDS_SOON};
use crate::rotation::{InForce, LedgerKey};
use crate::sequencer::{ChangedKeys, Effect};
use crate::signer::Signer;
use crate::store::Store;

/// Why the active issuer should be certified again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Its certificate begins only later: until then it certifies nobody.
    BeginsLater,
    /// Its certificate ends soon, or has ended.
    EndsSoon,
}

/// What has a new certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertifiedAgain {
    /// The issuer.
    Issuer,
    /// Its root, and then the issuer.
    RootAndIssuer,
}

/// Whether the active issuer should be certified again, and why.
pub async fn to_certify_again(
    trust_domain: &TrustDomain,
    store: &dyn Store,
    now: OffsetDateTime,
) -> Result<Option<Again>, Error> {
    let ledger = load_keys(store, trust_domain).await?;
    let active = ledger.find(KeyPurpose::Issuer, KeyState::Active).map(|key| key.id);
    let mut newest = None;
    for der in store.issuers().await? {
        let issuer = IssuerCertificate::from_der(&der)?;
        if Some(*issuer.key_hash()) == active {
            newest = Some(issuer);
        }
    }
    Ok(newest.and_then(|issuer| match issuer.require_begun(now) {
        Err(_) => Some(Again::BeginsLater),
        Ok(()) if issuer.not_after() - now < ISSUER_ENDS_SOON => Some(Again::EndsSoon),
        Ok(()) => None,
    }))
}

/// Certifies the active issuer's key again, under the root that it is under: peers may know another
/// one only later. Where that root's own certificate is not valid now, that is made again first.
pub async fn certify_again(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    offline_passphrase: &Secret,
    clock: &dyn Clock,
) -> Result<CertifiedAgain, Error> {
    require_no_halt(trust_domain, state, store, keys).await?;
    let ledger = load_keys(store, trust_domain).await?;
    let pin = read_pin(state)?;
    let in_force = InForce::open(ledger, keys, store, trust_domain, &pin).await?;
    let issuer = in_force.ledger.find(KeyPurpose::Issuer, KeyState::Active);
    let root = issuer.and_then(|issuer| in_force.root_of(issuer));
    let (Some(issuer), Some(root)) = (issuer.map(|key| key.id), root) else {
        return Err(Error::Folder(
            "the parent is elsewhere: have state/issuer.csr certified again, then: countersign \
             init --certificate FILE"
                .to_owned(),
        ));
    };
    let mut anchors = in_force.trust.state().anchors.iter();
    let anchor = anchors.find_map(|anchor| {
        let certificate = IssuerCertificate::from_der(anchor.certificate.as_bytes()).ok()?;
        (*certificate.key_hash() == root.id).then_some(certificate)
    });
    let mut certificate = anchor.ok_or_else(|| {
        Error::Folder("the trust state has no anchor for the issuer's root".to_owned())
    })?;
    let offline = Keys::open_offline(state, offline_passphrase)?;
    let signer = offline.signer(KeyPurpose::Root, &root.id)?;
    let issuer = keys.signer(KeyPurpose::Issuer, &issuer)?;
    let ceremony = Ceremony { trust_domain, store, clock };
    let now = clock.now();
    let is_valid = certificate.require_begun(now).is_ok() && now < certificate.not_after();
    if !is_valid {
        certificate = ceremony.root(&*signer).await?;
        ceremony.replace_anchor(&in_force, root, &certificate, &offline).await?;
    }
    ceremony.issuer(&certificate, &*signer, &*issuer).await?;
    Ok(if is_valid { CertifiedAgain::Issuer } else { CertifiedAgain::RootAndIssuer })
}

impl Ceremony<'_> {
    /// The next trust state: as the one in force, with another certificate of this root.
    async fn replace_anchor(
        &self,
        in_force: &InForce,
        root: &LedgerKey,
        certificate: &IssuerCertificate,
        offline: &Keys,
    ) -> Result<(), Error> {
        let current = in_force.trust.state();
        let mut next = TrustState { sequence: current.sequence + 1, ..current.clone() };
        for anchor in &mut next.anchors {
            let certified = IssuerCertificate::from_der(anchor.certificate.as_bytes());
            if certified.is_ok_and(|certified| *certified.key_hash() == root.id) {
                anchor.certificate = Der::new(certificate.der());
            }
        }
        Trust::new(next.clone())?;
        let detail = serde_json::json!({
            "note_text_sha256": format!("{:?}", Hash::of(next.text().as_bytes())),
            "pin": next.pin().to_string(),
            "sequence": next.sequence,
        });
        self.log(self.draft(event::TRUST_CHANGE, "prepare", &detail), Effect::None).await?;
        let signers: Result<Vec<Arc<dyn Signer>>, _> = current
            .trust_keys
            .iter()
            .map(|key| offline.signer(KeyPurpose::Trust, &Hash::of(key.as_bytes())))
            .collect();
        let note = ceremony::sign_trust(&next, &signers?).await?;
        current.verify_successor(&note)?;
        // The fold of key events names the trust state in force: the active root says it once more.
        let active = in_force.ledger.find(KeyPurpose::Root, KeyState::Active).unwrap_or(root);
        let detail = serde_json::json!({
            "certificate_sha256": format!("{:?}", Hash::of(certificate.der())),
            "key_sha256": format!("{:?}", active.id),
            "trust_sequence": next.sequence,
        });
        let event = self.draft(event::KEY_ACTIVATE, KeyPurpose::Root.name(), &detail);
        let trust_state = Some((next.sequence, note));
        let effect = Effect::ChangeKeys(ChangedKeys { issuer: None, trust_state });
        self.log(event, effect).await.map(drop)
    }
}
