//! Certificates as bytes, read.

use std::net::IpAddr;

use data_encoding::HEXLOWER;
use identity::{SerialNumber, SpiffeId, is_pem, pem_blocks, unmarked};
use rustls_pki_types::CertificateDer;
use tlog::Hash;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The certificates of a PEM text, or one in DER; each must parse. One that is broken is not passed
/// over: the next would be taken for it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = unmarked(bytes).map_err(|fault| fault.to_string())?;
    if !is_pem(text) {
        read(bytes)?;
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let mut certificates = Vec::new();
    let mut others = Vec::new();
    for block in pem_blocks(text).map_err(|error| error.to_string())? {
        if !LABELS.contains(&&*block.label) {
            others.push(block.label);
            continue;
        }
        if let Err(why) = read(&block.contents) {
            return Err(format!("block {}, line {}: {why}", block.number, block.line));
        }
        certificates.push(CertificateDer::from(block.contents));
    }
    if certificates.is_empty() {
        return Err(format!("its PEM has no CERTIFICATE block, only {}", others.join(", ")));
    }
    Ok(certificates)
}

/// Parses one certificate.
pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes follow a certificate".to_owned()),
        Err(_) => Err("it is neither PEM nor a DER certificate".to_owned()),
    }
}

/// The only SPIFFE ID among a certificate's names.
pub(crate) fn spiffe_id(certificate: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let only = uris.next().filter(|_| uris.next().is_none())?;
    SpiffeId::parse(only).ok()
}

/// The DNS names and IP addresses of a certificate, in its order.
pub(crate) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return vec![] };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(octets) => Some(ip(octets)),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// An address of a certificate; what is none stays as it is, in hex.
pub(crate) fn ip(octets: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or(v6).map_or_else(|_| HEXLOWER.encode(octets), |ip| ip.to_string())
}

/// A certificate's serial number, if it has one that RFC 5280 allows.
pub(crate) fn serial_number(certificate: &X509Certificate<'_>) -> Option<SerialNumber> {
    SerialNumber::from_octets(certificate.raw_serial()).ok()
}

/// SHA-256 in lower-case hex, as the API writes it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(Hash::of(bytes).as_bytes())
}

/// As software older than RFC 7468 writes it, too. OpenSSL's own TRUSTED CERTIFICATE has more behind
/// the certificate, and is refused for that rather than passed over.
const LABELS: [&str; 3] = ["CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_with_a_reason() {
        assert!(parse(b"").unwrap_err().contains("neither PEM nor"));
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(parse(key).unwrap_err().contains("no CERTIFICATE block, only PRIVATE KEY"));
        let utf16 = b"\xff\xfe-\0-\0";
        assert!(parse(utf16).unwrap_err().contains("UTF-16"));
    }

    fn certificate() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_first_certificate_is_the_first_whatever_stands_before_it() {
        let (one, two) = (certificate(), certificate());
        let pem = |der: &[u8]| identity::pem("CERTIFICATE", der).into_bytes();
        let both = [pem(&one), pem(&two)].concat();
        for before in [&b""[..], b"\xef\xbb\xbf", b"issuer=M\xfcller\r\n"] {
            let read = parse(&[before, &both].concat()).unwrap();
            assert_eq!([&*read[0], &*read[1]], [&one[..], &two]);
        }
        assert_eq!(*parse(&one).unwrap()[0], one[..]);
        let no_certificate = pem(b"hello");
        let trusted =
            identity::pem("TRUSTED CERTIFICATE", &[&one[..], &[5, 0]].concat()).into_bytes();
        let cut = pem(&one)[..200].to_vec();
        for first in [no_certificate, trusted, cut] {
            let refused = parse(&[first, pem(&two)].concat()).unwrap_err();
            assert!(refused.contains("block 1, line "), "{refused}");
        }
    }
}
