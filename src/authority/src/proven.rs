//! Entries of the log, proved to stand in it.

use tlog::{Hash, leaf_hash};

use crate::event::Event;
use crate::store::{Store, StoreError, newest_head};
use crate::subtrees::Subtrees;

/// Whether the event at this place of the log is the one that a row says made it.
pub(crate) async fn made_by(
    store: &dyn Store,
    log_index: u64,
    is_it: impl FnOnce(&Event) -> bool,
) -> Result<bool, StoreError> {
    let entry = proven_entry(store, log_index).await?;
    let event = entry.and_then(|entry| Event::parse(&entry).ok());
    Ok(event.is_some_and(|event| is_it(&event)))
}

/// The entry at this place, proved to be under the head's root: whoever only writes to the database
/// puts none there. None beyond the log's end.
pub(crate) async fn proven_entry(
    store: &dyn Store,
    log_index: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let head = newest_head(store).await?;
    let (size, root) = (head.edge.size(), head.edge.root());
    let entry = store.entries(log_index, 1).await?.pop();
    let Some(entry) = entry.filter(|_| log_index < size) else { return Ok(None) };
    let inconsistent =
        |why: String| StoreError::Inconsistent(format!("the proof of entry {log_index}: {why}"));
    let mut needed = Vec::new();
    let placeholder = |subtree| {
        needed.push(subtree);
        Ok::<_, std::convert::Infallible>(Hash::new([0; 32]))
    };
    tlog::inclusion_proof(log_index, size, placeholder)
        .map_err(|error| inconsistent(error.to_string()))?;
    let (mut subtrees, mut hashes) = (Subtrees::of(store, size), Vec::with_capacity(needed.len()));
    for subtree in needed {
        hashes.push(subtrees.hash(subtree).await?);
    }
    // Asked for in the same order.
    let mut hashes = hashes.into_iter();
    let read = |_| hashes.next().ok_or(());
    let proof = tlog::inclusion_proof(log_index, size, read)
        .map_err(|_| inconsistent("it has another shape".to_owned()))?;
    tlog::verify_inclusion(&leaf_hash(&entry), log_index, size, &root, &proof)
        .map_err(|_| inconsistent("the entry is not the one that was logged".to_owned()))?;
    Ok(Some(entry))
}
