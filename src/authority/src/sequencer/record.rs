//! A certificate's record.

use identity::{SerialNumber, SpiffeId};
use tlog::Hash;

/// What is kept of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub leaf_index: u64,
    /// When it was logged, in milliseconds since 1970.
    pub issued_at: u64,
    /// SHA-256 of the issuer's public key.
    pub issuer_key_hash: Hash,
    /// Its serial number.
    pub serial_number: SerialNumber,
    /// Who it names.
    pub spiffe_id: SpiffeId,
    /// The profile.
    pub profile: String,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// SHA-256 of the request.
    pub request_hash: Hash,
    /// Facts and policies, as JSON.
    pub facts: String,
    /// The certificate, where signing was completed.
    pub certificate: Option<Vec<u8>>,
}
