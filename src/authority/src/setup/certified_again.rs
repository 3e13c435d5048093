//! Issuer and root certified again, for the keys that they have: done on the host, with the root at
//! hand and the CA stopped. It repairs certificates that end soon or have ended, and those that begin
//! only later, because the clock was ahead when they were made.
//!
//! A root that is not valid now certifies nobody: it is made again first, for the same key, so that
//! what it certified stays below it (`root_again`). The issuer follows: killed in between, the same
//! command finds it still to be certified.

use std::path::Path;

use api::{KeyPurpose, KeyState, Secret};
use identity::TrustDomain;
use issuance::IssuerCertificate;
use time::OffsetDateTime;

use super::Ceremony;
use crate::clock::Clock;
use crate::error::Error;
use crate::fold::load_keys;
use crate::keys::Keys;
use crate::rotation::ceremony::ISSUER_ENDS_SOON;
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
    let ceremony = Ceremony { trust_domain, store, clock };
    let in_force = ceremony.in_force(state, keys).await?;
    let issuer = in_force.ledger.find(KeyPurpose::Issuer, KeyState::Active);
    let root = issuer.and_then(|issuer| in_force.root_of(issuer));
    let (Some(issuer), Some(root)) = (issuer.map(|key| key.id), root) else {
        return Err(Error::Folder(
            "the parent is elsewhere: have state/issuer.csr certified again, then: countersign \
             init --certificate FILE"
                .to_owned(),
        ));
    };
    let offline = Keys::open_offline(state, offline_passphrase)?;
    let issuer = keys.signer(KeyPurpose::Issuer, &issuer)?;
    let root = ceremony.valid_root(&in_force, root, &offline).await?;
    ceremony.issuer(&root.certificate, &*root.signer, &*issuer).await?;
    Ok(match root.was_made_again {
        true => CertifiedAgain::RootAndIssuer,
        false => CertifiedAgain::Issuer,
    })
}
