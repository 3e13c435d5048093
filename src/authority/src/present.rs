//! What leaves the engine: stored bytes, as the API shows them.

use api::{CertificateRecord, CertificateState, IssuedCertificate, RenewalWindow};
use identity::pem;
use time::OffsetDateTime;

use crate::certificate::logged::Named;
use crate::clock::from_milliseconds;
use crate::event::Event;
use crate::facts::Facts;
use crate::store::{Record, StoreError};
use crate::view::leaving::Leaving;

/// A stored certificate, as whoever asked for it gets it.
pub(crate) fn issued(
    named: &Named,
    certificate: Leaving<'_>,
    issuer_pem: &str,
    log_index: u64,
    trust_sequence: u64,
) -> IssuedCertificate {
    let (not_before, not_after) = (seconds(named.not_before), seconds(named.not_after));
    IssuedCertificate {
        spiffe_id: named.spiffe_id.clone(),
        serial_number: named.serial_number,
        chain: chain(certificate, issuer_pem),
        not_before,
        not_after,
        renewal: renewal_window(not_before, not_after),
        log_index,
        trust_sequence,
    }
}

/// How a certificate came to be.
#[derive(Debug)]
pub(crate) struct Origin {
    profile: String,
    attestor: String,
    principal: String,
    policies: Vec<String>,
}

impl Origin {
    /// As its record tells.
    pub(crate) fn of_record(record: &Record) -> Result<Self, StoreError> {
        let Facts { attestor, principal, policies, .. } = serde_json::from_str(&record.facts)
            .map_err(|error| StoreError::Inconsistent(error.to_string()))?;
        Ok(Self { profile: record.profile.clone(), attestor, principal, policies })
    }

    /// As the event before its leaf tells.
    pub(crate) fn of_event(event: Event) -> Self {
        let text = |name: &str| event.detail[name].as_str().unwrap_or_default().to_owned();
        let policies = event.detail["policies"].as_array().into_iter().flatten();
        Self {
            profile: text("profile"),
            attestor: text("attestor"),
            policies: policies.filter_map(|id| id.as_str().map(str::to_owned)).collect(),
            principal: event.actor,
        }
    }
}

/// A certificate as operators and owners see it, without its bytes.
pub(crate) fn record(record: Record, origin: Origin, state: CertificateState) -> CertificateRecord {
    let Origin { profile, attestor, principal, policies } = origin;
    CertificateRecord {
        spiffe_id: record.spiffe_id,
        serial_number: record.serial_number,
        state,
        not_before: seconds(record.not_before),
        not_after: seconds(record.not_after),
        issued_at: from_milliseconds(record.issued_at),
        log_index: record.leaf_index,
        profile,
        attestor,
        principal,
        policies,
        chain: None,
        row_lost: false,
        revoked: None,
        denial: None,
    }
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

/// A certificate with its issuer's, PEM.
pub(crate) fn chain(certificate: Leaving<'_>, issuer_pem: &str) -> String {
    pem("CERTIFICATE", certificate.der()) + issuer_pem
}

fn whole(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}
