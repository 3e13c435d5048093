//! Operators.

use identity::{SerialNumber, SpiffeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ttl::Ttl;

/// Asks to make somebody new an operator: `POST /v1/operators`. The answer is a `NewToken`, by which
/// they get their first certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperatorRequest {
    /// The name: they become `/countersign/operator/NAME`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperatorName))]
    pub name: String,
    /// How long the token may be used, 15 minutes at most and if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::TokenLife>))]
    pub ttl: Option<Ttl>,
    /// Only for this key: lower-case hex of the SHA-256 of its SubjectPublicKeyInfo. Then a token that
    /// was stolen is good for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Sha256>))]
    pub key_sha256: Option<String>,
    /// They were an operator of this name before, and start anew with another key. Refused while a
    /// certificate of theirs is good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// An operator: `GET /v1/operators`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperatorRecord {
    /// The name.
    pub name: String,
    /// The identity.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Whether they can act.
    pub state: OperatorState,
    /// When the last of their certificates that are good ends; none without one.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub not_after: Option<OffsetDateTime>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SerialNumber>))]
    pub serial_number: Option<SerialNumber>,
    /// Who made them an operator: another's SPIFFE ID, `init` for the CA's host, or `workloads.json`.
    pub added_by: String,
    /// The place of the event that did; none for `workloads.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_index: Option<u64>,
    /// Until when the token of a new one may be used, while it was not.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub invited_until: Option<OffsetDateTime>,
}

/// Whether an operator can act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum OperatorState {
    /// They hold a certificate that is good, and may change the policy set, and so everything.
    Able,
    /// Denied until allowed again.
    Denied,
    /// Added, and their token is open.
    Invited,
    /// They hold no certificate that is good.
    Lapsed,
    /// They hold one, and policy lets them do less than change the policy set.
    Restricted,
}

impl OperatorState {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Able => "able",
            Self::Denied => "denied",
            Self::Invited => "invited",
            Self::Lapsed => "lapsed",
            Self::Restricted => "restricted",
        }
    }
}
