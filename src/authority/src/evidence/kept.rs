//! The newest checkpoint, kept beside the database as well: an older database, put back with the
//! checkpoint that stands in it, does not lead to this one.
//!
//! Written after the database has it, so that a crash leaves an older one here, which the log leads
//! to, and once more within a second where somebody removes or replaces it under the CA. Trust: a
//! checkpoint counts by the signature of the log's key. Whoever can remove the file can put back the
//! whole folder.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::beside::EvidenceFile;
use crate::beside::kept_file::{KeptBeside, KeptFile};
use crate::checkpoint::disagreement;
use crate::error::Error;
use crate::evidence::LogKeys;
use crate::evidence::halt::Halt;
use crate::store::Store;

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

/// The file, for whoever signs; nothing is kept before the first.
#[derive(Debug, Default)]
pub(crate) struct KeptCheckpoint(Mutex<Newest>);

/// What this process has put there last.
#[derive(Debug, Default)]
struct Newest {
    kept: Option<KeptFile>,
    size: u64,
    note: Arc<[u8]>,
    /// Whether the last attempt failed, which is told once.
    has_failed: bool,
}

impl KeptCheckpoint {
    /// Has it stand there, whole or not at all, unless a larger one does. What of ours is gone from
    /// there was taken away by somebody, which is told; as is a failure, once. To be run to its end.
    pub(crate) fn keep(&self, beside: &KeptBeside, size: u64, note: &Arc<[u8]>) -> io::Result<()> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if size < newest.size {
            return Ok(());
        }
        let kept = newest.put(beside, note);
        let has_failed = std::mem::replace(&mut newest.has_failed, kept.is_err());
        match &kept {
            Ok(()) => (newest.size, newest.note) = (size, Arc::clone(note)),
            Err(error) if !has_failed => {
                tracing::error!(%error, "the newest checkpoint stands in no file");
            }
            Err(_) => {}
        }
        kept
    }
}

impl Newest {
    fn put(&mut self, beside: &KeptBeside, note: &[u8]) -> io::Result<()> {
        let is_ours = match &self.kept {
            Some(kept) => kept.stands()? && kept.says(&self.note, 0),
            None => true,
        };
        if let Some(kept) = self.kept.as_mut().filter(|_| !is_ours) {
            return kept.restore(note);
        }
        if self.kept.is_some() && *self.note == *note {
            return Ok(());
        }
        // Of one that could not be put in its place nobody knows which stands there: it begins anew.
        self.kept = None;
        self.kept = Some(KeptFile::put(EvidenceFile::checkpoint(beside.state()), beside, note)?);
        Ok(())
    }
}
