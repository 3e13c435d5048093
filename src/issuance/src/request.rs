//! Certificate requests: PKCS#10 in, a proven public key and wishes out.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use identity::SpiffeId;
use serde::{Deserialize, Serialize};
use tlog::{Hash, SplitCertificate};
use x509_parser::asn1_rs::Tag;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::dns_name::DnsName;
use crate::error::{Error, RequestRule};
use crate::lint::is_one_value;

/// A PKCS#10 request whose sender has proved possession of an acceptable key.
///
/// Names in it are wishes, put to policy together with those asked beside it; every other
/// attribute and extension is ignored, but for a wish to be a CA, which is refused.
/// Source: RFC 2986 §4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    public_key: Vec<u8>,
    key_type: KeyType,
    hash: Hash,
    names: RequestedNames,
}

/// Names that a request carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// Its URI SAN.
    pub spiffe_id: Option<SpiffeId>,
    /// Its DNS SANs.
    pub dns: Vec<DnsName>,
    /// Its IP SANs.
    pub ip: Vec<IpAddr>,
}

impl CertificateRequest {
    /// Parses one PEM block, verifies the self-signature and the key's kind.
    pub fn parse_pem(text: &str) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Err(Error::Request(RequestRule::Empty));
        }
        if text.len() > MAX_REQUEST * 4 / 3 + 1024 {
            return Err(Error::Request(RequestRule::TooLarge));
        }
        let mut blocks = Pem::iter_from_buffer(text.as_bytes());
        let block = match blocks.next() {
            Some(Ok(block)) if LABELS.contains(&block.label.as_str()) => block,
            _ => return Err(Error::Request(RequestRule::Pem)),
        };
        if blocks.next().is_some() {
            return Err(Error::Request(RequestRule::Pem));
        }
        Self::parse_der(&block.contents)
    }

    /// Parses DER; see [`CertificateRequest::parse_pem`].
    pub fn parse_der(der: &[u8]) -> Result<Self, Error> {
        parse(der).map_err(Error::Request)
    }

    /// The SubjectPublicKeyInfo, DER, exactly as the request has it.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The key's kind.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// SHA-256 of the request's DER: the same request again has the same.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The names it wishes for.
    pub fn names(&self) -> &RequestedNames {
        &self.names
    }
}

/// Kinds of keys that we certify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
    /// EdDSA on Curve25519.
    Ed25519,
    /// RSA with 2048 to 4096 bits.
    Rsa,
}

impl KeyType {
    /// The name that policy and configuration use.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn parse(der: &[u8]) -> Result<CertificateRequest, RequestRule> {
    if der.is_empty() {
        return Err(RequestRule::Empty);
    }
    if der.len() > MAX_REQUEST {
        return Err(RequestRule::TooLarge);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| RequestRule::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestRule::TrailingBytes);
    }
    // x509-parser passes over other tags and over what follows the signature.
    let parts = tlog::split_certificate(der).map_err(|error| match error {
        tlog::Error::SignatureUnusedBits => RequestRule::Signature,
        _ => RequestRule::Malformed,
    })?;
    let spki = &request.certification_request_info.subject_pki;
    let key_type = key_type(spki)?;
    verify_possession(&request, &parts, key_type)?;
    let names = requested_names(&request)?;
    Ok(CertificateRequest { public_key: spki.raw.to_vec(), key_type, hash: Hash::of(der), names })
}

/// Determines the kind from the key itself, never from the signature's algorithm.
fn key_type(spki: &SubjectPublicKeyInfo<'_>) -> Result<KeyType, RequestRule> {
    let unsupported = |found: &str| Err(RequestRule::Key(found.to_owned()));
    let algorithm = &spki.algorithm.algorithm;
    let parameters = spki.algorithm.parameters.as_ref();
    if *algorithm == OID_SIG_ED25519 {
        return match spki.subject_public_key.data.len() {
            32 if parameters.is_none() => Ok(KeyType::Ed25519),
            _ => unsupported("a malformed Ed25519 key"),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let bits = match spki.parsed() {
            Ok(PublicKey::RSA(key)) => bits(key.modulus),
            _ => 0,
        };
        return match bits {
            _ if parameters.is_none_or(|any| any.tag() != Tag::Null) => {
                unsupported("RSA without NULL parameters")
            }
            0 => unsupported("a malformed RSA key"),
            2048..=4096 => Ok(KeyType::Rsa),
            bits => unsupported(&format!("RSA of {bits} bits")),
        };
    }
    if *algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return unsupported(&format!("of algorithm {algorithm}"));
    }
    let curve = parameters.filter(|any| any.tag() == Tag::Oid).and_then(|any| any.as_oid().ok());
    let point = &spki.subject_public_key.data;
    match curve {
        Some(curve) if curve == OID_EC_P256 && is_uncompressed(point, 65) => Ok(KeyType::EcdsaP256),
        Some(curve) if curve == OID_NIST_EC_P384 && is_uncompressed(point, 97) => {
            Ok(KeyType::EcdsaP384)
        }
        Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => {
            unsupported("an EC point in compressed form")
        }
        Some(curve) => unsupported(&format!("on elliptic curve {curve}")),
        None => unsupported("on an elliptic curve without a name"),
    }
}

/// How many bits the modulus has, leading zeros not counted.
fn bits(modulus: &[u8]) -> usize {
    let zeros = modulus.iter().take_while(|&&octet| octet == 0).count();
    let significant = &modulus[zeros..];
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}

/// SEC 1 §2.3.3: 04 and both coordinates. The other forms are legal and too rare to certify.
fn is_uncompressed(point: &[u8], length: usize) -> bool {
    point.len() == length && point[0] == 4
}

/// RFC 2986 §4.2: the signature proves that the sender has the private key.
fn verify_possession(
    request: &X509CertificationRequest<'_>,
    parts: &SplitCertificate<'_>,
    key_type: KeyType,
) -> Result<(), RequestRule> {
    let oid = &request.signature_algorithm.algorithm;
    let algorithm: &'static dyn VerificationAlgorithm = match key_type {
        KeyType::EcdsaP256 if *oid == OID_SIG_ECDSA_WITH_SHA256 => {
            &signature::ECDSA_P256_SHA256_ASN1
        }
        KeyType::EcdsaP256 if *oid == OID_SIG_ECDSA_WITH_SHA384 => {
            &signature::ECDSA_P256_SHA384_ASN1
        }
        KeyType::EcdsaP384 if *oid == OID_SIG_ECDSA_WITH_SHA256 => {
            &signature::ECDSA_P384_SHA256_ASN1
        }
        KeyType::EcdsaP384 if *oid == OID_SIG_ECDSA_WITH_SHA384 => {
            &signature::ECDSA_P384_SHA384_ASN1
        }
        KeyType::Ed25519 if *oid == OID_SIG_ED25519 => &signature::ED25519,
        KeyType::Rsa if *oid == OID_PKCS1_SHA256WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA256,
        KeyType::Rsa if *oid == OID_PKCS1_SHA384WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA384,
        KeyType::Rsa if *oid == OID_PKCS1_SHA512WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return Err(RequestRule::SignatureAlgorithm(algorithm_name(&oid.to_string()))),
    };
    if !is_identifier_of(parts.signature_algorithm, oid) {
        return Err(RequestRule::Malformed);
    }
    let key = &request.certification_request_info.subject_pki.subject_public_key.data;
    UnparsedPublicKey::new(algorithm, key)
        .verify(parts.tbs, parts.signature)
        .map_err(|_| RequestRule::Signature)
}

/// Whether the AlgorithmIdentifier is this OID with no parameters, or NULL (RFC 4055 §5: both).
fn is_identifier_of(identifier: &[u8], oid: &Oid<'_>) -> bool {
    let oid = oid.as_bytes();
    let content = [&[0x06, oid.len() as u8], oid].concat();
    [&content[..], &[&content[..], &[0x05, 0x00]].concat()]
        .iter()
        .any(|content| identifier == [&[0x30, content.len() as u8], *content].concat())
}

/// Names the algorithms that people really send and we refuse.
fn algorithm_name(oid: &str) -> String {
    match oid {
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => "SHA-1".to_owned(),
        "1.2.840.113549.1.1.4" => "MD5".to_owned(),
        "1.2.840.113549.1.1.10" => "RSA-PSS".to_owned(),
        "1.2.840.10045.4.3.4" => "SHA-512".to_owned(),
        other => format!("algorithm {other}"),
    }
}

fn requested_names(request: &X509CertificationRequest<'_>) -> Result<RequestedNames, RequestRule> {
    let mut names = RequestedNames::default();
    let requested =
        request.certification_request_info.iter_attributes().filter_map(
            |attribute| match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
                _ => None,
            },
        );
    for extension in requested.flatten() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(RequestRule::CertificateAuthority);
            }
            ParsedExtension::ParseError { .. } if is_read(&extension.oid) => {
                return Err(RequestRule::Malformed);
            }
            _ if is_read(&extension.oid) && !is_one_value(extension.value) => {
                return Err(RequestRule::Malformed);
            }
            ParsedExtension::SubjectAlternativeName(requested) => {
                requested.general_names.iter().try_for_each(|name| names.add(name))?;
            }
            _ => {}
        }
    }
    Ok(names)
}

/// The extensions whose wishes count: passing over a broken one would lose a wish.
fn is_read(oid: &Oid<'_>) -> bool {
    *oid == OID_X509_EXT_SUBJECT_ALT_NAME || *oid == OID_X509_EXT_BASIC_CONSTRAINTS
}

impl RequestedNames {
    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), RequestRule> {
        let refuse = |why: String| Err(RequestRule::Names(why));
        match name {
            GeneralName::URI(uri) if self.spiffe_id.is_none() => match SpiffeId::parse(uri) {
                Ok(id) => self.spiffe_id = Some(id),
                Err(error) => return refuse(error.to_string()),
            },
            GeneralName::URI(_) => return refuse("it has more than one URI name".to_owned()),
            GeneralName::DNSName(name) => match DnsName::parse(name) {
                Ok(name) => self.dns.push(name),
                Err(error) => return refuse(error.to_string()),
            },
            GeneralName::IPAddress(octets) => match ip_address(octets) {
                Some(address) => self.ip.push(address),
                None => return refuse("an IP name has neither 4 nor 16 octets".to_owned()),
            },
            _ => {
                return refuse(
                    "it asks for a name that is neither URI, DNS nor IP: remove it".to_owned(),
                );
            }
        }
        if self.dns.len() + self.ip.len() > MAX_NAMES {
            return refuse(format!("it asks for more than {MAX_NAMES} names"));
        }
        Ok(())
    }
}

/// RFC 5280 §4.2.1.6: 4 octets for IPv4, 16 for IPv6.
pub(crate) fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// RFC 7468 §7.
const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
/// A request with a 4096-bit RSA key and a hundred names fits well.
const MAX_REQUEST: usize = 16 * 1024;
/// More DNS and IP names than this is no workload.
pub(crate) const MAX_NAMES: usize = 100;
