//! Why a folder takes no SVID, or gives none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is wrong with the folder of an SVID. Whatever it held, it holds still.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Something stands where a file of ours would.
    #[error("{} cannot be replaced: {why}", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The lock of a folder is no file that we made.
    #[error("{} is no lock of ours: it is a link, or no plain file", .0.display())]
    NoLock(PathBuf),
    /// A folder takes no SVID.
    #[error("no SVID can be kept in {}: {why}", path.display())]
    NoRoom {
        /// Which one.
        path: PathBuf,
        /// What it lacks.
        why: &'static str,
        /// How the system says so.
        source: io::Error,
    },
    /// Somebody changed the folder while a set was installed in it.
    #[error("{} is not what was installed: somebody changed it meanwhile", path.display())]
    NotInPlace {
        /// What was looked at.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", named(path))]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder has files of somebody else's where ours would go.
    #[error("{} holds what countersign did not write, and it stays: {}", folder.display(), strangers.join(", "))]
    Strangers {
        /// Which folder.
        folder: PathBuf,
        /// Their names.
        strangers: Vec<&'static str>,
    },
    /// Another process holds a folder.
    #[error(
        "another process has held {} for {} s (an `issue` or `renew`, or whoever has it open)",
        lock.display(), waited.as_secs()
    )]
    Taken {
        /// By this file.
        lock: PathBuf,
        /// For so long it was waited for.
        waited: Duration,
    },
    /// A file cannot be written.
    #[error("cannot write {}", named(path))]
    Write {
        /// Which one, or in which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A path; also one that nobody would see.
fn named(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "''".to_owned(),
        false => path.display().to_string(),
    }
}
