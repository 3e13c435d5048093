//! How the CA is doing.

use identity::{SerialNumber, SpiffeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::keys::{KeyRecord, LifeWarning};

/// How the CA is doing: `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// The trust domain.
    pub trust_domain: String,
    /// The software's version.
    pub version: String,
    /// The trust state's sequence.
    pub trust_sequence: u64,
    /// The trust pin.
    pub trust_pin: String,
    /// Entries in the log.
    pub log_size: u64,
    /// The size that the newest signed checkpoint covers.
    pub checkpoint_size: u64,
    /// The active policy set's hash.
    pub policy_hash: String,
    /// Rows of the workload table.
    pub workloads: u64,
    /// Identities denied now.
    pub denied: u64,
    /// Why nothing is issued any more, where the log was found to be another than it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// What ends that, on the CA's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted_next_step: Option<String>,
    /// Why this node is not ready, as its `/readyz` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// Certificates whose rows the database has lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_rows: Option<LostRows>,
    /// Files of the state folder that tell of an older database, and that somebody removed or replaced
    /// while this node ran; it wrote them anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced_files: Vec<String>,
    /// This node's connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionsStatus>,
    /// The issuers, the active one first.
    pub issuers: Vec<IssuerStatus>,
    /// The active issuer and the roots, where half of their life or less is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<LifeWarning>,
    /// Keys whose rotation has begun, and what the next step of each waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotating: Vec<KeyRecord>,
}

/// Certificates that the log holds, that may still be used, and whose rows the database has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LostRows {
    /// How many.
    pub certificates: u64,
    /// The newest of them, at most 20.
    pub newest: Vec<LostRow>,
    /// What to do.
    pub next_step: String,
}

/// A certificate whose row the database has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LostRow {
    /// Its serial number.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// Who it names.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
}

/// The connections of a node, and how many it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConnectionsStatus {
    /// With a certificate, now.
    pub open: u64,
    /// With a certificate, at most.
    pub limit: u64,
    /// In their handshake or without a certificate, now.
    pub strangers: u64,
    /// In their handshake or without a certificate, at most.
    pub strangers_limit: u64,
    /// Files that the process may open (`ulimit -n`): what the limits are made of.
    pub open_files_limit: u64,
}

/// An issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IssuerStatus {
    /// SHA-256 of its public key, lower-case hex: the name of its CRL.
    pub id: String,
    /// Its certificate's serial number.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// Last second of its certificate.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: OffsetDateTime,
}
