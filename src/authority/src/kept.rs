//! The newest checkpoint, kept beside the database as well: an older database, put back with the
//! checkpoint that stands in it, does not lead to this one.
//!
//! Written after the database has it, so that a crash leaves an older one here, which the log leads
//! to. Trust: whoever can remove the file can put back the whole folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tlog::{Checkpoint, SignedNote};

use crate::error::Error;
use crate::files::{MAX_STATE, read_state, write_private};
use crate::halt::Halt;
use crate::store::Store;
use crate::witness::disagreement;

/// The halt that the kept checkpoint demands; none where the log leads to it, or none is kept.
pub(crate) async fn halt(state: &Path, store: &dyn Store) -> Result<Option<Halt>, Error> {
    let Some(seen) = read(state)? else { return Ok(None) };
    let note = SignedNote::parse(&seen).and_then(|note| Checkpoint::parse(note.text()));
    let checkpoint = note.map_err(|error| unreadable(state, &error))?;
    let by = "this CA kept, beside its database,";
    let why = disagreement(store, &checkpoint, by).await?;
    Ok(why.map(|why| Halt { why, checkpoint, seen }))
}

/// Writes it whole or not at all.
pub(crate) fn write(state: &Path, note: &[u8]) -> std::io::Result<()> {
    write_private(&path(state), note)
}

/// Forgets it, once an operator has judged that what it speaks of is lost.
pub(crate) fn remove(state: &Path) -> Result<(), Error> {
    match fs::remove_file(path(state)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(unreadable(state, &error)),
        _ => Ok(()),
    }
}

fn read(state: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read_state(&path(state), MAX_STATE) {
        Ok(note) => Ok(Some(note)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(state, &error)),
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("checkpoint")
}

fn unreadable(state: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Folder(format!(
        "{}, the newest checkpoint: {why}; compare the log with a checkpoint held elsewhere, then \
         remove the file",
        path(state).display()
    ))
}
