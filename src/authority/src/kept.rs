//! The newest checkpoint, kept beside the database as well: an older database, put back with the
//! checkpoint that stands in it, does not lead to this one.
//!
//! Written after the database has it, so that a crash leaves an older one here, which the log leads
//! to, and once more within a second where somebody removes or replaces it under the CA. Trust: a checkpoint counts by the signature of the log's key. Whoever can remove the file can
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

/// Has it stand there, whole or not at all. `before` is what this process has written there: where that
/// is gone, somebody took it away, which is told. Returns whether that was so.
pub(crate) fn keep(state: &Path, note: &[u8], before: Option<&[u8]>) -> std::io::Result<bool> {
    let file = EvidenceFile::checkpoint(state);
    let stands = file.read().ok().flatten();
    if stands.as_deref() == Some(note) {
        return Ok(false);
    }
    write_private(file.path(), note)?;
    let was_replaced = before.is_some() && stands.as_deref() != before;
    if was_replaced {
        file.tell_rewritten();
    }
    Ok(was_replaced)
}
