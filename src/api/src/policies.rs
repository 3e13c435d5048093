//! Policy sets, and what they decide.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::revocations::RevocationExtent;

/// A policy set: every file of a policies folder. `GET` and `PUT /v1/policies`, with
/// `ETag` and `If-Match` as its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyFiles {
    /// Contents by file name: `schema.cedarschema`, `*.cedar`, `workloads.json`, `profiles.json`.
    pub files: BTreeMap<String, String>,
}

/// How many bytes a [`PolicyFiles`] may have as JSON, with whatever ships in place of the files that
/// it leaves out. 5,000 workloads with an IAM role, two DNS names and five calls each have 2.6 MB
/// where `jq` indents them, 1.9 MB where it does not; clients take answers of 8 MiB.
pub const MAX_POLICY_BYTES: usize = 4 * 1024 * 1024;

/// The active policy set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActivePolicy {
    /// SHA-256 over its files, lower-case hex.
    pub hash: String,
    /// The files.
    pub files: BTreeMap<String, String>,
}

/// Asks which policy decides: `POST /v1/policies/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExplainRequest {
    /// Who asks: a workload's or operator's SPIFFE ID.
    #[serde(rename = "as")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub principal: SpiffeId,
    /// What: `issue`, `renew`, `revoke`, …
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::ActionName))]
    pub action: String,
    /// On whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub resource: SpiffeId,
    /// DNS names asked for. Where neither this nor `ip` is said, those that the identity's row lists,
    /// as a certificate would have them. An empty list asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::schema::DnsName>>))]
    pub dns: Option<Vec<String>>,
    /// IP addresses asked for; see `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::schema::IpAddress>>))]
    pub ip: Option<Vec<IpAddr>>,
    /// The profile; `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What `revoke` takes away; all that the identity has if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent: Option<RevocationExtent>,
}

/// Which policy decided, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that decided, by their ids.
    pub policies: Vec<String>,
    /// The row of the workload table concerned, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// What was assumed where the question left names out, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed: Option<String>,
    /// What would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}
