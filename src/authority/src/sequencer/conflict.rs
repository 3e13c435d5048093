//! What a member contradicts.

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
