//! Keys sealed at rest: PKCS#8 under PBES2, as `openssl pkey` opens it.
//!
//! PBKDF2 with HMAC-SHA-256 and 600,000 rounds (OWASP's figure of 2023), AES-256-CBC. What one
//! passphrase seals has one salt, and an initialization vector each: the rounds are paid for once, and
//! not for each file.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use api::Secret;
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA384, PBKDF2_HMAC_SHA512};
use aws_lc_rs::rand;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::EncryptionScheme as Scheme;
use pkcs8::pkcs5::pbes2::{EncryptionScheme, Parameters, Pbkdf2Params, Pbkdf2Prf};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

/// A passphrase, with what was derived from it.
#[derive(Debug)]
pub struct Passphrase {
    secret: Secret,
    derived: Mutex<Vec<Arc<Derived>>>,
}

/// What encrypts under a salt.
struct Derived {
    kdf: Pbkdf2Params,
    length: usize,
    key: OnceLock<Zeroizing<[u8; LONGEST]>>,
    /// It is ours, or has opened a file: whoever can only write files has not chosen its salt.
    is_proven: AtomicBool,
}

impl Passphrase {
    /// Derives nothing yet.
    pub fn new(secret: &Secret) -> Self {
        Self { secret: secret.clone(), derived: Mutex::default() }
    }

    /// What is sealed with from now on.
    fn to_seal(&self) -> Result<Arc<Derived>, pkcs8::Error> {
        let mut all = self.all();
        if let Some(known) = all.iter().find(|derived| derived.is_to_seal()) {
            return Ok(Arc::clone(known));
        }
        let kdf = Pbkdf2Params::hmac_sha256(ROUNDS, &random()?)?;
        let derived = Arc::new(Derived::new(kdf, LONGEST));
        derived.is_proven.store(true, Ordering::Relaxed);
        all.push(Arc::clone(&derived));
        Ok(derived)
    }

    fn to_open(&self, kdf: Pbkdf2Params, length: usize) -> Arc<Derived> {
        let mut all = self.all();
        if let Some(known) = all.iter().find(|known| (known.kdf, known.length) == (kdf, length)) {
            return Arc::clone(known);
        }
        let derived = Arc::new(Derived::new(kdf, length));
        all.push(Arc::clone(&derived));
        derived
    }

    /// What has opened nothing is of no use.
    fn forget(&self, derived: &Arc<Derived>) {
        self.all().retain(|known| !Arc::ptr_eq(known, derived));
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Derived>>> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Derived {
    fn new(kdf: Pbkdf2Params, length: usize) -> Self {
        Self { kdf, length, key: OnceLock::new(), is_proven: AtomicBool::new(false) }
    }

    fn is_to_seal(&self) -> bool {
        let Pbkdf2Params { iteration_count, prf, .. } = self.kdf;
        let is_as_ours = (iteration_count, prf) == (ROUNDS, Pbkdf2Prf::HmacWithSha256);
        self.is_proven.load(Ordering::Relaxed) && is_as_ours && self.length == LONGEST
    }

    /// Whoever comes first pays for the rounds. None where this is not what we derive by.
    fn key(&self, passphrase: &Secret) -> Option<UnboundCipherKey> {
        let prf = algorithm(self.kdf.prf)?;
        let rounds = NonZeroU32::new(self.kdf.iteration_count)?;
        let (algorithm, length) = match self.length {
            16 => (&AES_128, 16),
            24 => (&AES_192, 24),
            _ => (&AES_256, LONGEST),
        };
        let key = self.key.get_or_init(|| {
            let mut key = Zeroizing::new([0; LONGEST]);
            let secret = passphrase.expose().as_bytes();
            pbkdf2::derive(prf, rounds, self.kdf.salt.as_ref(), secret, &mut key[..length]);
            key
        });
        UnboundCipherKey::new(algorithm, &key[..length]).ok()
    }
}

impl std::fmt::Debug for Derived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Derived")
    }
}

/// Seals a PKCS#8 key; the result is PEM, `ENCRYPTED PRIVATE KEY`.
pub(crate) fn seal(key: &[u8], passphrase: &Passphrase) -> Result<String, pkcs8::Error> {
    PrivateKeyInfoRef::try_from(key)?;
    encrypt(key, passphrase)
}

fn encrypt(key: &[u8], passphrase: &Passphrase) -> Result<String, pkcs8::Error> {
    let (derived, iv) = (passphrase.to_seal()?, random()?);
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    // With room for the padding: a vector that grows leaves the key behind.
    let mut encrypted = Zeroizing::new(Vec::with_capacity(key.len() + BLOCK));
    encrypted.extend_from_slice(key);
    derived
        .key(&passphrase.secret)
        .and_then(|by| PaddedBlockEncryptingKey::cbc_pkcs7(by).ok())
        .and_then(|by| by.less_safe_encrypt(&mut *encrypted, context).ok())
        .ok_or(pkcs8::Error::KeyMalformed(pkcs8::KeyError::Invalid))?;
    let encryption = EncryptionScheme::Aes256Cbc { iv };
    let sealed = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: Parameters { kdf: derived.kdf.into(), encryption }.into(),
        encrypted_data: OctetStringRef::new(&encrypted)?,
    };
    let sealed = SecretDocument::try_from(sealed)?;
    Ok(sealed.to_pem(LABEL, LineEnding::LF)?.to_string())
}

/// Opens what [`seal`] made, or openssl with PBES2, PBKDF2 and AES-CBC.
pub(crate) fn open(pem: &str, passphrase: &Passphrase) -> Result<SecretDocument, Unopened> {
    let (label, sealed) = SecretDocument::from_pem(pem).map_err(|_| without_block(pem))?;
    if label != LABEL {
        return Err(Unopened::NoKey("it holds another kind of PEM than a sealed key"));
    }
    let sealed = EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes());
    let sealed = sealed.map_err(|_| Unopened::NoKey(GARBLED))?;
    let (kdf, iv, length) = parameters(&sealed.encryption_algorithm).ok_or(Unopened::Otherwise)?;
    let derived = passphrase.to_open(kdf, length);
    let key = derived.key(&passphrase.secret).ok_or(Unopened::Otherwise)?;
    let opened = decrypt(key, iv, sealed.encrypted_data.as_bytes());
    if !derived.is_proven.fetch_or(opened.is_some(), Ordering::Relaxed) && opened.is_none() {
        passphrase.forget(&derived);
    }
    opened.ok_or(Unopened::Passphrase)
}

fn algorithm(prf: Pbkdf2Prf) -> Option<pbkdf2::Algorithm> {
    match prf {
        Pbkdf2Prf::HmacWithSha256 => Some(PBKDF2_HMAC_SHA256),
        Pbkdf2Prf::HmacWithSha384 => Some(PBKDF2_HMAC_SHA384),
        Pbkdf2Prf::HmacWithSha512 => Some(PBKDF2_HMAC_SHA512),
        _ => None,
    }
}

/// What is derived by, the initialization vector, and the key's length.
fn parameters(scheme: &Scheme) -> Option<(Pbkdf2Params, [u8; 16], usize)> {
    let Scheme::Pbes2(Parameters { kdf, encryption }) = scheme else { return None };
    let (iv, length) = match encryption {
        EncryptionScheme::Aes128Cbc { iv } => (iv, 16),
        EncryptionScheme::Aes192Cbc { iv } => (iv, 24),
        EncryptionScheme::Aes256Cbc { iv } => (iv, LONGEST),
        _ => return None,
    };
    let kdf = kdf.pbkdf2()?;
    let is_derived_by_us = algorithm(kdf.prf).is_some()
        && (1..=MOST_ROUNDS).contains(&kdf.iteration_count)
        && kdf.key_length.is_none_or(|named| usize::from(named) == length);
    is_derived_by_us.then_some((*kdf, *iv, length))
}

/// None where what comes out is no key: padding alone is right by chance once in 256 times.
fn decrypt(key: UnboundCipherKey, iv: [u8; 16], encrypted: &[u8]) -> Option<SecretDocument> {
    let mut bytes = Zeroizing::new(encrypted.to_vec());
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
    let opened = key.decrypt(&mut bytes, context).ok()?;
    PrivateKeyInfoRef::try_from(&*opened).ok()?;
    SecretDocument::try_from(&*opened).ok()
}

fn random() -> Result<[u8; 16], pkcs8::Error> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| pkcs8::Error::KeyMalformed(pkcs8::KeyError::Invalid))?;
    Ok(random)
}

/// Why a text is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// No passphrase opens it.
    NoKey(&'static str),
    /// It may be sealed well, but not as we open it.
    Otherwise,
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
/// Seconds: a file that asks for more is no key of anybody's.
const MOST_ROUNDS: u32 = 10_000_000;
/// Of the cipher, in bytes.
const BLOCK: usize = 16;
/// Of a key, in bytes.
const LONGEST: usize = 32;
const GARBLED: &str = "what it holds is garbled";
const LABEL: &str = "ENCRYPTED PRIVATE KEY";

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use std::process::Command;

    const WORDS: &str = "correct horse battery staple";

    fn passphrase() -> Passphrase {
        Passphrase::new(&Secret::new(WORDS))
    }

    fn key() -> Vec<u8> {
        Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref().to_vec()
    }

    fn sealed_by_openssl(key: &[u8], words: &str, options: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (plain, pass) = (folder.path().join("plain"), folder.path().join("pass"));
        std::fs::write(&plain, key).unwrap();
        std::fs::write(&pass, words).unwrap();
        let mut command = Command::new("openssl");
        command.args(["pkcs8", "-topk8", "-inform", "DER", "-in"]).arg(&plain);
        command.arg("-passout").arg(format!("file:{}", pass.display())).args(options);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn salt_and_iv(pem: &str) -> (Vec<u8>, [u8; 16]) {
        let (_, sealed) = SecretDocument::from_pem(pem).unwrap();
        let sealed = EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).unwrap();
        let (kdf, iv, _) = parameters(&sealed.encryption_algorithm).unwrap();
        assert_eq!((kdf.iteration_count, kdf.prf), (ROUNDS, Pbkdf2Prf::HmacWithSha256));
        (kdf.salt.as_ref().to_vec(), iv)
    }

    #[test]
    fn what_one_passphrase_seals_is_derived_once_and_encrypted_differently() {
        let (before, key) = (passphrase(), key());
        let first = seal(&key, &before).unwrap();
        let again = passphrase();
        assert_eq!(open(&first, &again).unwrap().as_bytes(), key);
        for by in [&before, &again] {
            let next = seal(&key, by).unwrap();
            let ((salt, iv), (other_salt, other_iv)) = (salt_and_iv(&first), salt_and_iv(&next));
            assert_eq!(salt, other_salt);
            assert_ne!(iv, other_iv);
            assert_eq!(by.all().len(), 1);
        }
        let other = salt_and_iv(&seal(&key, &passphrase()).unwrap()).0;
        assert_ne!(salt_and_iv(&first).0, other);
    }

    #[test]
    fn whoever_only_writes_files_chooses_no_salt() {
        let (ours, key) = (passphrase(), key());
        let strangers = seal(&key, &Passphrase::new(&Secret::new("another"))).unwrap();
        assert_eq!(open(&strangers, &ours).unwrap_err(), Unopened::Passphrase);
        assert!(ours.all().is_empty());
        assert_ne!(salt_and_iv(&seal(&key, &ours).unwrap()).0, salt_and_iv(&strangers).0);
    }

    #[test]
    fn what_openssl_sealed_opens_and_what_we_seal_by_stays_ours() {
        let (ours, key) = (passphrase(), key());
        for options in [
            &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "2048"][..],
            &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"],
            &["-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA384"],
            &["-v2", "aes-128-cbc"],
        ] {
            let sealed = sealed_by_openssl(&key, WORDS, options);
            assert_eq!(open(&sealed, &ours).unwrap().as_bytes(), key, "{options:?}");
            let sealed = sealed_by_openssl(&key, "another passphrase", options);
            assert_eq!(open(&sealed, &ours).unwrap_err(), Unopened::Passphrase, "{options:?}");
        }
        salt_and_iv(&seal(&key, &ours).unwrap());
        let known = ours.all().len();
        for options in [&["-scrypt"][..], &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"]] {
            let sealed = sealed_by_openssl(&key, WORDS, options);
            assert_eq!(open(&sealed, &ours).unwrap_err(), Unopened::Otherwise, "{options:?}");
        }
        assert_eq!(ours.all().len(), known);
    }

    /// As where another passphrase's padding is right by chance, once in 256 times.
    #[test]
    fn what_decrypts_to_no_key_is_not_opened() {
        let ours = passphrase();
        let sealed = encrypt(b"padded well, and no key", &ours).unwrap();
        assert_eq!(open(&sealed, &ours).unwrap_err(), Unopened::Passphrase);
    }
}
