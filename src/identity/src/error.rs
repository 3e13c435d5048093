//! Why bytes are not what they should be.

use std::fmt;

/// Why bytes are not what they should be. Refusals of a peer are [`crate::Refusal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An anchor is not a CA certificate that a path can end in.
    #[error("trust anchor {position} is not a usable CA certificate: {why}")]
    Anchor {
        /// Its place in the trust state, from 0.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The trust state's keys are not those that the pin names.
    #[error(
        "the trust state is signed for other keys than the pin {pin} names: wrong CA, or wrong pin"
    )]
    PinMismatch {
        /// The pin that was given.
        pin: String,
    },
    /// A pin has another form.
    #[error("a trust pin is 52 base32 characters, optionally followed by @ and a sequence number")]
    PinSyntax,
    /// A serial number is no hexadecimal text of 1 to 20 octets.
    #[error("a serial number is 2 to 40 lower-case hexadecimal digits, an even number of them")]
    SerialNumber,
    /// A trust state has a sequence below the one that it must have at least.
    #[error(
        "the trust state has sequence {offered}, but one from {held} on is due: an old one is never taken"
    )]
    Sequence {
        /// The least sequence: one above the state held for its successor, or the pin's.
        held: u64,
        /// The sequence offered.
        offered: u64,
    },
    /// A SPIFFE ID breaks a rule of its specification.
    #[error("{input:?} is not a SPIFFE ID: {rule}")]
    SpiffeId {
        /// The rule.
        rule: SpiffeIdRule,
        /// The beginning of the input.
        input: String,
    },
    /// Too few of the trust keys signed the trust state.
    #[error("{signed} of the {threshold} trust keys that must sign the trust state did")]
    Threshold {
        /// Valid signatures by distinct trust keys.
        signed: usize,
        /// How many must.
        threshold: usize,
    },
    /// The text of a trust state has another form.
    #[error("the trust state cannot be read: {0}")]
    TrustState(String),
    /// Two trust states have one sequence: the trust keys signed both, or the CA speaks of one that
    /// nobody here has seen.
    #[error(
        "there are two trust states of sequence {sequence}: keep both as evidence, and compare trust \
         and database of the CA with a backup"
    )]
    TrustFork {
        /// The sequence of both.
        sequence: u64,
    },
    /// The trust state is for another trust domain.
    #[error("the trust state is for trust domain {offered}, not for {held}")]
    TrustDomain {
        /// The trust domain held.
        held: String,
        /// The one offered.
        offered: String,
    },
}

/// The rule of the SPIFFE ID specification (§2) that an input breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpiffeIdRule {
    /// §2.2: `.` and `..` are no segments.
    DotSegment,
    /// It has no characters.
    Empty,
    /// §2.2: segments are not empty.
    EmptySegment,
    /// §2.1: the trust domain is not empty.
    EmptyTrustDomain,
    /// §2.2: letters, digits, `.`, `-`, `_`; no query, fragment or percent-encoding.
    PathCharacter,
    /// §2: the scheme is `spiffe`.
    Scheme,
    /// §2.3: at most 2,048 bytes.
    TooLong,
    /// §2.2: no trailing slash.
    TrailingSlash,
    /// §2.1: lower-case letters, digits, `.`, `-`, `_`; no port, no user info.
    TrustDomainCharacter,
    /// §2.1: at most 255 bytes.
    TrustDomainTooLong,
}

impl fmt::Display for SpiffeIdRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DotSegment => "a path segment is \".\" or \"..\"",
            Self::Empty => "it is empty",
            Self::EmptySegment => "a path segment is empty",
            Self::EmptyTrustDomain => "the trust domain is empty",
            Self::PathCharacter => {
                "the path has a character other than letters, digits, '.', '-' and '_' \
                 (no query, no fragment, no percent-encoding)"
            }
            Self::Scheme => "it does not start with spiffe://",
            Self::TooLong => "it has more than 2048 bytes",
            Self::TrailingSlash => "the path ends with a slash",
            Self::TrustDomainCharacter => {
                "the trust domain has a character other than lower-case letters, digits, '.', '-' \
                 and '_' (no port, no user)"
            }
            Self::TrustDomainTooLong => "the trust domain has more than 255 bytes",
        })
    }
}
