//! What a CA's key signs here beside certificates of leaves: CRLs, and what `init` and its repairs certify. The
//! log has an event with the hash of each, before it is signed. (What an offline key signs in a rotation is
//! announced by whoever holds it, who has no log: `rotation::ceremony`.)

use tlog::Hash;

use crate::error::Error;
use crate::event::{CRL, Event, KEY_ISSUER};
use crate::proven::made_by;
use crate::signer::{Signer, SignerError};
use crate::store::{Store, StoreError};

/// A CRL to be signed that the log announces: nothing but the log makes one.
#[derive(Debug)]
pub(crate) struct LoggedCrl(Vec<u8>);

/// A CA certificate to be signed, or a request for one, in the same way.
#[derive(Debug)]
pub(crate) struct LoggedCa(Vec<u8>);

impl LoggedCrl {
    /// Refused where the event at this place of the log, which is proved, does not say so.
    pub(crate) async fn at(store: &dyn Store, log_index: u64, tbs: Vec<u8>) -> Result<Self, Error> {
        require_announced(store, log_index, CRL, &tbs).await.map(|()| Self(tbs))
    }

    /// The CRL, DER.
    pub(crate) async fn sign(self, signer: &dyn Signer) -> Result<Vec<u8>, SignerError> {
        sign(&self.0, signer).await
    }
}

impl LoggedCa {
    /// Refused where the event at this place of the log, which is proved, does not say so.
    pub(crate) async fn at(store: &dyn Store, log_index: u64, tbs: Vec<u8>) -> Result<Self, Error> {
        require_announced(store, log_index, KEY_ISSUER, &tbs).await.map(|()| Self(tbs))
    }

    /// The certificate or request, DER.
    pub(crate) async fn sign(self, signer: &dyn Signer) -> Result<Vec<u8>, SignerError> {
        sign(&self.0, signer).await
    }
}

async fn require_announced(
    store: &dyn Store,
    log_index: u64,
    kind: &str,
    tbs: &[u8],
) -> Result<(), Error> {
    let hash = Hash::of(tbs).to_hex();
    let is_it = |event: &Event| event.kind == kind && event.detail["tbs_sha256"] == hash;
    if made_by(store, log_index, is_it).await? {
        return Ok(());
    }
    let why = format!("what is to be signed is not what entry {log_index} of the log announces");
    Err(StoreError::Inconsistent(why).into())
}

async fn sign(tbs: &[u8], signer: &dyn Signer) -> Result<Vec<u8>, SignerError> {
    let signature = signer.sign(tbs).await?;
    Ok(issuance::assemble(tbs, &signature))
}
