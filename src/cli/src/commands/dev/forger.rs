//! What a thief of the CA key alone can make: for `dev`, which shows that it is refused.
//!
//! The engine keeps no way around its types. So the forger opens the development key file itself,
//! as a thief would, and signs linted bytes that never saw the log.

use std::path::Path;

use api::{KeyPurpose, Secret};
use authority::{Authority, Keys};
use identity::SpiffeId;
use issuance::{EndEntity, IssuerCertificate, KeyType};
use zeroize::Zeroizing;

use crate::clock;
use crate::pending::PendingRequest;
use crate::svid_record::Wish;

/// A certificate, DER, that the CA's key signed and the log never saw, and its key, PKCS#8 PEM.
pub(crate) async fn forge(
    state: &Path,
    passphrase: &Secret,
    authority: &Authority,
    spiffe_id: &SpiffeId,
) -> anyhow::Result<(Vec<u8>, Zeroizing<String>)> {
    let pending = PendingRequest::generate(&Wish::only(spiffe_id.clone()))?;
    let issuer = IssuerCertificate::from_der(&authority.view.issuer_certificate())?;
    let stolen = Keys::open(state, passphrase)?.signer(KeyPurpose::Issuer, issuer.key_hash())?;
    let policy = authority.view.policy();
    let profile = policy
        .set()
        .profile(authority::policy::DEFAULT_PROFILE)
        .ok_or_else(|| anyhow::anyhow!("there is no default profile"))?;
    let tbs = profile.prepare(
        &EndEntity {
            spiffe_id,
            dns: &[],
            ip: &[],
            public_key: pending.request.public_key(),
            key_type: KeyType::EcdsaP256,
            serial_number: issuance::serial_number(1, *b"forged forged!"),
            validity: None,
            now: clock::now(),
            crl_url: None,
        },
        &issuer,
    )?;
    let signature = stolen.sign(tbs.der()).await?;
    Ok((issuance::assemble(tbs.der(), &signature), pending.key))
}
