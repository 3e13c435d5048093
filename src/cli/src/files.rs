//! Files that only their owner may read, replaced in one step.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use authority::files::Input;
use authority::folder::{Entry, Folder, NewFile};
use issuance::CertificateRequest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
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
        let holds = match OtherFile::of(bytes) {
            Some(OtherFile::Key) => Held::Key,
            None if chain::parse(bytes).is_ok() => Held::Certificate,
            _ => Held::Unknown,
        };
        Error::RequestFile { path: path.to_owned(), holds, source }
    })
}

/// What bytes of a file say.
pub(crate) fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, Error> {
    identity::utf8_text(bytes)
        .map_err(|fault| Error::Malformed { path: path.to_owned(), why: fault.to_string() })
}

fn read_some(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        let why = format!("it is larger than {} MiB", MAX_INPUT >> 20);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// Refuses what stands in a file's place and is none: a pipe, for whose writer nobody waits, a device, a
/// folder. What a link leads to counts.
pub(crate) fn require_plain(path: &Path) -> Result<(), Error> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    if metadata.is_file() {
        return Ok(());
    }
    let why = match fs::read_link(path) {
        Ok(to) => format!("it is a link to {}, which is no file", to.display()),
        Err(_) => "it is neither a file nor a link".to_owned(),
    };
    Err(Error::InTheWay { path: path.to_owned(), why })
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

/// Makes a directory (0700) and those above it; one that is there already keeps its mode.
pub(crate) fn create_private_directory(path: &Path) -> Result<(), Error> {
    let why = match path.metadata() {
        Ok(there) if !there.is_dir() => Some("a folder is wanted here, and it is none"),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Some("it is a link that leads nowhere")
        }
        _ => None,
    };
    if let Some(why) = why {
        return Err(Error::InTheWay { path: path.to_owned(), why: why.to_owned() });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Write { path: path.to_owned(), source })
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

/// Holds a directory against other `countersign` processes until dropped; waits for its turn.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Waits for the lock of a directory that exists, [`PATIENCE`] at most: a stranger who has it
    /// open may hold it for ever.
    pub(crate) fn of(directory: &Path) -> Result<Self, Error> {
        Self::within(&opened(directory)?, directory)
    }

    /// The same, of one that is open.
    pub(crate) fn within(folder: &Folder, directory: &Path) -> Result<Self, Error> {
        Self::waited_for(folder, directory, PATIENCE)
    }

    fn waited_for(folder: &Folder, directory: &Path, patience: Duration) -> Result<Self, Error> {
        let path = directory.join(LOCK);
        let failed = |source| Error::Write { path: path.clone(), source };
        let file = open_lock(folder, &path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(source)) if has_no_locks(&source) => {
                    let why = "this file system has no locks (flock)";
                    return Err(Error::NoRoom { path: directory.to_owned(), why, source });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => {
                    return Err(Error::Taken { lock: path, waited: patience });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

fn opened(directory: &Path) -> Result<Folder, Error> {
    Folder::open(directory).map_err(|source| Error::Write { path: directory.to_owned(), source })
}

/// The directory may be somebody else's, and we root: no link is followed, no pipe waited for, and
/// nothing but a plain file of one name is touched. Others cannot open it, and so not hold it.
fn open_lock(folder: &Folder, path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK;
    let file = match folder.open_file(LOCK, flags) {
        // Of the folder, and not of a file that nobody has heard of.
        Err(source) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let folder = path.parent().unwrap_or(path).to_owned();
            return Err(Error::Write { path: folder, source });
        }
        Err(_) if folder.look(LOCK).is_ok_and(|it| it.is_some_and(|it| it != Entry::File)) => {
            return Err(Error::NoLock(path.to_owned()));
        }
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(Error::NoLock(path.to_owned()));
    }
    if metadata.len() == 0 {
        // Whose folder it is, his next run takes the same lock.
        folder.access_of_new().give(&file).map_err(failed)?;
    }
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_ours && metadata.mode() & 0o777 != PRIVATE {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE)).map_err(failed)?;
    }
    Ok(file)
}

/// Reads what an open file holds, as far as it is a plain file of a size that makes sense.
pub(crate) fn read_opened(file: File) -> io::Result<Vec<u8>> {
    let refuse = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    if !file.metadata()?.is_file() {
        return Err(refuse("it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse("it is larger than any that belongs here"));
    }
    Ok(bytes)
}

fn is_not_supported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|it| [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS].contains(&it))
}

fn has_no_locks(error: &io::Error) -> bool {
    is_not_supported(error) || Errno::from_io_error(error) == Some(Errno::NOLCK)
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

const LOCK: &str = ".countersign.lock";
const PRIVATE: u32 = 0o600;
/// Longer than a renewal takes that asks a CA which does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Of the files beside an SVID, the largest is the trust state: some kilobytes.
const MAX_FILE: u64 = 4 << 20;
/// Of what users name, the largest is a table of workloads.
const MAX_INPUT: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn within(directory: &Path, patience: Duration) -> Result<Lock, Error> {
        Lock::waited_for(&opened(directory)?, directory, patience)
    }

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
    fn a_folder_takes_no_place_of_a_file_or_of_a_link_that_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        replace(&file, b"").unwrap();
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        for path in [&file, &link] {
            let refused = create_private_directory(path).unwrap_err();
            assert!(matches!(refused, Error::InTheWay { .. }), "{refused:?}");
        }
        fs::create_dir(directory.path().join("nowhere")).unwrap();
        create_private_directory(&link).unwrap();
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
    fn the_lock_is_private_and_no_link_leads_it_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let (lock, victim) = (directory.path().join(LOCK), directory.path().join("victim"));
        let none = Duration::ZERO;
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
        drop(within(directory.path(), none).unwrap());
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        let attacks: [&dyn Fn() -> io::Result<()>; 3] = [
            &|| std::os::unix::fs::symlink(&victim, &lock),
            &|| fs::write(&victim, "").and_then(|()| fs::hard_link(&victim, &lock)),
            &|| fs::create_dir(&lock),
        ];
        for attack in attacks {
            fs::remove_file(&lock).unwrap();
            attack().unwrap();
            let refused = within(directory.path(), none);
            assert!(matches!(refused, Err(Error::NoLock(_))), "{refused:?}");
            drop(fs::remove_dir(&lock));
            fs::write(&lock, "").unwrap();
        }
        fs::remove_file(&victim).unwrap();
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&victim, &lock).unwrap();
        within(directory.path(), none).unwrap_err();
        assert!(!victim.exists(), "nothing was made where the link led");
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let _held = Lock::of(directory.path()).unwrap();
        let refused = within(directory.path(), Duration::from_millis(1));
        assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}");
    }

    #[test]
    fn failed_write_names_the_file() {
        let error = replace(Path::new("/nowhere/file"), b"").unwrap_err();
        assert!(error.to_string().contains("/nowhere/file"), "{error}");
        assert!(read_if_there(Path::new("/nowhere/file")).unwrap().is_none());
    }
}
