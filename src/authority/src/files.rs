//! Files that appear whole, on the disk, and for the owner alone; and secrets, which others must not
//! have been able to read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use identity::{TextFault, utf8_text};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zeroize::Zeroizing;

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
    let mut options = OpenOptions::new();
    if readers == Readers::Owner {
        // Nobody waits for whoever writes into a pipe that stands in a key's place.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.read(true).open(path)?;
    let metadata = file.metadata()?;
    let is_pipe = readers == Readers::Group && metadata.file_type().is_fifo();
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

/// Writes a file with mode 0600: under another name first, synced, then renamed. A crash leaves
/// the old file or the new one.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(temporary);
    // A crash may have left one of ours; whatever else stands there is not followed.
    drop(fs::remove_file(&temporary));
    let written = write_new(&temporary, contents).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What could not be written whole is not left behind; the first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written?;
    sync_folder(folder)
}

/// Makes a rename in a folder survive a crash, where the file system can say so: SMB and some of FUSE
/// cannot (SQLite goes on there, too).
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder)?.sync_all();
    let errno = synced.as_ref().err().and_then(Errno::from_io_error);
    match errno {
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        _ => synced,
    }
}

/// Makes a folder, and those above it, for the owner alone.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

const MAX_SECRET: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_secret_is_a_file_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_private(&path, &[b'a'; MAX_SECRET + 1]).unwrap();
        assert!(matches!(read_secret(&path, Readers::Group), Err(SecretError::Shape)));
        assert!(matches!(read_secret(folder.path(), Readers::Owner), Err(SecretError::Shape)));
        assert!(matches!(
            read_secret(Path::new("/dev/zero"), Readers::Group),
            Err(SecretError::Shape)
        ));
    }
}
