//! Bytes to sign: built once by rcgen, taken before any key has signed them.

use std::sync::Mutex;

use rcgen::{
    CertificateParams, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
    SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::certificate::TbsCertificate;
use x509_parser::prelude::FromDer;

use crate::error::Error;

/// An end-entity TBSCertificate that the linter passed, without countersignature.
///
/// Only [`crate::Profile::prepare`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintedTbs {
    der: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl LintedTbs {
    pub(crate) fn new(der: Vec<u8>, not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        Self { der, not_before, not_after }
    }

    /// The bytes, as the log's leaf holds them.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// First second of validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Last second of validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }
}

/// Puts certificate, CRL or PKCS#10 request together: `tbs`, ecdsa-with-SHA256, signature (DER).
pub fn assemble(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    tlog::join_certificate(tbs, ECDSA_WITH_SHA256, signature)
}

/// Checks that a signed end-entity certificate is byte for byte what was prepared, but for the
/// countersignature.
pub fn equals_prepared(certificate: &[u8], prepared: &[u8]) -> Result<(), Error> {
    let split = tlog::split_certificate(certificate).map_err(|_| Error::Signed)?;
    let (bare, _) = tlog::splice_out(split.tbs).map_err(|_| Error::Signed)?;
    if bare != prepared || split.signature_algorithm != ECDSA_WITH_SHA256 {
        return Err(Error::Signed);
    }
    Ok(())
}

/// Whether two TBSCertificates answer the same request: they differ in serial number and validity
/// at most.
pub fn same_request(one: &[u8], other: &[u8]) -> bool {
    let (Some(one), Some(other)) = (parse(one), parse(other)) else {
        return false;
    };
    let extensions = |tbs: &TbsCertificate<'_>| -> Vec<(String, bool, Vec<u8>)> {
        let written = tbs.extensions().iter();
        written.map(|e| (e.oid.to_string(), e.critical, e.value.to_vec())).collect()
    };
    one.version == other.version
        && one.signature == other.signature
        && one.issuer.as_raw() == other.issuer.as_raw()
        && one.subject.as_raw() == other.subject.as_raw()
        && one.subject_pki.raw == other.subject_pki.raw
        && one.issuer_uid.is_none()
        && one.subject_uid.is_none()
        && extensions(&one) == extensions(&other)
}

fn parse(tbs: &[u8]) -> Option<TbsCertificate<'_>> {
    match TbsCertificate::from_der(tbs) {
        Ok(([], parsed)) => Some(parsed),
        _ => None,
    }
}

pub(crate) fn capture_self_signed(
    params: &CertificateParams,
    key: &SubjectPublicKeyInfo,
) -> Result<Vec<u8>, Error> {
    capture(key, |key| params.self_signed(key).map(drop))
}

pub(crate) fn capture_request(
    params: &CertificateParams,
    key: &SubjectPublicKeyInfo,
) -> Result<Vec<u8>, Error> {
    capture(key, |key| params.serialize_request(key).map(drop))
}

pub(crate) fn encoding(error: rcgen::Error) -> Error {
    Error::Encoding(error.to_string())
}

/// Runs rcgen with a key that signs nothing and keeps what it was asked to sign.
pub(crate) fn capture(
    public_key: &SubjectPublicKeyInfo,
    build: impl FnOnce(&CapturingKey<'_>) -> Result<(), rcgen::Error>,
) -> Result<Vec<u8>, Error> {
    let key = CapturingKey { public_key, message: Mutex::new(Vec::new()) };
    build(&key).map_err(encoding)?;
    Ok(key.message.into_inner().unwrap_or_default())
}

pub(crate) struct CapturingKey<'a> {
    public_key: &'a SubjectPublicKeyInfo,
    message: Mutex<Vec<u8>>,
}

impl PublicKeyData for CapturingKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.der_bytes()
    }

    /// The CA's keys are P-256 and sign with SHA-256, whatever else certifies their public key.
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CapturingKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        if let Ok(mut captured) = self.message.lock() {
            *captured = message.to_vec();
        }
        Ok(Vec::new())
    }
}

/// AlgorithmIdentifier of ecdsa-with-SHA256, RFC 5758 §3.2: parameters are absent.
pub(crate) const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
