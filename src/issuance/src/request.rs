//! Certificate requests: PKCS#10 in, a proven public key and wishes out.

use std::fmt;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use identity::{PemBlock, is_pem, pem_blocks, unmarked};
use serde::{Deserialize, Serialize};
use tlog::{Hash, SplitCertificate};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::bounds::MAX_REQUEST;
use crate::error::{Error, RequestRule};
use crate::request_info::{RequestInfo, broken, is_request, missing_from};
use crate::requested::Requested;
use crate::requested_names::RequestedNames;

/// A PKCS#10 request whose sender has proved possession of an acceptable key.
///
/// Names in it are wishes, put to policy together with those asked beside it, whichever attribute and
/// value has them. Attributes that ask for no extension are not read, and may be missing. A wish for
/// what no workload's certificate has is refused by its name where it matters (to be a CA, another
/// purpose than TLS, whatever is marked critical), and else is [`unheeded`](Self::unheeded).
/// Source: RFC 2986 §4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    der: Vec<u8>,
    public_key: Vec<u8>,
    key_type: KeyType,
    hash: Hash,
    names: RequestedNames,
    subject: Option<String>,
    unheeded: Vec<String>,
}

impl CertificateRequest {
    /// Parses one PEM block, verifies the self-signature and the key's kind. Text around the block is
    /// passed over; another block is not.
    pub fn parse_pem(text: &str) -> Result<Self, Error> {
        Self::parse_der(&only_block(text.as_bytes()).map_err(Error::Request)?)
    }

    /// Parses what a file holds: DER, or PEM with one request among whatever else is in it. Send
    /// [`der`](Self::der) then, and not the file: a private key may stand beside the request.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, Error> {
        let refuse = |why: String| Error::Request(RequestRule::Pem(why));
        let text = unmarked(bytes).map_err(|fault| refuse(fault.to_string()))?;
        if !is_pem(text) && bytes.first() == Some(&0x30) {
            return Self::parse_der(bytes);
        }
        let blocks = pem_blocks(text).map_err(|error| refuse(error.to_string()))?;
        let is_request = |block: &&PemBlock| LABELS.contains(&&*block.label);
        let requests: Vec<&PemBlock> = blocks.iter().filter(is_request).collect();
        match &requests[..] {
            [request] => Self::parse_der(&request.contents),
            // What is said of one that has none is said in one place.
            [] => only_block(text).map_err(Error::Request).and_then(|it| Self::parse_der(&it)),
            [..] => {
                let lines: Vec<String> = requests.iter().map(|it| it.line.to_string()).collect();
                Err(refuse(format!("it has several requests (lines {})", lines.join(", "))))
            }
        }
    }

    /// Parses DER; see [`CertificateRequest::parse_pem`].
    pub fn parse_der(der: &[u8]) -> Result<Self, Error> {
        parse(der).map_err(Error::Request)
    }

    /// The SubjectPublicKeyInfo, DER, exactly as the request has it.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The request, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
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

    /// What it calls itself, as people write a name; a certificate's subject is its profile's.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Extensions and attributes that it has and no certificate of ours will have, for a person to
    /// read. What would mean something else without them was refused.
    pub fn unheeded(&self) -> &[String] {
        &self.unheeded
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

fn only_block(text: &[u8]) -> Result<Vec<u8>, RequestRule> {
    if text.trim_ascii().is_empty() {
        return Err(RequestRule::Empty);
    }
    if text.len() > MAX_REQUEST * 4 / 3 + 1024 {
        return Err(RequestRule::TooLarge);
    }
    let mut blocks = pem_blocks(text).map_err(|error| RequestRule::Pem(error.to_string()))?;
    let other = blocks.iter().find(|block| !LABELS.contains(&&*block.label));
    let why = match (blocks.len(), other) {
        (0, _) => "it has no PEM block: expected one CERTIFICATE REQUEST".to_owned(),
        (_, Some(PemBlock { label, line, .. })) => {
            format!(
                "its PEM has a block {label} (line {line}): expected one CERTIFICATE REQUEST, and no other"
            )
        }
        (1, None) => return Ok(blocks.remove(0).contents),
        (count, None) => format!("its PEM has {count} requests: expected one"),
    };
    Err(RequestRule::Pem(why))
}

fn parse(der: &[u8]) -> Result<CertificateRequest, RequestRule> {
    if der.is_empty() {
        return Err(RequestRule::Empty);
    }
    if der.len() > MAX_REQUEST {
        return Err(RequestRule::TooLarge);
    }
    if !is_request(der) {
        return Err(RequestRule::Malformed);
    }
    if let Some(missing) = missing_from(der) {
        return Err(broken("end", &format!("{missing} bytes are missing")));
    }
    match Any::from_der(der) {
        Ok(([], _)) => {}
        Ok(_) => return Err(RequestRule::TrailingBytes),
        Err(_) => return Err(broken("encoding", "it is not DER")),
    }
    // Three elements, and nothing behind them that nobody signed.
    let parts = tlog::split_certificate(der).map_err(|error| match error {
        tlog::Error::SignatureUnusedBits => RequestRule::Signature,
        _ => broken("signature", "it is not an algorithm and a BIT STRING, and nothing else"),
    })?;
    let info = RequestInfo::parse(parts.tbs)?;
    let key_type = key_type(&info.spki)?;
    verify_possession(&info.spki, &parts, key_type)?;
    let Requested { names, mut unheeded } = Requested::of(&info.asked.extensions)?;
    unheeded.extend(info.asked.unread);
    let public_key = info.spki.raw.to_vec();
    let (der, hash) = (der.to_vec(), Hash::of(der));
    let subject = info.subject;
    Ok(CertificateRequest { der, public_key, key_type, hash, names, subject, unheeded })
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
    spki: &SubjectPublicKeyInfo<'_>,
    parts: &SplitCertificate<'_>,
    key_type: KeyType,
) -> Result<(), RequestRule> {
    let (_, identifier) = AlgorithmIdentifier::from_der(parts.signature_algorithm)
        .map_err(|_| broken("signature algorithm", "it is no AlgorithmIdentifier"))?;
    let oid = &identifier.algorithm;
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
        return Err(broken("signature algorithm", "it has parameters, and none belong there"));
    }
    let key = &spki.subject_public_key.data;
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

/// RFC 7468 §7.
const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
