//! The tree as tiles: full ones are stored when they fill up, partial ones are computed.

use std::mem;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tlog::{Hash, TILE_WIDTH, Tile, TileKind, TreeEdge, leaf_hash};

use super::columns::LOG;
use super::errors::unavailable;
use super::read;
use super::transaction::one;
use super::unreached::full_tiles;
use crate::sequencer::{Entry, Head};
use crate::store::StoreError;

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

pub(super) fn store(
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

pub(super) fn does_not_add_up(head: &Head) -> StoreError {
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
pub(super) fn hashes(
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

pub(super) fn first(mut hashes: Vec<u8>, width: u64) -> Vec<u8> {
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
pub(super) fn compute(
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

pub(super) fn root_of(connection: &Connection, level: u8, index: u64) -> Result<Hash, StoreError> {
    let tile = stored(connection, level, index)?.ok_or_else(|| {
        StoreError::Inconsistent(format!("tile {index} of level {level} is gone"))
    })?;
    root(&tile)
}

pub(super) fn root(tile: &[u8]) -> Result<Hash, StoreError> {
    let mut edge = TreeEdge::new();
    for hash in tile.chunks(32) {
        edge.push(Hash::try_from(hash).map_err(inconsistent)?);
    }
    Ok(edge.root())
}

pub(super) fn inconsistent(error: tlog::Error) -> StoreError {
    StoreError::Inconsistent(error.to_string())
}
