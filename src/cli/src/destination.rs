//! `--out FILE`: where one result goes. A file that is there is replaced where it is of the same kind
//! or empty; a device, a pipe or a stream of this process is written into; and no link is followed.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use authority::folder::{Entry, Folder};
use rustix::fs::OFlags;

use crate::error::Error;
use crate::files::{Replacement, read_some};
use crate::other_file::OtherFile;

/// What may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// Any file, because somebody said so.
    Anything,
    /// An empty file, or one of this kind.
    Only(OtherFile),
}

/// A place that can be written, as far as that is known before there is anything to lose.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    path: &'a Path,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(Replacement),
    Stream(File),
}

impl<'a> Destination<'a> {
    /// Looks at what is there, and refuses what must not be replaced. Waits for the reader of a pipe.
    pub(crate) fn prepare(path: &'a Path, replaced: Replaced) -> Result<Self, Error> {
        let at = |source| Error::Write { path: path.to_owned(), source };
        if is_own_stream(path) {
            let opened = File::options().append(true).custom_flags(NO_TERMINAL).open(path);
            return Ok(Self { path, place: opened.map(Place::Stream).map_err(at)? });
        }
        let (folder, name) = Folder::of(path).map_err(at)?;
        let file = || Replacement::within(&folder, name, path).map(Place::File);
        let place = match folder.look(name).map_err(at)? {
            None | Some(Entry::Folder) => file()?,
            Some(Entry::Link(to)) => {
                return Err(in_the_way(path, format!("it is a link to {}", to.display())));
            }
            Some(Entry::File) => {
                let bytes = folder.open_plain(name).and_then(read_some);
                require_replaceable(path, bytes.ok().as_deref(), replaced)?;
                file()?
            }
            Some(Entry::Other) => Place::Stream(open_stream(&folder, name, path)?),
        };
        Ok(Self { path, place })
    }

    /// Replaces the file (0600) in one step, or writes into the stream.
    pub(crate) fn fill(self, bytes: &[u8]) -> Result<(), Error> {
        let Self { path, place } = self;
        match place {
            Place::File(file) => file.fill(bytes),
            Place::Stream(mut stream) => stream
                .write_all(bytes)
                .and_then(|()| stream.flush())
                .map_err(|source| Error::Write { path: path.to_owned(), source }),
        }
    }
}

/// What the shell opened for this process: the only links that lead where they say.
fn is_own_stream(path: &Path) -> bool {
    path == Path::new("/dev/stdout")
        || path == Path::new("/dev/stderr")
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc/self/fd")
}

/// What is written by `>>` is not written over. Nobody waits for a stranger's pipe, and what somebody
/// puts in its place meanwhile is looked at again.
fn open_stream(folder: &Folder, name: &OsStr, path: &Path) -> Result<File, Error> {
    let open = |flags| {
        let file = folder.open_file(name, flags)?;
        file.metadata().map(|metadata| (file, metadata))
    };
    let at = |source| Error::Write { path: path.to_owned(), source };
    let (_, metadata) = open(OFlags::PATH).map_err(at)?;
    require_stream(path, &metadata)?;
    let (file, metadata) = open(OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY).map_err(at)?;
    require_stream(path, &metadata)?;
    Ok(file)
}

/// What is too large to be looked at is none of ours.
fn require_replaceable(path: &Path, bytes: Option<&[u8]>, replaced: Replaced) -> Result<(), Error> {
    let Replaced::Only(kind) = replaced else { return Ok(()) };
    match bytes.and_then(OtherFile::of) {
        Some(found) if found == kind || found == OtherFile::Empty => Ok(()),
        _ => Err(Error::NotOurs { path: path.to_owned(), wanted: kind }),
    }
}

/// A pipe in a folder that everybody writes to may be a stranger's, who waits for root.
fn require_stream(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let (kind, own) = (metadata.file_type(), rustix::process::geteuid().as_raw());
    let why = match () {
        () if kind.is_char_device() => return Ok(()),
        () if kind.is_fifo() && [own, 0].contains(&metadata.uid()) => return Ok(()),
        () if kind.is_fifo() => "it is the pipe of another user",
        () if kind.is_block_device() => "it is a disk",
        () => "it is neither a file, nor a pipe, nor a device that takes text",
    };
    Err(in_the_way(path, why.to_owned()))
}

fn in_the_way(path: &Path, why: String) -> Error {
    Error::InTheWay { path: path.to_owned(), why }
}

/// A terminal that is written to does not become this process's own.
const NO_TERMINAL: i32 = OFlags::NOCTTY.bits().cast_signed();

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const TOKEN: Replaced = Replaced::Only(OtherFile::Token);

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        (folder, path)
    }

    fn write(path: &Path, replaced: Replaced) -> Result<(), Error> {
        Destination::prepare(path, replaced)?.fill(b"ct1.new\n")
    }

    #[test]
    fn a_file_of_another_kind_stays_unless_somebody_says_so() {
        let (_folder, path) = folder();
        let others: [&[u8]; 5] = [
            b"trust_domain = \"pay.example\"\n",
            b"a passphrase\n",
            b"{\"workloads\": []}",
            b"\xff\xfe\0",
            &[b'x'; 5 << 20],
        ];
        for other in others {
            fs::write(&path, other).unwrap();
            let refused = write(&path, TOKEN);
            assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
            assert_eq!(fs::read(&path).unwrap(), other);
        }
        write(&path, Replaced::Anything).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ct1.new\n");
    }

    #[test]
    fn nothing_and_what_is_empty_or_of_the_kind_is_replaced_for_the_owner_alone() {
        let (_folder, path) = folder();
        write(&path, TOKEN).unwrap();
        for own in ["", "\n", "ct1.old\n"] {
            fs::write(&path, own).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            write(&path, TOKEN).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"ct1.new\n");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn no_link_is_followed_or_replaced() {
        let (folder, path) = folder();
        let victim = folder.path().join("victim");
        for (to, contents) in [(&victim, Some("")), (&victim, Some("ct1.old\n")), (&victim, None)] {
            drop(fs::remove_file(&victim));
            if let Some(contents) = contents {
                fs::write(&victim, contents).unwrap();
            }
            std::os::unix::fs::symlink(to, &path).unwrap();
            for replaced in [TOKEN, Replaced::Anything] {
                let refused = write(&path, replaced);
                assert!(matches!(refused, Err(Error::InTheWay { .. })), "{refused:?}");
            }
            assert_eq!(fs::read_to_string(&victim).ok().as_deref(), contents);
            fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        write(&path, TOKEN).unwrap_err();
    }

    #[test]
    fn a_pipe_and_a_device_are_written_into_and_stay_what_they_are() {
        let (_folder, path) = folder();
        let (fifo, mode) = (rustix::fs::FileType::Fifo, 0o600.into());
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        write(&path, TOKEN).unwrap();
        assert_eq!(reader.join().unwrap(), b"ct1.new\n");
        assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
        write(Path::new("/dev/null"), TOKEN).unwrap();
        let full = write(Path::new("/dev/full"), TOKEN).unwrap_err();
        assert!(matches!(full, Error::Write { .. }), "{full:?}");
        for device in ["/dev/null", "/dev/full"] {
            assert!(Path::new(device).symlink_metadata().unwrap().file_type().is_char_device());
        }
    }
}
