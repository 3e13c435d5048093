//! What leaves the engine: stored bytes, as the API shows them.

use api::{CertificateRecord, CertificateState, IssuedCertificate, RenewalWindow};
use identity::{SerialNumber, SpiffeId, pem};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::attest::Facts;
use crate::clock::from_milliseconds;
use crate::error::Error;
use crate::store::{Record, StoreError};

/// An answer made of stored bytes alone.
pub(crate) fn issued(
    certificate: &[u8],
    issuer: &[u8],
    log_index: u64,
    trust_sequence: u64,
) -> Result<IssuedCertificate, Error> {
    let broken = || StoreError::Inconsistent(format!("certificate {log_index} cannot be parsed"));
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| broken())?;
    let spiffe_id = spiffe_id(&parsed).ok_or_else(broken)?;
    let serial_number = SerialNumber::from_octets(parsed.raw_serial()).map_err(|_| broken())?;
    let not_before = parsed.validity().not_before.to_datetime();
    let not_after = parsed.validity().not_after.to_datetime();
    Ok(IssuedCertificate {
        spiffe_id,
        serial_number,
        chain: chain(certificate, issuer),
        not_before,
        not_after,
        renewal: renewal_window(not_before, not_after),
        log_index,
        trust_sequence,
    })
}

/// A record as operators and owners see it.
pub(crate) fn record(
    record: Record,
    revoked: bool,
    now: i64,
    issuer: &[u8],
) -> Result<CertificateRecord, Error> {
    let facts: Facts = serde_json::from_str(&record.facts)
        .map_err(|error| StoreError::Inconsistent(error.to_string()))?;
    let state = match (&record.certificate, revoked) {
        (None, _) => CertificateState::NeverIssued,
        (_, true) => CertificateState::Revoked,
        _ if record.not_after < now => CertificateState::Expired,
        _ => CertificateState::Valid,
    };
    Ok(CertificateRecord {
        spiffe_id: record.spiffe_id,
        serial_number: record.serial_number,
        state,
        not_before: seconds(record.not_before),
        not_after: seconds(record.not_after),
        issued_at: from_milliseconds(record.issued_at),
        log_index: record.leaf_index,
        profile: record.profile,
        attestor: facts.attestor,
        principal: facts.principal,
        policies: facts.policies,
        chain: record.certificate.map(|certificate| chain(&certificate, issuer)),
    })
}

/// The middle of a certificate's life, a tenth of it wide: half the life is left for retries.
pub(crate) fn renewal_window(
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> RenewalWindow {
    let life = not_after - not_before;
    let start = not_before + life / 2;
    RenewalWindow { start: whole(start), end: whole(start + life / 10) }
}

pub(crate) fn seconds(unix: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn chain(certificate: &[u8], issuer: &[u8]) -> String {
    pem("CERTIFICATE", certificate) + &pem("CERTIFICATE", issuer)
}

fn whole(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = certificate.subject_alternative_name().ok()??.value;
    names.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => SpiffeId::parse(uri).ok(),
        _ => None,
    })
}
