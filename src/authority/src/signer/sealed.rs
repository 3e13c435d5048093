//! Keys sealed at rest: PKCS#8 under PBES2, as `openssl pkey` opens it.
//!
//! PBKDF2 with HMAC-SHA-256 and 600,000 rounds (OWASP's figure of 2023), AES-256-CBC.

use api::Secret;
use aws_lc_rs::rand;
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};

/// Seals a PKCS#8 key; the result is PEM, `ENCRYPTED PRIVATE KEY`.
pub(crate) fn seal(key: &[u8], passphrase: &Secret) -> Result<String, pkcs8::Error> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    for random in [&mut salt, &mut iv] {
        rand::fill(random).map_err(|_| pkcs8::Error::KeyMalformed(pkcs8::KeyError::Invalid))?;
    }
    let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &salt, iv)?;
    let sealed = PrivateKeyInfoRef::try_from(key)?
        .encrypt_with_params(parameters, passphrase.expose().as_bytes())?;
    Ok(sealed.to_pem(LABEL, LineEnding::LF)?.to_string())
}

/// Opens what [`seal`] made, or openssl with PBES2.
pub(crate) fn open(pem: &str, passphrase: &Secret) -> Option<SecretDocument> {
    let (label, sealed) = SecretDocument::from_pem(pem).ok()?;
    if label != LABEL {
        return None;
    }
    EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes())
        .ok()?
        .decrypt(passphrase.expose().as_bytes())
        .ok()
}

const ROUNDS: u32 = 600_000;
const LABEL: &str = "ENCRYPTED PRIVATE KEY";
