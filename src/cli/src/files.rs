//! Files that only their owner may read, replaced in one step.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use authority::files::Input;
use authority::folder::{Entry, Folder, NewFile};
use issuance::CertificateRequest;
use rustix::fs::Mode;
use rustix::process::umask;

use crate::chain;
use crate::error::{Error, Held};
use crate::other_file::OtherFile;

/// Reads a file whole, or a pipe whose writer does not take too long.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = Input::open(path).and_then(read_some);
    read.map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The same; `-` is stdin.
pub(crate) fn read_or_stdin(path: &Path) -> Result<Vec<u8>, Error> {
    if path != Path::new("-") {
        return read(path);
    }
    read_some(io::stdin().lock()).map_err(|source| Error::Read { path: "stdin".into(), source })
}

/// Reads a text file whole, as any editor saves it: see [`identity::utf8_text`].
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    text(&read(path)?, path).map(str::to_owned)
}

/// The one certificate request of a file; `-` is stdin.
pub(crate) fn read_request(path: &Path) -> Result<CertificateRequest, Error> {
    request(&read_or_stdin(path)?, path)
}

/// The one certificate request that a file holds.
pub(crate) fn request(bytes: &[u8], path: &Path) -> Result<CertificateRequest, Error> {
    let path = if path == Path::new("-") { Path::new("stdin") } else { path };
    CertificateRequest::parse_file(bytes).map_err(|source| {
        let holds = instead_of_request(bytes, &source);
        Error::RequestFile { path: path.to_owned(), holds, source }
    })
}

/// What bytes are that hold no certificate request, or one that breaks a rule.
fn instead_of_request(bytes: &[u8], source: &issuance::Error) -> Held {
    let is_cut_der = matches!(
        source,
        issuance::Error::Request(issuance::RequestRule::Broken { part: "end", .. })
    );
    match identity::unmarked(bytes) {
        Err(fault) => Held::Text(fault),
        Ok(text) if identity::is_pem(text) && identity::pem_blocks(text).is_err() => Held::CutOff,
        _ if is_cut_der => Held::CutOff,
        Ok(text) => match OtherFile::of(bytes) {
            Some(OtherFile::Empty) => Held::Empty,
            Some(OtherFile::Key) => Held::Key,
            None if chain::parse(bytes).is_ok() => Held::Certificate,
            None if is_base64(text) => Held::Base64,
            _ => Held::Unknown,
        },
    }
}

/// Whether it is DER in Base64: a SEQUENCE with a long length (X.690 §8.1.3.5) begins so.
fn is_base64(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let is_of_base64 = |octet: &u8| {
        octet.is_ascii_alphanumeric() || octet.is_ascii_whitespace() || b"+/=".contains(octet)
    };
    text.starts_with(b"MI") && text.iter().all(is_of_base64)
}

/// What bytes of a file say.
pub(crate) fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, Error> {
    identity::utf8_text(bytes)
        .map_err(|fault| Error::Malformed { path: path.to_owned(), why: fault.to_string() })
}

/// Reads to the end, as far as that makes sense.
pub(crate) fn read_some(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        let why = format!("it is larger than {} MiB", MAX_INPUT >> 20);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// Reads a file whole; `None` if there is none.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file (0600) in one step: readers see the old bytes or the new ones, after a crash too.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Replacement::prepare(path)?.fill(bytes)
}

/// What is made from now on is its owner's to use, whatever the umask takes from others: one that takes
/// it from the owner, too, leaves locks and keys behind that nobody but root can open.
pub(crate) fn keep_owners_permissions() {
    let given = umask(Mode::RWXG | Mode::RWXO);
    umask(given - Mode::RWXU);
}

/// Removes a file, if it is there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A file beside the one that it is to replace. Until then that one stays as it is, and this one is
/// gone if nothing comes of it. What root makes in somebody else's folder is his.
#[derive(Debug)]
pub(crate) struct Replacement {
    file: NewFile,
    name: OsString,
    path: PathBuf,
}

impl Replacement {
    /// Finds out whether a file can be written there, before there is anything to lose.
    pub(crate) fn prepare(path: &Path) -> Result<Self, Error> {
        let at = |source| Error::Write { path: path.to_owned(), source };
        let (folder, name) = Folder::of(path).map_err(at)?;
        Self::within(&folder, name, path)
    }

    /// The same, in a folder that is open; the path is named in errors.
    pub(crate) fn within(folder: &Folder, name: &OsStr, path: &Path) -> Result<Self, Error> {
        let at = |source| Error::Write { path: path.to_owned(), source };
        if folder.look(name).map_err(at)? == Some(Entry::Folder) {
            return Err(at(io::ErrorKind::IsADirectory.into()));
        }
        let file = begin(folder).map_err(at)?;
        Ok(Self { file, name: name.to_owned(), path: path.to_owned() })
    }

    /// Replaces the file (0600) in one step.
    pub(crate) fn fill(self, bytes: &[u8]) -> Result<(), Error> {
        let Self { mut file, name, path } = self;
        let written = file.file().write_all(bytes).and_then(|()| file.put(name));
        written.map_err(|source| Error::Write { path, source })
    }
}

fn begin(folder: &Folder) -> io::Result<NewFile> {
    let mut new = folder.begin()?;
    folder.access_of_new().give(new.file())?;
    Ok(new)
}

/// Of what users name, the largest is a table of workloads.
const MAX_INPUT: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_file_is_private_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_filled_leaves_everything_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        drop(Replacement::prepare(&path).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        replace(&path, b"old").unwrap();
        let prepared = Replacement::prepare(&path).unwrap();
        assert_eq!(read(&path).unwrap(), b"old");
        prepared.fill(b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for nowhere in [directory.path(), &path.join("below")] {
            Replacement::prepare(nowhere).unwrap_err();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_names_the_file() {
        let error = replace(Path::new("/nowhere/file"), b"").unwrap_err();
        assert!(error.to_string().contains("/nowhere/file"), "{error}");
        assert!(read_if_there(Path::new("/nowhere/file")).unwrap().is_none());
    }
}
