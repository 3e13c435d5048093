//! The paths of the HTTP API. `{…}` marks a parameter.

use identity::SerialNumber;

use crate::keys::KeyStep;

/// The signed trust state; anyone.
pub const TRUST: &str = "/v1/trust";
/// The trust state's plain forms: JWKS, or PEM by `Accept`; anyone.
pub const BUNDLE: &str = "/v1/bundle";
/// Issue or renew (POST), list (GET).
pub const CERTIFICATES: &str = "/v1/certificates";
/// One record, by serial number.
pub const CERTIFICATE: &str = "/v1/certificates/{serial}";
/// When to renew.
pub const RENEWAL: &str = "/v1/certificates/{serial}/renewal";
/// Revoke certificates issued so far.
pub const REVOCATIONS: &str = "/v1/revocations";
/// How far a revocation has come, by its place in the log.
pub const REVOCATION: &str = "/v1/revocations/{log_index}";
/// The revocation feed; with `?after=N`, what came after item N.
pub const FEED: &str = "/v1/feed";
/// What the calling workload holds and saw (PUT).
pub const OWN_REPORT: &str = "/v1/reports/self";
/// What workloads hold and saw.
pub const WORKLOADS: &str = "/v1/workloads";
/// Denied identities: list (GET), deny (POST).
pub const DENIALS: &str = "/v1/denials";
/// Allow again (DELETE), by the denial's id.
pub const DENIAL: &str = "/v1/denials/{id}";
/// What somebody did that stays, whoever they are by now.
pub const ACTS: &str = "/v1/acts";
/// Bootstrap tokens: list (GET), create (POST).
pub const TOKENS: &str = "/v1/tokens";
/// Withdraw one token (DELETE).
pub const TOKEN: &str = "/v1/tokens/{id}";
/// Operators: list (GET), add one (POST).
pub const OPERATORS: &str = "/v1/operators";
/// The active policy set: read (GET), replace (PUT).
pub const POLICIES: &str = "/v1/policies";
/// Which policy decides, and why.
pub const EXPLAIN: &str = "/v1/policies/explain";
/// The CA's keys, and what the next step of each waits for.
pub const KEYS: &str = "/v1/keys";
/// A step of a key's rotation (POST), by the hex SHA-256 of its public key.
pub const KEY_STEP: &str = "/v1/keys/{id}/{step}";
/// How the CA is doing; operators.
pub const STATUS: &str = "/v1/status";
/// The newest checkpoint of the log.
pub const CHECKPOINT: &str = "/log/checkpoint";
/// Tiles of the log, C2SP tlog-tiles.
pub const TILE: &str = "/log/tile/{*path}";
/// The CRLs of all issuers that sign or will, PEM; anyone.
pub const CRLS: &str = "/crl";
/// The CRL of an issuer, DER, by the hex SHA-256 of its public key; anyone.
pub const CRL: &str = "/crl/{issuer}";
/// This API, described; anyone.
pub const OPENAPI: &str = "/v1/openapi.json";

/// The path of one certificate's record.
pub fn certificate(serial: &SerialNumber) -> String {
    CERTIFICATE.replace("{serial}", &serial.to_string())
}

/// The path of one certificate's renewal window.
pub fn renewal(serial: &SerialNumber) -> String {
    RENEWAL.replace("{serial}", &serial.to_string())
}

/// The path of one revocation's reach.
pub fn revocation(log_index: u64) -> String {
    REVOCATION.replace("{log_index}", &log_index.to_string())
}

/// The path of a step of a key's rotation.
pub fn key_step(id: &str, step: KeyStep) -> String {
    KEY_STEP.replace("{id}", id).replace("{step}", step.name())
}

/// The path of one denial.
pub fn denial(id: &str) -> String {
    DENIAL.replace("{id}", id)
}

/// The path of one token.
pub fn token(id: &str) -> String {
    TOKEN.replace("{id}", id)
}

/// The request header in which a client shows the newest checkpoint that it verified: the signed
/// note, base64.
pub const CHECKPOINT_HEADER: &str = "countersign-checkpoint";

/// The request header in which whoever asks for a first certificate names its bootstrap token: SHA-256
/// of the token's secret bits, lower-case hex. A token that lives has a share of requests of its own,
/// whoever else floods the CA from the same address; nothing else follows from it.
pub const TOKEN_HEADER: &str = "countersign-token";

/// The response header in which the admin port says where the API is, to whoever asks it for
/// something else.
pub const API_HEADER: &str = "countersign-api";
