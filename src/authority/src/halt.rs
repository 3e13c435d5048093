//! What outlives a restart: why nothing is issued, and the checkpoint that speaks against the log.
//! And what an operator has lifted.
//!
//! A halt is a file beside the database and not a row in it, which would be gone with the next older
//! database that is put back. Trust: whoever can remove it can put back databases, too.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use api::KeyPurpose;
use tlog::{Checkpoint, Hash, SignedNote};

use crate::error::Error;
use crate::event::Event;
use crate::files::{MAX_STATE, read_state, write_private};
use crate::rotation::KeyLedger;

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
        let contents = match read_state(&path, MAX_STATE) {
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
        match fs::remove_file(&path) {
            // A halt that the kept checkpoint demands may have no file yet.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(unreadable(&path, &error.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A halt that an operator has lifted, as its event tells.
///
/// Judged is every checkpoint up to the one seen: whoever saw a part of what is lost holds some of
/// them, and would halt the CA again for as long as the part is lost. Nobody who lacks the entries
/// can tell these from the checkpoints of a second loss, so until the log has outgrown that size, or
/// has a new key, a second loss that leaves the lifting in the log halts nothing. The other way to be
/// wrong would let everyone with an old checkpoint stop the CA, for ever. Where the lifting itself is
/// lost it counts no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lift {
    size: u64,
    /// The log's keys that were known then. A later one has signed none of what was judged.
    log_keys: Vec<Hash>,
}

impl Lift {
    /// The detail of the event that lifts a halt.
    pub(crate) fn detail(Halt { why, checkpoint, seen }: &Halt) -> serde_json::Value {
        serde_json::json!({
            "note_sha256": format!("{:?}", Hash::of(seen)),
            "root": format!("{:?}", checkpoint.root),
            "size": checkpoint.size,
            "why": why,
        })
    }

    /// Reads it back, after these keys.
    pub(crate) fn read(event: &Event, keys: &KeyLedger) -> Option<Self> {
        let log_keys = keys.keys().filter(|key| key.purpose == KeyPurpose::Log);
        let log_keys = log_keys.map(|key| key.id).collect();
        Some(Self { size: event.detail["size"].as_u64()?, log_keys })
    }

    /// Whether a checkpoint of this size, signed by these keys, is judged.
    pub(crate) fn covers(&self, size: u64, signed_by: &[Hash]) -> bool {
        size <= self.size && signed_by.iter().all(|key| self.log_keys.contains(key))
    }
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::Folder(format!(
        "{}, which says why the CA has halted: {why}; compare the log with a checkpoint held \
         elsewhere, then remove the file",
        path.display()
    ))
}
