//! The log's countersignature over what was logged, in the CA's own process.

use std::sync::Arc;

use tlog::{CertificateLeaf, Hash, SignedCertificateTimestamp};

use crate::certificate::logged::Logged;
use crate::signer::{Signer, SignerError};

/// Countersigns logged leaves with the log's P-256 key.
#[derive(Debug)]
pub(crate) struct Countersigner {
    signer: Arc<dyn Signer>,
    log_id: Hash,
}

impl Countersigner {
    pub(crate) fn new(signer: Arc<dyn Signer>) -> Self {
        let log_id = tlog::log_id(signer.public_key());
        Self { signer, log_id }
    }

    /// Signs exactly the bytes that stand in the log: RFC 6962 §3.2 makes them the signed input.
    pub(crate) async fn countersign(
        &self,
        logged: &Logged,
    ) -> Result<SignedCertificateTimestamp, SignerError> {
        let leaf: &CertificateLeaf = logged.leaf();
        let bytes = leaf.encode().map_err(|error| SignerError::Refused(error.to_string()))?;
        let signature = self.signer.sign(&bytes).await?;
        Ok(SignedCertificateTimestamp {
            log_id: self.log_id,
            timestamp: leaf.timestamp,
            leaf_index: leaf.leaf_index,
            signature,
        })
    }
}
