//! `--out FILE`: where one result goes. A file that is there is replaced where it is of the same kind
//! or empty; a device, a pipe or a stream of this process is written into; and no link is followed.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::Error;
use crate::files::{Replacement, read_opened};
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
        let file = || Replacement::prepare(path).map(Place::File);
        let place = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => file()?,
            Err(source) => return Err(Error::Write { path: path.to_owned(), source }),
            Ok(_) if is_own_stream(path) => open(path, OFlags::empty())?,
            Ok(metadata) if metadata.is_symlink() => {
                let to = std::fs::read_link(path).unwrap_or_default();
                return Err(in_the_way(path, format!("it is a link to {}", to.display())));
            }
            Ok(metadata) if metadata.is_file() => {
                require_replaceable(path, replaced)?;
                file()?
            }
            Ok(metadata) if metadata.is_dir() => file()?,
            Ok(metadata) => {
                require_stream(path, &metadata)?;
                open(path, OFlags::NOFOLLOW)?
            }
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

/// What is written by `>>` is not written over.
fn open(path: &Path, flags: OFlags) -> Result<Place, Error> {
    let flags = (flags | OFlags::NOCTTY).bits().cast_signed();
    let opened = File::options().append(true).custom_flags(flags).open(path);
    opened.map(Place::Stream).map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn require_replaceable(path: &Path, replaced: Replaced) -> Result<(), Error> {
    let Replaced::Only(kind) = replaced else { return Ok(()) };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(path);
    // What is too large to be looked at is none of ours.
    let bytes = opened.and_then(read_opened);
    match bytes.ok().and_then(|bytes| OtherFile::of(&bytes)) {
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
