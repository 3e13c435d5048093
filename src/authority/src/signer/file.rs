//! Keys in sealed files.

use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tlog::Hash;
use zeroize::Zeroizing;

pub use super::sealed::Passphrase;
use super::sealed::{self, Unopened};
use super::{Signer, SignerError};
use crate::files::{Readers, SecretError, read_secret, write_for_owner};

/// A key that was read from a sealed file, or has just been made.
pub struct FileSigner {
    key: Key,
    public_key: Vec<u8>,
    random: SystemRandom,
}

/// Which kind of key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Certificates, countersignatures and trust states.
    EcdsaP256,
    /// Checkpoints and the feed.
    Ed25519,
}

enum Key {
    EcdsaP256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl FileSigner {
    /// Makes a key and writes it, sealed, with mode 0600, for its folder's owner, whoever makes it:
    /// `serve` has to read it. The first of a passphrase costs 600,000 rounds of PBKDF2.
    pub fn generate(
        kind: KeyKind,
        path: &Path,
        passphrase: &Passphrase,
    ) -> Result<Self, SignerError> {
        Self::generate_at(kind, |_| path.to_owned(), passphrase).map(|(signer, _)| signer)
    }

    /// The same, in a file that is named after the key.
    pub(crate) fn generate_at(
        kind: KeyKind,
        path: impl FnOnce(&Hash) -> PathBuf,
        passphrase: &Passphrase,
    ) -> Result<(Self, PathBuf), SignerError> {
        let no_key = || SignerError::Refused("no key could be made".to_owned());
        let pkcs8 = generate(kind).map_err(|_| no_key())?;
        let signer = Self::from_pkcs8(&pkcs8).ok_or_else(no_key)?;
        let path = path(&Hash::of(&signer.public_key));
        let pem = sealed::seal(&pkcs8, passphrase).map_err(|error| file_error(&path, &error))?;
        write_for_owner(&path, pem.as_bytes()).map_err(|error| file_error(&path, &error))?;
        Ok((signer, path))
    }

    /// Opens a sealed key that nobody but its owner may read.
    pub fn open(path: &Path, passphrase: &Passphrase) -> Result<Self, SignerError> {
        let pem = read_secret(path, Readers::Owner).map_err(|error| unread(path, &error))?;
        let pkcs8 = sealed::open(&pem, passphrase).map_err(|why| unopened(path, why))?;
        Self::from_pkcs8(pkcs8.as_bytes())
            .ok_or_else(|| file_error(path, &"it is neither a P-256 nor an Ed25519 key"))
    }

    /// 32 bytes that follow from the key and a label, of an Ed25519 key: its signatures are
    /// deterministic. None of any other.
    pub(crate) fn derive(&self, label: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let Key::Ed25519(pair) = &self.key else { return None };
        let signature = Zeroizing::new(pair.sign(label).as_ref().to_vec());
        Some(Zeroizing::new(*Hash::of(&signature).as_bytes()))
    }

    /// Takes a key that is open already.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map(Key::EcdsaP256)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(Key::Ed25519))
            .ok()?;
        let public_key: Result<PublicKeyX509Der<'_>, _> = match &key {
            Key::EcdsaP256(pair) => pair.public_key().as_der(),
            Key::Ed25519(pair) => pair.public_key().as_der(),
        };
        let public_key = public_key.ok()?;
        let public_key = public_key.as_ref().to_vec();
        Some(Self { key, public_key, random: SystemRandom::new() })
    }
}

impl Signer for FileSigner {
    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        let signature = match &self.key {
            Key::EcdsaP256(pair) => pair.sign(&self.random, message).map(|s| s.as_ref().to_vec()),
            Key::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        };
        let signature = signature.map_err(|error| SignerError::Refused(error.to_string()));
        std::future::ready(signature).boxed()
    }
}

impl std::fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileSigner")
    }
}

fn generate(kind: KeyKind) -> Result<Zeroizing<Vec<u8>>, aws_lc_rs::error::Unspecified> {
    let document = match kind {
        KeyKind::EcdsaP256 => {
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?.to_pkcs8v1()?
        }
        KeyKind::Ed25519 => Ed25519KeyPair::generate()?.to_pkcs8v1()?,
    };
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

/// A file is sealed text: in another encoding there is none to convert.
pub(crate) fn unread(path: &Path, error: &SecretError) -> SignerError {
    let path = path.display().to_string();
    match error {
        SecretError::Mode(mode) => SignerError::Mode { path, mode: *mode },
        SecretError::Text(_) => SignerError::Damaged { path, what: "it holds no text" },
        SecretError::Io(_) | SecretError::Shape => {
            SignerError::File { path, why: error.to_string() }
        }
    }
}

pub(crate) fn unopened(path: &Path, why: Unopened) -> SignerError {
    let path = path.display().to_string();
    match why {
        Unopened::NoKey(what) => SignerError::Damaged { path, what },
        Unopened::Otherwise => SignerError::File { path, why: OTHERWISE.to_owned() },
        Unopened::Passphrase => SignerError::Passphrase { path },
    }
}

fn file_error(path: &Path, why: &dyn std::fmt::Display) -> SignerError {
    SignerError::File { path: path.display().to_string(), why: why.to_string() }
}

const OTHERWISE: &str = "it is sealed in another way than PBES2 with PBKDF2 (SHA-256, -384 or -512, \
    at most 10,000,000 rounds) and AES-CBC; \
    seal it so with: openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000";

#[cfg(test)]
mod tests {
    use super::*;
    use api::Secret;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::process::Command;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(&Secret::new(text))
    }

    #[test]
    fn a_sealed_key_opens_with_openssl_and_again_with_us() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [KeyKind::EcdsaP256, KeyKind::Ed25519] {
            let path = folder.path().join("sealed.key");
            let made =
                FileSigner::generate(kind, &path, &passphrase("correct horse battery staple"))
                    .unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let pass = folder.path().join("pass");
            fs::write(&pass, "correct horse battery staple").unwrap();
            let public = Command::new("openssl")
                .args(["pkey", "-pubout", "-outform", "DER", "-in"])
                .arg(&path)
                .arg("-passin")
                .arg(format!("file:{}", pass.display()))
                .output()
                .unwrap();
            assert_eq!(public.stdout, made.public_key(), "{:?}", public);
            let again =
                FileSigner::open(&path, &passphrase("correct horse battery staple")).unwrap();
            assert_eq!(again.public_key(), made.public_key());
        }
    }

    #[test]
    fn a_wrong_passphrase_or_a_readable_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealed.key");
        FileSigner::generate(
            KeyKind::EcdsaP256,
            &path,
            &passphrase("correct horse battery staple"),
        )
        .unwrap();
        assert!(matches!(
            FileSigner::open(&path, &passphrase("wrong")),
            Err(SignerError::Passphrase { .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            FileSigner::open(&path, &passphrase("correct horse battery staple")),
            Err(SignerError::Mode { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_key_that_root_makes_is_its_folders_owners_and_nothing_else_is() {
        const HIM: u32 = 4711;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root makes keys in folders of others");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let (keys, roots) = (parent.path().join("keys"), parent.path().join("root's"));
        fs::create_dir(&keys).unwrap();
        chown(&keys, Some(HIM), Some(HIM)).unwrap();
        fs::write(&roots, "of root").unwrap();
        let path = keys.join("issuer.key");
        // He makes a second name of root's file, where the system lets him, or a link.
        let makes: [fn(&Path, &Path) -> std::io::Result<()>; 2] =
            [|of, at| fs::hard_link(of, at), |of, at| symlink(of, at)];
        for make in makes {
            drop(fs::remove_file(&path));
            make(&roots, &path).unwrap();
            FileSigner::generate(
                KeyKind::EcdsaP256,
                &path,
                &passphrase("correct horse battery staple"),
            )
            .unwrap();
            let (key, others) =
                (fs::symlink_metadata(&path).unwrap(), fs::metadata(&roots).unwrap());
            assert_eq!((key.uid(), key.gid(), key.mode() & 0o7777), (HIM, HIM, 0o600));
            assert!(key.is_file());
            assert_eq!((others.uid(), others.len()), (0, 7));
        }
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
    }
}
