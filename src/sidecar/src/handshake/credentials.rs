//! Our own chain and key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::{SerialNumber, pem_blocks, unmarked};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};
use zeroize::Zeroize;

use crate::error::cause::serial_number;
use crate::error::{ConfigurationFault, Error};
use crate::input;
use crate::svid_folder::{CHAIN, KEY};

/// The chain and key that we show to peers, replaceable: each handshake takes the newest.
pub struct Credentials {
    current: ArcSwap<Shown>,
}

/// What is shown, and its number for diagnostics.
struct Shown {
    certified: Arc<CertifiedKey>,
    serial_number: Option<SerialNumber>,
}

impl Credentials {
    /// Takes a chain, end entity first, and the key that it certifies.
    ///
    /// Fails unless they belong together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, Error> {
        let current = ArcSwap::from_pointee(Shown::new(chain, key)?);
        Ok(Arc::new(Self { current }))
    }

    /// Reads `svid.pem` and `svid.key` of a folder, as `countersign issue` writes them.
    pub fn load(dir: &Path) -> Result<Arc<Self>, Error> {
        let (chain, key) = read(dir)?;
        Self::new(chain, key)
    }

    /// The same of what somebody read himself; the folder is named in errors.
    pub fn parse(dir: &Path, chain: &[u8], key: &[u8]) -> Result<Arc<Self>, Error> {
        Self::new(
            parsed(&dir.join(CHAIN), chain, certificates)?,
            parsed(&dir.join(KEY), key, private_key)?,
        )
    }

    /// Shows these from the next handshake on. Fails, and keeps the old ones, unless they belong
    /// together.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), Error> {
        self.current.store(Arc::new(Shown::new(chain, key)?));
        Ok(())
    }

    /// What is shown now.
    pub(crate) fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().certified)
    }

    /// The serial number of the certificate shown now.
    pub fn serial_number(&self) -> Option<SerialNumber> {
        self.current.load().serial_number
    }
}

impl Shown {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        mut key: PrivateKeyDer<'static>,
    ) -> Result<Self, Error> {
        let signing = any_supported_type(&key);
        // What signs has a copy of its own.
        key.zeroize();
        let certified = signing.and_then(|signing| matched(CertifiedKey::new(chain, signing)));
        let certified = certified
            .map_err(|error| Error::Configuration(ConfigurationFault::Credentials(error)))?;
        let serial_number = certified.end_entity_cert().ok().and_then(serial_number);
        Ok(Self { certified: Arc::new(certified), serial_number })
    }
}

/// Certificate and key belong together, as far as that can be known.
fn matched(certified: CertifiedKey) -> Result<CertifiedKey, rustls::Error> {
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for Credentials {
    /// Hints and schemes are the server's wishes; there is one certificate to show.
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// Reads `svid.pem` and `svid.key` of a folder.
pub(crate) fn read(
    dir: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = read_file(&dir.join(CHAIN), certificates)?;
    Ok((chain, read_file(&dir.join(KEY), private_key)?))
}

fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let blocks = pem_blocks(bytes).map_err(|error| error.to_string())?;
    let certificates = blocks.into_iter().filter(|block| block.label == "CERTIFICATE");
    let chain: Vec<_> = certificates.map(|block| block.contents.into()).collect();
    if chain.is_empty() { Err(instead_of("CERTIFICATE", bytes)) } else { Ok(chain) }
}

/// By the TLS library's reader: it leaves no copy of a key behind.
fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = unmarked(bytes).map_err(|fault| fault.to_string())?;
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::MissingSectionEnd { .. } => {
            "its PRIVATE KEY has no END: is the file cut off?".to_owned()
        }
        pem::Error::NoItemsFound => instead_of("PRIVATE KEY", bytes),
        pem::Error::Base64Decode(_) => "what its PRIVATE KEY encloses is no base64".to_owned(),
        _ => "its PEM is broken".to_owned(),
    })
}

/// What a file is that has no such block. Nothing of it is repeated.
fn instead_of(label: &str, bytes: &[u8]) -> String {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    match bytes.trim_ascii() {
        [] => "it is empty".to_owned(),
        // A SEQUENCE, as certificates and keys are.
        [0x30, ..] => format!("it is DER, and PEM is wanted: -----BEGIN {label}-----"),
        _ if has(b"-----BEGIN ENCRYPTED") => {
            "its key is encrypted, and nobody is here to type what opens it".to_owned()
        }
        _ => format!("it has no {label}"),
    }
}

fn read_file<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, Error> {
    let bytes = input::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    parsed(path, &bytes, parse)
}

fn parsed<T>(
    path: &Path,
    bytes: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, Error> {
    parse(bytes)
        .map_err(|why| Error::Configuration(ConfigurationFault::Pem { path: path.to_owned(), why }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_files_place_is_told_and_nothing_of_it_repeated() {
        let key = rcgen::KeyPair::generate().unwrap();
        let (pem, der) = (key.serialize_pem(), key.serialize_der());
        let cut = pem.split("-----END").next().unwrap();
        let encrypted = pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let garbled = pem.replace('M', "*");
        for (bytes, why) in [
            (&b"\n"[..], "it is empty"),
            (&der, "it is DER, and PEM is wanted: -----BEGIN PRIVATE KEY-----"),
            (cut.as_bytes(), "cut off"),
            (encrypted.as_bytes(), "encrypted"),
            (garbled.as_bytes(), "no base64"),
            (b"hello", "it has no PRIVATE KEY"),
        ] {
            let Err(refused) = private_key(bytes) else { panic!("{why}: it was taken") };
            assert!(refused.contains(why), "{why}: {refused}");
            assert!(!refused.contains(&pem[40..60]) && !refused.contains('['), "{refused}");
        }
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        assert!(certificates(&der).unwrap_err().contains("it is DER, and PEM is wanted"));
        assert_eq!(certificates(pem.as_bytes()).unwrap_err(), "it has no CERTIFICATE");
    }
}
