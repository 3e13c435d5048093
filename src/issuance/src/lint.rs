//! Lints: what is checked of the exact bytes before a key signs them.
//!
//! Sources: RFC 5280, X.509-SVID, RFC 9608, and the profile that the bytes were built by. Each
//! finding names its rule. [`certificate`] runs the rules that need no knowledge of the request
//! over any certificate, as `countersign lint` does.

use std::fmt;
use std::net::IpAddr;

use identity::SpiffeId;
use time::OffsetDateTime;
use tlog::SignedCertificateTimestamp;
use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_CT_LIST_SCT, OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::prelude::{FromDer, GeneralName};

use crate::dns_name::DnsName;
use crate::error::Error;
use crate::issuer::IssuerCertificate;
use crate::profile::{EndEntity, NO_REV_AVAIL};
use crate::request::ip_address;

/// A rule that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule and where it stands: `RFC 5280 §4.1.2.2`.
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.rule)
    }
}

/// Lints any end-entity certificate by the rules of RFC 5280 and X.509-SVID.
pub fn certificate(der: &[u8]) -> Vec<Finding> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => {
            let mut findings = Findings::default();
            let whole = &parsed;
            findings.require(
                whole.signature_algorithm == whole.tbs_certificate.signature,
                "RFC 5280 §4.1.1.2",
                "the two signature algorithms differ",
            );
            standing_rules(&parsed, &mut findings);
            findings.0
        }
        _ => vec![Finding {
            rule: "RFC 5280 §4.1",
            detail: "it is not one DER certificate".to_owned(),
        }],
    }
}

/// What the bytes must say, from request, policy and profile.
pub(crate) struct Expected<'a> {
    pub(crate) end_entity: &'a EndEntity<'a>,
    pub(crate) issuer: &'a IssuerCertificate,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) common_name: Option<&'a DnsName>,
}

/// Lints an end-entity TBSCertificate bare, and once more with the largest countersignature.
pub(crate) fn end_entity(tbs: &[u8], expected: &Expected<'_>) -> Result<(), Error> {
    let largest = SignedCertificateTimestamp::largest();
    let with_sct = tlog::splice_in(tbs, &largest).map_err(|e| Error::Encoding(e.to_string()))?;
    for (bytes, countersigned) in [(tbs, false), (&with_sct[..], true)] {
        let mut findings = Findings::default();
        let parsed = parse_tbs(bytes)?;
        standing_rules(&parsed, &mut findings);
        as_expected(&parsed, expected, &mut findings);
        let last_is_sct = parsed.extensions().last().is_some_and(|e| e.oid == OID_CT_LIST_SCT);
        findings.require(
            last_is_sct == countersigned,
            "Countersign profile",
            "the countersignature is not the last extension",
        );
        findings.into_result()?;
    }
    Ok(())
}

/// Lints a CA certificate's bytes to sign: RFC 5280's rules for CAs, and ours.
pub fn ca_tbs(tbs: &[u8]) -> Result<(), Error> {
    ca_rules(&parse_tbs(tbs)?)
}

/// Lints a CA certificate that we are to issue under.
pub(crate) fn ca_certificate(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    ca_rules(&certificate.tbs_certificate)
}

/// The key identifier that certificates below this issuer name.
pub(crate) fn subject_key_id(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, Error> {
    find_subject_key_id(&certificate.tbs_certificate)
        .ok_or_else(|| Error::Encoding("the issuer has no subject key identifier".to_owned()))
}

pub(crate) fn issuer_key_id(issuer: &IssuerCertificate) -> Result<Vec<u8>, Error> {
    match X509Certificate::from_der(issuer.der()) {
        Ok((_, certificate)) => subject_key_id(&certificate),
        Err(error) => Err(Error::Encoding(error.to_string())),
    }
}

/// Rules that hold for every end-entity certificate, whoever asked for it.
fn standing_rules(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    shape(tbs, findings);
    names(tbs, findings);
    usages(tbs, findings);
    identifiers(tbs, findings);
    extensions(tbs, findings);
}

fn shape(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    let serial = tbs.raw_serial();
    findings.require(tbs.version().0 == 2, "RFC 5280 §4.1.2.1", "it is not version 3");
    findings.require(
        serial.first().is_some_and(|first| first & 0x80 == 0)
            && serial.iter().any(|&octet| octet != 0)
            && serial.len() <= 20,
        "RFC 5280 §4.1.2.2",
        "the serial number is not positive and of at most 20 octets",
    );
    let validity = &tbs.validity;
    findings.require(
        validity.not_before < validity.not_after,
        "RFC 5280 §4.1.2.5",
        "it ends before it begins",
    );
    for time in [&validity.not_before, &validity.not_after] {
        findings.require(
            time.is_utctime() == (time.to_datetime().year() < 2050),
            "RFC 5280 §4.1.2.5",
            "UTCTime stands through 2049, GeneralizedTime after",
        );
    }
    findings.require(
        tbs.issuer.iter_attributes().next().is_some(),
        "RFC 5280 §4.1.2.4",
        "the issuer's name is empty",
    );
}

fn names(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    let Some(extension) = find(tbs, &OID_X509_EXT_SUBJECT_ALT_NAME) else {
        findings.add("X.509-SVID §2", "there is no subjectAltName");
        return;
    };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        findings.add("RFC 5280 §4.2.1.6", "the subjectAltName cannot be parsed");
        return;
    };
    let subject_is_empty = tbs.subject.iter_attributes().next().is_none();
    findings.require(
        extension.critical == subject_is_empty,
        "RFC 5280 §4.2.1.6",
        "the subjectAltName is critical exactly where the subject is empty",
    );
    let mut uris = 0;
    for name in &names.general_names {
        match name {
            GeneralName::URI(uri) => {
                uris += 1;
                let id = SpiffeId::parse(uri).ok();
                findings.require(
                    id.is_some_and(|id| !id.path().is_empty()),
                    "X.509-SVID §2",
                    "the URI name is no SPIFFE ID of a workload",
                );
            }
            GeneralName::DNSName(dns) => findings.require(
                DnsName::parse(dns).is_ok(),
                "RFC 5280 §4.2.1.6",
                "a DNS name breaks its syntax",
            ),
            GeneralName::IPAddress(octets) => findings.require(
                ip_address(octets).is_some(),
                "RFC 5280 §4.2.1.6",
                "an IP name has neither 4 nor 16 octets",
            ),
            _ => findings.add("X.509-SVID §2", "a name is neither URI, DNS nor IP"),
        }
    }
    findings.require(uris == 1, "X.509-SVID §2", "it has not exactly one URI name");
}

fn usages(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    let usage = find(tbs, &OID_X509_EXT_KEY_USAGE);
    let only_signature = usage.is_some_and(|extension| match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => extension.critical && usage.flags == 1,
        _ => false,
    });
    findings.require(
        only_signature,
        "X.509-SVID §4.3",
        "key usage is not critical and exactly digitalSignature",
    );
    let extended = find(tbs, &OID_X509_EXT_EXTENDED_KEY_USAGE);
    let both = extended.is_some_and(|extension| match extension.parsed_extension() {
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let others = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            usage.server_auth && usage.client_auth && !others
        }
        _ => false,
    });
    findings.require(
        both,
        "X.509-SVID §4.4",
        "extended key usage is not exactly serverAuth and clientAuth",
    );
    let constraints = find(tbs, &OID_X509_EXT_BASIC_CONSTRAINTS);
    let no_ca = constraints.is_none_or(|extension| match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(c) => !c.ca && c.path_len_constraint.is_none(),
        _ => false,
    });
    findings.require(no_ca, "X.509-SVID §4.1", "basicConstraints does not say cA=false");
}

fn identifiers(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    let authority = find(tbs, &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER);
    let names_key = authority.is_some_and(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            !extension.critical && id.key_identifier.is_some()
        }
        _ => false,
    });
    findings.require(
        names_key,
        "RFC 5280 §4.2.1.1",
        "the authority key identifier is missing or critical",
    );
    findings.require(
        find_subject_key_id(tbs).is_some_and(|id| !id.is_empty() && id.len() <= 20),
        "RFC 5280 §4.2.1.2",
        "the subject key identifier is missing or critical",
    );
}

fn extensions(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
    let no_rev_avail = no_rev_avail();
    let mut seen: Vec<&Oid<'_>> = Vec::new();
    for extension in tbs.extensions() {
        let known = KNOWN.contains(&extension.oid) || extension.oid == no_rev_avail;
        if !known {
            findings.0.push(Finding {
                rule: "Countersign profile",
                detail: format!("extension {} is not among those we issue", extension.oid),
            });
        }
        findings.require(
            !seen.contains(&&extension.oid),
            "RFC 5280 §4.2",
            "an extension stands twice",
        );
        seen.push(&extension.oid);
        let unread = matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
        findings.require(
            unread || is_one_value(extension.value),
            "RFC 5280 §4.2",
            "an extension's value is not the DER of one ASN.1 value",
        );
    }
    let points = find(tbs, &OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
    let names_some = points.is_none_or(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => {
            !extension.critical && !points.points.is_empty()
        }
        _ => false,
    });
    findings.require(
        names_some,
        "RFC 5280 §4.2.1.13",
        "the CRL distribution points are critical, or name none",
    );
    findings.require(
        find(tbs, &no_rev_avail).is_none_or(|e| !e.critical && e.value == NULL),
        "RFC 9608 §2",
        "noRevAvail is critical, or not NULL",
    );
    findings.require(
        find(tbs, &no_rev_avail).is_none()
            || find(tbs, &OID_X509_EXT_CRL_DISTRIBUTION_POINTS).is_none(),
        "RFC 9608 §2",
        "noRevAvail stands beside a CRL distribution point",
    );
}

/// What was asked, allowed and profiled is what the bytes say: nothing less, nothing more.
fn as_expected(tbs: &TbsCertificate<'_>, expected: &Expected<'_>, findings: &mut Findings) {
    let asked = expected.end_entity;
    let rule = "as requested";
    findings.require(
        tbs.signature.algorithm == OID_SIG_ECDSA_WITH_SHA256,
        rule,
        "the signature algorithm is not the issuer's",
    );
    findings.require(
        tbs.subject_pki.raw == asked.public_key,
        rule,
        "the public key is not the one whose possession was proved",
    );
    findings.require(
        trim(tbs.raw_serial()) == asked.serial_number.as_octets(),
        rule,
        "the serial number is another",
    );
    findings.require(
        tbs.validity.not_before.timestamp() == expected.not_before.unix_timestamp()
            && tbs.validity.not_after.timestamp() == expected.not_after.unix_timestamp(),
        rule,
        "the validity is another",
    );
    findings.require(
        expected.not_before >= expected.issuer.not_before()
            && expected.not_after <= expected.issuer.not_after(),
        "Countersign profile",
        "the validity leaves the issuer's",
    );
    let (dns, ip, uri) = sorted_names(tbs);
    findings.require(uri == [asked.spiffe_id.as_str()], rule, "the SPIFFE ID is another");
    findings.require(
        dns == asked.dns.iter().map(DnsName::as_str).collect::<Vec<_>>(),
        rule,
        "the DNS names are others",
    );
    findings.require(ip == asked.ip, rule, "the IP names are others");
    let common_names: Vec<&str> =
        tbs.subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    let wanted: Vec<&str> = expected.common_name.iter().map(|name| name.as_str()).collect();
    findings.require(
        common_names == wanted && tbs.subject.iter_attributes().count() == wanted.len(),
        rule,
        "the subject is another",
    );
}

fn sorted_names<'a>(tbs: &'a TbsCertificate<'_>) -> (Vec<&'a str>, Vec<IpAddr>, Vec<&'a str>) {
    let (mut dns, mut ip, mut uri) = (Vec::new(), Vec::new(), Vec::new());
    let names = find(tbs, &OID_X509_EXT_SUBJECT_ALT_NAME).map(X509Extension::parsed_extension);
    if let Some(ParsedExtension::SubjectAlternativeName(names)) = names {
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push(*name),
                GeneralName::URI(name) => uri.push(*name),
                GeneralName::IPAddress(octets) => ip.extend(ip_address(octets)),
                _ => {}
            }
        }
    }
    (dns, ip, uri)
}

fn ca_rules(tbs: &TbsCertificate<'_>) -> Result<(), Error> {
    let mut findings = Findings::default();
    shape(tbs, &mut findings);
    let constraints = find(tbs, &OID_X509_EXT_BASIC_CONSTRAINTS);
    findings.require(
        constraints.is_some_and(|extension| match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => extension.critical && constraints.ca,
            _ => false,
        }),
        "RFC 5280 §4.2.1.9",
        "basicConstraints is not critical with cA=true",
    );
    let usage = find(tbs, &OID_X509_EXT_KEY_USAGE);
    findings.require(
        usage.is_some_and(|extension| match extension.parsed_extension() {
            ParsedExtension::KeyUsage(u) => extension.critical && u.key_cert_sign() && u.crl_sign(),
            _ => false,
        }),
        "RFC 5280 §4.2.1.3",
        "key usage is not critical with keyCertSign and cRLSign",
    );
    findings.require(
        find_subject_key_id(tbs).is_some(),
        "RFC 5280 §4.2.1.2",
        "a CA certificate needs a subject key identifier",
    );
    let uri_constraint = tbs.name_constraints().ok().flatten().is_some_and(|extension| {
        let trees = [&extension.value.permitted_subtrees, &extension.value.excluded_subtrees];
        trees.into_iter().flatten().flatten().any(|t| matches!(t.base, GeneralName::URI(_)))
    });
    findings.require(
        !uri_constraint,
        "Countersign profile",
        "a URI name constraint makes rustls refuse every SVID below",
    );
    findings.into_result()
}

fn find_subject_key_id(tbs: &TbsCertificate<'_>) -> Option<Vec<u8>> {
    let extension = find(tbs, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)?;
    match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) if !extension.critical => Some(id.0.to_vec()),
        _ => None,
    }
}

fn find<'a, 'b>(tbs: &'a TbsCertificate<'b>, oid: &Oid<'_>) -> Option<&'a X509Extension<'b>> {
    tbs.extensions().iter().find(|extension| extension.oid == *oid)
}

fn parse_tbs(bytes: &[u8]) -> Result<TbsCertificate<'_>, Error> {
    match TbsCertificate::from_der(bytes) {
        Ok(([], tbs)) => Ok(tbs),
        _ => Err(Error::Encoding("what was built is no TBSCertificate".to_owned())),
    }
}

/// RFC 5280 §4.2, of an extension's value: x509-parser passes over what follows it, and over a tag
/// that DER does not know.
pub(crate) fn is_one_value(value: &[u8]) -> bool {
    Any::from_der(value).is_ok_and(|(rest, any)| {
        let constructed = matches!(any.tag(), Tag::Sequence | Tag::Set);
        rest.is_empty()
            && any.class() == Class::Universal
            && any.header.constructed() == constructed
    })
}

fn trim(octets: &[u8]) -> &[u8] {
    let start = octets.iter().position(|&octet| octet != 0).unwrap_or(octets.len());
    &octets[start..]
}

fn no_rev_avail() -> Oid<'static> {
    Oid::from(NO_REV_AVAIL).expect("a constant OID is valid")
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, rule: &'static str, detail: &str) {
        self.0.push(Finding { rule, detail: detail.to_owned() });
    }

    fn require(&mut self, holds: bool, rule: &'static str, otherwise: &str) {
        if !holds {
            self.add(rule, otherwise);
        }
    }

    fn into_result(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Lint(self.0)) }
    }
}

/// X.690 §8.8.
const NULL: &[u8] = &[0x05, 0x00];

const KNOWN: &[Oid<'static>] = &[
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    OID_CT_LIST_SCT,
];
