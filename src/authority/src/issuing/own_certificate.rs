//! The CA's own certificate outlives a restart: its key is kept, sealed like the others, so that
//! the service can be reached while there is no key to issue the next one with.
//!
//! Only the key is kept. Which certificate is for it stands in the records, and whoever connects
//! verifies that one. It is written after the certificate: a crash in between leaves the key of the
//! one before, which is as good until that expires.

use api::IssuedCertificate;
use identity::SpiffeId;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::Issuing;
use crate::error::Error;
use crate::signer::file::FileSigner;
use crate::signer::{Signer, SignerError};
use crate::store::{Record, RecordQuery};

impl Issuing {
    /// Keeps the key, PKCS#8, of the CA's own certificate: it replaces the one before. Costs 600,000
    /// rounds of PBKDF2, on a thread of their own.
    pub async fn keep_own_key(&self, key: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        let keys = self.view.key_files().clone();
        let kept = tokio::task::spawn_blocking(move || keys.keep_own(&key)).await;
        Ok(kept.map_err(|_| died())??)
    }

    /// The newest of the CA's own certificates for the key that was kept, whether or not it is still
    /// good, and the key, PKCS#8. None where none was kept.
    pub async fn kept_own_certificate(
        &self,
    ) -> Result<Option<(IssuedCertificate, Zeroizing<Vec<u8>>)>, Error> {
        let keys = self.view.key_files().clone();
        let kept = tokio::task::spawn_blocking(move || keys.kept_own()).await;
        let Some(key) = kept.map_err(|_| died())?? else { return Ok(None) };
        let Some(signer) = FileSigner::from_pkcs8(&key) else { return Ok(None) };
        let query = RecordQuery {
            spiffe_id: Some(SpiffeId::authority(self.view.trust_domain())),
            limit: LOOKED_AT,
            ..RecordQuery::default()
        };
        let is_its = |record: &&Record| {
            let certificate = record.certificate.as_deref();
            certificate.is_some_and(|certificate| is_for(certificate, signer.public_key()))
        };
        for record in self.view.store().records(query).await?.iter().filter(is_its) {
            if let Some(given) = self.given_again(record).await? {
                return Ok(Some((given, key)));
            }
        }
        Ok(None)
    }
}

fn is_for(certificate: &[u8], public_key: &[u8]) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.public_key().raw == public_key)
}

fn died() -> SignerError {
    SignerError::Refused("the thread that opened it died".to_owned())
}

/// Of the CA's own certificates, from the newest on: the one kept is the first or the second, unless
/// starts failed in between.
const LOOKED_AT: u32 = 1000;
