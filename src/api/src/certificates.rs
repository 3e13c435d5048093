//! Certificates: asked for, issued, and kept.

use std::net::IpAddr;

use identity::{SerialNumber, SpiffeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::revocations::{Denial, RevokedBy};
use crate::secret::Secret;
use crate::ttl::Ttl;

/// Asks for a certificate: `POST /v1/certificates`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IssueRequest {
    /// PKCS#10, PEM.
    pub csr: String,
    /// The identity; may be left out where the evidence names exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SpiffeId>))]
    pub spiffe_id: Option<SpiffeId>,
    /// DNS names, beside those of the CSR. Where neither this, `ip` nor the CSR speaks of names, the
    /// certificate has those that the identity's row in the workload table lists, as far as it may; a
    /// renewal those of the row as it is then. An empty list asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::schema::DnsName>>))]
    pub dns: Option<Vec<String>>,
    /// IP addresses, beside those of the CSR; see `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::schema::IpAddress>>))]
    pub ip: Option<Vec<IpAddr>>,
    /// The profile; `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The validity; the profile's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Duration>))]
    pub ttl: Option<Ttl>,
    /// The evidence of who asks.
    pub attestation: Attestation,
}

/// Evidence of who asks for a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Attestation {
    /// The client certificate of this very connection: renewal, or an operator's request.
    Svid {},
    /// A one-time bootstrap token.
    Token {
        /// The token.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        token: Secret,
    },
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IssuedCertificate {
    /// Who it names.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Its serial number.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// The certificate, then its issuer's, PEM; no root.
    pub chain: String,
    /// First second of validity.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_before: OffsetDateTime,
    /// Last second of validity.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: OffsetDateTime,
    /// When to renew it.
    pub renewal: RenewalWindow,
    /// Its place in the log.
    pub log_index: u64,
    /// The newest trust state's sequence: fetch it if yours is older.
    pub trust_sequence: u64,
}

/// When to renew: at a random moment between both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewalWindow {
    /// Not before.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub start: OffsetDateTime,
    /// And at the latest.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub end: OffsetDateTime,
}

/// What the CA keeps of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateRecord {
    /// Who it names.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Its serial number.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// What can be done with it now.
    pub state: CertificateState,
    /// First second of validity.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_before: OffsetDateTime,
    /// Last second of validity.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: OffsetDateTime,
    /// When it was logged.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub issued_at: OffsetDateTime,
    /// Its place in the log.
    pub log_index: u64,
    /// The profile it was made by.
    pub profile: String,
    /// How its first holder proved who it is: `token`, `svid`, `internal`.
    pub attestor: String,
    /// Who asked.
    pub principal: String,
    /// The policies that allowed it, by their ids.
    pub policies: Vec<String>,
    /// The certificate, then its issuer's, PEM; none in a page, nor where signing was never completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Whether the CA's database has lost what it kept of it, or a part: the rest stands in the log. It
    /// is as good as before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub row_lost: bool,
    /// What revoked it first. Only in the answer for one certificate, until a day after it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<RevokedBy>,
    /// Its identity's denial, where that is denied now. Only in the answer for one certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial: Option<Denial>,
}

/// What can be done with a certificate now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CertificateState {
    /// Its time has passed.
    Expired,
    /// It was logged and never signed, or never stored: nobody holds it.
    NeverIssued,
    /// It, or its identity, was revoked.
    Revoked,
    /// Verifiers take it.
    Valid,
}

/// Filters of `GET /v1/certificates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct CertificateFilter {
    /// A SPIFFE ID, in which `*` stands for any run of characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only valid ones that expire within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::Duration>))]
    pub expiring: Option<Ttl>,
    /// Only revoked ones that have not expired.
    #[serde(default)]
    pub revoked: bool,
    /// Items a page, 1 to 1,000; 100 if left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::page::items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::LogIndex>))]
    pub after: Option<String>,
}
