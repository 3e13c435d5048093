//! A certificate in words.

use identity::SerialNumber;
use serde::Serialize;
use time::OffsetDateTime;
use tlog::SignedCertificateTimestamp;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::{GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::chain;
use crate::table;

/// What a certificate says; nothing of it is verified.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    subject: String,
    issuer: String,
    serial_number: String,
    /// URI names; an SVID has exactly one, a SPIFFE ID.
    uri: Vec<String>,
    dns: Vec<String>,
    ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_names: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    not_before: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    not_after: OffsetDateTime,
    public_key: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    public_key_sha256: String,
    is_ca: bool,
    key_usage: String,
    extended_key_usage: Vec<&'static str>,
    countersignature: Countersignature,
}

/// The SCT in a certificate.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Countersignature {
    Absent { absent: String },
    Present { log_id: String, leaf_index: u64, at: String },
}

impl Description {
    /// Describes a certificate, `der` being its bytes.
    pub(crate) fn new(certificate: &X509Certificate<'_>, der: &[u8]) -> Self {
        let spki = certificate.public_key();
        let validity = certificate.validity();
        let mut description = Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial_number: serial_number(certificate.raw_serial()),
            uri: vec![],
            dns: vec![],
            ip: vec![],
            other_names: vec![],
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            public_key: key_name(spki),
            public_key_sha256: chain::sha256_hex(spki.raw),
            is_ca: certificate.is_ca(),
            key_usage: key_usage(certificate),
            extended_key_usage: extended_key_usage(certificate),
            countersignature: countersignature(der),
        };
        description.take_names(certificate);
        description
    }

    /// The description as aligned lines.
    pub(crate) fn to_text(&self, now: OffsetDateTime) -> String {
        let time = |time| format!("{} ({})", table::time(time), table::distance(time, now));
        let or_none = |text: &str| if text.is_empty() { "none" } else { text }.to_owned();
        let mut fields = vec![("subject", or_none(&self.subject))];
        let names = [
            ("URI name", &self.uri),
            ("DNS name", &self.dns),
            ("IP name", &self.ip),
            ("other name", &self.other_names),
        ];
        for (name, values) in names {
            fields.extend(values.iter().map(|value| (name, value.clone())));
        }
        fields.extend([
            ("serial", self.serial_number.clone()),
            ("not before", time(self.not_before)),
            ("not after", time(self.not_after)),
            ("issuer", or_none(&self.issuer)),
            ("key", self.public_key.clone()),
            ("key SHA-256", self.public_key_sha256.clone()),
            ("CA", if self.is_ca { "yes" } else { "no" }.to_owned()),
            ("key usage", or_none(&self.key_usage)),
            ("extended", or_none(&self.extended_key_usage.join(", "))),
        ]);
        match &self.countersignature {
            Countersignature::Absent { absent } => fields.push(("SCT", absent.clone())),
            Countersignature::Present { log_id, leaf_index, at } => fields.extend([
                ("SCT log", log_id.clone()),
                ("SCT index", leaf_index.to_string()),
                ("SCT time", at.clone()),
            ]),
        }
        table::fields(&fields)
    }

    /// Whose it is, and until when.
    pub(crate) fn to_line(&self, now: OffsetDateTime) -> String {
        let name = if self.subject.is_empty() { self.uri.join(", ") } else { self.subject.clone() };
        let word = if self.not_after < now { "EXPIRED" } else { "expires" };
        format!("{name}; {word} {}", table::distance(self.not_after, now))
    }

    fn take_names(&mut self, certificate: &X509Certificate<'_>) {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(dns) => self.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(octets) => self.ip.push(chain::ip(octets)),
                GeneralName::URI(uri) => self.uri.push((*uri).to_owned()),
                other => self.other_names.push(other.to_string()),
            }
        }
    }
}

fn serial_number(octets: &[u8]) -> String {
    SerialNumber::from_octets(octets)
        .map_or_else(|_| data_encoding::HEXLOWER.encode(octets), |serial| serial.to_string())
}

fn key_name(spki: &SubjectPublicKeyInfo<'_>) -> String {
    let parameters = spki.algorithm.parameters.as_ref();
    let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA, {} bits", rsa.key_size()),
        Ok(PublicKey::EC(_)) if curve == Some(OID_EC_P256) => "ECDSA P-256".to_owned(),
        Ok(PublicKey::EC(_)) if curve == Some(OID_NIST_EC_P384) => "ECDSA P-384".to_owned(),
        _ if spki.algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => spki.algorithm.algorithm.to_id_string(),
    }
}

fn key_usage(certificate: &X509Certificate<'_>) -> String {
    match certificate.key_usage() {
        Ok(Some(extension)) => extension.value.to_string(),
        Ok(None) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn extended_key_usage(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let Ok(Some(extension)) = certificate.extended_key_usage() else { return vec![] };
    let usage = extension.value;
    let named = [
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.any, "any"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
        (!usage.other.is_empty(), "others"),
    ];
    named.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

fn countersignature(der: &[u8]) -> Countersignature {
    let sct = tlog::split_certificate(der).and_then(|parts| tlog::splice_out(parts.tbs));
    match sct {
        Ok((_, SignedCertificateTimestamp { log_id, leaf_index, timestamp, .. })) => {
            Countersignature::Present {
                log_id: log_id.to_string(),
                leaf_index,
                at: milliseconds(timestamp),
            }
        }
        Err(error) => Countersignature::Absent { absent: error.to_string() },
    }
}

fn milliseconds(since_1970: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(since_1970) * 1_000_000)
        .map_or_else(|_| format!("{since_1970} ms since 1970"), table::time)
}
