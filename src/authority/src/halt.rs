//! What outlives a restart: why nothing is issued, and the checkpoint that speaks against the log.
//!
//! It is a file beside the database and not a row in it, which would be gone with the next older
//! database that is put back. Trust: whoever can remove it can put back databases, too.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tlog::{Checkpoint, SignedNote};

use crate::error::Error;
use crate::files::write_private;

/// A reason to issue nothing; in its file, the reason, an empty line, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halt {
    pub(crate) why: String,
    /// What the log should lead to.
    pub(crate) checkpoint: Checkpoint,
    /// The evidence: the checkpoint as somebody showed it, signed, or as we remember it, bare. Its
    /// signature was verified before it was kept.
    pub(crate) seen: Vec<u8>,
}

impl Halt {
    pub(crate) fn path(state: &Path) -> PathBuf {
        state.join("halted")
    }

    /// The one kept, if any; fails for what is none, so that damage lifts nothing.
    pub(crate) fn read(state: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(state);
        let contents = match fs::read(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error.to_string())),
        };
        let halt = Self::parse(&contents).ok_or_else(|| unreadable(&path, "it is no halt"))?;
        Ok(Some(halt))
    }

    fn parse(contents: &[u8]) -> Option<Self> {
        let (why, seen) = std::str::from_utf8(contents).ok()?.split_once("\n\n")?;
        let checkpoint = match SignedNote::parse(seen.as_bytes()) {
            Ok(note) => Checkpoint::parse(note.text()),
            Err(_) => Checkpoint::parse(seen),
        };
        let checkpoint = checkpoint.ok()?;
        Some(Self { why: why.to_owned(), checkpoint, seen: seen.as_bytes().to_vec() })
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        write_private(path, &[self.why.as_bytes(), b"\n\n", &self.seen].concat())
    }

    pub(crate) fn remove(state: &Path) -> Result<(), Error> {
        let path = Self::path(state);
        fs::remove_file(&path).map_err(|error| unreadable(&path, &error.to_string()))
    }
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::Folder(format!("{}, which says why the CA has halted: {why}", path.display()))
}
