//! Halts: once the log was found to be another than it was, nothing is issued any more.
//!
//! A halt outlives the process, in a file beside the database: a restart must not be the way around it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use identity::SpiffeId;
use tlog::Checkpoint;

use super::View;
use crate::beside::EvidenceFile;
use crate::beside::kept_file::KeptBeside;
use crate::checkpoint;
use crate::error::Error;
use crate::evidence::halt::Halt;
use crate::sequencer::Head;
use crate::store::StoreError;

/// Whether this node has halted.
#[derive(Debug, Default)]
pub(crate) struct Halts {
    /// With the largest checkpoint that speaks against the log.
    halted: Mutex<Option<Halt>>,
    /// Where a halt is kept, and what the log was.
    pub(crate) beside: OnceLock<KeptBeside>,
}

impl Halts {
    pub(crate) fn halted(&self) -> MutexGuard<'_, Option<Halt>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// Which files beside the database were removed or replaced under this process.
    pub(crate) fn replaced_files(&self) -> Vec<String> {
        self.halts.beside.get().map(KeptBeside::replaced).unwrap_or_default()
    }

    /// Why nothing is issued any more.
    pub fn halted(&self) -> Option<String> {
        self.halts.halted().as_ref().map(|halt| halt.why.clone())
    }

    /// Refuses once the log was found to be another than it was.
    pub(crate) fn require_whole_log(&self) -> Result<(), Error> {
        self.halted().map_or(Ok(()), |why| Err(Error::Halted(why)))
    }

    /// The same, but for the CA's own certificate: without one, nobody could be revoked after a
    /// restart, nor ask why.
    pub(crate) fn require_whole_log_for(&self, id: &SpiffeId) -> Result<(), Error> {
        let is_own = *id == SpiffeId::authority(self.trust_domain());
        if is_own { Ok(()) } else { self.require_whole_log() }
    }

    /// The head, from which everything follows; halts where the log went back below this process.
    pub(crate) async fn whole_head(&self) -> Result<Head, Error> {
        let lost = match self.store().head().await {
            Err(StoreError::WentBack(lost)) => lost,
            head => return Ok(head?),
        };
        let (size, root, why) = (lost.size, lost.root, lost.why.clone());
        let origin = checkpoint::origin(self.trust_domain());
        let checkpoint = Checkpoint { origin, size, root };
        let seen = checkpoint.text().into_bytes();
        self.halt_by_head(Halt { why: why.clone(), checkpoint, seen }).await;
        Err(Error::Halted(why))
    }

    /// Halts for a head that this CA has known, of which nobody else has seen a checkpoint: the log's
    /// key signs one as evidence, of what it had. Where it does not sign, the head that is kept beside
    /// the database speaks for itself at the next start.
    pub(crate) async fn halt_by_head(&self, halt: Halt) {
        if says_as_much(&self.halts.halted(), &halt.checkpoint) {
            return;
        }
        match checkpoint::sign(&halt.checkpoint, &self.in_force().log).await {
            Ok(seen) => self.halt(Halt { seen, ..halt }),
            Err(error) => {
                tracing::error!(%error, "a halt has no evidence that others would believe");
                self.stop(halt);
            }
        }
    }

    /// Issues nothing from now on. The largest checkpoint is kept: a database that leads to a smaller
    /// one may lack what others have seen, and must not end the halt.
    pub(crate) fn halt(&self, halt: Halt) {
        let mut halted = self.halts.halted();
        if says_as_much(&halted, &halt.checkpoint) {
            return;
        }
        let file = self.halts.beside.get().map(|beside| EvidenceFile::halt(beside.state()));
        if let Some(path) = file.as_ref().map(EvidenceFile::path)
            && let Err(error) = halt.write(path)
        {
            tracing::error!(%error, path = %path.display(), "a restart will forget this halt");
        }
        stopped(&mut halted, halt);
    }

    /// The same, in this process alone.
    pub(crate) fn stop(&self, halt: Halt) {
        let mut halted = self.halts.halted();
        if halted.is_none() || !says_as_much(&halted, &halt.checkpoint) {
            stopped(&mut halted, halt);
        }
    }
}

fn stopped(halted: &mut Option<Halt>, halt: Halt) {
    tracing::error!(why = halt.why, "nothing is issued any more");
    metrics::gauge!("countersign_halted").set(1.0);
    *halted = Some(halt);
}

/// Whether a halt is on as large a checkpoint.
pub(crate) fn says_as_much(halted: &Option<Halt>, checkpoint: &Checkpoint) -> bool {
    halted.as_ref().is_some_and(|halt| halt.checkpoint.size >= checkpoint.size)
}
