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
pub(crate) fn open(pem: &str, passphrase: &Secret) -> Result<SecretDocument, Unopened> {
    let (label, sealed) = SecretDocument::from_pem(pem).map_err(|_| without_block(pem))?;
    if label != LABEL {
        return Err(Unopened::NoKey("it holds another kind of PEM than a sealed key"));
    }
    EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes())
        .map_err(|_| Unopened::NoKey(GARBLED))?
        .decrypt(passphrase.expose().as_bytes())
        .map_err(|_| Unopened::Passphrase)
}

/// Why a text is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// No passphrase opens it.
    NoKey(&'static str),
    /// Another passphrase may.
    Passphrase,
}

/// What a text is that holds no block of PEM.
fn without_block(pem: &str) -> Unopened {
    let has = |mark: &str| pem.contains(&format!("-----{mark} "));
    Unopened::NoKey(match (has("BEGIN"), has("END")) {
        _ if pem.trim().is_empty() => "it is empty",
        (true, false) => "it is cut off: its last line is missing",
        (true, true) => GARBLED,
        (false, _) => "it is no key file (PEM, ENCRYPTED PRIVATE KEY)",
    })
}

const ROUNDS: u32 = 600_000;
const GARBLED: &str = "what it holds is garbled";
const LABEL: &str = "ENCRYPTED PRIVATE KEY";
