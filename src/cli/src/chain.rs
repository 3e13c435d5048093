//! Certificates to look at: in a file, or as a server shows them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use identity::{SerialNumber, SpiffeId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tlog::Hash;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::Error;
use crate::files;
use crate::presented::{self, Possession};

/// What `inspect`, `verify` and `lint` look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A server, by host and port.
    Address(String, u16),
    /// A file, PEM or DER.
    File(PathBuf),
}

/// Certificates, end entity first; at least one.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The certificates.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// What a server proved about its key; none for files.
    pub(crate) possession: Option<Possession>,
}

impl Subject {
    /// Reads the file, or asks the server.
    pub(crate) async fn chain(&self) -> Result<Chain, Error> {
        match self {
            Self::Address(host, port) => presented::read(host, *port).await,
            Self::File(path) => {
                let certificates = parse(&files::read(path)?)
                    .map_err(|why| Error::Certificate { subject: self.to_string(), why })?;
                Ok(Chain { certificates, possession: None })
            }
        }
    }
}

impl FromStr for Subject {
    type Err = std::convert::Infallible;
    /// `HOST:PORT`, unless there is a file of that name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty() && !host.contains('/'))
            .and_then(|(host, port)| Some((host, port.parse().ok()?)));
        Ok(match address {
            Some((host, port)) if !Path::new(text).exists() => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Self::Address(host.to_owned(), port)
            }
            _ => Self::File(text.into()),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(host, port) => write!(f, "{host}:{port}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The certificates of a PEM text, or one in DER; each must parse.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = if is_pem(bytes) {
        CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?
    } else {
        vec![CertificateDer::from(bytes.to_vec())]
    };
    if certificates.is_empty() {
        return Err("its PEM has no CERTIFICATE block".to_owned());
    }
    certificates.iter().try_for_each(|der| read(der).map(drop))?;
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

/// A certificate's serial number, if it has one that RFC 5280 allows.
pub(crate) fn serial_number(certificate: &X509Certificate<'_>) -> Option<SerialNumber> {
    SerialNumber::from_octets(certificate.raw_serial()).ok()
}

/// SHA-256 in lower-case hex, as the API writes it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(Hash::of(bytes).as_bytes())
}

fn is_pem(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN ";
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn host_and_port_are_an_address_and_everything_else_a_file() {
        assert_eq!(subject("ca.internal:8443"), Subject::Address("ca.internal".into(), 8443));
        assert_eq!(subject("[::1]:443"), Subject::Address("::1".into(), 443));
        for file in ["svid.pem", "./a:443", "C:svid.pem", ":443", "a:70000"] {
            assert_eq!(subject(file), Subject::File(file.into()));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_a_reason() {
        assert!(parse(b"").unwrap_err().contains("neither PEM nor"));
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(parse(key).unwrap_err().contains("no CERTIFICATE"));
    }
}
