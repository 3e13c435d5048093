//! Why a verifier refuses a peer.

use crate::serial_number::SerialNumber;
use crate::spiffe_id::SpiffeId;
use x509_parser::time::ASN1Time;

/// Why a peer is refused: the rule that failed, named so that both ends can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The identity is denied until an operator allows it again.
    #[error("the identity is denied")]
    Denied,
    /// The certificate's time has passed.
    #[error("certificate {serial_number} expired at {}", utc(*.not_after))]
    Expired {
        /// Which one.
        serial_number: SerialNumber,
        /// Its last second.
        not_after: i64,
    },
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The certificate is a good one, but its owner is none of the peers accepted.
    #[error(
        "{spiffe_id} (certificate {serial_number}) is not among the peers accepted here: {accepted}"
    )]
    NotAmongPeers {
        /// Who it is.
        spiffe_id: SpiffeId,
        /// Its certificate.
        serial_number: SerialNumber,
        /// Who would be welcome, in words.
        accepted: String,
    },
    /// The certificate is no X.509-SVID.
    #[error("not an X.509-SVID: {0}")]
    NotAnSvid(SvidRule),
    /// No valid countersignature of the log stands in the certificate.
    #[error("not countersigned by the log: {0}")]
    NotCountersigned(CountersignatureRule),
    /// The certificate's time has not come.
    #[error(
        "certificate {serial_number} is not valid before {}: compare the clocks",
        utc(*.not_before)
    )]
    NotYetValid {
        /// Which one.
        serial_number: SerialNumber,
        /// Its first second.
        not_before: i64,
    },
    /// The certificate, or one of its path, is revoked.
    #[error("certificate {serial_number} is revoked")]
    Revoked {
        /// Which one.
        serial_number: SerialNumber,
    },
    /// The verifier was without news of revocations for longer than its owner allows.
    #[error(
        "no news of revocations {}, and the limit is {max_staleness} s: is the feed of the CA \
         reached from here?",
        age.map_or_else(|| "yet".to_owned(), |age| format!("for {age} s"))
    )]
    StaleRevocations {
        /// For how many seconds; none if nothing was ever heard.
        age: Option<u64>,
        /// How many seconds are allowed.
        max_staleness: u64,
    },
    /// No path leads to an anchor of the trust state.
    #[error("no path to a trust anchor: {0}")]
    UnknownAuthority(String),
    /// The SPIFFE ID belongs to another trust domain.
    #[error("trust domain {0} is not the one trusted here")]
    UnknownTrustDomain(String),
}

impl Refusal {
    /// The rule that failed, in a word, for metrics and diagnostics: `not-among-peers`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Expired { .. } => "expired",
            Self::NoCertificate => "no-certificate",
            Self::NotAmongPeers { .. } => "not-among-peers",
            Self::NotAnSvid(_) => "not-an-svid",
            Self::NotCountersigned(_) => "not-countersigned",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Revoked { .. } => "revoked",
            Self::StaleRevocations { .. } => "stale-revocations",
            Self::UnknownAuthority(_) => "unknown-authority",
            Self::UnknownTrustDomain(_) => "unknown-trust-domain",
        }
    }
}

/// A time as people compare it with their clocks, RFC 3339.
fn utc(seconds_since_1970: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds_since_1970) else {
        return format!("{seconds_since_1970} s after 1970 began");
    };
    let time = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// The rule of the X.509-SVID standard (§2 to §5) or of RFC 5280 that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidRule {
    /// X509-SVID §4.1: a leaf has cA=false.
    #[error("it is a CA certificate")]
    CertificateAuthority,
    /// X509-SVID §4.4: serverAuth and clientAuth, as the direction needs.
    #[error("its extended key usage lacks {0}")]
    ExtendedKeyUsage(&'static str),
    /// X509-SVID §4.3: digitalSignature, and neither keyCertSign nor cRLSign.
    #[error("its key usage is not digitalSignature without keyCertSign and cRLSign")]
    KeyUsage,
    /// The bytes are no certificate.
    #[error("it cannot be parsed")]
    Malformed,
    /// X509-SVID §2: exactly one URI SAN.
    #[error("it has {0} URI names, not exactly one")]
    OneUri(usize),
    /// X509-SVID §4.1: a leaf's SPIFFE ID has a path.
    #[error("its SPIFFE ID has no path")]
    Path,
    /// The serial number is zero, negative or too long.
    #[error("its serial number is not positive and at most 20 octets")]
    SerialNumber,
    /// The URI SAN is no SPIFFE ID.
    #[error("{0}")]
    SpiffeId(crate::error::Error),
}

/// What is wrong with a countersignature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CountersignatureRule {
    /// There is no SCT extension, or not exactly one at the end.
    #[error("it carries no countersignature ({0})")]
    Absent(String),
    /// RFC 6962 §5.2: the countersignature's time is yet to come.
    #[error("the countersignature is from the future: compare the clocks")]
    Future,
    /// The countersignature's time lies outside the key's.
    #[error("the key that countersigned it was not in use at that time")]
    KeyNotInUse,
    /// The signature does not cover this certificate.
    #[error("the countersignature is not over this certificate")]
    Signature,
    /// The key is none of the trust state's.
    #[error("it is countersigned by a key that the trust state does not name")]
    UnknownKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_people_compare_it_with_their_clocks() {
        let serial_number: SerialNumber = "8f2c01".parse().unwrap();
        let expired = Refusal::Expired { serial_number, not_after: 1_796_000_461 };
        assert!(expired.to_string().ends_with("expired at 2026-11-30T01:01:01Z"), "{expired}");
        let early = Refusal::NotYetValid { serial_number, not_before: 0 };
        assert!(early.to_string().contains("before 1970-01-01T00:00:00Z: compare"), "{early}");
        let never = Refusal::Expired { serial_number, not_after: i64::MAX };
        assert!(never.to_string().contains("s after 1970 began"), "{never}");
    }
}
