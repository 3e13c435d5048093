//! What a certificate request asks for: names that are taken, and wishes that are refused by name.
//!
//! A workload's certificate is for both ends of TLS, says nothing of other CAs, and is no CA. Whoever
//! asks for more hears so, and whoever asks for what is neither given nor contrary (a key usage that
//! TLS 1.3 has no use for, a policy) finds it among [`Requested::unheeded`].

use x509_parser::asn1_rs::oid;
use x509_parser::extensions::{ExtendedKeyUsage, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES,
    OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_ISSUER_ALT_NAME, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};

use crate::error::RequestRule;
use crate::octets::is_one_value;
use crate::request_info::broken;
use crate::requested_names::RequestedNames;

/// What its extensions ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requested {
    pub(crate) names: RequestedNames,
    /// What was asked for and will not be in the certificate.
    pub(crate) unheeded: Vec<String>,
}

impl Requested {
    pub(crate) fn of(extensions: &[X509Extension<'_>]) -> Result<Self, RequestRule> {
        let mut requested = Self::default();
        let mut names: Vec<RequestedNames> = Vec::new();
        for extension in extensions {
            let parsed = readable(extension)?;
            match parsed {
                ParsedExtension::SubjectAlternativeName(asked) => {
                    let mut these = RequestedNames::default();
                    asked.general_names.iter().try_for_each(|name| these.add(name))?;
                    // Some tools ask twice for the same, by PKCS #9's attribute and Microsoft's.
                    if !names.contains(&these) {
                        names.push(these);
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(RequestRule::CertificateAuthority);
                }
                ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                    return Err(RequestRule::CertificateAuthority);
                }
                ParsedExtension::BasicConstraints(_) => {}
                ParsedExtension::KeyUsage(usage) => {
                    requested.unheeded.extend(other_usages(usage));
                }
                ParsedExtension::ExtendedKeyUsage(usage) => only_tls(usage)?,
                _ => requested.unheeded.extend(unknown(extension)?),
            }
        }
        for these in names {
            requested.names.join(these)?;
        }
        Ok(requested)
    }
}

/// Passing over a broken one that is read would lose a wish.
fn readable<'a>(extension: &'a X509Extension<'_>) -> Result<&'a ParsedExtension<'a>, RequestRule> {
    let Some(part) = READ.iter().find(|(oid, _)| *oid == extension.oid).map(|(_, part)| *part)
    else {
        return Ok(extension.parsed_extension());
    };
    match extension.parsed_extension() {
        ParsedExtension::ParseError { .. } => Err(broken(part, "it is not as RFC 5280 has it")),
        _ if !is_one_value(extension.value) => Err(broken(part, "it is not the DER of one value")),
        parsed => Ok(parsed),
    }
}

/// Our certificates are for signatures: what TLS 1.3 uses a key for.
fn other_usages(usage: &KeyUsage) -> Option<String> {
    let names = [
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    let asked: Vec<&str> =
        names.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    (!asked.is_empty()).then(|| format!("keyUsage {}", asked.join(", ")))
}

fn only_tls(usage: &ExtendedKeyUsage<'_>) -> Result<(), RequestRule> {
    let named = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = named.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    let other = usage.other.iter().map(ToString::to_string);
    match named.chain(other).next() {
        None => Ok(()),
        Some(purpose) => Err(RequestRule::Extension(format!(
            "extendedKeyUsage {purpose}: certificates are for serverAuth and clientAuth, and \
             nothing else"
        ))),
    }
}

/// Refused where it must not be passed over (RFC 5280 §4.2), or would mean something else to whoever
/// reads the certificate without it.
fn unknown(extension: &X509Extension<'_>) -> Result<Option<String>, RequestRule> {
    let oid = &extension.oid;
    let name = NAMED.iter().find(|(known, _)| known == oid).map(|(_, name)| (*name).to_owned());
    let name = name.unwrap_or_else(|| oid.to_string());
    if REFUSED.contains(&&*name) {
        return Err(RequestRule::Extension(format!("{name}: no certificate of this CA has it")));
    }
    if extension.critical {
        let why = format!("{name}, which is marked critical and no certificate of this CA has");
        return Err(RequestRule::Extension(why));
    }
    // Each certificate has one, of its own making.
    Ok((*oid != OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).then_some(name))
}

/// The extensions whose wishes count.
static READ: [(Oid<'static>, &str); 4] = [
    (OID_X509_EXT_SUBJECT_ALT_NAME, "subjectAltName"),
    (OID_X509_EXT_BASIC_CONSTRAINTS, "basicConstraints"),
    (OID_X509_EXT_KEY_USAGE, "keyUsage"),
    (OID_X509_EXT_EXTENDED_KEY_USAGE, "extendedKeyUsage"),
];
const NAMED: [(Oid<'static>, &str); 4] = [
    (OID_X509_EXT_NAME_CONSTRAINTS, "nameConstraints"),
    (OID_X509_EXT_ISSUER_ALT_NAME, "issuerAltName"),
    (OID_X509_EXT_CERTIFICATE_POLICIES, "certificatePolicies"),
    (oid!(1.3.6.1.5.5.7.1.24), "tlsFeature (OCSP must-staple)"),
];
const REFUSED: [&str; 2] = ["nameConstraints", "tlsFeature (OCSP must-staple)"];
