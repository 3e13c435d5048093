//! Files that appear whole, on the disk, and for the owner alone; secrets, which others must not have
//! been able to read; and what somebody named, whatever it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use identity::{TextFault, utf8_text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::folder::{Folder, sync_opened};

/// Who may read a secret's file beside its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its group, which may not write it: systemd's credentials are 0440, Kubernetes' secrets with an
    /// `fsGroup`, too. Nobody else: a container's `/run/secrets` in its default mode (0444) is refused.
    Group,
    /// Nobody, as ssh wants it of a private key.
    Owner,
}

/// Why a secret is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The system says why.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others may read or write it.
    #[error("it has mode {0:04o}: others may read or write it")]
    Mode(u32),
    /// It is no UTF-8.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// It is no file, or one of another size.
    #[error("it is no file of at most {MAX_SECRET} bytes")]
    Shape,
}

/// Reads a secret text. Mode and contents are those of one open file: nobody exchanges it between.
///
/// A byte order mark before it is not part of it: whoever types the secret does not type that.
///
/// For [`Readers::Group`] it may be a pipe, as a shell's `<(…)` makes one.
pub fn read_secret(path: &Path, readers: Readers) -> Result<Zeroizing<String>, SecretError> {
    let file = Input::open(path)?;
    let metadata = file.file.metadata()?;
    // Nobody waits for whoever writes into a pipe that stands in a key's place.
    let is_pipe = readers == Readers::Group && file.is_pipe;
    if !metadata.is_file() && !is_pipe {
        return Err(SecretError::Shape);
    }
    let mode = metadata.permissions().mode() & 0o777;
    let forbidden = match readers {
        Readers::Group => 0o027,
        Readers::Owner => 0o077,
    };
    if metadata.is_file() && mode & forbidden != 0 {
        return Err(SecretError::Mode(mode));
    }
    // Sized once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_SECRET {
        return Err(SecretError::Shape);
    }
    Ok(Zeroizing::new(utf8_text(&bytes)?.to_owned()))
}

/// What somebody named, to be read to its end: a file, or a pipe, as a shell's `<(…)` makes one.
///
/// Nobody waits without end for whoever is to write into a pipe: reading fails with
/// [`io::ErrorKind::TimedOut`] once it was silent for half a minute.
#[derive(Debug)]
pub struct Input {
    file: File,
    is_pipe: bool,
    patience: Duration,
}

impl Input {
    /// Opens it; a folder is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for its writer.
        let options = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(options).open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        let is_pipe = kind.is_fifo();
        if !is_pipe {
            rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        }
        Ok(Self { file, is_pipe, patience: PATIENCE })
    }

    /// Returns when there is something to read, or nobody will write any more.
    fn wait(&self) -> io::Result<()> {
        let patience = Timespec::try_from(self.patience).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&patience)) {
            Ok(0) => {
                let why = format!("nobody wrote into this pipe for {} s", self.patience.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_pipe {
                self.wait()?;
            }
            match self.file.read(buffer) {
                // Another reader of the pipe was quicker.
                Err(error) if self.is_pipe && error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

/// Opens a file of the state folder to read it: a regular one of at most `most` bytes. A link is not
/// followed, and nobody waits for whoever writes into a pipe that stands in its place.
pub fn read_state(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| told(path, error))?;
    require_regular(&file)?;
    let mut contents = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut contents)?;
    if contents.len() > most {
        let why = format!("it has more than {most} bytes: it is none that the CA wrote");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(contents)
}

/// Opens a file of the state folder to lock it, and makes it where there is none; never through a
/// link, which would make what it leads to.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = opened.map_err(|error| told(path, error))?;
    require_regular(&file)?;
    Ok(file)
}

/// What ends it, where the system names only what it is.
fn with_step(error: io::Error) -> io::Error {
    let step = match error.kind() {
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => {
            "nothing was written: free space there (df), then run the same command again"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "nothing was written: mount it for writing, then run the same command again"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {step}"))
}

fn told(path: &Path, error: io::Error) -> io::Error {
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_symlink()) {
        return io::Error::new(io::ErrorKind::InvalidInput, NO_FILE);
    }
    error
}

fn require_regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, NO_FILE))
}

const NO_FILE: &str = "it is a link, a pipe or something else that is no plain file: somebody else \
                       put it there, remove it";
/// What the CA keeps beside its database in plain files is smaller.
pub(crate) const MAX_STATE: usize = 64 * 1024;

/// Writes a file with mode 0600: under another name first, synced, then renamed. A crash leaves
/// the old file or the new one. Where root writes it, it is its folder's owner's, as `serve` is.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    folder.write(name, contents, folder.access_of_new()).map_err(with_step)
}

/// The same; the file is its folder's owner's before it has its name.
pub(crate) fn write_for_owner(path: &Path, contents: &[u8]) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    folder.write(name, contents, folder.access_of_owner()).map_err(with_step)
}

/// Makes a rename in a folder survive a crash, where the file system can say so: SMB and some of FUSE
/// cannot (SQLite goes on there, too).
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    sync_opened(&File::open(folder)?)
}

/// Makes a folder, and those above it, for the owner alone.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

const MAX_SECRET: usize = 64 * 1024;
/// Longer than what a secret store's own command takes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_secret_that_others_may_read_or_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_private(&path, b"correct horse").unwrap();
        let read = |mode, readers| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path, readers).map(|text| text.len())
        };
        for mode in [0o644, 0o604, 0o602, 0o620, 0o660, 0o444, 0o666] {
            assert!(matches!(read(mode, Readers::Group), Err(SecretError::Mode(is)) if is == mode));
        }
        for mode in [0o400, 0o440, 0o600, 0o640] {
            assert_eq!(read(mode, Readers::Group).unwrap(), 13, "{mode:o}");
        }
        assert!(matches!(read(0o440, Readers::Owner), Err(SecretError::Mode(0o440))));
    }

    #[test]
    fn what_root_writes_is_of_whom_the_folder_belongs_to() {
        use std::os::unix::fs::{MetadataExt, chown};
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives files to others");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(65534), Some(65534)).unwrap();
        let path = folder.path().join("checkpoint");
        for _ in 0..2 {
            write_private(&path, b"note").unwrap();
            let made = path.metadata().unwrap();
            assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (65534, 65534, 0o600));
        }
    }

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        path
    }

    #[test]
    fn a_pipe_is_read_to_its_end_however_late_its_writer_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let mut input = Input::open(&path).unwrap();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
            for part in ["first", " and ", "last"] {
                pipe.write_all(part.as_bytes()).unwrap();
                std::thread::yield_now();
            }
        });
        let mut text = String::new();
        input.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first and last");
        writer.join().unwrap();
    }

    #[test]
    fn nobody_waits_without_end_for_a_writer_or_for_one_who_does_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let open = || Input { patience: Duration::from_millis(5), ..Input::open(&path).unwrap() };
        let fails = |mut input: Input| input.read_to_end(&mut Vec::new()).unwrap_err().kind();
        assert_eq!(fails(open()), io::ErrorKind::TimedOut);
        let input = open();
        let _silent = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(fails(input), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_file_of_the_state_is_a_plain_one_of_bounded_size() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("plain"), b"some").unwrap();
        symlink(at("plain"), at("link")).unwrap();
        symlink(at("elsewhere"), at("dangling")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        fs::create_dir(at("folder")).unwrap();
        assert_eq!(read_state(&at("plain"), 4).unwrap(), b"some");
        for (name, most) in [("plain", 3), ("link", 9), ("dangling", 9), ("pipe", 9), ("folder", 9)]
        {
            read_state(&at(name), most).expect_err(name);
        }
        for name in ["link", "dangling", "pipe", "folder"] {
            open_lock(&at(name)).expect_err(name);
        }
        assert!(!at("elsewhere").exists(), "a link's target was made");
        open_lock(&at("plain")).unwrap();
        open_lock(&at("new")).unwrap();
        assert_eq!(read_state(&at("absent"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_secret_is_a_file_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_private(&path, &[b'a'; MAX_SECRET + 1]).unwrap();
        assert!(matches!(read_secret(&path, Readers::Group), Err(SecretError::Shape)));
        let folder = read_secret(folder.path(), Readers::Owner);
        assert!(
            matches!(folder, Err(SecretError::Io(why)) if why.kind() == io::ErrorKind::IsADirectory)
        );
        assert!(matches!(
            read_secret(Path::new("/dev/zero"), Readers::Group),
            Err(SecretError::Shape)
        ));
    }
}
