//! Sequencing: what becomes of a group of requests inside one transaction.
//!
//! [`plan()`] is a pure function. A store driver selects what [`Found`] asks for under the head lock,
//! calls it, and writes the [`Plan`] in the same transaction; so every driver orders, refuses and
//! builds entries alike, and the rules are tested without a database. A member that fails, fails
//! alone.

mod member;
mod news;
mod plan;

use std::sync::Arc;

use tlog::{Hash, TreeEdge};

pub(crate) use member::KEPT_MILLISECONDS;
pub use member::{
    ActMember, AllowedUnder, CertificateMember, ChangedKeys, CompleteMember, Consumes, CrlRow,
    Effect, Found, IdempotencyKey, KeptRequest, LeafRow, Member, OnceMember, RecordDraft, Renewed,
    RevocationTarget, TokenDraft, TokenRow,
};
pub use news::News;
pub(crate) use plan::COMPLETION_MILLISECONDS;
pub(crate) use plan::require_clock;
pub use plan::{ClockBehind, plan};

use crate::seal::CHAIN_START;

/// The log's head, and what moves with it: read and written under the head lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The tree's right edge.
    pub edge: TreeEdge,
    /// The time of the newest entry, in milliseconds since 1970.
    pub at: u64,
    /// Grows with each event that changes the revocation state.
    pub revocation_epoch: u64,
    /// The active policy set.
    pub policy_hash: Hash,
    /// Leaves below this index are accounted for: `issued`, `issue.abandoned` or `issue.lost`.
    pub swept: u64,
    /// A hash chain over places and leaf hashes of the events that the fold reads.
    pub chain: Hash,
}

impl Head {
    /// The head of an empty log.
    pub fn empty() -> Self {
        let edge = TreeEdge::new();
        let policy_hash = Hash::new([0; 32]);
        Self { edge, at: 0, revocation_epoch: 0, policy_hash, swept: 0, chain: CHAIN_START }
    }
}

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

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was logged too long ago to be completed.
    Abandoned,
    /// Done; the event's place in the log.
    Done {
        /// The place.
        log_index: u64,
    },
    /// Another certificate for the leaf was stored first: this one.
    Existing(Vec<u8>),
    /// Logged; it may be signed now.
    Logged {
        /// The leaf's place.
        leaf_index: u64,
        /// The leaf's time, in milliseconds since 1970.
        timestamp: u64,
    },
    /// Policy set or revocation state moved since it was allowed: decide anew.
    Moved,
    /// It contradicts what is stored.
    Refused(Conflict),
    /// The same request was logged before.
    Replay {
        /// Its leaf.
        leaf_index: u64,
    },
    /// The same named request was done before: what is kept of it answers.
    Repeated,
    /// Stored; or nothing had to be.
    Stored,
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
