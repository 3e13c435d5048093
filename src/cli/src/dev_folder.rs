//! The folder of a `dev`, as other processes see it: whether that `dev` still runs, and the end of it
//! where it could not make one itself.
//!
//! A `dev` holds a lock in its folder for as long as it lives. The kernel lets go of it, whatever
//! ended the process (SIGKILL, a crash, a machine that was switched off): a folder whose lock nobody
//! holds belongs to nobody. The lock appears under its name when it is held already.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// What a context says of the `dev` that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DevFolder {
    /// Where its lock is.
    pub(crate) path: PathBuf,
    /// What becomes of the folder when `dev` ends.
    pub(crate) afterwards: Afterwards,
}

/// What becomes of the folder when `dev` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Afterwards {
    /// It stays: `--state` names it.
    Kept,
    /// It goes, with the keys in it.
    Removed,
}

/// Says that a `dev` runs, until dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Running(#[expect(dead_code, reason = "held, not read")] File);

/// Takes a folder for a `dev`; none if another one runs there.
pub(crate) fn claim(folder: &Path) -> io::Result<Option<Running>> {
    if is_claimed(folder) {
        return Ok(None);
    }
    let new = folder.join(format!("{LOCK}.{}", std::process::id()));
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&new)?;
    file.try_lock().map_err(io::Error::from)?;
    fs::rename(&new, folder.join(LOCK))?;
    Ok(Some(Running(file)))
}

impl DevFolder {
    /// Whether its `dev` has come to an end, one way or another.
    pub(crate) fn is_left(&self) -> bool {
        !is_claimed(&self.path)
    }

    /// Removes what the `dev` would have.
    pub(crate) fn clear(&self) {
        if self.afterwards == Afterwards::Removed {
            remove(&self.path);
        }
    }
}

/// Removes the temporary folders of those that ended before they had a context, or after it was lost.
pub(crate) fn clear_left_behind(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.join(LOCK).exists() && !is_claimed(&path) {
            remove(&path);
        }
    }
}

/// Ours alone, and of the name that ours have: a path is never believed for standing in a file.
fn remove(folder: &Path) {
    let named = folder.file_name().and_then(|name| name.to_str());
    let is_named = named.is_some_and(|name| name.starts_with(PREFIX));
    let is_ours = folder
        .symlink_metadata()
        .is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::geteuid().as_raw());
    if !(is_named && is_ours) {
        return;
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(path = %folder.display(), %error, "a folder of `dev` was not removed");
    }
}

fn is_claimed(folder: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened =
        File::options().read(true).custom_flags(flags.bits().cast_signed()).open(folder.join(LOCK));
    // Of another user's, nothing can be known: it is left alone.
    match opened {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// What temporary folders are called by.
pub(crate) const PREFIX: &str = "countersign-";
/// In the folder of every `dev`, for good.
pub(crate) const LOCK: &str = "dev.lock";

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(beside: &Path, name: &str) -> PathBuf {
        let folder = beside.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("key"), "secret").unwrap();
        folder
    }

    #[test]
    fn what_a_dev_left_behind_is_removed_and_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        let at = temporary.path();
        let [left, runs, another, unlocked] =
            ["countersign-1", "countersign-2", "another", "countersign-3"].map(|it| folder(at, it));
        drop(claim(&left).unwrap().unwrap());
        drop(claim(&another).unwrap().unwrap());
        let running = claim(&runs).unwrap().unwrap();
        assert!(claim(&runs).unwrap().is_none(), "one at a time");
        clear_left_behind(at);
        assert!(!left.exists());
        assert!(runs.exists() && another.exists() && unlocked.exists());
        drop(running);
        let kept = DevFolder { path: runs.clone(), afterwards: Afterwards::Kept };
        assert!(kept.is_left());
        kept.clear();
        assert!(runs.exists());
        DevFolder { afterwards: Afterwards::Removed, ..kept }.clear();
        assert!(!runs.exists());
    }
}
