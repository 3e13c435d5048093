//! A key that the log names and that cannot be had.

use api::KeyPurpose;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Signer, SignerError};

/// Stands where an active key should: everything that needs no signature of it goes on.
#[derive(Debug, Clone)]
pub(crate) struct AbsentKey {
    pub(crate) purpose: KeyPurpose,
    /// Why it cannot be had.
    pub(crate) why: SignerError,
    public_key: Vec<u8>,
}

impl AbsentKey {
    pub(crate) fn new(purpose: KeyPurpose, public_key: &[u8], why: SignerError) -> Self {
        Self { purpose, why, public_key: public_key.to_vec() }
    }

    /// What cannot be done without it, and why it is not there.
    pub(crate) fn error(&self) -> SignerError {
        SignerError::Absent {
            purpose: self.purpose.name(),
            without: without(self.purpose),
            why: format!("{}{}", self.why, self.instead()),
        }
    }

    /// What replaces a key whose file is gone for good, or of no use.
    fn instead(&self) -> &'static str {
        let is_damaged = match self.why {
            SignerError::Missing { .. } => false,
            SignerError::Damaged { .. } | SignerError::OtherPassphrase { .. } => true,
            _ => return "",
        };
        match self.purpose {
            KeyPurpose::Issuer if is_damaged => {
                "; if there is none, stop the CA and move the file away: countersign init --recover \
                 --replace-lost-issuer"
            }
            KeyPurpose::Countersignature => {
                "; if it is lost for good: countersign key prepare countersignature; countersign rotate"
            }
            KeyPurpose::Feed => {
                "; if it is lost for good: countersign key prepare feed; countersign rotate"
            }
            KeyPurpose::Issuer => {
                "; if it is lost for good, stop the CA: countersign init --recover \
                 --replace-lost-issuer"
            }
            KeyPurpose::Log | KeyPurpose::Root | KeyPurpose::Trust => "",
        }
    }
}

/// What cannot be done without an active key.
fn without(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::Countersignature => "no certificate is issued",
        KeyPurpose::Feed => {
            "the feed is not signed: workloads hear of no revocation, and their alarm begins after \
             a minute"
        }
        KeyPurpose::Issuer => "no certificate is issued, and no revocation list is signed",
        KeyPurpose::Log => {
            "no checkpoint is signed, and so no certificate issued: nobody could prove later that \
             the log held it"
        }
        KeyPurpose::Root | KeyPurpose::Trust => "a rotation cannot go on",
    }
}

impl Signer for AbsentKey {
    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        std::future::ready(Err(self.error())).boxed()
    }
}
