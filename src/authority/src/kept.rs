//! The newest checkpoint, kept beside the database as well: an older database, put back with the
//! checkpoint that stands in it, does not lead to this one.
//!
//! Written after the database has it, so that a crash leaves an older one here, which the log leads
//! to. Trust: a checkpoint counts by the signature of the log's key. Whoever can remove the file can
//! put back the whole folder.

use std::path::Path;

use crate::error::Error;
use crate::evidence::{EvidenceFile, LogKeys};
use crate::files::write_private;
use crate::halt::Halt;
use crate::store::Store;
use crate::witness::disagreement;

/// What the kept checkpoint says about the log.
#[derive(Debug)]
pub(crate) enum Kept {
    /// The log does not lead to it.
    Contradicts(Halt),
    /// The log leads to it.
    Fits,
    /// None is kept.
    Nowhere,
}

/// Compares the kept checkpoint with the log. Fails where no key of the log has signed it.
pub(crate) async fn compare(
    state: &Path,
    store: &dyn Store,
    keys: &LogKeys,
) -> Result<Kept, Error> {
    let file = EvidenceFile::checkpoint(state);
    let Some(seen) = file.read()? else { return Ok(Kept::Nowhere) };
    let checkpoint = file.verify(&seen, keys)?;
    let by = "this CA kept, beside its database, a signed checkpoint";
    let why = disagreement(store, &checkpoint, by).await?;
    Ok(why.map_or(Kept::Fits, |why| Kept::Contradicts(Halt { why, checkpoint, seen })))
}

/// The halt that it demands.
pub(crate) async fn halt(
    state: &Path,
    store: &dyn Store,
    keys: &LogKeys,
) -> Result<Option<Halt>, Error> {
    match compare(state, store, keys).await? {
        Kept::Contradicts(halt) => Ok(Some(halt)),
        Kept::Fits | Kept::Nowhere => Ok(None),
    }
}

/// Writes it whole or not at all.
pub(crate) fn write(state: &Path, note: &[u8]) -> std::io::Result<()> {
    write_private(EvidenceFile::checkpoint(state).path(), note)
}
