//! The tree as tiles: full ones are stored when they fill up, partial ones are computed.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tlog::{Hash, TILE_WIDTH, Tile, TileKind, TreeEdge, leaf_hash};

use super::unreached::full_tiles;
use super::write::one;
use super::{LOG, StoreError, head, read, unavailable};
use crate::seal::HeadKey;
use crate::sequencer::{Entry, Head};
use crate::store::heads::Heads;
use crate::store::newest;

/// The hashes of the newest tile of level 0 while it fills, so that a full one is not read back.
///
/// A cache: where its size is not the log's, as after a transaction that failed, it is read anew.
#[derive(Debug, Default)]
pub(super) struct NewestTile {
    size: u64,
    hashes: Vec<u8>,
}

impl NewestTile {
    /// Takes what is appended to a log of `size` entries, and stores the tiles that this fills.
    pub(super) fn grow(
        &mut self,
        transaction: &Transaction<'_>,
        size: u64,
        appended: &[Entry],
    ) -> Result<(), StoreError> {
        if self.size != size {
            let (index, width) = (size / TILE_WIDTH, size % TILE_WIDTH);
            *self = Self { size, hashes: hashes_of_entries(transaction, index, width)? };
        }
        for entry in appended {
            self.hashes.extend(entry.hash.as_bytes());
            self.size += 1;
            if self.size.is_multiple_of(TILE_WIDTH) {
                store(transaction, 0, self.size / TILE_WIDTH - 1, &mem::take(&mut self.hashes))?;
                complete_above(transaction, self.size)?;
            }
        }
        Ok(())
    }
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

/// Stores the tiles above level 0 that the log's `size`th entry fills.
fn complete_above(transaction: &Transaction<'_>, size: u64) -> Result<(), StoreError> {
    let mut filled = size / TILE_WIDTH;
    for level in 1..8 {
        if !filled.is_multiple_of(TILE_WIDTH) {
            break;
        }
        filled /= TILE_WIDTH;
        let root_of = |below| root_of(transaction, level - 1, below);
        let hashes = compute(transaction, level, filled - 1, TILE_WIDTH, root_of)?;
        store(transaction, level, filled - 1, &hashes)?;
    }
    Ok(())
}

fn store(
    transaction: &Transaction<'_>,
    level: u8,
    index: u64,
    hashes: &[u8],
) -> Result<(), StoreError> {
    let stored = transaction
        .prepare_cached(
            "INSERT INTO tiles (log_id, level, tile_index, hashes) VALUES (?1, ?2, ?3, ?4)",
        )
        .and_then(|mut insert| insert.execute(params![LOG, level, index as i64, hashes]));
    one(stored, "tiles")
}

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

/// Recomputes the right edge from tiles and entries and compares it with the head: what loading
/// needs of the tree, whatever its size.
pub(super) fn verify_edge(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    let size = head.edge.size();
    // Those of one tile follow one another.
    let mut newest: Option<(Tile, Vec<u8>)> = None;
    for (subtree, kept) in tlog::edge_subtrees(size).into_iter().zip(head.edge.hashes()) {
        let holding = Tile::holding(subtree, size).map_err(inconsistent)?;
        let held = newest.take_if(|(held, _)| *held == holding);
        let (_, bytes) = newest.insert(match held {
            Some(held) => held,
            None => (holding, hashes_in(connection, holding, size)?),
        });
        if tlog::subtree_hash_in_tile(bytes, subtree).map_err(inconsistent)? != *kept {
            return Err(does_not_add_up(head));
        }
    }
    Ok(())
}

fn does_not_add_up(head: &Head) -> StoreError {
    let size = head.edge.size();
    let why = format!("the log's tiles do not add up to its head at {size} entries");
    StoreError::Inconsistent(why)
}

fn hashes_in(connection: &Connection, tile: Tile, size: u64) -> Result<Vec<u8>, StoreError> {
    let TileKind::Hashes { level } = tile.kind() else {
        return Err(StoreError::Inconsistent("a subtree lies in no bundle".to_owned()));
    };
    hashes(connection, level, tile.index(), tile.width().into(), size)
}

/// A tile that a log of `size` entries has not filled is nowhere stored by this CA, whatever stands
/// there.
fn hashes(
    connection: &Connection,
    level: u8,
    index: u64,
    width: u64,
    size: u64,
) -> Result<Vec<u8>, StoreError> {
    let stored = match index < full_tiles(level, size) {
        true => stored(connection, level, index)?,
        false => None,
    };
    match stored {
        Some(full) => Ok(first(full, width)),
        None => {
            compute(connection, level, index, width, |below| root_of(connection, level - 1, below))
        }
    }
}

fn first(mut hashes: Vec<u8>, width: u64) -> Vec<u8> {
    hashes.truncate(width as usize * 32);
    hashes
}

fn stored(connection: &Connection, level: u8, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    connection
        .prepare_cached(
            "SELECT hashes FROM tiles WHERE log_id = ?1 AND level = ?2 AND tile_index = ?3",
        )
        .and_then(|mut select| {
            select.query_row(params![LOG, level, index as i64], |row| row.get(0)).optional()
        })
        .map_err(unavailable)
}

/// Level 0 holds the hashes of entries, each level above the roots of full tiles below.
fn compute(
    connection: &Connection,
    level: u8,
    index: u64,
    width: u64,
    root_of: impl FnMut(u64) -> Result<Hash, StoreError>,
) -> Result<Vec<u8>, StoreError> {
    if level == 0 {
        return hashes_of_entries(connection, index, width);
    }
    let first = index * TILE_WIDTH;
    let roots: Result<Vec<Hash>, _> = (first..first + width).map(root_of).collect();
    Ok(roots?.iter().flat_map(|root| *root.as_bytes()).collect())
}

fn hashes_of_entries(
    connection: &Connection,
    index: u64,
    width: u64,
) -> Result<Vec<u8>, StoreError> {
    let first = index * TILE_WIDTH;
    let entries = read::entries(connection, first, width)?;
    if entries.len() as u64 != width {
        return Err(StoreError::Inconsistent(format!(
            "the log lacks entries between {first} and {}",
            first + width
        )));
    }
    Ok(entries.iter().flat_map(|entry| *leaf_hash(entry).as_bytes()).collect())
}

fn root_of(connection: &Connection, level: u8, index: u64) -> Result<Hash, StoreError> {
    let tile = stored(connection, level, index)?.ok_or_else(|| {
        StoreError::Inconsistent(format!("tile {index} of level {level} is gone"))
    })?;
    root(&tile)
}

fn root(tile: &[u8]) -> Result<Hash, StoreError> {
    let mut edge = TreeEdge::new();
    for hash in tile.chunks(32) {
        edge.push(Hash::try_from(hash).map_err(inconsistent)?);
    }
    Ok(edge.root())
}

fn bundle(connection: &Connection, index: u64, width: u64) -> Result<Vec<u8>, StoreError> {
    let mut bundle = Vec::new();
    for entry in read::entries(connection, index * TILE_WIDTH, width)? {
        tlog::encode_bundle_entry(&entry, &mut bundle).map_err(inconsistent)?;
    }
    Ok(bundle)
}

fn inconsistent(error: tlog::Error) -> StoreError {
    StoreError::Inconsistent(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

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
