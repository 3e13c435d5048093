//! What a replacement is made of: atomic changes of the folder.

use std::io;

use super::Files;
use super::folder::{Access, Folder};

/// One atomic change of the folder.
pub(super) enum Step {
    Link {
        at: &'static str,
        to: String,
    },
    MoveAside {
        from: &'static str,
        to: String,
    },
    Remove(String),
    /// Makes a folder that nothing leads to yet; it is its owner's once it is complete and synced.
    WriteSet {
        name: String,
        files: Files,
        access: Access,
    },
}

/// What a step does, for whoever has to remove what stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Gives files to their owner and group, with their mode.
    Access,
    /// Makes a symbolic link.
    Link,
    /// Anything else.
    Write,
}

impl Step {
    pub(super) fn take(&self, folder: &Folder) -> Result<(), (Change, io::Error)> {
        match self {
            Self::Link { at, to } => folder.link(at, to).map_err(|error| (Change::Link, error)),
            Self::MoveAside { from, to } => folder.rename(from, to).map_err(while_writing),
            Self::Remove(name) => {
                // The new set is in place: what is left of an old one ends no run.
                if let Err(error) = folder.remove_folder(name) {
                    tracing::warn!(name, %error, "an old set was not removed");
                }
                Ok(())
            }
            Self::WriteSet { name, files, access } => {
                let set = write_set(folder, name, files).map_err(while_writing)?;
                set.give(*access).map_err(|error| (Change::Access, error))
            }
        }
    }
}

fn write_set(folder: &Folder, name: &str, files: &Files) -> io::Result<Folder> {
    let set = folder.make_within(name)?;
    for (name, (bytes, access)) in files {
        set.create(name, bytes, *access)?;
    }
    set.sync()?;
    Ok(set)
}

fn while_writing(error: io::Error) -> (Change, io::Error) {
    (Change::Write, error)
}
