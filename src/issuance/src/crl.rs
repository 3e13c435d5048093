//! Certificate revocation lists.

use identity::SerialNumber;
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason as RcgenReason,
    RevokedCertParams,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, TbsCertList};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::Error;
use crate::finding::Finding;
use crate::issuer::IssuerCertificate;

/// Why a certificate is revoked: the reasons of RFC 5280 §5.3.1 that fit workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationReason {
    /// The workload's owner or role changed.
    AffiliationChanged,
    /// The workload no longer exists.
    CessationOfOperation,
    /// The key is, or may be, known to others.
    KeyCompromise,
    /// What the certificate allowed is withdrawn.
    PrivilegeWithdrawn,
    /// A newer certificate replaces it.
    Superseded,
    /// None of the others.
    Unspecified,
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Which.
    pub serial_number: SerialNumber,
    /// Since when.
    pub revoked_at: OffsetDateTime,
    /// Why.
    pub reason: RevocationReason,
}

/// What a full CRL shall say.
#[derive(Debug, Clone)]
pub struct RevocationList<'a> {
    /// Grows with each list of the issuer.
    pub crl_number: u64,
    /// When it is made.
    pub this_update: OffsetDateTime,
    /// When the next one is there at the latest.
    pub next_update: OffsetDateTime,
    /// The revoked certificates that have not expired.
    pub revoked: &'a [RevokedCertificate],
}

/// Builds a full CRL's bytes to sign, and lints them.
pub fn prepare_crl(
    list: &RevocationList<'_>,
    issuer: &IssuerCertificate,
) -> Result<Vec<u8>, Error> {
    let key_id = issuer.key_id()?;
    let params = CertificateRevocationListParams {
        this_update: whole_second(list.this_update),
        next_update: whole_second(list.next_update),
        crl_number: list.crl_number.to_be_bytes().to_vec().into(),
        issuing_distribution_point: None,
        revoked_certs: list.revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::PreSpecified(key_id),
    };
    let tbs = issuer.crl_to_sign(&params)?;
    lint_tbs(&tbs, list)?;
    Ok(tbs)
}

/// A CRL that its issuer has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCrl {
    /// The bytes that are signed.
    pub tbs: Vec<u8>,
    /// When the next one is there at the latest, in seconds since 1970.
    pub next_update: i64,
}

/// Verifies a CRL's signature; none for what is no CRL, or not this issuer's.
pub fn verify_crl(der: &[u8], issuer: &IssuerCertificate) -> Option<SignedCrl> {
    let Ok(([], crl)) = CertificateRevocationList::from_der(der) else { return None };
    let (_, key) = SubjectPublicKeyInfo::from_der(issuer.public_key()).ok()?;
    crl.verify_signature(&key).ok()?;
    let next_update = crl.next_update()?.timestamp();
    Some(SignedCrl { tbs: crl.tbs_cert_list.as_ref().to_vec(), next_update })
}

fn entry(revoked: &RevokedCertificate) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: revoked.serial_number.as_octets().to_vec().into(),
        revocation_time: whole_second(revoked.revoked_at),
        reason_code: match revoked.reason {
            RevocationReason::AffiliationChanged => Some(RcgenReason::AffiliationChanged),
            RevocationReason::CessationOfOperation => Some(RcgenReason::CessationOfOperation),
            RevocationReason::KeyCompromise => Some(RcgenReason::KeyCompromise),
            RevocationReason::PrivilegeWithdrawn => Some(RcgenReason::PrivilegeWithdrawn),
            RevocationReason::Superseded => Some(RcgenReason::Superseded),
            // RFC 5280 §5.3.1: the extension SHOULD be absent instead of saying unspecified.
            RevocationReason::Unspecified => None,
        },
        invalidity_date: None,
    }
}

/// RFC 5280 §5.1 and §5.2, over the exact bytes.
fn lint_tbs(tbs: &[u8], list: &RevocationList<'_>) -> Result<(), Error> {
    let refuse = |detail: &str| {
        Err(Error::Lint(vec![Finding { rule: "RFC 5280 §5.1", detail: detail.to_owned() }]))
    };
    let Ok(([], parsed)) = TbsCertList::from_der(tbs) else {
        return refuse("it cannot be parsed");
    };
    let numbers: Option<Vec<SerialNumber>> = parsed
        .revoked_certificates
        .iter()
        .map(|revoked| SerialNumber::from_octets(revoked.raw_serial()).ok())
        .collect();
    let expected: Vec<SerialNumber> =
        list.revoked.iter().map(|revoked| revoked.serial_number).collect();
    if numbers.as_ref() != Some(&expected) {
        return refuse("it does not list exactly the revoked certificates");
    }
    if parsed.next_update.is_none_or(|next| next <= parsed.this_update) {
        return refuse("nextUpdate is not after thisUpdate");
    }
    if parsed.extensions().len() != 2 {
        return refuse("it has other extensions than key identifier and number");
    }
    Ok(())
}

fn whole_second(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}
