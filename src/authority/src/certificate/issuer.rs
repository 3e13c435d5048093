//! The issuer: a CA key with its certificate.

use std::sync::Arc;

use issuance::IssuerCertificate;
use tlog::{Hash, SignedCertificateTimestamp};

use crate::certificate::logged::Logged;
use crate::certificate::to_be_signed::LoggedCrl;
use crate::error::Error;
use crate::signer::{Signer, SignerError};

/// A CA key with its certificate. It signs what is logged, and nothing else.
#[derive(Debug)]
pub(crate) struct Issuer {
    certificate: Arc<IssuerCertificate>,
    signer: Arc<dyn Signer>,
}

/// A certificate that is signed, equal to what was prepared, and not yet stored.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) logged: Logged,
    pub(crate) certificate: Vec<u8>,
}

impl Issuer {
    /// Puts a key and its certificate together; refuses a pair that does not match.
    pub(crate) fn new(
        certificate: Arc<IssuerCertificate>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, Error> {
        if certificate.public_key() != signer.public_key() {
            return Err(Error::Folder(
                "the issuer's key does not belong to its certificate".to_owned(),
            ));
        }
        Ok(Self { certificate, signer })
    }

    pub(crate) fn certificate(&self) -> &IssuerCertificate {
        &self.certificate
    }

    /// The same, for another thread.
    pub(crate) fn shared_certificate(&self) -> Arc<IssuerCertificate> {
        Arc::clone(&self.certificate)
    }

    /// Embeds the countersignature and signs; then reads the result again, compares it with the leaf, byte
    /// for byte, and verifies the signature: what is stored first is stored for good.
    pub(crate) async fn issue(
        &self,
        logged: Logged,
        countersignature: &SignedCertificateTimestamp,
    ) -> Result<Issued, Error> {
        let prepared = &logged.leaf().tbs_certificate;
        if logged.leaf().issuer_key_hash != *self.certificate.key_hash() {
            return Err(SignerError::Refused("the leaf is another issuer's".to_owned()).into());
        }
        let tbs = tlog::splice_in(prepared, countersignature)
            .map_err(|error| issuance::Error::Encoding(error.to_string()))?;
        let signature = self.signer.sign(&tbs).await?;
        let certificate = issuance::assemble(&tbs, &signature);
        issuance::equals_prepared(&certificate, prepared)?;
        if !issuance::is_signed_by(&certificate, self.certificate.public_key()) {
            let why = "what the issuer's key made is not its signature";
            return Err(SignerError::Refused(why.to_owned()).into());
        }
        Ok(Issued { logged, certificate })
    }

    /// Signs a CRL.
    pub(crate) async fn sign_crl(&self, list: LoggedCrl) -> Result<Vec<u8>, Error> {
        Ok(list.sign(&*self.signer).await?)
    }
}

/// The hash of an issuer's public key, as its CRL is named.
pub(crate) fn issuer_id(key_hash: &Hash) -> String {
    format!("{key_hash:?}")
}
