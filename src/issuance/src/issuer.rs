//! CA certificates: reading an issuer's, and preparing roots, issuers and their requests.

use identity::{SerialNumber, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use tlog::Hash;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::Error;
use crate::lint;
use crate::tbs::{capture, capture_request, capture_self_signed, encoding};

/// The certificate of a CA key of ours, ready to issue under.
#[derive(Debug)]
pub struct IssuerCertificate {
    der: Vec<u8>,
    public_key: Vec<u8>,
    public_key_info: SubjectPublicKeyInfo,
    key_hash: Hash,
    params: CertificateParams,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    serial_number: SerialNumber,
}

impl IssuerCertificate {
    /// Reads a CA certificate whose key is P-256 and whose subject survives re-encoding: a name
    /// that changes would break every chain below it.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let certificate = parse(der)?;
        lint::ca_certificate(&certificate)?;
        let public_key = certificate.public_key().raw.to_vec();
        let public_key_info = SubjectPublicKeyInfo::from_der(&public_key).map_err(encoding)?;
        if public_key_info.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(Error::Encoding("the issuer's key is not ECDSA on P-256".to_owned()));
        }
        let params = naming(&certificate)?;
        if params.distinguished_name.iter().next().is_none() {
            return Err(Error::Encoding(
                "the issuer's subject is empty (RFC 5280 §4.1.2.6)".to_owned(),
            ));
        }
        let issuer = Self {
            key_hash: Hash::of(&public_key),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            serial_number: SerialNumber::from_octets(certificate.raw_serial())
                .map_err(|error| Error::Encoding(error.to_string()))?,
            der: der.to_vec(),
            public_key,
            public_key_info,
            params,
        };
        issuer.require_same_name(certificate.subject().as_raw())?;
        Ok(issuer)
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// SHA-256 of the SubjectPublicKeyInfo: `issuer_key_hash` of leaves.
    pub fn key_hash(&self) -> &Hash {
        &self.key_hash
    }

    /// First second of its validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Refuses where it begins only later.
    pub fn require_begun(&self, now: OffsetDateTime) -> Result<(), Error> {
        let not_before = self.not_before;
        if now < not_before { Err(Error::IssuerBegins { not_before, now }) } else { Ok(()) }
    }

    /// Last second of its validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Its serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.serial_number
    }

    /// The key identifier that what it signs names.
    pub(crate) fn key_id(&self) -> Result<Vec<u8>, Error> {
        match X509Certificate::from_der(&self.der) {
            Ok((_, certificate)) => lint::subject_key_id(&certificate),
            Err(error) => Err(Error::Encoding(error.to_string())),
        }
    }

    /// The bytes of a certificate that this issuer is to sign.
    pub(crate) fn certificate_to_sign(
        &self,
        params: &CertificateParams,
        public_key: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let subject = SubjectPublicKeyInfo::from_der(public_key).map_err(encoding)?;
        capture(&self.public_key_info, |key| {
            params.signed_by(&subject, &Issuer::from_params(&self.params, key)).map(drop)
        })
    }

    /// The bytes of a CRL that this issuer is to sign.
    pub(crate) fn crl_to_sign(
        &self,
        params: &CertificateRevocationListParams,
    ) -> Result<Vec<u8>, Error> {
        capture(&self.public_key_info, |key| {
            params.signed_by(&Issuer::from_params(&self.params, key)).map(drop)
        })
    }

    /// rcgen loses repeated attribute types of a name (rcgen#81): build one certificate and look.
    fn require_same_name(&self, subject: &[u8]) -> Result<(), Error> {
        let mut probe = CertificateParams::default();
        probe.serial_number = Some(vec![1].into());
        probe.distinguished_name = self.params.distinguished_name.clone();
        let tbs = self.certificate_to_sign(&probe, &self.public_key)?;
        let (_, parsed) = x509_parser::certificate::TbsCertificate::from_der(&tbs)
            .map_err(|error| Error::Encoding(error.to_string()))?;
        if parsed.issuer.as_raw() != subject {
            return Err(Error::Encoding(
                "the issuer's subject has a form that cannot be copied exactly; \
                 give it one O and one CN"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// What a CA certificate of ours shall say.
#[derive(Debug, Clone)]
pub struct CaCertificate<'a> {
    /// Whose CA it is: the URI SAN is the trust domain's own ID.
    pub trust_domain: &'a TrustDomain,
    /// The subject's common name.
    pub common_name: &'a str,
    /// SubjectPublicKeyInfo of the certified key, P-256.
    pub public_key: &'a [u8],
    /// The serial number.
    pub serial_number: SerialNumber,
    /// First second of validity.
    pub not_before: OffsetDateTime,
    /// Last second of validity.
    pub not_after: OffsetDateTime,
}

/// Prepares a self-signed root, path length 1: it certifies issuers, and they no CA.
pub fn prepare_root(root: &CaCertificate<'_>) -> Result<Vec<u8>, Error> {
    let key = SubjectPublicKeyInfo::from_der(root.public_key).map_err(encoding)?;
    let mut params = ca_params(root, 1)?;
    params.use_authority_key_identifier_extension = true;
    let tbs = capture_self_signed(&params, &key)?;
    lint::ca_tbs(&tbs)?;
    Ok(tbs)
}

/// Prepares an issuer's certificate under a parent, path length 0.
pub fn prepare_issuer(
    issuer: &CaCertificate<'_>,
    parent: &IssuerCertificate,
) -> Result<Vec<u8>, Error> {
    let mut params = ca_params(issuer, 0)?;
    params.use_authority_key_identifier_extension = true;
    params.not_before = issuer.not_before.max(parent.not_before);
    params.not_after = issuer.not_after.min(parent.not_after);
    let tbs = parent.certificate_to_sign(&params, issuer.public_key)?;
    lint::ca_tbs(&tbs)?;
    Ok(tbs)
}

/// Prepares the request by which a foreign parent certifies our issuer key.
pub fn prepare_issuer_request(
    trust_domain: &TrustDomain,
    common_name: &str,
    public_key: &[u8],
) -> Result<Vec<u8>, Error> {
    let key = SubjectPublicKeyInfo::from_der(public_key).map_err(encoding)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(trust_domain, common_name);
    params.subject_alt_names = vec![trust_domain_name(trust_domain)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    capture_request(&params, &key)
}

/// Whether a certificate's signature is by the key with this SubjectPublicKeyInfo.
pub fn is_signed_by(certificate: &[u8], public_key: &[u8]) -> bool {
    let key = x509_parser::x509::SubjectPublicKeyInfo::from_der(public_key);
    match (parse(certificate), key) {
        (Ok(certificate), Ok(([], key))) => certificate.verify_signature(Some(&key)).is_ok(),
        _ => false,
    }
}

fn ca_params(ca: &CaCertificate<'_>, path_length: u8) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(ca.serial_number.as_octets().to_vec().into());
    params.not_before = ca.not_before.replace_nanosecond(0).unwrap_or(ca.not_before);
    params.not_after = ca.not_after.replace_nanosecond(0).unwrap_or(ca.not_after);
    params.distinguished_name = subject(ca.trust_domain, ca.common_name);
    params.subject_alt_names = vec![trust_domain_name(ca.trust_domain)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn subject(trust_domain: &TrustDomain, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // RFC 5280, Appendix A.1: ub-organization-name is 64.
    let organization: String = trust_domain.as_str().chars().take(64).collect();
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::CommonName, common_name);
    name
}

fn trust_domain_name(trust_domain: &TrustDomain) -> Result<SanType, Error> {
    Ok(SanType::URI(trust_domain.id().as_str().try_into().map_err(encoding)?))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Error::Encoding("the CA certificate cannot be parsed".to_owned())),
    }
}

/// The issuer's name and key identifier, as rcgen wants to have them.
fn naming(certificate: &X509Certificate<'_>) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let oid: Vec<u64> =
            attribute.attr_type().iter().map(Iterator::collect).ok_or_else(|| {
                Error::Encoding("an attribute of the subject has no OID".to_owned())
            })?;
        let value = attribute.as_str().map_err(|error| Error::Encoding(error.to_string()))?;
        params.distinguished_name.push(DnType::from_oid(&oid), value);
    }
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(lint::subject_key_id(certificate)?);
    Ok(params)
}
