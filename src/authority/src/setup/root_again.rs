//! A root at hand, with a certificate that is valid now: made again, for the same key, where it is not.
//!
//! The trust state after it differs in that anchor alone, and the pin stays. Our verifiers go on by the
//! anchor that they have, whatever it says of its time; other software needs the new bundle.
//!
//! Crash story: intent, signature, then one commit with the new trust state, as anywhere. Killed before
//! it, the root is made again; after it, it is found valid.

use std::sync::Arc;

use api::{KeyPurpose, KeyState};
use identity::{Der, Trust, TrustState};
use issuance::IssuerCertificate;
use tlog::Hash;

use super::Ceremony;
use crate::error::Error;
use crate::event;
use crate::fold::ledger::LedgerKey;
use crate::keys::Keys;
use crate::rotation::ceremony;
use crate::sequencer::{ChangedKeys, Effect};
use crate::signer::Signer;
use crate::view::in_force::InForce;

/// A root that can certify.
pub(super) struct ValidRoot {
    pub(super) certificate: IssuerCertificate,
    pub(super) signer: Arc<dyn Signer>,
    /// The trust state that has it.
    pub(super) trust_sequence: u64,
    pub(super) was_made_again: bool,
}

impl Ceremony<'_> {
    /// This root, valid now.
    pub(super) async fn valid_root(
        &self,
        in_force: &InForce,
        root: &LedgerKey,
        offline: &Keys,
    ) -> Result<ValidRoot, Error> {
        let signer = offline.signer(KeyPurpose::Root, &root.id)?;
        let current = in_force.trust.state();
        let certificate = anchor(current, &root.id).ok_or_else(|| {
            Error::Folder("the trust state has no anchor for the issuer's root".to_owned())
        })?;
        let now = self.clock.now();
        if certificate.require_begun(now).is_ok() && now < certificate.not_after() {
            let trust_sequence = current.sequence;
            return Ok(ValidRoot { certificate, signer, trust_sequence, was_made_again: false });
        }
        let certificate = self.root(&*signer).await?;
        let trust_sequence = self.replace_anchor(in_force, root, &certificate, offline).await?;
        Ok(ValidRoot { certificate, signer, trust_sequence, was_made_again: true })
    }

    /// The next trust state: as the one in force, with another certificate of this root. Returns its
    /// sequence.
    async fn replace_anchor(
        &self,
        in_force: &InForce,
        root: &LedgerKey,
        certificate: &IssuerCertificate,
        offline: &Keys,
    ) -> Result<u64, Error> {
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
        // The fold of key events names the trust state in force: the active root says it once more,
        // whichever was made again, each with its own certificate.
        let active = in_force.ledger.find(KeyPurpose::Root, KeyState::Active).unwrap_or(root);
        let detail = serde_json::json!({
            "certificate_sha256": anchor(&next, &active.id)
                .map(|certificate| format!("{:?}", Hash::of(certificate.der()))),
            "key_sha256": format!("{:?}", active.id),
            "trust_sequence": next.sequence,
        });
        let event = self.draft(event::KEY_ACTIVATE, KeyPurpose::Root.name(), &detail);
        let trust_state = Some((next.sequence, note));
        let effect = Effect::ChangeKeys(ChangedKeys { issuer: None, trust_state });
        self.log(event, effect).await?;
        Ok(next.sequence)
    }
}

/// The certificate of a root in a trust state, by its key.
fn anchor(trust_state: &TrustState, key: &Hash) -> Option<IssuerCertificate> {
    trust_state.anchors.iter().find_map(|anchor| {
        let certificate = IssuerCertificate::from_der(anchor.certificate.as_bytes()).ok()?;
        (certificate.key_hash() == key).then_some(certificate)
    })
}
