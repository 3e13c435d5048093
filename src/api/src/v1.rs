//! Bodies of version 1.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::{SerialNumber, SpiffeId};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::acts::{ActOnRecord, is_zero};
use crate::keys::KeyRecord;
use crate::life::LifeWarning;
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

/// A page of a list; ask for the next with `?after=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
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
        deserialize_with = "items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::LogIndex>))]
    pub after: Option<String>,
}

/// As it stands in a query.
pub(crate) fn items_of_a_page<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    match String::deserialize(deserializer)?.parse() {
        Ok(items @ 1..=1000) => Ok(Some(items)),
        _ => Err(D::Error::custom("a page has 1 to 1,000 items")),
    }
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

/// Asks for a bootstrap token: `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRequest {
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::WorkloadId))]
    pub spiffe_id: SpiffeId,
    /// How long it may be used, 15 minutes at most and if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::TokenLife>))]
    pub ttl: Option<Ttl>,
    /// Only for this key: lower-case hex of the SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Sha256>))]
    pub key_sha256: Option<String>,
}

/// A new bootstrap token. It is shown once and kept only as a hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// What `DELETE /v1/tokens/{id}` takes.
    pub id: String,
    /// The token.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: OffsetDateTime,
    /// The trust pin that its user starts from.
    pub trust_pin: String,
    /// Why no certificate would be issued for it as things are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// What would change that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// Pages of `GET /v1/tokens`, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct TokenFilter {
    /// Items a page, 1 to 1,000; 1,000 if left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::LogIndex>))]
    pub after: Option<String>,
}

/// A bootstrap token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// `open`, `used`, `expired`, `revoked`, or `void` where its maker was revoked since, or may not
    /// make it now, where those for whom it was made were revoked or denied since, while they are
    /// denied, and, where it makes an operator, while somebody has a certificate of that name.
    pub state: String,
    /// Who made it.
    #[serde(default)]
    pub made_by: String,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: OffsetDateTime,
}

/// Asks to make somebody new an operator: `POST /v1/operators`. The answer is a [`NewToken`], by which
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
