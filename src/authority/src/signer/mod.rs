//! Signatures from keys: in sealed files now, in a key service later.

pub(crate) mod absent;
pub mod file;
pub(crate) mod sealed;
#[cfg(any(test, feature = "test-seams"))]
pub mod spy;

use std::fmt;

use futures_util::future::BoxFuture;

use crate::shell::word;

/// A signature from a key that never leaves its place.
pub trait Signer: fmt::Debug + Send + Sync + 'static {
    /// The key's SubjectPublicKeyInfo, DER.
    fn public_key(&self) -> &[u8];

    /// Signs a message: ECDSA P-256 with SHA-256 (ASN.1 DER), or Ed25519.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>>;
}

/// Why a key does not sign, or cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The CA was started without an active key.
    #[error(
        "without the {purpose} key {without}: {why}; once the file is back, `serve` takes it within \
         seconds"
    )]
    Absent {
        /// What it is for.
        purpose: &'static str,
        /// What cannot be done.
        without: &'static str,
        /// Why it is not there.
        why: String,
    },
    /// What is in the file is no sealed key, whatever the passphrase.
    #[error("key file {path} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file cannot be read or written.
    #[error("key file {path}: {why}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        why: String,
    },
    /// Others than the owner may read the file.
    #[error("key file {path} has mode {mode:o}; `chmod 600 {}` and find out who read it", word(.path))]
    Mode {
        /// Which.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// No file of the folder holds it.
    #[error(
        "no file in {folder} holds the {purpose} key {id}: restore it from a backup of that folder"
    )]
    Missing {
        /// What it is for.
        purpose: &'static str,
        /// SHA-256 of its public key, hex.
        id: String,
        /// Where it was looked for.
        folder: String,
    },
    /// The log names a key that cannot be had.
    #[error("a key that the log names is missing: {0}")]
    NotInForce(String),
    /// The passphrase that opens the files beside it does not open this one.
    #[error(
        "key file {path} does not open with the passphrase that opens those beside it: it is damaged, \
         or was sealed by another; restore it from a backup"
    )]
    OtherPassphrase {
        /// Which.
        path: String,
    },
    /// The passphrase opens no file of the folder.
    #[error("key file {path} does not open with this passphrase")]
    Passphrase {
        /// Which.
        path: String,
    },
    /// The key refused to sign.
    #[error("the key refused to sign: {0}")]
    Refused(String),
}
