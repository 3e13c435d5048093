//! Lints: what is checked of the exact bytes before a key signs them.
//!
//! Sources: RFC 5280, X.509-SVID, RFC 9608, and the profile that the bytes were built by. Each
//! finding names its rule. [`certificate`] runs the rules that need no knowledge of the request
//! over any certificate, as `countersign lint` does.

use identity::SpiffeId;
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_CT_LIST_SCT, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::prelude::{FromDer, GeneralName};

use crate::dns_name::DnsName;
use crate::error::Error;
use crate::octets::{ip_address, is_one_value};

pub use crate::finding::Finding;

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

/// Rules that hold for every end-entity certificate, whoever asked for it.
pub(crate) fn standing_rules(tbs: &TbsCertificate<'_>, findings: &mut Findings) {
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

pub(crate) fn find<'a, 'b>(
    tbs: &'a TbsCertificate<'b>,
    oid: &Oid<'_>,
) -> Option<&'a X509Extension<'b>> {
    tbs.extensions().iter().find(|extension| extension.oid == *oid)
}

pub(crate) fn parse_tbs(bytes: &[u8]) -> Result<TbsCertificate<'_>, Error> {
    match TbsCertificate::from_der(bytes) {
        Ok(([], tbs)) => Ok(tbs),
        _ => Err(Error::Encoding("what was built is no TBSCertificate".to_owned())),
    }
}

fn no_rev_avail() -> Oid<'static> {
    Oid::from(NO_REV_AVAIL).expect("a constant OID is valid")
}

/// What is found while one certificate is linted.
#[derive(Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, rule: &'static str, detail: &str) {
        self.0.push(Finding { rule, detail: detail.to_owned() });
    }

    pub(crate) fn require(&mut self, holds: bool, rule: &'static str, otherwise: &str) {
        if !holds {
            self.add(rule, otherwise);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Lint(self.0)) }
    }
}

/// RFC 9608 §2: id-ce-noRevAvail.
pub(crate) const NO_REV_AVAIL: &[u64] = &[2, 5, 29, 56];
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
