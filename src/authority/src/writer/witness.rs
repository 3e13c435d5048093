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
//! A halt outlives the process ([`KeptHalt`]): a restart must not be the way around it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tlog::{Checkpoint, Hash, SignedNote};

use super::Writer;
use crate::beside::EvidenceFile;
use crate::beside::kept_file::KeptBeside;
use crate::checkpoint;
use crate::checkpoint::contradiction;
use crate::error::Error;
use crate::evidence::halt::{Halt, KeptHalt};
use crate::evidence::kept::{self, Kept, KeptCheckpoint};
use crate::evidence::{LogKeys, kept_head};
use crate::fold::lift::Lift;
use crate::view::halts::says_as_much;

/// What others have seen of the log, and whether it still does what they saw.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    /// Sizes and roots that were shown and are right, newest last.
    right: Mutex<VecDeque<(u64, Hash)>>,
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

impl Witnesses {
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

fn told_gone(file: &EvidenceFile) {
    tracing::warn!(
        path = %file.path().display(),
        "what is kept of the log beside its database is gone, and is written anew: nothing here would \
         tell of an older database; compare the log with a checkpoint held elsewhere"
    );
}

/// What a note claims, before its signature is verified: only to tell whether to verify it.
fn claimed(note: &[u8]) -> Option<Checkpoint> {
    Checkpoint::parse(SignedNote::parse(note).ok()?.text()).ok()
}

/// Clients show the newest few, one a second.
const KNOWN: usize = 256;

impl Writer {
    /// Compares a checkpoint that a client verified with the log. What is no checkpoint of ours is
    /// ignored: the request that carries it is none the worse.
    pub async fn witness(&self, note: &[u8], shown: Shown) {
        let Some(claimed) = claimed(note) else { return };
        let signed = self.checkpoints.newest_size();
        let is_news = claimed.size > signed || shown == Shown::ByWorkload;
        let is_kept = says_as_much(&self.view.halts.halted(), &claimed);
        if is_kept || !is_news || self.witnesses.knows(&claimed) {
            return;
        }
        // A signature costs less than to ask the store, and strangers have none.
        let signed_by = self.view.in_force().signers_of(note);
        let is_judged = |lift: &Lift| lift.covers(claimed.size, &signed_by);
        if signed_by.is_empty() || self.view.folded().lifts.iter().any(is_judged) {
            return;
        }
        match contradiction(self.view.store(), &claimed).await {
            Ok(None) => self.witnesses.remember(&claimed),
            Ok(Some(why)) => {
                self.view.halt(Halt { why, checkpoint: claimed, seen: note.to_vec() });
            }
            // Larger than what was lost below this process, as far as that knows.
            Err(Error::Halted(why)) => {
                drop(self.view.whole_head().await);
                let size = claimed.size;
                let why = format!("a client showed a signed checkpoint of {size} entries; {why}");
                self.view.halt(Halt { why, checkpoint: claimed, seen: note.to_vec() });
            }
            Err(error) => tracing::warn!(%error, "cannot compare a checkpoint with the log"),
        }
    }

    /// Keeps a halt in the state folder from now on, and halts at once where one was kept there and
    /// the log still does not lead to what was seen. Where it does, the newest database is back.
    /// Fails where a file says so that no key of the log has signed.
    pub(crate) async fn keep_halts(&self, state: &Path) -> Result<(), Error> {
        let keys =
            LogKeys::of(&self.view.trust_domain, &self.view.folded().keys, self.view.key_files())?;
        // Both are looked at before either is acted on: what is not ours leaves nothing behind.
        let kept = kept::compare(state, self.view.store(), &keys).await?;
        let seal = self.view.key_files().require_head_key()?;
        let origin = checkpoint::origin(self.view.trust_domain());
        let kept_head = kept_head::compare(state, self.view.store(), &seal, origin).await?;
        let file = EvidenceFile::halt(state);
        if let Some(kept) = KeptHalt::read(state, &keys)? {
            match kept.standing(self.view.store()).await? {
                Some(halt) => self.view.stop(halt),
                None => {
                    tracing::info!("the log is again the one that was seen when the CA halted");
                    file.remove()?;
                }
            }
        }
        // Once for each process: the folder stays the same.
        let beside = self.view.halts.beside.get_or_init(|| KeptBeside::of(state)).clone();
        // While the log does not lead to it, it stays as it is: it is the evidence.
        let begins = !matches!(kept_head, Kept::Contradicts(_));
        match (kept, kept_head) {
            (Kept::Contradicts(halt), Kept::Contradicts(by_head)) => {
                self.view.halt(halt);
                self.view.halt_by_head(by_head).await;
            }
            (Kept::Contradicts(halt), _) => self.view.halt(halt),
            (_, Kept::Contradicts(halt)) => self.view.halt_by_head(halt).await,
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
            self.view.store().keep_heads(beside).await?;
        }
        Ok(())
    }

    /// Keeps the newest checkpoint in the state folder, too, and once more where it is gone from there.
    /// Where that fails the log goes on: an older one is kept, and says less.
    pub(crate) async fn keep_checkpoint(&self) {
        let Some(beside) = self.view.halts.beside.get().cloned() else { return };
        let Some((size, note)) = self.checkpoints.newest_note() else { return };
        let kept = Arc::clone(&self.witnesses.kept_checkpoint);
        // Whoever asked may be gone before it ends; what failed was told.
        drop(tokio::task::spawn_blocking(move || kept.keep(&beside, size, &note)).await);
    }
}
