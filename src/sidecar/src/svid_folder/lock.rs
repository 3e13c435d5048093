//! The lock of a folder: two who write would write over each other's steps.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::FolderError;
use super::folder::{Entry, Folder};

/// Holds a folder against other processes until dropped; waits for its turn.
#[derive(Debug)]
#[must_use]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Waits for the lock of a folder that exists, a minute at most: a stranger who has it open may hold
    /// it for ever. Blocks the thread.
    pub fn of(path: &Path) -> Result<Self, FolderError> {
        Self::within(&opened(path)?, path)
    }

    /// The same, of one that is open.
    pub(super) fn within(folder: &Folder, at: &Path) -> Result<Self, FolderError> {
        Self::waited_for(folder, at, PATIENCE)
    }

    fn waited_for(folder: &Folder, at: &Path, patience: Duration) -> Result<Self, FolderError> {
        let path = at.join(LOCK);
        let failed = |source| FolderError::Write { path: path.clone(), source };
        let file = open_lock(folder, &path)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(source)) if has_no_locks(&source) => {
                    let why = "this file system has no locks (flock)";
                    return Err(FolderError::NoRoom { path: at.to_owned(), why, source });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => {
                    return Err(FolderError::Taken { lock: path, waited: patience });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

fn opened(path: &Path) -> Result<Folder, FolderError> {
    Folder::open(path).map_err(|source| FolderError::Write { path: path.to_owned(), source })
}

/// The folder may be somebody else's, and we root: no link is followed, no pipe waited for, and
/// nothing but a plain file of one name is touched. Others cannot open it, and so not hold it.
fn open_lock(folder: &Folder, path: &Path) -> Result<File, FolderError> {
    let failed = |source| FolderError::Write { path: path.to_owned(), source };
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK;
    let file = match folder.open_file(LOCK, flags) {
        // Of the folder, and not of a file that nobody has heard of.
        Err(source) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let folder = path.parent().unwrap_or(path).to_owned();
            return Err(FolderError::Write { path: folder, source });
        }
        Err(_) if folder.look(LOCK).is_ok_and(|it| it.is_some_and(|it| it != Entry::File)) => {
            return Err(FolderError::NoLock(path.to_owned()));
        }
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(FolderError::NoLock(path.to_owned()));
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

fn has_no_locks(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let none = [Errno::INVAL, Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP];
    errno.is_some_and(|it| none.contains(&it))
}

const LOCK: &str = ".countersign.lock";
const PRIVATE: u32 = 0o600;
/// Longer than a renewal takes that asks a CA which does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn within(directory: &Path, patience: Duration) -> Result<Lock, FolderError> {
        Lock::waited_for(&opened(directory)?, directory, patience)
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
            assert!(matches!(refused, Err(FolderError::NoLock(_))), "{refused:?}");
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
        assert!(matches!(refused, Err(FolderError::Taken { .. })), "{refused:?}");
    }
}
