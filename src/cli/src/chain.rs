//! Certificates to look at: in a file, or as a server shows them.

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use countersign::HostPort;
use data_encoding::HEXLOWER;
use identity::{SerialNumber, SpiffeId, is_pem, pem_blocks, unmarked};
use rustls_pki_types::CertificateDer;
use tlog::Hash;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::files;
use crate::other_file::OtherFile;
use crate::presented::{self, Possession};
use crate::shell;
use crate::svid_directory::{CHAIN, SvidDirectory};

/// What `inspect`, `verify` and `lint` look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A server.
    Address(HostPort),
    /// An SVID's folder.
    Directory(PathBuf),
    /// A file, PEM or DER.
    File(PathBuf),
    /// What comes from stdin, PEM or DER.
    Stdin,
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
            Self::Address(address) => presented::read(address).await,
            Self::Directory(path) => self.chain_in(&SvidDirectory::at(path)?),
            Self::File(path) => self.parsed(&files::read(path)?),
            Self::Stdin => self.parsed(&Zeroizing::new(files::read_or_stdin(Path::new("-"))?)),
        }
    }

    /// Reads that of a directory which is open.
    pub(crate) fn chain_in(&self, directory: &SvidDirectory) -> Result<Chain, Error> {
        let pem = directory.read(CHAIN)?.ok_or_else(|| Error::NoSvid {
            directory: directory.path().to_owned(),
            missing: CHAIN,
            repair: format!("countersign inspect {}", shell::quoted(directory.path())),
        })?;
        self.parsed(&pem)
    }

    fn parsed(&self, bytes: &[u8]) -> Result<Chain, Error> {
        let certificates = parse(bytes).map_err(|why| match OtherFile::of(bytes) {
            Some(what) => Error::OtherFile { subject: self.to_string(), what },
            None => Error::Certificate { subject: self.to_string(), why },
        })?;
        Ok(Chain { certificates, possession: None })
    }
}

impl Subject {
    /// `HOST:PORT`, unless there is a file of that name; `-` is stdin. The name of a file is whatever the
    /// system takes for one.
    pub(crate) fn parse(named: &OsStr) -> Result<Self, &'static str> {
        if named == "-" {
            return Ok(Self::Stdin);
        }
        if Path::new(named).is_dir() {
            return Ok(Self::Directory(named.into()));
        }
        let Some(text) = named.to_str() else { return Ok(Self::File(named.into())) };
        if text.starts_with("https://") {
            return Err("a server is named by HOST:PORT alone");
        }
        let address = text.rsplit_once(':').filter(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
        match address {
            Some(_) if !Path::new(text).exists() => HostPort::parse(text).map(Self::Address),
            _ => Ok(Self::File(text.into())),
        }
    }
}

/// Where a command line names a subject.
pub(crate) fn subject() -> impl TypedValueParser<Value = Subject> {
    OsStringValueParser::new().try_map(|named| Subject::parse(&named))
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Directory(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("stdin"),
        }
    }
}

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
    use std::os::unix::ffi::OsStrExt;

    fn subject(text: &str) -> Subject {
        Subject::parse(text.as_ref()).unwrap()
    }

    #[test]
    fn host_and_port_are_an_address_and_everything_else_a_file() {
        for address in ["ca.internal:8443", "[::1]:443"] {
            assert_eq!(subject(address), Subject::Address(HostPort::parse(address).unwrap()));
        }
        for wrong in ["127.1:443", "::1", "bücher:1", "a..b:1", "a:0", "https://a:1"] {
            assert!(Subject::parse(wrong.as_ref()).is_err(), "{wrong}");
        }
        for file in ["svid.pem", "./a:443", "C:svid.pem", ":443", "a:70000"] {
            assert_eq!(subject(file), Subject::File(file.into()));
        }
        let no_text = OsStr::from_bytes(b"caf\xe9.pem");
        assert_eq!(Subject::parse(no_text), Ok(Subject::File(no_text.into())));
    }

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
