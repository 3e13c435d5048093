//! What the bytes of one certificate must say, compared before a key signs them.

use std::net::IpAddr;

use time::OffsetDateTime;
use tlog::SignedCertificateTimestamp;
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_CT_LIST_SCT, OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::GeneralName;

use crate::dns_name::DnsName;
use crate::end_entity::EndEntity;
use crate::error::Error;
use crate::issuer::IssuerCertificate;
use crate::lint::{Findings, find, parse_tbs, standing_rules};
use crate::octets::ip_address;

/// What the bytes must say, from request, policy and profile.
pub(crate) struct Expected<'a> {
    pub(crate) end_entity: &'a EndEntity<'a>,
    pub(crate) issuer: &'a IssuerCertificate,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) common_name: Option<&'a DnsName>,
}

impl Expected<'_> {
    /// Lints an end-entity TBSCertificate bare, and once more with the largest countersignature.
    pub(crate) fn lint(&self, tbs: &[u8]) -> Result<(), Error> {
        let largest = SignedCertificateTimestamp::largest();
        let with_sct =
            tlog::splice_in(tbs, &largest).map_err(|e| Error::Encoding(e.to_string()))?;
        for (bytes, countersigned) in [(tbs, false), (&with_sct[..], true)] {
            let mut findings = Findings::default();
            let parsed = parse_tbs(bytes)?;
            standing_rules(&parsed, &mut findings);
            self.compare(&parsed, &mut findings);
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

    /// What was asked, allowed and profiled is what the bytes say: nothing less, nothing more.
    fn compare(&self, tbs: &TbsCertificate<'_>, findings: &mut Findings) {
        let asked = self.end_entity;
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
            tbs.validity.not_before.timestamp() == self.not_before.unix_timestamp()
                && tbs.validity.not_after.timestamp() == self.not_after.unix_timestamp(),
            rule,
            "the validity is another",
        );
        findings.require(
            self.not_before >= self.issuer.not_before()
                && self.not_after <= self.issuer.not_after(),
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
        let wanted: Vec<&str> = self.common_name.iter().map(|name| name.as_str()).collect();
        findings.require(
            common_names == wanted && tbs.subject.iter_attributes().count() == wanted.len(),
            rule,
            "the subject is another",
        );
    }
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

fn trim(octets: &[u8]) -> &[u8] {
    let start = octets.iter().position(|&octet| octet != 0).unwrap_or(octets.len());
    &octets[start..]
}
