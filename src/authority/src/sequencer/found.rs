//! What the store knows already of those who ask for a place in a transaction.

use std::collections::{HashMap, HashSet};

use identity::{SerialNumber, SpiffeId};
use tlog::Hash;

use super::news::News;

/// What the store knows already of a group's members; selected before anything is planned.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Serial numbers that are taken.
    pub serial_numbers: HashSet<SerialNumber>,
    /// Idempotency keys in use, by principal and key.
    pub idempotency: HashMap<(String, String), KeptRequest>,
    /// Tokens, by hash.
    pub tokens: HashMap<Hash, TokenRow>,
    /// Leaves to be completed.
    pub leaves: HashMap<u64, LeafRow>,
    /// The newest number taken for a CRL, by issuer: a place of the log.
    pub crl_numbers: HashMap<Hash, u64>,
    /// What the log says from where the first of those who renew has read it.
    pub news: News,
}

/// A stored bootstrap token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of its secret.
    pub hash: Hash,
    /// What it was made as.
    pub id: String,
    /// For whom.
    pub spiffe_id: SpiffeId,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
    /// Only for this key.
    pub key_hash: Option<Hash>,
    /// The event that made it.
    pub log_index: u64,
    /// The request that used it, and the leaf that came of it.
    pub used: Option<(Hash, u64)>,
    /// Whether it was withdrawn.
    pub revoked: bool,
}

/// A request that was named and done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRequest {
    /// SHA-256 of the whole request.
    pub request_hash: Hash,
    /// The leaf or event that came of it; none where nothing had to change.
    pub place: Option<u64>,
    /// What it is answered by, beside that.
    pub answer: String,
}

/// A leaf to be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRow {
    /// When it was logged, in milliseconds since 1970.
    pub logged_at: u64,
    /// The certificate, if it was stored.
    pub certificate: Option<Vec<u8>>,
}

/// How long a caller's name for a request is kept: a day.
pub(crate) const KEPT_MILLISECONDS: u64 = 24 * 3600 * 1000;
