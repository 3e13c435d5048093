//! Texts that have a form, as `GET /v1/openapi.json` describes them. Nothing is made of these types:
//! they stand for those that parse.

use utoipa::ToSchema;

/// An action of the policy schema.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they are the names of `authority::policy::Action`")]
pub enum ActionName {
    AddOperator,
    Allow,
    ChangePolicy,
    CreateToken,
    Deny,
    Issue,
    ListInventory,
    ReadInventory,
    ReadLog,
    ReadPolicy,
    ReadStatus,
    ReadTokens,
    Renew,
    Revoke,
    RevokeToken,
    RotateKey,
}

/// Bytes as base64.
#[derive(ToSchema)]
#[schema(
    pattern = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
)]
pub struct Base64(pub String);

/// A DNS name in lower case, without a wildcard.
#[derive(ToSchema)]
#[schema(
    max_length = 253,
    pattern = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*([a-z]([a-z0-9-]{0,61}[a-z0-9])?)$"
)]
pub struct DnsName(pub String);

/// A duration such as `15m`, `24h` or `7d`; whole seconds.
#[derive(ToSchema)]
#[schema(pattern = r"^(0|([0-9]{1,6}[dhms])+)$")]
pub struct Duration(pub String);

/// An IPv4 or IPv6 address.
#[derive(ToSchema)]
#[schema(
    pattern = r"^(((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])|([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,5})?::([0-9a-f]{1,4})?)$"
)]
pub struct IpAddress(pub String);

/// The log index of an event, in decimal.
#[derive(ToSchema)]
#[schema(pattern = r"^(0|[1-9][0-9]{0,18})$")]
pub struct LogIndex(pub String);

/// What an operator is called: one segment of a path.
#[derive(ToSchema)]
#[schema(max_length = 64, pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
pub struct OperatorName(pub String);

/// A reason of RFC 5280 §5.3.1 that fits workloads.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they are those of RFC 5280 §5.3.1")]
pub enum Reason {
    AffiliationChanged,
    CessationOfOperation,
    KeyCompromise,
    PrivilegeWithdrawn,
    Superseded,
    Unspecified,
}

/// A serial number in lower-case hex, at most 20 octets, not 0.
#[derive(ToSchema)]
#[schema(pattern = r"^(?!(00)+$)([0-9a-f]{2}){1,20}$")]
pub struct SerialNumber(pub String);

/// A SHA-256 in lower-case hex.
#[derive(ToSchema)]
#[schema(pattern = r"^[0-9a-f]{64}$")]
pub struct Sha256(pub String);

/// A SPIFFE ID: `spiffe://trust-domain/path`.
#[derive(ToSchema)]
#[schema(
    max_length = 2048,
    pattern = r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"
)]
pub struct SpiffeId(pub String);

/// The SPIFFE ID of a workload: that of a trust domain has no path.
#[derive(ToSchema)]
#[schema(
    max_length = 2048,
    pattern = r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
)]
pub struct WorkloadId(pub String);

/// What a token's life is asked as: 1 second to 15 minutes.
#[derive(ToSchema)]
#[schema(pattern = r"^(([1-9]|1[0-5])m|([1-9][0-9]?|[1-8][0-9]{2}|900)s)$")]
pub struct TokenLife(pub String);

/// The SPIFFE ID of somebody: not that of a trust domain, nor a path that the CA's own begin with.
#[derive(ToSchema)]
#[schema(
    max_length = 2048,
    pattern = r"^spiffe://[a-z0-9._-]{1,255}(?!/countersign(/operator)?$)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
)]
pub struct SomebodyId(pub String);

/// A serial number, or the SPIFFE ID of somebody.
#[derive(ToSchema)]
#[schema(
    max_length = 2048,
    pattern = r"^((?!(00)+$)([0-9a-f]{2}){1,20}|spiffe://[a-z0-9._-]{1,255}(?!/countersign(/operator)?$)(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+)$"
)]
pub struct Target(pub String);

/// A trust pin.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Z2-7]{51}[AQ](@[0-9]{1,18})?$")]
pub struct TrustPin(pub String);
