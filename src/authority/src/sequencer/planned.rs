//! What a transaction writes and answers.

use std::sync::Arc;

use tlog::Hash;

use super::found::KeptRequest;
use super::head::Head;
use super::member::{CertificateMember, CrlRow, IdempotencyKey, TokenDraft};
use super::outcome::Outcome;

/// What to write, and what to answer.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The head after it.
    pub head: Head,
    /// New entries, in order from the old head's size.
    pub entries: Vec<Entry>,
    /// Rows to write.
    pub rows: Vec<Row>,
    /// An answer for each member, in order.
    pub outcomes: Vec<Outcome>,
}

/// A new log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their leaf hash.
    pub hash: Hash,
    /// Whether the fold of the revocation state reads it.
    pub folds: bool,
}

/// A row to write.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is a table of the schema, whose columns are documented there")]
pub enum Row {
    Certificate { leaf_index: u64, der: Vec<u8>, replaces: bool },
    Crl(CrlRow),
    CrlNumber { issuer_key_hash: Hash, number: u64 },
    Idempotency { key: IdempotencyKey, kept: KeptRequest, at: u64 },
    Issuer { certificate: Vec<u8>, key_hash: Hash, log_index: u64 },
    Operator { name: String, log_index: u64 },
    Policy { hash: Hash, files: String, log_index: u64 },
    Record { leaf_index: u64, issued_at: u64, member: Arc<CertificateMember> },
    Revocation { log_index: u64, kind: &'static str, target: String, reason: String, at: u64 },
    Token { draft: TokenDraft, log_index: u64 },
    TokenRevoked { id: String, log_index: u64 },
    TokenUsed { hash: Hash, request_hash: Hash, leaf_index: u64 },
    TrustState { sequence: u64, note: Vec<u8>, log_index: u64 },
}

impl Row {
    /// Its table.
    pub(crate) fn table(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificates",
            Self::Crl(_) => "crls",
            Self::CrlNumber { .. } => "crl_numbers",
            Self::Idempotency { .. } => "idempotency",
            Self::Issuer { .. } => "issuers",
            Self::Operator { .. } => "operators",
            Self::Policy { .. } => "policies",
            Self::Record { .. } => "records",
            Self::Revocation { .. } => "revocations",
            Self::Token { .. } | Self::TokenRevoked { .. } | Self::TokenUsed { .. } => "tokens",
            Self::TrustState { .. } => "trust_states",
        }
    }
}
