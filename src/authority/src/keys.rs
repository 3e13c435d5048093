//! The keys of a state folder: those that `serve` holds, and those that only `init` and `rotate`
//! open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::Secret;

use crate::signer::file::{FileSigner, KeyKind};
use crate::signer::{Signer, SignerError};

/// The keys that a serving engine signs with.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Certificates and CRLs.
    pub issuer: Arc<dyn Signer>,
    /// Countersignatures.
    pub countersignature: Arc<dyn Signer>,
    /// Checkpoints, Ed25519.
    pub log: Arc<dyn Signer>,
    /// Messages of the revocation feed, Ed25519.
    pub feed: Arc<dyn Signer>,
}

/// The keys that are above the engine: their folder has its own passphrase.
#[derive(Debug, Clone)]
pub(crate) struct OfflineKeys {
    /// Certifies issuers; none where a foreign parent does.
    pub(crate) root: Option<Arc<dyn Signer>>,
    /// Signs trust states.
    pub(crate) trust: Arc<dyn Signer>,
}

impl Keys {
    /// Opens the sealed files of `<state>/keys`, side by side: each costs 600,000 rounds.
    pub fn open(state: &Path, passphrase: &Secret) -> Result<Self, SignerError> {
        let feed = online(state, FEED);
        if online(state, LOG).exists() && !feed.exists() {
            return Err(SignerError::NoFeedKey { path: feed.display().to_string() });
        }
        Self::each(|name, _| FileSigner::open(&online(state, name), passphrase))
    }

    /// Where the issuer's sealed key lies.
    pub fn issuer_file(state: &Path) -> PathBuf {
        online(state, ISSUER)
    }

    /// Makes and seals them.
    pub(crate) fn generate(state: &Path, passphrase: &Secret) -> Result<Self, SignerError> {
        Self::each(|name, kind| FileSigner::generate(kind, &online(state, name), passphrase))
    }

    fn each(
        key: impl Fn(&str, KeyKind) -> Result<FileSigner, SignerError> + Sync,
    ) -> Result<Self, SignerError> {
        std::thread::scope(|scope| {
            let issuer = scope.spawn(|| key(ISSUER, KeyKind::EcdsaP256));
            let countersignature = scope.spawn(|| key(COUNTERSIGNATURE, KeyKind::EcdsaP256));
            let feed = scope.spawn(|| key(FEED, KeyKind::Ed25519));
            let log = key(LOG, KeyKind::Ed25519);
            Ok(Self {
                issuer: joined(issuer)?,
                countersignature: joined(countersignature)?,
                log: Arc::new(log?),
                feed: joined(feed)?,
            })
        })
    }
}

impl OfflineKeys {
    pub(crate) fn open(state: &Path, passphrase: &Secret) -> Result<Self, SignerError> {
        let root = offline(state, ROOT);
        let root: Option<Arc<dyn Signer>> = match root.exists() {
            true => Some(Arc::new(FileSigner::open(&root, passphrase)?)),
            false => None,
        };
        let trust = FileSigner::open(&offline(state, TRUST), passphrase)?;
        Ok(Self { root, trust: Arc::new(trust) })
    }

    pub(crate) fn generate(
        state: &Path,
        passphrase: &Secret,
        with_root: bool,
    ) -> Result<Self, SignerError> {
        let make =
            |name| FileSigner::generate(KeyKind::EcdsaP256, &offline(state, name), passphrase);
        std::thread::scope(|scope| {
            let root = with_root.then(|| scope.spawn(|| make(ROOT)));
            let trust = make(TRUST);
            Ok(Self { root: root.map(joined).transpose()?, trust: Arc::new(trust?) })
        })
    }
}

fn joined(
    thread: std::thread::ScopedJoinHandle<'_, Result<FileSigner, SignerError>>,
) -> Result<Arc<dyn Signer>, SignerError> {
    let signer = thread
        .join()
        .map_err(|_| SignerError::Refused("the thread that opened it died".to_owned()))??;
    Ok(Arc::new(signer))
}

/// The folder of the keys that `serve` opens.
pub(crate) fn online_folder(state: &Path) -> PathBuf {
    state.join("keys")
}

/// The folder of the keys that only `init` and `rotate` open.
pub(crate) fn offline_folder(state: &Path) -> PathBuf {
    state.join("offline")
}

fn online(state: &Path, name: &str) -> PathBuf {
    online_folder(state).join(format!("{name}.key"))
}

fn offline(state: &Path, name: &str) -> PathBuf {
    offline_folder(state).join(format!("{name}.key"))
}

const ISSUER: &str = "issuer";
const COUNTERSIGNATURE: &str = "countersignature";
const LOG: &str = "log";
const FEED: &str = "feed";
const ROOT: &str = "root";
const TRUST: &str = "trust";
