//! Where a workload's SVID comes from: the CA, or files that somebody else renews.

pub(crate) mod authority_source;
mod request;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use api::{IssuedCertificate, RenewalWindow};
use identity::{SpiffeId, Usage, VerifiedSvid};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{ConfigurationFault, Error};
use crate::verification::Verification;

/// A chain, its key, and when the next one is due.
pub struct Svid {
    /// The certificate, then its issuer's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate's key.
    pub key: PrivateKeyDer<'static>,
    /// When to replace it.
    pub renewal: RenewalWindow,
    /// Its last second.
    pub not_after: OffsetDateTime,
    /// The newest trust state that its source knew of, by sequence.
    pub trust_sequence: u64,
}

/// Gives a workload its SVIDs. The CA is one; files that another process renews are another.
pub trait SvidSource: fmt::Debug + Send + Sync + 'static {
    /// The first SVID, or, once one is held, the next: always with another key or certificate.
    ///
    /// Whoever calls verifies it, tries again after a failure, and never asks twice at once.
    fn next(&self, after: Option<&Svid>) -> SvidFuture<'_>;

    /// A folder where a workload may keep what it hears of revocations (`revocations.feed`,
    /// `revocations.trust`; 0600), so that its next start does not need the CA. None if left out.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// What somebody does so that the workload gets another certificate although the one that it holds
    /// is refused: the end of a sentence, for its log.
    fn again(&self, _spiffe_id: &SpiffeId) -> String {
        "it is for its source of certificates to give it another".to_owned()
    }
}

/// The answer of a source, awaited.
pub type SvidFuture<'a> = Pin<Box<dyn Future<Output = Result<Svid, Error>> + Send + 'a>>;

impl Svid {
    /// Takes the CA's answer for a key that was made here.
    pub(crate) fn issued(
        issued: &IssuedCertificate,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::Configuration(ConfigurationFault::Chain))?;
        let (renewal, not_after) = (issued.renewal, issued.not_after);
        Ok(Self { chain, key, renewal, not_after, trust_sequence: issued.trust_sequence })
    }

    /// A certificate that its peers would refuse is not shown to them: it must pass the verifier
    /// that they use, in both roles.
    pub(crate) fn verify(&self, verification: &Verification) -> Result<VerifiedSvid, Error> {
        let verify = |usage| {
            let verified = verification.verify(&self.chain, usage, verification.now());
            verified.map_err(|refusal| Error::OwnCertificate { refusal })
        };
        verify(Usage::Client)?;
        verify(Usage::Server)
    }

    pub(crate) fn copy(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), ..*self }
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Reads `svid.pem` and `svid.key` of a folder, as `countersign issue` and `renew` keep them. What is
/// heard of revocations is kept beside them.
#[derive(Debug)]
pub struct FileSource {
    directory: PathBuf,
}

impl FileSource {
    /// Follows the files of this folder.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn read(&self) -> Result<Svid, Error> {
        let (chain, key) = crate::handshake::credentials::read(&self.directory)?;
        let unusable = || Error::Configuration(ConfigurationFault::Chain);
        let first = chain.first().ok_or_else(unusable)?;
        let (_, certificate) = X509Certificate::from_der(first).map_err(|_| unusable())?;
        let validity = certificate.validity();
        let (not_before, not_after) =
            (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        // Whoever writes the files renews in the middle of its life; look from then on.
        let middle = not_before + (not_after - not_before) / 2;
        let renewal = RenewalWindow { start: middle, end: middle };
        Ok(Svid { chain, key, renewal, not_after, trust_sequence: 0 })
    }
}

impl SvidSource for FileSource {
    fn next(&self, after: Option<&Svid>) -> SvidFuture<'_> {
        let read = self.read().and_then(|svid| match after {
            Some(held) if held.chain == svid.chain => {
                Err(Error::NotRenewed { directory: self.directory.clone() })
            }
            _ => Ok(svid),
        });
        Box::pin(std::future::ready(read))
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.directory)
    }

    fn again(&self, _spiffe_id: &SpiffeId) -> String {
        format!("`countersign renew {}` says how its files get another", self.directory.display())
    }
}
