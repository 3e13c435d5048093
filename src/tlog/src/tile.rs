//! Names and contents of the files in which a log is published (C2SP tlog-tiles, "Merkle Tree").

use std::fmt;

use crate::{Error, Hash, Subtree, TreeEdge};

/// The number of hashes or entries in a full tile.
pub const TILE_WIDTH: u64 = 256;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Log entries, as a bundle: [`parse_bundle`](crate::parse_bundle).
    Entries,
    /// Hashes of complete subtrees of `256^level` leaves: [`subtree_hash_in_tile`].
    Hashes {
        /// 0 to 63, and 7 at most in a tree that can exist.
        level: u8,
    },
}

/// A file of the published log: a full tile of 256 entries or hashes, or a partial one of fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile at `index` of its kind (and level), from 0 at the left, `width` entries or hashes
    /// wide.
    ///
    /// Fails if the level exceeds 63 or the width is not 1 to 256.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, Error> {
        if let TileKind::Hashes { level: level @ 64.. } = kind {
            return Err(Error::TileLevel { level });
        }
        if width == 0 || u64::from(width) > TILE_WIDTH {
            return Err(Error::TileWidth { width });
        }
        Ok(Self { kind, index, width })
    }

    /// The tile at `index` as wide as a tree of `size` leaves fills it (C2SP tlog-tiles, "Partial
    /// Tiles").
    ///
    /// Fails if that tree has nothing in it.
    pub fn in_tree(kind: TileKind, index: u64, size: u64) -> Result<Self, Error> {
        let level = match kind {
            TileKind::Entries => 0,
            TileKind::Hashes { level } => u32::from(level),
        };
        let total = size.checked_shr(8 * level).unwrap_or(0);
        let width = total.saturating_sub(index.saturating_mul(TILE_WIDTH)).min(TILE_WIDTH);
        if width == 0 {
            return Err(Error::TileOutsideTree { kind, index, size });
        }
        Self::new(kind, index, width as u16)
    }

    /// The tile that holds the hashes of `subtree` in a tree of `size` leaves, for
    /// [`subtree_hash_in_tile`].
    ///
    /// A wider tile at the same place serves as well. Fails if the tree does not hold all leaves of
    /// the subtree.
    pub fn holding(subtree: Subtree, size: u64) -> Result<Self, Error> {
        if !subtree.is_within(size) {
            return Err(Error::SubtreeOutsideTree { subtree, size });
        }
        let kind = TileKind::Hashes { level: subtree.level / 8 };
        Self::in_tree(kind, subtree.index >> (8 - subtree.level % 8), size)
    }

    /// What it holds.
    pub const fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its position among the tiles of its kind and level, from 0.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The number of entries or hashes in it, 1 to 256; fewer than 256 make it partial.
    pub const fn width(&self) -> u16 {
        self.width
    }

    /// Its path below the log's prefix: `tile/0/x001/x234/067`, `tile/entries/000.p/4`.
    pub fn path(&self) -> String {
        let mut index = format!("{:03}", self.index % 1000);
        let mut higher = self.index / 1000;
        while higher > 0 {
            index = format!("x{:03}/{index}", higher % 1000);
            higher /= 1000;
        }
        match u64::from(self.width) {
            TILE_WIDTH => format!("tile/{}/{index}", self.kind),
            width => format!("tile/{}/{index}.p/{width}", self.kind),
        }
    }

    /// Reads what [`path`](Self::path) writes, and no other spelling.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let malformed = || Error::TilePath { path: path.to_owned() };
        let tile = parse_loosely(path).ok_or_else(malformed)?;
        if tile.path() != path {
            return Err(malformed());
        }
        Ok(tile)
    }
}

impl fmt::Display for TileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries => f.write_str("entries"),
            Self::Hashes { level } => level.fmt(f),
        }
    }
}

fn parse_loosely(path: &str) -> Option<Tile> {
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok()?),
        None => (rest, 256),
    };
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes { level: level.parse().ok()? },
    };
    Tile::new(kind, parse_index(index)?, width).ok()
}

fn parse_index(groups: &str) -> Option<u64> {
    groups.split('/').try_fold(0u64, |index, group| {
        let group: u64 = group.trim_start_matches('x').parse().ok()?;
        index.checked_mul(1000)?.checked_add(group)
    })
}

/// The hash of a complete subtree, computed from the bytes of the tile that
/// [`Tile::holding`] names, in this or any later version of it.
///
/// Fails if `tile` is not a sequence of at most 256 hashes, or too short to hold the subtree. The
/// answer is as trustworthy as the bytes: compare a root computed from it with a checkpoint.
pub fn subtree_hash_in_tile(tile: &[u8], subtree: Subtree) -> Result<Hash, Error> {
    let (hashes, ragged) = tile.as_chunks();
    if !ragged.is_empty() || hashes.len() as u64 > TILE_WIDTH {
        return Err(Error::TileLength { length: tile.len() });
    }
    let height = subtree.level % 8;
    let first = ((subtree.index % TILE_WIDTH) << height) % TILE_WIDTH;
    let end = first + (1 << height);
    let held = hashes.get(first as usize..end as usize);
    let held = held.ok_or(Error::TileTooNarrow { width: hashes.len(), subtree })?;
    let mut edge = TreeEdge::new();
    held.iter().for_each(|hash| edge.push(Hash::new(*hash)));
    Ok(edge.root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_hash;

    #[test]
    fn paths_are_those_of_the_specification() {
        let hashes = |level| TileKind::Hashes { level };
        let cases = [
            (hashes(0), 1_234_067, 256, "tile/0/x001/x234/067"),
            (hashes(63), 999, 255, "tile/63/999.p/255"),
            (hashes(7), 1000, 1, "tile/7/x001/000.p/1"),
            (TileKind::Entries, 0, 4, "tile/entries/000.p/4"),
            (TileKind::Entries, u64::MAX, 256, "tile/entries/x018/x446/x744/x073/x709/x551/615"),
        ];
        for (kind, index, width, path) in cases {
            let tile = Tile::new(kind, index, width).unwrap();
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Ok(tile));
        }
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        let refused = "
            tile tile/ tile/0 tile/0/ /tile/0/000 tile/0/000/ tile//000 tiles/0/000 tile/0//000
            tile/00/000 tile/+0/000 tile/-1/000 tile/64/000 tile/256/000 tile/x/000 tile/Entries/000
            tile/0/0 tile/0/00 tile/0/0000 tile/0/+00 tile/0/x000 tile/0/x000/000 tile/0/001/000
            tile/0/x001/x000 tile/0/xx01/000 tile/0/x1/000 tile/0/x0001/000 tile/0/X001/000
            tile/0/000.p tile/0/000.p/ tile/0/000.p/0 tile/0/000.p/01 tile/0/000.p/+1
            tile/0/000.p/256 tile/0/000.p/65536 tile/0/000.p/1/ tile/0/000.p/1.p/1 tile/0/x001.p/000
            tile/0/x018/x446/x744/x073/x709/x551/616 tile/0/x999/x999/x999/x999/x999/x999/x999/999
            tile/0/000?a tile/0/０００";
        for path in refused.split_whitespace() {
            assert_eq!(Tile::parse(path), Err(Error::TilePath { path: path.into() }), "{path}");
        }
        assert!(Tile::parse("").is_err());
        assert!(Tile::parse("tile/0/000 ").is_err());
    }

    #[test]
    fn tile_outside_its_limits_is_refused() {
        let level = Tile::new(TileKind::Hashes { level: 64 }, 0, 1);
        assert_eq!(level, Err(Error::TileLevel { level: 64 }));
        for width in [0, 257] {
            assert_eq!(Tile::new(TileKind::Entries, 0, width), Err(Error::TileWidth { width }));
        }
    }

    #[test]
    fn tree_of_70_000_has_the_tiles_of_the_specification() {
        let width = |level, index| {
            Tile::in_tree(TileKind::Hashes { level }, index, 70_000).map(|tile| tile.width())
        };
        assert_eq!(width(0, 272), Ok(256));
        assert_eq!(width(0, 273), Ok(112));
        let kind = TileKind::Hashes { level: 0 };
        assert_eq!(width(0, 274), Err(Error::TileOutsideTree { kind, index: 274, size: 70_000 }));
        assert_eq!(width(1, 0), Ok(256));
        assert_eq!(width(1, 1), Ok(17));
        assert_eq!(width(2, 0), Ok(1));
        assert!(width(3, 0).is_err());
        assert!(width(63, u64::MAX).is_err());
    }

    #[test]
    fn subtree_outside_the_tree_is_in_no_tile() {
        for (level, index, size) in [(3, 2, 23), (0, 0, 0), (255, 0, u64::MAX), (8, u64::MAX, 9)] {
            let subtree = Subtree { level, index };
            let refused = Err(Error::SubtreeOutsideTree { subtree, size });
            assert_eq!(Tile::holding(subtree, size), refused);
        }
    }

    #[test]
    fn subtree_hash_comes_from_its_part_of_the_tile() {
        let [a, b, c] = [1, 2, 3].map(|byte| Hash::new([byte; 32]));
        let tile = [a, b, c].map(|hash| *hash.as_bytes()).concat();
        let hash = |level, index| subtree_hash_in_tile(&tile, Subtree { level, index });
        assert_eq!(hash(0, 2), Ok(c));
        assert_eq!(hash(1, 0), Ok(node_hash(&a, &b)));
        assert_eq!(hash(16, 256 + 2), Ok(c));
        let subtree = Subtree { level: 1, index: 1 };
        assert_eq!(hash(1, 1), Err(Error::TileTooNarrow { width: 3, subtree }));
        assert!(hash(255, u64::MAX).is_err());
    }

    #[test]
    fn bytes_that_are_no_tile_are_refused() {
        let subtree = Subtree { level: 0, index: 0 };
        for length in [31, 33, 257 * 32] {
            let refused = subtree_hash_in_tile(&vec![0; length], subtree);
            assert_eq!(refused, Err(Error::TileLength { length }));
        }
    }
}
