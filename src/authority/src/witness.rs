//! Rolled-back stores are caught: clients show the newest checkpoint that they have verified.
//!
//! A checkpoint that the log's key signed and that this log does not lead to proves that the store
//! lost what others have seen, or that the key signed two histories. Either way nothing more is
//! issued until an operator has looked: what was revoked may stand in the part that is gone. What
//! has been judged so halts nothing again (`Lift`).
//!
//! What is revoked meanwhile is logged, and told to those who have seen no more than this log.
//! Where the log went back below a running process, it fails instead: new entries stand where older
//! ones are folded already, and would be passed over in silence.
//!
//! A halt outlives the process ([`Authority::keep_halts`]): a restart must not be the way around it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use identity::SpiffeId;
use tlog::{Checkpoint, Hash, SignedNote};

use crate::authority::Authority;
use crate::checkpoint;
use crate::error::Error;
use crate::evidence::{EvidenceFile, LogKeys};
use crate::halt::{Halt, KeptHalt, Lift};
use crate::kept::{self, Kept, KeptCheckpoint};
use crate::kept_file::KeptBeside;
use crate::kept_head;
use crate::sequencer::Head;
use crate::store::{Store, StoreError};

/// What others have seen of the log, and whether it still does what they saw.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    /// Sizes and roots that were shown and are right, newest last.
    right: Mutex<VecDeque<(u64, Hash)>>,
    /// With the largest checkpoint that speaks against the log.
    halted: Mutex<Option<Halt>>,
    /// Where a halt is kept, and what the log was.
    beside: OnceLock<KeptBeside>,
    kept_checkpoint: Arc<KeptCheckpoint>,
}

/// Who shows a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Somebody without a certificate: looked at only where it says more than is known.
    ByStranger,
    /// A caller with a certificate of the trust domain.
    ByWorkload,
}

impl Authority {
    /// Compares a checkpoint that a client verified with the log. What is no checkpoint of ours is
    /// ignored: the request that carries it is none the worse.
    pub async fn witness(&self, note: &[u8], shown: Shown) {
        let Some(claimed) = claimed(note) else { return };
        let signed = self.checkpoints().newest_size();
        let is_news = claimed.size > signed || shown == Shown::ByWorkload;
        let is_kept = says_as_much(&self.witnesses().halted(), &claimed);
        if is_kept || !is_news || self.witnesses().knows(&claimed) {
            return;
        }
        // A signature costs less than to ask the store, and strangers have none.
        let signed_by = self.in_force().signers_of(note);
        let is_judged = |lift: &Lift| lift.covers(claimed.size, &signed_by);
        if signed_by.is_empty() || self.folded().lifts.iter().any(is_judged) {
            return;
        }
        match contradiction(self.store(), &claimed).await {
            Ok(None) => self.witnesses().remember(&claimed),
            Ok(Some(why)) => {
                self.halt(Halt { why, checkpoint: claimed, seen: note.to_vec() });
            }
            // Larger than what was lost below this process, as far as that knows.
            Err(Error::Halted(why)) => {
                drop(self.whole_head().await);
                let size = claimed.size;
                let why = format!("a client showed a signed checkpoint of {size} entries; {why}");
                self.halt(Halt { why, checkpoint: claimed, seen: note.to_vec() });
            }
            Err(error) => tracing::warn!(%error, "cannot compare a checkpoint with the log"),
        }
    }

    /// Keeps a halt in the state folder from now on, and halts at once where one was kept there and
    /// the log still does not lead to what was seen. Where it does, the newest database is back.
    /// Fails where a file says so that no key of the log has signed.
    pub async fn keep_halts(&self, state: &Path) -> Result<(), Error> {
        let keys = LogKeys::of(&self.trust_domain, &self.folded().keys, &self.keys)?;
        // Both are looked at before either is acted on: what is not ours leaves nothing behind.
        let kept = kept::compare(state, self.store(), &keys).await?;
        let seal = self.keys.require_head_key()?;
        let origin = checkpoint::origin(self.trust_domain());
        let kept_head = kept_head::compare(state, self.store(), &seal, origin).await?;
        let file = EvidenceFile::halt(state);
        if let Some(kept) = KeptHalt::read(state, &keys)? {
            match kept.standing(self.store()).await? {
                Some(halt) => self.stop(halt),
                None => {
                    tracing::info!("the log is again the one that was seen when the CA halted");
                    file.remove()?;
                }
            }
        }
        // Once for each process: the folder stays the same.
        let beside = self.witnesses().beside.get_or_init(|| KeptBeside::of(state)).clone();
        // While the log does not lead to it, it stays as it is: it is the evidence.
        let begins = !matches!(kept_head, Kept::Contradicts(_));
        match (kept, kept_head) {
            (Kept::Contradicts(halt), Kept::Contradicts(by_head)) => {
                self.halt(halt);
                self.halt_by_head(by_head).await;
            }
            (Kept::Contradicts(halt), _) => self.halt(halt),
            (_, Kept::Contradicts(halt)) => self.halt_by_head(halt).await,
            (by_checkpoint, by_head) => {
                if let Kept::Nowhere = by_checkpoint {
                    told_gone(&EvidenceFile::checkpoint(state));
                }
                if let Kept::Nowhere = by_head {
                    told_gone(&EvidenceFile::head(state));
                }
            }
        }
        if begins {
            self.store().keep_heads(beside).await?;
        }
        Ok(())
    }

    /// Keeps the newest checkpoint in the state folder, too, and once more where it is gone from there.
    /// Where that fails the log goes on: an older one is kept, and says less.
    pub(crate) async fn keep_checkpoint(&self) {
        let Some(beside) = self.witnesses().beside.get().cloned() else { return };
        let Some((size, note)) = self.checkpoints().newest_note() else { return };
        let kept = Arc::clone(&self.witnesses().kept_checkpoint);
        // Whoever asked may be gone before it ends; what failed was told.
        drop(tokio::task::spawn_blocking(move || kept.keep(&beside, size, &note)).await);
    }

    /// Which files beside the database were removed or replaced under this process.
    pub(crate) fn replaced_files(&self) -> Vec<String> {
        self.witnesses().beside.get().map(KeptBeside::replaced).unwrap_or_default()
    }

    /// Why nothing is issued any more.
    pub fn halted(&self) -> Option<String> {
        self.witnesses().halted().as_ref().map(|halt| halt.why.clone())
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
    async fn halt_by_head(&self, halt: Halt) {
        if says_as_much(&self.witnesses().halted(), &halt.checkpoint) {
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
    fn halt(&self, halt: Halt) {
        let mut halted = self.witnesses().halted();
        if says_as_much(&halted, &halt.checkpoint) {
            return;
        }
        let file = self.witnesses().beside.get().map(|beside| EvidenceFile::halt(beside.state()));
        if let Some(path) = file.as_ref().map(EvidenceFile::path)
            && let Err(error) = halt.write(path)
        {
            tracing::error!(%error, path = %path.display(), "a restart will forget this halt");
        }
        stopped(&mut halted, halt);
    }

    /// The same, in this process alone.
    fn stop(&self, halt: Halt) {
        let mut halted = self.witnesses().halted();
        if halted.is_none() || !says_as_much(&halted, &halt.checkpoint) {
            stopped(&mut halted, halt);
        }
    }
}

impl Witnesses {
    fn halted(&self) -> MutexGuard<'_, Option<Halt>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, claimed: &Checkpoint) -> bool {
        self.right().contains(&(claimed.size, claimed.root))
    }

    fn remember(&self, right: &Checkpoint) {
        let mut known = self.right();
        if known.len() >= KNOWN {
            known.pop_front();
        }
        known.push_back((right.size, right.root));
    }

    fn right(&self) -> MutexGuard<'_, VecDeque<(u64, Hash)>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped(halted: &mut Option<Halt>, halt: Halt) {
    tracing::error!(why = halt.why, "nothing is issued any more");
    metrics::gauge!("countersign_halted").set(1.0);
    *halted = Some(halt);
}

fn told_gone(file: &EvidenceFile) {
    tracing::warn!(
        path = %file.path().display(),
        "what is kept of the log beside its database is gone, and is written anew: nothing here would \
         tell of an older database; compare the log with a checkpoint held elsewhere"
    );
}

/// Whether a halt is on as large a checkpoint.
fn says_as_much(halted: &Option<Halt>, checkpoint: &Checkpoint) -> bool {
    halted.as_ref().is_some_and(|halt| halt.checkpoint.size >= checkpoint.size)
}

/// Whether the log, read now, does not lead to this checkpoint.
pub(crate) async fn contradiction(
    store: &dyn Store,
    shown: &Checkpoint,
) -> Result<Option<String>, Error> {
    disagreement(store, shown, "a client showed a signed checkpoint").await
}

/// The same, for a checkpoint that somebody has, in these words.
pub(crate) async fn disagreement(
    store: &dyn Store,
    shown: &Checkpoint,
    who: &str,
) -> Result<Option<String>, Error> {
    let size = store.head().await?.edge.size();
    if shown.size > size {
        return Ok(Some(format!(
            "{who} of {} entries, and the log has {size}: an older database was put back",
            shown.size
        )));
    }
    match checkpoint::root_at(store, shown.size).await {
        Ok(root) if root == shown.root => Ok(None),
        Ok(_) | Err(Error::Store(StoreError::Inconsistent(_))) => Ok(Some(format!(
            "{who} of {} entries, and the log's are others: an older database was put back and has \
             grown since",
            shown.size
        ))),
        Err(error) => Err(error),
    }
}

/// What a note claims, before its signature is verified: only to tell whether to verify it.
fn claimed(note: &[u8]) -> Option<Checkpoint> {
    Checkpoint::parse(SignedNote::parse(note).ok()?.text()).ok()
}

/// Clients show the newest few, one a second.
const KNOWN: usize = 256;
