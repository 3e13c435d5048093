//! The checkpoints that this node signs: whatever is signed next extends the newest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tlog::{Checkpoint, Hash, VerifierKey};

use super::queue::Failure;
use crate::checkpoint::{LogSigner, root_at, sign, verify};
use crate::error::Error;
use crate::store::{Store, StoreError, StoredCheckpoint};

/// The newest checkpoint: whatever is signed next extends it. What is told, and kept beside the
/// database, is this one: what the database says meanwhile has been verified by nobody.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    newest: Mutex<Option<Newest>>,
}

/// A checkpoint that this node signed, or found at its start and verified.
#[derive(Debug, Clone)]
struct Newest {
    size: u64,
    root: Hash,
    note: Arc<[u8]>,
}

impl Checkpoints {
    /// The size of the newest checkpoint that this node signed, or found at its start.
    pub(crate) fn newest_size(&self) -> u64 {
        self.newest().as_ref().map_or(0, |newest| newest.size)
    }

    /// The same, and its signed note; none before the first.
    pub(crate) fn newest_note(&self) -> Option<(u64, Arc<[u8]>)> {
        self.newest().as_ref().map(|newest| (newest.size, Arc::clone(&newest.note)))
    }

    /// Signs the head if it has grown since the newest checkpoint, or that one lacks a signature;
    /// returns the size covered. What came of its write is remembered with that of the others.
    pub(crate) async fn sign_head(
        &self,
        store: &dyn Store,
        origin: String,
        signers: &[LogSigner],
        failure: &Failure,
    ) -> Result<u64, Error> {
        let head = store.head().await?;
        let newest = store.checkpoint().await?;
        let (size, root) = (head.edge.size(), head.edge.root());
        let checkpoint = Checkpoint { origin, size, root };
        let signed_by = |note: &[u8], key| verify(note, [key]).is_some_and(|it| it == checkpoint);
        let is_signed = |stored: &StoredCheckpoint| {
            stored.size == size && signers.iter().all(|(key, _)| signed_by(&stored.note, key))
        };
        if let Some(stored) = newest.filter(is_signed) {
            self.remember(size, root, &stored.note);
            return Ok(size);
        }
        self.require_extension(store, size, root).await?;
        let note = sign(&checkpoint, signers).await?;
        let written = store.put_checkpoint(StoredCheckpoint { size, note: note.clone() }).await;
        // Where it is taken, that says nothing of what commits need beside the database.
        if written.is_err() {
            failure.note(&written);
        }
        written?;
        self.remember(size, root, &note);
        Ok(size)
    }

    /// The log key signs one history: the tiles must add up to the head, and to what was signed
    /// last, whatever the database says now.
    async fn require_extension(
        &self,
        store: &dyn Store,
        size: u64,
        root: Hash,
    ) -> Result<(), Error> {
        let last = self.newest().as_ref().map(|newest| (newest.size, newest.root));
        for (size, root) in last.into_iter().chain([(size, root)]) {
            if root_at(store, size).await? != root {
                let why = format!("the log's first {size} entries are not those that it had");
                return Err(StoreError::Inconsistent(why).into());
            }
        }
        Ok(())
    }

    fn remember(&self, size: u64, root: Hash, note: &[u8]) {
        *self.newest() = Some(Newest { size, root, note: note.into() });
    }

    fn newest(&self) -> MutexGuard<'_, Option<Newest>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies that the newest checkpoint is ours and that the log still extends it.
    pub(crate) async fn verify_newest(
        &self,
        store: &dyn Store,
        keys: &[VerifierKey],
    ) -> Result<(), Error> {
        let Some(stored) = store.checkpoint().await? else {
            return Ok(());
        };
        let inconsistent = |why: String| StoreError::Inconsistent(format!("the checkpoint: {why}"));
        let checkpoint = verify(&stored.note, keys)
            .ok_or_else(|| inconsistent("no key of this log signed it".to_owned()))?;
        let size = store.head().await?.edge.size();
        if checkpoint.size != stored.size {
            return Err(inconsistent("its row says another size".to_owned()).into());
        }
        if checkpoint.size > size {
            return Err(inconsistent(format!(
                "it covers {} entries, but the log has {size}: an older database was put back",
                checkpoint.size
            ))
            .into());
        }
        if root_at(store, checkpoint.size).await? != checkpoint.root {
            return Err(inconsistent("the log's first entries have another root".into()).into());
        }
        self.remember(checkpoint.size, checkpoint.root, &stored.note);
        Ok(())
    }
}
