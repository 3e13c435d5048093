//! Certificates to look at: in a file, or as a server shows them.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use countersign::HostPort;
use countersign::svid_folder::{CHAIN, SvidFolder};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::chain;
use crate::error::Error;
use crate::files;
use crate::other_file::OtherFile;
use crate::presented::{self, Possession};
use crate::shell;

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
            Self::Address(address) => {
                let (certificates, possession) = presented::read(address).await?;
                Ok(Chain { certificates, possession: Some(possession) })
            }
            Self::Directory(path) => self.chain_in(&SvidFolder::at(path)?),
            Self::File(path) => self.parsed(&files::read(path)?),
            Self::Stdin => self.parsed(&Zeroizing::new(files::read_or_stdin(Path::new("-"))?)),
        }
    }

    /// Reads that of a directory which is open.
    pub(crate) fn chain_in(&self, directory: &SvidFolder) -> Result<Chain, Error> {
        let pem = directory.read(CHAIN)?.ok_or_else(|| Error::NoSvid {
            directory: directory.path().to_owned(),
            missing: CHAIN,
            repair: format!("countersign inspect {}", shell::quoted(directory.path())),
        })?;
        self.parsed(&pem)
    }

    fn parsed(&self, bytes: &[u8]) -> Result<Chain, Error> {
        let certificates = chain::parse(bytes).map_err(|why| match OtherFile::of(bytes) {
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
}
