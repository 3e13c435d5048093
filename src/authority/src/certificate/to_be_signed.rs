//! What a CA's key signs beside certificates of leaves: CRLs, CA certificates, requests. The log has an event
//! with the hash of each, before it is signed.

use tlog::Hash;

use crate::error::Error;
use crate::proven::made_by;
use crate::signer::{Signer, SignerError};
use crate::store::{Store, StoreError};

/// Bytes to be signed whose hash stands in the log: nothing but the log makes one.
#[derive(Debug)]
pub(crate) struct ToBeSigned(Vec<u8>);

impl ToBeSigned {
    /// Refused where the event at this place of the log, which is proved, does not say so.
    pub(crate) async fn logged(
        store: &dyn Store,
        log_index: u64,
        tbs: Vec<u8>,
    ) -> Result<Self, Error> {
        let hash = format!("{:?}", Hash::of(&tbs));
        if made_by(store, log_index, |event| event.detail["tbs_sha256"] == hash).await? {
            return Ok(Self(tbs));
        }
        let why =
            format!("what is to be signed is not what entry {log_index} of the log announces");
        Err(StoreError::Inconsistent(why).into())
    }

    /// The same with its signature, DER.
    pub(crate) async fn sign(self, signer: &dyn Signer) -> Result<Vec<u8>, SignerError> {
        let signature = signer.sign(&self.0).await?;
        Ok(issuance::assemble(&self.0, &signature))
    }
}
