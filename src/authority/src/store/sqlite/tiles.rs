//! The tree as tiles: full ones are stored when they fill up, partial ones are computed.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tlog::{Hash, Subtree, TILE_WIDTH, Tile, TileKind, TreeEdge, leaf_hash};

use super::unreached::full_tiles;
use super::write::one;
use super::{LOG, StoreError, head, read, unavailable};
use crate::seal::HeadKey;
use crate::sequencer::{Entry, Head};
use crate::store::heads::Heads;

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
            *self =
                Self { size, hashes: compute(transaction, &Roots::default(), 0, index, width)? };
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
#[derive(Debug, Default)]
pub(super) struct Roots(Mutex<HashMap<(u8, u64), Hash>>);

impl Roots {
    fn of(&self, connection: &Connection, level: u8, index: u64) -> Result<Hash, StoreError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = known().get(&(level, index)) {
            return Ok(*root);
        }
        let tile = stored(connection, level, index)?.ok_or_else(|| {
            StoreError::Inconsistent(format!("tile {index} of level {level} is gone"))
        })?;
        let root = root(&tile)?;
        let mut known = known();
        // Of tiles that were filled since, too: nobody asks for those any more.
        if known.len() >= MOST_ROOTS {
            known.clear();
        }
        known.insert((level, index), root);
        Ok(root)
    }
}

/// More than the tiles that are not full, one of each level, can be made of.
const MOST_ROOTS: usize = 8 * TILE_WIDTH as usize;

/// Stores the tiles above level 0 that the log's `size`th entry fills.
fn complete_above(transaction: &Transaction<'_>, size: u64) -> Result<(), StoreError> {
    let mut filled = size / TILE_WIDTH;
    let roots = Roots::default();
    for level in 1..8 {
        if !filled.is_multiple_of(TILE_WIDTH) {
            break;
        }
        filled /= TILE_WIDTH;
        let hashes = compute(transaction, &roots, level, filled - 1, TILE_WIDTH)?;
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
    let head = match head::read_known(connection, key, heads) {
        // Whoever looks at the log itself looks at that, too.
        Err(StoreError::Unkept { head, .. }) => Head::clone(&head),
        head => head?,
    };
    let size = head.edge.size();
    let reach = Tile::in_tree(tile.kind(), tile.index(), size);
    if reach.is_err() || reach.is_ok_and(|reach| reach.width() < tile.width()) {
        return Ok(None);
    }
    let width = u64::from(tile.width());
    match tile.kind() {
        TileKind::Entries => bundle(connection, tile.index(), width).map(Some),
        TileKind::Hashes { level } => {
            hashes(connection, roots, level, tile.index(), width, size).map(Some)
        }
    }
}

/// Recomputes the right edge from tiles and entries and compares it with the head: what loading
/// needs of the tree, whatever its size.
pub(super) fn verify_edge(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    let size = head.edge.size();
    let roots = Roots::default();
    for (subtree, kept) in tlog::edge_subtrees(size).into_iter().zip(head.edge.hashes()) {
        if subtree_hash(connection, &roots, subtree, size)? != *kept {
            return Err(StoreError::Inconsistent(format!(
                "the log's tiles do not add up to its head at {size} entries"
            )));
        }
    }
    Ok(())
}

/// The hash of a complete subtree within a log of `size` entries.
fn subtree_hash(
    connection: &Connection,
    roots: &Roots,
    subtree: Subtree,
    size: u64,
) -> Result<Hash, StoreError> {
    let holding = Tile::holding(subtree, size).map_err(inconsistent)?;
    let TileKind::Hashes { level } = holding.kind() else {
        return Err(StoreError::Inconsistent("a subtree lies in no bundle".to_owned()));
    };
    let bytes = hashes(connection, roots, level, holding.index(), holding.width().into(), size)?;
    tlog::subtree_hash_in_tile(&bytes, subtree).map_err(inconsistent)
}

/// A tile that a log of `size` entries has not filled is nowhere stored by this CA, whatever stands
/// there.
fn hashes(
    connection: &Connection,
    roots: &Roots,
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
        Some(mut full) => {
            full.truncate(width as usize * 32);
            Ok(full)
        }
        None => compute(connection, roots, level, index, width),
    }
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
    roots: &Roots,
    level: u8,
    index: u64,
    width: u64,
) -> Result<Vec<u8>, StoreError> {
    let first = index * TILE_WIDTH;
    let mut bytes = Vec::with_capacity(width as usize * 32);
    if level == 0 {
        let entries = read::entries(connection, first, width)?;
        for entry in &entries {
            bytes.extend(leaf_hash(entry).as_bytes());
        }
    } else {
        for below in first..first + width {
            bytes.extend(roots.of(connection, level - 1, below)?.as_bytes());
        }
    }
    if bytes.len() != width as usize * 32 {
        return Err(StoreError::Inconsistent(format!(
            "the log lacks entries between {first} and {}",
            first + width
        )));
    }
    Ok(bytes)
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
    fn what_lies_below_a_tile_is_hashed_once() {
        let mut database = Connection::open_in_memory().unwrap();
        database.execute_batch(schema::TABLES).unwrap();
        let transaction = database.transaction().unwrap();
        let full = |first: u8| leaf_hash(&[first]).as_bytes().repeat(TILE_WIDTH as usize);
        for index in 0..3 {
            store(&transaction, 0, index, &full(index as u8)).unwrap();
        }
        transaction.commit().unwrap();
        let roots = Roots::default();
        let computed = compute(&database, &roots, 1, 0, 3).unwrap();
        let root_of = |first: u8| root(&full(first)).unwrap();
        assert_eq!(computed, [0, 1, 2].map(|first| *root_of(first).as_bytes()).concat());
        database.execute_batch("DELETE FROM tiles").unwrap();
        assert_eq!(compute(&database, &roots, 1, 0, 3).unwrap(), computed);
        let gone = compute(&database, &Roots::default(), 1, 0, 3).unwrap_err();
        assert!(matches!(gone, StoreError::Inconsistent(why) if why.contains("tile 0 of level 0")));
    }
}
