//! Revocations and denials.

use std::collections::BTreeMap;

use identity::SpiffeId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::acts::{ActOnRecord, is_zero};

/// Who revoked a certificate, when and why, as the log says: what the event there holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokedBy {
    /// The kind of the event: `revoke`, or `deny`, which revokes what the identity had.
    pub kind: String,
    /// What was revoked: the serial number, or the SPIFFE ID with all that it had.
    pub target: String,
    /// Who did it: an operator's or a workload's SPIFFE ID.
    pub by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: OffsetDateTime,
    /// Why.
    pub reason: String,
    /// The event's place in the log.
    pub log_index: u64,
}

/// Asks to revoke certificates issued so far: `POST /v1/revocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokeRequest {
    /// A serial number, or a SPIFFE ID (all its certificates so far).
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Target))]
    pub target: String,
    /// A reason of RFC 5280 §5.3.1: `key-compromise`, `superseded`, …
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Reason))]
    pub reason: String,
    /// Says what would be revoked, and revokes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Does what is refused otherwise.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub named_override: Option<Override>,
}

/// How much a revocation takes away, as policy sees it from whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RevocationExtent {
    /// One certificate of others.
    Certificate,
    /// Every certificate of an identity issued so far.
    Identity,
    /// The asker's own certificate, or one that was renewed in the same line.
    Own,
}

impl RevocationExtent {
    /// As policies and requests write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Identity => "identity",
            Self::Own => "own",
        }
    }
}

impl std::str::FromStr for RevocationExtent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Certificate, Self::Identity, Self::Own];
        let named = all.into_iter().find(|extent| extent.name() == text);
        named.ok_or_else(|| format!("{text:?} is none of certificate, identity, own"))
    }
}

/// What is refused unless it is named: an operator's hand slips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Override {
    /// Revoke or deny the CA itself, or the last operator able to act: `countersign init --recover`
    /// on the CA's host is then the only way back.
    LockOut,
}

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revocation {
    /// What was revoked, as asked.
    pub target: String,
    /// The identity concerned.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Why.
    pub reason: String,
    /// The event's place in the log; none for a dry run, or where nothing was left to revoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_index: Option<u64>,
    /// How many unexpired certificates it covers.
    pub certificates: u64,
    /// What revoked them before, where nothing is left to revoke. Its reason stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<RevokedBy>,
    /// What they did that stays, to be looked at by somebody: what grants most first, then the newest.
    /// At most 100, and some of each kind; `review_more` says how many are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub review: Vec<ActOnRecord>,
    /// How many such acts there are, by the kind of their event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub review_counts: BTreeMap<String, u64>,
    /// How many of them `review` leaves out: `GET /v1/acts?by=SPIFFE_ID` lists all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub review_more: u64,
    /// Where certificates by tokens that were made before this place of the log are not among them: there
    /// are too many tokens to look at all at once, and `GET /v1/acts` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_tokens_from: Option<u64>,
}

/// Asks to deny an identity until it is allowed again: `POST /v1/denials`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DenyRequest {
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SomebodyId))]
    pub spiffe_id: SpiffeId,
    /// A reason of RFC 5280 §5.3.1, for the certificates that it revokes.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Reason))]
    pub reason: String,
    /// Does what is refused otherwise.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub named_override: Option<Override>,
}

/// A denied identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Denial {
    /// What `DELETE /v1/denials/{id}` takes: the log index of the deny event.
    pub id: String,
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Why.
    pub reason: String,
    /// Who denied it: an operator's SPIFFE ID.
    #[serde(default)]
    pub by: String,
    /// When: of several denials that none lifted, the last.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: OffsetDateTime,
    /// Since when the identity is denied, where that is by an earlier denial.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub since: Option<OffsetDateTime>,
    /// What they did that stays, to be looked at by somebody: what grants most first, then the newest.
    /// At most 100, and some of each kind; `review_more` says how many are left out. Only in the
    /// answer to a `POST`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub review: Vec<ActOnRecord>,
    /// How many such acts there are, by the kind of their event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub review_counts: BTreeMap<String, u64>,
    /// How many of them `review` leaves out: `GET /v1/acts?by=SPIFFE_ID` lists all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub review_more: u64,
    /// Where certificates by tokens that were made before this place of the log are not among them: there
    /// are too many tokens to look at all at once, and `GET /v1/acts` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_tokens_from: Option<u64>,
}
