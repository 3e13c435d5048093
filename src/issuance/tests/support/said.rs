//! What a certificate says, read by two parsers that share no code.

use std::net::IpAddr;

use tlog::Hash;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix;
use x509_parser::extensions::{DistributionPointName, ParsedExtension};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Everything in a certificate that a profile or a request decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) version: u8,
    /// Content octets of the INTEGER.
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) validity: [i64; 2],
    /// The common names; a subject of anything else is not read.
    pub(crate) subject: Vec<String>,
    pub(crate) public_key: Vec<u8>,
    /// OID and criticality of each, in order.
    pub(crate) extensions: Vec<(String, bool)>,
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ips: Vec<IpAddr>,
    /// Bit 0 is digitalSignature.
    pub(crate) key_usage: u16,
    pub(crate) purposes: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) subject_key_id: Vec<u8>,
    pub(crate) authority_key_id: Vec<u8>,
    pub(crate) crl_urls: Vec<String>,
    pub(crate) signature_algorithms: [String; 2],
}

impl Said {
    /// As x509-parser reads it.
    pub(crate) fn by_x509_parser(der: &[u8]) -> Self {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        assert!(rest.is_empty());
        let tbs = &certificate.tbs_certificate;
        let mut said = Self {
            version: tbs.version.0 as u8,
            serial: tbs.raw_serial().to_vec(),
            issuer: tbs.issuer.as_raw().to_vec(),
            validity: [&tbs.validity.not_before, &tbs.validity.not_after].map(|t| t.timestamp()),
            subject: tbs
                .subject
                .iter_common_name()
                .map(|n| n.as_str().unwrap().to_owned())
                .collect(),
            public_key: tbs.subject_pki.raw.to_vec(),
            ..Self::nothing()
        };
        assert_eq!(tbs.subject.iter_attributes().count(), said.subject.len());
        let algorithms = [&tbs.signature, &certificate.signature_algorithm];
        said.signature_algorithms = algorithms.map(|a| a.algorithm.to_id_string());
        for extension in tbs.extensions() {
            said.extensions.push((extension.oid.to_id_string(), extension.critical));
            said.add_x509_parser(extension.parsed_extension());
        }
        said
    }

    /// The subject of a CA certificate, as DER: what the issuer of those below must be.
    pub(crate) fn subject_of(der: &[u8]) -> Vec<u8> {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        certificate.subject().as_raw().to_vec()
    }

    fn add_x509_parser(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(dns) => self.dns.push((*dns).to_owned()),
                        GeneralName::IPAddress(ip) => self.ips.push(ip_address(ip)),
                        other => panic!("{other:?}"),
                    }
                }
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = usage.flags,
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(usage.other.is_empty() && !usage.any && !usage.code_signing);
                self.purposes.extend(usage.server_auth.then(|| SERVER_AUTH.to_owned()));
                self.purposes.extend(usage.client_auth.then(|| CLIENT_AUTH.to_owned()));
            }
            ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().unwrap().0.to_vec();
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                for point in points.iter() {
                    let Some(DistributionPointName::FullName(names)) = &point.distribution_point
                    else {
                        panic!("{point:?}")
                    };
                    self.crl_urls.extend(names.iter().map(|name| match name {
                        GeneralName::URI(uri) => (*uri).to_owned(),
                        other => panic!("{other:?}"),
                    }));
                }
            }
            ParsedExtension::SCT(_) => {}
            ParsedExtension::UnsupportedExtension { oid } => {
                assert_eq!(oid.to_id_string(), NO_REV_AVAIL);
            }
            other => panic!("{other:?}"),
        }
    }

    /// As x509-cert reads it, in the strictness of RFC 5280.
    pub(crate) fn by_x509_cert(der: &[u8]) -> Self {
        let certificate = x509_cert::Certificate::from_der(der).unwrap();
        assert_eq!(certificate.to_der().unwrap(), der, "another encoding");
        let tbs = certificate.tbs_certificate();
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs() as i64;
        let names = extension::<pkix::SubjectAltName>(tbs).map_or(vec![], |names| names.0);
        let (uris, dns, ips) = sort(&names);
        let points =
            extension::<pkix::CrlDistributionPoints>(tbs).map_or(vec![], |points| points.0);
        let usage = extension::<pkix::KeyUsage>(tbs).unwrap();
        let authority = extension::<pkix::AuthorityKeyIdentifier>(tbs).unwrap();
        Self {
            version: tbs.version() as u8,
            serial: tbs.serial_number().as_bytes().to_vec(),
            issuer: tbs.issuer().to_der().unwrap(),
            validity: [tbs.validity().not_before, tbs.validity().not_after].map(seconds),
            subject: tbs.subject().iter().map(common_name).collect(),
            public_key: tbs.subject_public_key_info().to_der().unwrap(),
            extensions: tbs
                .extensions()
                .unwrap()
                .iter()
                .map(|extension| (extension.extn_id.to_string(), extension.critical))
                .collect(),
            uris,
            dns,
            ips,
            key_usage: usage.0.bits(),
            purposes: extension::<pkix::ExtendedKeyUsage>(tbs)
                .map_or(vec![], |usage| usage.0.iter().map(ToString::to_string).collect()),
            is_ca: extension::<pkix::BasicConstraints>(tbs).is_some_and(|c| c.ca),
            subject_key_id: extension::<pkix::SubjectKeyIdentifier>(tbs)
                .map_or(vec![], |id| id.0.as_bytes().to_vec()),
            authority_key_id: authority.key_identifier.unwrap().as_bytes().to_vec(),
            crl_urls: points.iter().flat_map(crl_urls).collect(),
            signature_algorithms: [tbs.signature(), certificate.signature_algorithm()]
                .map(|algorithm| algorithm.oid.to_string()),
        }
    }

    fn nothing() -> Self {
        Self {
            version: 0,
            serial: vec![],
            issuer: vec![],
            validity: [0, 0],
            subject: vec![],
            public_key: vec![],
            extensions: vec![],
            uris: vec![],
            dns: vec![],
            ips: vec![],
            key_usage: 0,
            purposes: vec![],
            is_ca: false,
            subject_key_id: vec![],
            authority_key_id: vec![],
            crl_urls: vec![],
            signature_algorithms: [String::new(), String::new()],
        }
    }
}

fn extension<'a, T: Decode<'a> + AssociatedOid>(tbs: &'a x509_cert::TbsCertificate) -> Option<T> {
    let found = tbs.get_extension::<T>();
    found.unwrap_or_else(|_| panic!("{} cannot be read", T::OID)).map(|(_, value)| value)
}

fn sort(names: &[pkix::name::GeneralName]) -> (Vec<String>, Vec<String>, Vec<IpAddr>) {
    use pkix::name::GeneralName;
    let (mut uris, mut dns, mut ips) = (vec![], vec![], vec![]);
    for name in names {
        match name {
            GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.to_string()),
            GeneralName::DnsName(name) => dns.push(name.to_string()),
            GeneralName::IpAddress(octets) => ips.push(ip_address(octets.as_bytes())),
            other => panic!("{other:?}"),
        }
    }
    (uris, dns, ips)
}

fn common_name(attribute: &x509_cert::attr::AttributeTypeAndValue) -> String {
    assert_eq!(attribute.oid.to_string(), "2.5.4.3");
    String::from_utf8(attribute.value.value().to_vec()).unwrap()
}

fn crl_urls(point: &pkix::crl::dp::DistributionPoint) -> Vec<String> {
    match &point.distribution_point {
        Some(pkix::name::DistributionPointName::FullName(names)) => sort(names).0,
        other => panic!("{other:?}"),
    }
}

fn ip_address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(octets).unwrap().into(),
    }
}

/// RFC 7093 §2, method 4: the leftmost 160 bits of the SHA-256 of the SubjectPublicKeyInfo.
pub(crate) fn key_id(spki: &[u8]) -> Vec<u8> {
    Hash::of(spki).as_bytes()[..20].to_vec()
}

pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
pub(crate) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
pub(crate) const NO_REV_AVAIL: &str = "2.5.29.56";
