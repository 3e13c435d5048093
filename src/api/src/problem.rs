//! Problems, RFC 9457.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request failed, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:countersign:problem:NAME`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub problem_type: ProblemType,
    /// The name in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened to this request.
    pub detail: String,
    /// What the server's log calls this request.
    pub request_id: String,
    /// What to do, often a command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// The policies that decided, by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The rule of a certificate request that was broken; `abandoned` where the same request comes to
    /// nothing whenever it is sent again, `unsure` where what was asked for may be done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// The rule that what was logged is signed within a minute or never: the same request comes to
/// nothing, whenever it is sent again.
pub const ABANDONED: &str = "abandoned";
/// It may be done yet: the same request, under the same Idempotency-Key, finds it.
pub const UNSURE: &str = "unsure";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemType {
    /// 401: the evidence does not prove who asks.
    AttestationRefused,
    /// 409: it contradicts what is stored.
    Conflict,
    /// 422: the certificate request breaks a rule.
    CsrInvalid,
    /// 422: the same Idempotency-Key came with another request.
    IdempotencyMismatch,
    /// 503: no issuer can sign now.
    IssuerUnavailable,
    /// 503: the log cannot be written, so nothing is issued.
    LogUnavailable,
    /// 415: the body says that it is something else than JSON.
    MediaTypeUnsupported,
    /// 405: the path is there, and not for this method; `Allow` names those that it is for.
    MethodNotAllowed,
    /// 404: there is no such thing, or it is not yours.
    NotFound,
    /// 403: policy says no.
    PolicyDenied,
    /// 429: too many requests.
    RateLimited,
    /// 400: the request cannot be understood.
    RequestInvalid,
    /// 503: the store cannot be reached.
    StoreUnavailable,
    /// 413: the body is larger than allowed.
    TooLarge,
}

impl ProblemType {
    /// Every kind with its name and status: the one table of them.
    pub const ALL: &'static [(Self, &'static str, u16)] = &[
        (Self::AttestationRefused, "attestation-refused", 401),
        (Self::Conflict, "conflict", 409),
        (Self::CsrInvalid, "csr-invalid", 422),
        (Self::IdempotencyMismatch, "idempotency-mismatch", 422),
        (Self::IssuerUnavailable, "issuer-unavailable", 503),
        (Self::LogUnavailable, "log-unavailable", 503),
        (Self::MediaTypeUnsupported, "media-type-unsupported", 415),
        (Self::MethodNotAllowed, "method-not-allowed", 405),
        (Self::NotFound, "not-found", 404),
        (Self::PolicyDenied, "policy-denied", 403),
        (Self::RateLimited, "rate-limited", 429),
        (Self::RequestInvalid, "request-invalid", 400),
        (Self::StoreUnavailable, "store-unavailable", 503),
        (Self::TooLarge, "too-large", 413),
    ];

    /// The name in the URN.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.row().2
    }

    fn row(self) -> &'static (Self, &'static str, u16) {
        Self::ALL.iter().find(|row| row.0 == self).expect("the table names every kind")
    }
}

impl Serialize for ProblemType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{URN}{}", self.name()))
    }
}

impl<'de> Deserialize<'de> for ProblemType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let urn = String::deserialize(deserializer)?;
        let name = urn.strip_prefix(URN).unwrap_or_default();
        Self::ALL
            .iter()
            .find(|row| row.1 == name)
            .map(|row| row.0)
            .ok_or_else(|| serde::de::Error::custom(format!("{urn} is no problem of this API")))
    }
}

const URN: &str = "urn:countersign:problem:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for (kind, name, _) in ProblemType::ALL {
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"urn:countersign:problem:{name}\""));
            assert_eq!(serde_json::from_str::<ProblemType>(&json).unwrap(), *kind);
        }
        assert!(serde_json::from_str::<ProblemType>("\"about:blank\"").is_err());
    }
}
