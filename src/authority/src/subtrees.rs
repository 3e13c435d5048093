//! Hashes of the log's subtrees, read from its tiles.

use tlog::{Hash, Subtree, Tile};

use crate::store::{Store, StoreError};

/// The subtrees of the log's first `size` entries. Those that are asked for one after the other lie
/// in few tiles, and a store makes the tile that is not full yet anew each time it is read.
pub(crate) struct Subtrees<'a> {
    store: &'a dyn Store,
    size: u64,
    newest: Option<(Tile, Vec<u8>)>,
}

impl<'a> Subtrees<'a> {
    pub(crate) fn of(store: &'a dyn Store, size: u64) -> Self {
        Self { store, size, newest: None }
    }

    /// The hash of one, unproved.
    pub(crate) async fn hash(&mut self, subtree: Subtree) -> Result<Hash, StoreError> {
        let inconsistent = |error: tlog::Error| StoreError::Inconsistent(error.to_string());
        let tile = Tile::holding(subtree, self.size).map_err(inconsistent)?;
        let held = self.newest.take_if(|(held, _)| *held == tile);
        let bytes = match held {
            Some((_, bytes)) => bytes,
            None => {
                let gone = || StoreError::Inconsistent(format!("{} is gone", tile.path()));
                self.store.tile(tile).await?.ok_or_else(gone)?
            }
        };
        let hash = tlog::subtree_hash_in_tile(&bytes, subtree).map_err(inconsistent);
        self.newest = Some((tile, bytes));
        hash
    }
}
