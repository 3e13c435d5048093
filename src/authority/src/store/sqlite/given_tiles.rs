//! Tiles as they are given to whoever asks: those that add up to the log's head.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tlog::{Hash, TILE_WIDTH, Tile, TileKind};

use super::tiles::{compute, does_not_add_up, first, hashes, inconsistent, root_of, verify_edge};
use super::unreached::full_tiles;
use super::{head, read};
use crate::seal::HeadKey;
use crate::sequencer::Head;
use crate::store::StoreError;
use crate::store::error::newest;
use crate::store::heads::Heads;

/// The bytes of a tile; none where the log does not reach so far.
pub(super) fn tile(
    connection: &Connection,
    key: &HeadKey,
    heads: &Heads,
    roots: &Roots,
    tile: Tile,
) -> Result<Option<Vec<u8>>, StoreError> {
    // Whoever looks at the log itself looks at what is not kept, too.
    let head = newest(head::read_known(connection, key, heads))?;
    let size = head.edge.size();
    let reach = Tile::in_tree(tile.kind(), tile.index(), size);
    if reach.is_err() || reach.is_ok_and(|reach| reach.width() < tile.width()) {
        return Ok(None);
    }
    let width = u64::from(tile.width());
    let bytes = match tile.kind() {
        TileKind::Entries => return bundle(connection, tile.index(), width).map(Some),
        TileKind::Hashes { level } if level > 0 && tile.index() >= full_tiles(level, size) => {
            let reach = Tile::in_tree(tile.kind(), tile.index(), size).map_err(inconsistent)?;
            roots.unfilled(connection, &head, level, reach)?
        }
        TileKind::Hashes { level } => hashes(connection, level, tile.index(), width, size)?,
    };
    Ok(Some(first(bytes, width)))
}

fn bundle(connection: &Connection, index: u64, width: u64) -> Result<Vec<u8>, StoreError> {
    let mut bundle = Vec::new();
    for entry in read::entries(connection, index * TILE_WIDTH, width)? {
        tlog::encode_bundle_entry(&entry, &mut bundle).map_err(inconsistent)?;
    }
    Ok(bundle)
}

/// Roots of full tiles: what the tiles above them are made of that are not full yet, each time that
/// somebody asks for one. To hash all that is below would cost 65,000 hashes.
///
/// Only those are remembered that add up to the log's head, and given to anybody: a tile that somebody
/// changed for a moment is read again.
#[derive(Debug, Default)]
pub(super) struct Roots {
    known: Mutex<HashMap<(u8, u64), Hash>>,
    /// Some were gone or did not add up, and it is not known that all do.
    doubted: AtomicBool,
}

impl Roots {
    /// The hashes of a tile above level 0 that the log of this head has not filled, as far as that reaches.
    ///
    /// Those below are full under this head, and none of them ever changes: they add up to it whatever is
    /// committed while they are read.
    fn unfilled(
        &self,
        connection: &Connection,
        head: &Head,
        level: u8,
        reach: Tile,
    ) -> Result<Vec<u8>, StoreError> {
        let made = self.make(connection, head, level, reach);
        if matches!(made, Err(StoreError::Inconsistent(_))) {
            self.doubted.store(true, Ordering::Release);
        }
        made
    }

    fn make(
        &self,
        connection: &Connection,
        head: &Head,
        level: u8,
        reach: Tile,
    ) -> Result<Vec<u8>, StoreError> {
        let mut read = Vec::new();
        let bytes = compute(connection, level, reach.index(), reach.width().into(), |below| {
            let known = self.known().get(&(level - 1, below)).copied();
            known.map_or_else(
                || {
                    let root = root_of(connection, level - 1, below)?;
                    read.push(((level - 1, below), root));
                    Ok(root)
                },
                Ok,
            )
        })?;
        if !read.is_empty() {
            if !adds_up(head, reach, &bytes) {
                return Err(does_not_add_up(head));
            }
            let mut known = self.known();
            // Of tiles that were filled since, too: nobody asks for those any more.
            if known.len() + read.len() > MOST_ROOTS {
                known.clear();
            }
            known.extend(read);
        }
        Ok(bytes)
    }

    /// Fails while the log's tiles do not add up to its head, once that was noticed.
    pub(super) fn require_no_doubt(
        &self,
        connection: &Connection,
        head: &Head,
    ) -> Result<(), StoreError> {
        if !self.doubted.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let verified = verify_edge(connection, head);
        self.doubted.fetch_or(verified.is_err(), Ordering::AcqRel);
        verified
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(u8, u64), Hash>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what the head says of a tile's hashes is so.
fn adds_up(head: &Head, tile: Tile, bytes: &[u8]) -> bool {
    let size = head.edge.size();
    let mut said = tlog::edge_subtrees(size).into_iter().zip(head.edge.hashes());
    said.all(|(subtree, kept)| {
        let is_elsewhere = Tile::holding(subtree, size).is_ok_and(|holding| holding != tile);
        is_elsewhere || tlog::subtree_hash_in_tile(bytes, subtree).is_ok_and(|hash| hash == *kept)
    })
}

/// More than the tiles that are not full, one of each level, can be made of.
const MOST_ROOTS: usize = 8 * TILE_WIDTH as usize;

#[cfg(test)]
mod tests {
    use tlog::leaf_hash;

    use super::super::schema;
    use super::super::tiles::{NewestTile, root, store};
    use super::*;
    use crate::sequencer::Entry;

    #[test]
    fn what_lies_below_a_tile_is_hashed_once_where_it_adds_up_to_the_head() {
        let mut database = Connection::open_in_memory().unwrap();
        database.execute_batch(schema::TABLES).unwrap();
        let transaction = database.transaction().unwrap();
        let full = |first: u8| leaf_hash(&[first]).as_bytes().repeat(TILE_WIDTH as usize);
        let mut head = Head::empty();
        for index in 0..3 {
            store(&transaction, 0, index, &full(index as u8)).unwrap();
            (0..TILE_WIDTH).for_each(|_| head.edge.push(leaf_hash(&[index as u8])));
        }
        transaction.commit().unwrap();
        let roots = Roots::default();
        let kind = TileKind::Hashes { level: 1 };
        let reach = Tile::in_tree(kind, 0, head.edge.size()).unwrap();
        let unfilled = |roots: &Roots| roots.unfilled(&database, &head, 1, reach);
        let right = [0, 1, 2].map(|first| *root(&full(first)).unwrap().as_bytes()).concat();
        let change = |to: u8| {
            let tile = (full(to),);
            database.execute("UPDATE tiles SET hashes = ?1 WHERE tile_index = 1", tile).unwrap();
        };
        change(7);
        let refused = unfilled(&roots).unwrap_err().to_string();
        assert!(refused.contains("do not add up to its head at 768 entries"), "{refused}");
        change(1);
        assert_eq!(unfilled(&roots).unwrap(), right);
        database.execute_batch("DELETE FROM tiles").unwrap();
        assert_eq!(unfilled(&roots).unwrap(), right);
        let gone = unfilled(&Roots::default()).unwrap_err();
        assert!(matches!(gone, StoreError::Inconsistent(why) if why.contains("tile 0 of level 0")));
    }

    #[test]
    fn a_log_that_grows_while_its_tiles_are_read_adds_up() {
        let mut database = Connection::open_in_memory().unwrap();
        database.execute_batch(schema::TABLES).unwrap();
        let (mut head, mut newest_tile) = (Head::empty(), NewestTile::default());
        let kind = TileKind::Hashes { level: 1 };
        let mut read: Vec<(Head, Tile)> = Vec::new();
        for number in 0..12_u8 {
            let entry = Entry { bytes: vec![number], hash: leaf_hash(&[number]), folds: false };
            let transaction = database.transaction().unwrap();
            newest_tile.grow(&transaction, head.edge.size(), &vec![entry; 100]).unwrap();
            transaction.commit().unwrap();
            (0..100).for_each(|_| head.edge.push(leaf_hash(&[number])));
            let reach = Tile::in_tree(kind, 0, head.edge.size()).ok();
            read.extend(reach.map(|reach| (head.clone(), reach)));
            for (before, reach) in &read {
                Roots::default().unfilled(&database, before, 1, *reach).unwrap();
            }
        }
    }
}
