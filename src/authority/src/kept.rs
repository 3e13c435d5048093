//! The newest checkpoint, kept beside the database as well: an older database, put back with the
//! checkpoint that stands in it, does not lead to this one.
//!
//! Written after the database has it, so that a crash leaves an older one here, which the log leads
//! to, and once more within a second where somebody removes or replaces it under the CA. Trust: a
//! checkpoint counts by the signature of the log's key. Whoever can remove the file can put back the
//! whole folder.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::evidence::{EvidenceFile, LogKeys};
use crate::files::{MAX_STATE, read_state, write_private};
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

/// The file, for whoever signs.
#[derive(Debug, Default)]
pub(crate) struct KeptCheckpoint {
    written: Mutex<Written>,
    is_rewritten: AtomicBool,
}

/// What this process has written there.
#[derive(Debug, Default)]
struct Written {
    size: u64,
    /// One of these stands there; of a write that failed, nobody knows. None before the first.
    notes: Vec<Arc<[u8]>>,
    /// Whether the last attempt did, which is told once.
    has_failed: bool,
}

impl KeptCheckpoint {
    /// Whether what this process wrote was removed or replaced meanwhile.
    pub(crate) fn is_rewritten(&self) -> bool {
        self.is_rewritten.load(Ordering::Relaxed)
    }

    /// Has it stand there, whole or not at all, unless a larger one does. What of ours is gone from
    /// there was taken away by somebody, which is told; as is a failure, once. To be run to its end.
    pub(crate) fn keep(&self, state: &Path, size: u64, note: &Arc<[u8]>) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if size < written.size {
            return Ok(());
        }
        let kept = self.put(&mut written, state, size, note);
        let has_failed = std::mem::replace(&mut written.has_failed, kept.is_err());
        if let Err(error) = &kept
            && !has_failed
        {
            tracing::error!(%error, "the newest checkpoint stands in no file");
        }
        kept
    }

    fn put(
        &self,
        written: &mut Written,
        state: &Path,
        size: u64,
        note: &Arc<[u8]>,
    ) -> io::Result<()> {
        let file = EvidenceFile::checkpoint(state);
        let stands = read_state(file.path(), MAX_STATE);
        if stands.as_ref().is_ok_and(|stands| stands[..] == note[..]) {
            (written.size, written.notes) = (size, vec![Arc::clone(note)]);
            return Ok(());
        }
        let is_gone = !written.notes.is_empty() && written.is_gone(&stands);
        // Before it may stand there.
        written.size = size;
        if written.notes.len() >= FAILURES {
            written.notes.remove(0);
        }
        written.notes.push(Arc::clone(note));
        write_private(file.path(), note)?;
        written.notes = vec![Arc::clone(note)];
        if is_gone {
            self.is_rewritten.store(true, Ordering::Relaxed);
            file.tell_rewritten();
        }
        Ok(())
    }
}

impl Written {
    /// Whether what was read there is not of this process. What the system could not read now says
    /// nothing of who wrote it.
    fn is_gone(&self, stands: &io::Result<Vec<u8>>) -> bool {
        match stands {
            Ok(stands) => !self.notes.iter().any(|note| note[..] == stands[..]),
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            // No error of the system, but of what stands there: a link, a folder.
            Err(error) => error.raw_os_error().is_none(),
        }
    }
}

/// So many notes are remembered of writes that failed: it is not known which of them stands there.
const FAILURES: usize = 16;
