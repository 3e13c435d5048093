//! Why nothing can be prepared for signing.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bounds::MAX_NAMES;
use crate::finding::Finding;

/// Why nothing can be prepared for signing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The builder could not encode it: an input that no rule of ours caught.
    #[error("the certificate cannot be encoded: {0}")]
    Encoding(String),
    /// A DNS name breaks a rule of RFC 1123 §2.1.
    #[error("{input:?} is not a DNS name for a certificate: {why}")]
    DnsName {
        /// The beginning of the input.
        input: String,
        /// The rule.
        why: &'static str,
    },
    /// The issuer's certificate begins only later: nobody would take what it signs now.
    #[error(
        "the issuer's certificate begins at {}, and the clock says {}: set the clock right; where it is \
         right, and was ahead when the CA was made: stop the CA, countersign init --recover \
         --accept-clock", utc(.not_before), utc(.now)
    )]
    IssuerBegins {
        /// When.
        not_before: OffsetDateTime,
        /// What time it is.
        now: OffsetDateTime,
    },
    /// What would be signed breaks a lint.
    #[error("the linter refuses what would be signed: {}", list(.0))]
    Lint(Vec<Finding>),
    /// The profile does not allow it.
    #[error("profile {profile:?} does not allow it: {rule}")]
    Profile {
        /// The profile's name.
        profile: String,
        /// Which of its rules.
        rule: ProfileRule,
    },
    /// A profile's configuration contradicts itself or a limit of ours.
    #[error("profile {profile:?} cannot be used: {why}")]
    ProfileConfig {
        /// The profile's name.
        profile: String,
        /// What is wrong.
        why: String,
    },
    /// The PKCS#10 request breaks a rule.
    #[error("the certificate request is refused: {0}")]
    Request(RequestRule),
    /// What came back from signing is not what was linted.
    #[error("the signed certificate differs from what was logged: the signer cannot be trusted")]
    Signed,
}

/// The rule of RFC 2986, or of ours, that a certificate request breaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestRule {
    /// It is a request, and a part of it cannot be read.
    Broken {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It asks for a CA certificate.
    CertificateAuthority,
    /// There is nothing in it.
    Empty,
    /// It asks for an extension that would change what the certificate is for.
    Extension(String),
    /// Its key is of a kind or size that we do not certify.
    Key(String),
    /// It is not PKCS#10.
    Malformed,
    /// Its names contradict each other.
    Names(String),
    /// The PEM armour is broken, or encloses something else: what, and where.
    Pem(String),
    /// Its signature does not verify: no proof that the sender has the key.
    Signature,
    /// It is signed with an algorithm that we do not accept.
    SignatureAlgorithm(String),
    /// It is larger than 16 KiB.
    TooLarge,
    /// It asks for more names than a certificate has.
    TooManyNames,
    /// Bytes follow the request.
    TrailingBytes,
}

impl RequestRule {
    /// The rule's name, as problems carry it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Broken { .. } | Self::Malformed => "malformed",
            Self::CertificateAuthority => "certificate-authority",
            Self::Empty => "empty",
            Self::Extension(_) => "extension",
            Self::Key(_) => "key",
            Self::Names(_) | Self::TooManyNames => "names",
            Self::Pem(_) => "pem",
            Self::Signature => "signature",
            Self::SignatureAlgorithm(_) => "signature-algorithm",
            Self::TooLarge => "too-large",
            Self::TrailingBytes => "trailing-bytes",
        }
    }
}

impl fmt::Display for RequestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { part, why } => write!(f, "its {part} cannot be read: {why}"),
            Self::CertificateAuthority => f.write_str(
                "it asks for a CA certificate (CA:TRUE, or to sign certificates or CRLs); workloads get \
                 none, remove basicConstraints and keyUsage",
            ),
            Self::Empty => f.write_str("it is empty"),
            Self::Extension(what) => write!(f, "it asks for {what}; remove that"),
            Self::Key(found) => write!(
                f,
                "its key is {found}; use P-256 (best), P-384, Ed25519, or RSA of 2048 to 4096 bits"
            ),
            Self::Malformed => f.write_str("it is not a PKCS#10 request; make one with `openssl req -new`"),
            Self::Names(why) => write!(f, "{why}"),
            Self::Pem(why) => f.write_str(why),
            Self::Signature => f.write_str(
                "its self-signature is missing or does not verify: sign it with the key that it names",
            ),
            Self::SignatureAlgorithm(found) => write!(
                f,
                "it is signed with {found}; use SHA-256 or SHA-384 (`openssl req -new -sha256`)"
            ),
            Self::TooLarge => f.write_str("it is larger than 16 KiB"),
            Self::TooManyNames => write!(f, "it asks for more than {MAX_NAMES} names"),
            Self::TrailingBytes => f.write_str("bytes follow the request"),
        }
    }
}

/// The rule of a profile that a request breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfileRule {
    /// A common name where the profile has none.
    CommonName,
    /// The issuer ends before the shortest validity would.
    IssuerEnds,
    /// A key type that the profile does not list.
    KeyType(String),
    /// A validity outside the profile's bounds.
    Validity {
        /// What was asked, in seconds.
        asked: u64,
        /// The shortest, in seconds.
        shortest: u64,
        /// The longest, in seconds.
        longest: u64,
    },
}

impl fmt::Display for ProfileRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName => f.write_str("it gives no common name"),
            Self::IssuerEnds => f.write_str(
                "the issuer's own certificate ends sooner; renew the issuer (`countersign init --recover`)",
            ),
            Self::KeyType(found) => write!(f, "keys of type {found} are not among its key types"),
            Self::Validity { asked, shortest, longest } => write!(
                f,
                "a validity of {} was asked, from {} to {} is possible",
                span(asked),
                span(shortest),
                span(longest)
            ),
        }
    }
}

/// As it is typed: `90d`, `1h30m`.
fn span(seconds: &u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let (_, text) =
        units.into_iter().fold((*seconds, String::new()), |(left, text), (unit, name)| {
            match left / unit {
                0 => (left, text),
                count => (left % unit, format!("{text}{count}{name}")),
            }
        });
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// To the second.
fn utc(time: &OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(*time);
    time.format(&Rfc3339).unwrap_or_default()
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
