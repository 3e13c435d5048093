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

/// What a member contradicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// The CRL number is not the next.
    #[error("the CRL number is taken")]
    CrlNumber,
    /// The entry does not fit the log.
    #[error("the entry has more than 65,535 bytes")]
    EntryTooLarge,
    /// The idempotency key came with another request.
    #[error("the Idempotency-Key was used for another request")]
    IdempotencyMismatch,
    /// The line of renewals is broken.
    #[error("this line of renewals was broken by a second renewal")]
    LineageBroken,
    /// What is to be called abandoned has something stored for it, or may yet have.
    #[error("the leaf has a certificate, or may yet have one")]
    NotAbandoned,
    /// Another policy set came into force.
    #[error("another policy set is in force")]
    PolicyMoved,
    /// What the certificate was renewed by was revoked.
    #[error("the certificate was renewed already, and what it was renewed by is revoked")]
    RenewalRevoked,
    /// The certificate was renewed before, with another key.
    #[error("the certificate was renewed already, with another key")]
    RenewedTwice,
    /// The serial number is taken.
    #[error("the serial number is taken")]
    SerialNumber,
    /// The token's time has passed.
    #[error("the token has expired")]
    TokenExpired,
    /// The token is for another key.
    #[error("the token is for another key")]
    TokenKey,
    /// The token was withdrawn.
    #[error("the token was revoked")]
    TokenRevoked,
    /// There is no such token.
    #[error("the token is unknown")]
    TokenUnknown,
    /// The token was used.
    #[error("the token was used")]
    TokenUsed,
}
