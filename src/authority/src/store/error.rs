//! Why a store does not answer.

use std::path::Path;
use std::sync::Arc;

use time::format_description::well_known::Rfc3339;
use tlog::Hash;

use crate::clock::{ClockLeapt, from_milliseconds};
use crate::sequencer::{Head, Plan};
use crate::shell::word;

/// What keeps a database from taking what is written, and passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hindrance {
    /// The disk, or a limit of this process, refuses.
    DiskFailed,
    /// There is no room.
    DiskFull,
    /// Another process has locked it.
    Locked,
    /// It may only be read.
    ReadOnly,
}

impl Hindrance {
    /// What ends it, of this file; then the CA goes on by itself.
    pub fn next_step(self, file: &str) -> String {
        match self {
            Self::DiskFailed => {
                "look at the file system of the CA's `state`: kernel messages, quota, ulimit -f"
                    .to_owned()
            }
            Self::DiskFull => {
                "free space on the file system of the CA's `state`: df shows it".to_owned()
            }
            Self::Locked => {
                format!(
                    "end the other process that has locked it, whom `fuser {}` names",
                    word(file)
                )
            }
            Self::ReadOnly => {
                "make the CA's `state` writable again: mount, and the files' owner".to_owned()
            }
        }
    }
}

/// Why the store does not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The clock is behind the newest entry of the log.
    #[error(
        "the clock is {} behind the log's newest entry; set it right, or where it is right and the \
         log went ahead: stop the CA, countersign init --recover --accept-clock",
        span(*.milliseconds)
    )]
    ClockBehind {
        /// By how much.
        milliseconds: u64,
    },
    /// The clock went ahead by itself.
    #[error(transparent)]
    ClockLeapt(#[from] ClockLeapt),
    /// The file is not the database that was written, or lacks a part of it.
    #[error(
        "{file} is damaged: {what}; restore a backup of the whole state folder; without one it is \
         a new CA (README: what to back up)"
    )]
    Damaged {
        /// Which.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The disk is full or fails, the database is read-only or locked.
    #[error("the store cannot be used: {file}: {why}; {}", .by.next_step(.file))]
    Hindered {
        /// What it is.
        by: Hindrance,
        /// Which file.
        file: String,
        /// What the database says.
        why: String,
    },
    /// A write neither fails nor returns, and nothing is committed before it does: nothing was done.
    #[error("{}; nothing is committed before it has; {LOOK_AT_DISK}", has_not_ended(*.since))]
    Hangs {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// The tables contradict each other, or the log.
    #[error("the store contradicts itself: {0}; restore a backup, nothing is issued from it")]
    Inconsistent(String),
    /// Its version and its tables are of two times.
    #[error(
        "its version is {version}, and its tables are those of another ({what}): somebody has changed \
         one of the two; restore a backup of the whole state folder"
    )]
    Versions {
        /// What `meta` says.
        version: i64,
        /// How that shows.
        what: String,
    },
    /// Another process holds the store.
    #[error(
        "another process serves from {0}, or makes or repairs a CA there; stop it first, or wait"
    )]
    InUse(String),
    /// The database is gone, or cannot be opened.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// The newest commit is not kept beside the database: nothing follows from it but what only
    /// restricts, and nothing else is committed.
    #[error("the store cannot be used: {why}")]
    Unkept {
        /// The head that it led to: the log has it.
        head: Arc<Head>,
        /// What keeps it from being kept.
        why: String,
        /// Those of the group, by their places in it, that were allowed under another state than this:
        /// they are decided anew. Of the others, what only restricts is done.
        moved: Vec<usize>,
    },
    /// The same as [`Hangs`](Self::Hangs), of what may be committed when it ends.
    #[error("{}: whether this is done is not known; {LOOK_AT_DISK}", has_not_ended(*.since))]
    Unsure {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// An older database was put back below this process.
    #[error(transparent)]
    WentBack(Arc<WentBack>),
}

impl StoreError {
    /// The same, of members at these places of a group that were planned so: of one whose head is not kept.
    pub(crate) fn with_outcomes(self, plan: &Plan, places: &[usize]) -> Self {
        let Self::Unkept { why, .. } = self else { return self };
        let planned = places.iter().zip(&plan.outcomes);
        let moved = planned.filter(|(_, outcome)| outcome.has_moved());
        let moved = moved.map(|(place, _)| *place).collect();
        Self::Unkept { head: Arc::new(plan.head.clone()), why, moved }
    }

    /// The same, of a file whose place is known.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        let file = path.display().to_string();
        match self {
            Self::Damaged { what, .. } => Self::Damaged { file, what },
            Self::Hindered { by, why, .. } => Self::Hindered { by, file, why },
            error => error,
        }
    }
}

/// The log lost what this process knows that it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct WentBack {
    /// How.
    pub why: String,
    /// How many entries it had.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

/// The newest head that was read, kept or not.
pub(super) fn newest(read: Result<Head, StoreError>) -> Result<Head, StoreError> {
    match read {
        Err(StoreError::Unkept { head, .. }) => Ok(Head::clone(&head)),
        read => read,
    }
}

fn has_not_ended(since: u64) -> String {
    let since = from_milliseconds(since).truncate_to_second().format(&Rfc3339).unwrap_or_default();
    format!("the store cannot be used: a write to it of {since} has not ended")
}

/// A duration as people compare it: in its largest unit.
fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..120 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// It goes on by itself once the disk answers.
const LOOK_AT_DISK: &str =
    "look at the disk of the CA's `state`: kernel messages, and the mount where it is a network's";
