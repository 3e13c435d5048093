//! The tree and its proofs against RFC 6962 §2.1 written down as recursion, for all small trees.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use std::collections::HashMap;
use std::convert::Infallible;

use tlog::{
    Hash, Subtree, TILE_WIDTH, Tile, TileKind, TreeEdge, consistency_proof, edge_subtrees,
    empty_root, inclusion_proof, leaf_hash, node_hash, subtree_hash_in_tile, verify_consistency,
    verify_inclusion,
};

const LARGEST: u64 = 70;

#[test]
fn roots_are_the_known_ones() {
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut edge = TreeEdge::new();
    let mut found = vec![format!("{:?}", edge.root())];
    for entry in KNOWN_ENTRIES {
        edge.push(leaf_hash(&hex::decode(entry).unwrap()));
        found.push(format!("{:?}", edge.root()));
    }
    assert_eq!(found, roots);
}

#[test]
fn inclusion_proof_is_the_known_one() {
    let log = Log::of(KNOWN_ENTRIES.map(|entry| leaf_hash(&hex::decode(entry).unwrap())).into());
    let proof: Vec<_> = log.inclusion(0, 8).iter().map(|hash| format!("{hash:?}")).collect();
    let known = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ];
    assert_eq!(proof, known);
}

#[test]
fn edge_has_the_root_and_the_subtrees_of_its_tree() {
    let log = Log::with_size(LARGEST);
    let mut edge = TreeEdge::new();
    for (size, leaf) in (1..).zip(&log.leaves) {
        edge.push(*leaf);
        assert_eq!((edge.size(), edge.root()), (size, log.root(size)));
        let subtrees: Vec<_> =
            edge_subtrees(size).into_iter().map(|tree| log.subtree(tree)).collect();
        assert_eq!(edge.hashes(), subtrees);
    }
}

#[test]
fn inclusion_proofs_are_those_of_the_definition_and_verify() {
    let log = Log::with_size(LARGEST);
    for (index, size) in positions() {
        let proof = log.inclusion(index, size);
        assert_eq!(proof, path(index as usize, &log.leaves[..size as usize]));
        let leaf = &log.leaves[index as usize];
        assert_eq!(verify_inclusion(leaf, index, size, &log.root(size), &proof), Ok(()));
    }
}

#[test]
fn damaged_inclusion_proofs_are_refused() {
    let log = Log::with_size(LARGEST);
    for (index, size) in positions() {
        let (leaf, root) = (&log.leaves[index as usize], log.root(size));
        for proof in damaged(&log.inclusion(index, size)) {
            assert!(verify_inclusion(leaf, index, size, &root, &proof).is_err());
        }
    }
}

#[test]
fn inclusion_proofs_hold_for_nothing_else() {
    let log = Log::with_size(LARGEST);
    for (index, size) in positions() {
        let (leaf, root, proof) =
            (&log.leaves[index as usize], log.root(size), log.inclusion(index, size));
        let verify =
            |leaf: &Hash, index, root: &Hash| verify_inclusion(leaf, index, size, root, &proof);
        assert!(verify(&empty_root(), index, &root).is_err());
        assert!(verify(leaf, index, &empty_root()).is_err());
        for other in (0..=size).filter(|other| *other != index) {
            assert!(verify(leaf, other, &root).is_err(), "{index} as {other} of {size}");
        }
        for other in (0..=LARGEST).filter(|other| *other != size) {
            assert!(verify_inclusion(leaf, index, other, &log.root(other), &proof).is_err());
        }
    }
}

#[test]
fn consistency_proofs_are_those_of_the_definition_and_verify() {
    let log = Log::with_size(LARGEST);
    for (old, new) in size_pairs() {
        let proof = log.consistency(old, new);
        if old > 0 {
            assert_eq!(proof, subproof(old as usize, &log.leaves[..new as usize], true));
        }
        assert_eq!(verify_consistency(old, &log.root(old), new, &log.root(new), &proof), Ok(()));
    }
}

#[test]
fn damaged_consistency_proofs_are_refused() {
    let log = Log::with_size(LARGEST);
    for (old, new) in size_pairs() {
        for proof in damaged(&log.consistency(old, new)) {
            let refused = verify_consistency(old, &log.root(old), new, &log.root(new), &proof);
            assert!(refused.is_err(), "{old} to {new}");
        }
    }
}

#[test]
fn consistency_proofs_hold_for_nothing_else() {
    let log = Log::with_size(LARGEST);
    // Every tree extends the empty one, so there is nothing that a proof from 0 could refute.
    for (old, new) in size_pairs().filter(|(old, _)| *old > 0) {
        let proof = log.consistency(old, new);
        let (old_root, new_root, wrong) = (log.root(old), log.root(new), leaf_hash(b"wrong"));
        let verify = |old, old_root: &Hash, new, new_root: &Hash| {
            verify_consistency(old, old_root, new, new_root, &proof)
        };
        assert!(verify(old, &wrong, new, &new_root).is_err());
        assert!(verify(old, &old_root, new, &wrong).is_err());
        for other in (1..=LARGEST).filter(|other| *other != old && *other != new) {
            assert!(verify(other, &log.root(other), new, &new_root).is_err());
            assert!(verify(old, &old_root, other, &log.root(other)).is_err());
        }
    }
}

#[test]
fn proofs_are_built_from_published_tiles() {
    let leaves: Vec<_> = (0..70_000u32).map(|entry| leaf_hash(&entry.to_be_bytes())).collect();
    let (size, root, tiles) = (70_000, edge_of(&leaves).root(), tiles_of(&leaves));
    let read = |subtree: Subtree| {
        let tile = Tile::holding(subtree, size)?;
        subtree_hash_in_tile(&tiles[&tile.path()], subtree)
    };
    for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999] {
        let proof = inclusion_proof(index, size, read).unwrap();
        let leaf = &leaves[index as usize];
        assert_eq!(verify_inclusion(leaf, index, size, &root, &proof), Ok(()));
    }
    for old in [1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999] {
        let proof = consistency_proof(old, size, read).unwrap();
        let old_root = edge_of(&leaves[..old as usize]).root();
        assert_eq!(verify_consistency(old, &old_root, size, &root, &proof), Ok(()));
    }
}

/// Entries of Google's certificate-transparency tests, in hex.
const KNOWN_ENTRIES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// Every index of every tree.
fn positions() -> impl Iterator<Item = (u64, u64)> {
    (1..=LARGEST).flat_map(|size| (0..size).map(move |index| (index, size)))
}

/// Every old and new size.
fn size_pairs() -> impl Iterator<Item = (u64, u64)> {
    (0..=LARGEST).flat_map(|new| (0..=new).map(move |old| (old, new)))
}

/// `proof` with each hash changed, left out, doubled, and one more at either end.
fn damaged(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut damaged = vec![[proof, &[empty_root()]].concat(), [&[empty_root()], proof].concat()];
    for position in 0..proof.len() {
        let (before, after) = (&proof[..position], &proof[position + 1..]);
        let mut flipped = *proof[position].as_bytes();
        flipped[position % 32] ^= 1;
        damaged.push([before, &[Hash::new(flipped)], after].concat());
        damaged.push([before, after].concat());
        damaged.push([before, &[proof[position]; 2], after].concat());
    }
    damaged
}

struct Log {
    leaves: Vec<Hash>,
    /// The root at each size.
    roots: Vec<Hash>,
}

impl Log {
    fn with_size(size: u64) -> Self {
        Self::of((0..size).map(|entry| leaf_hash(&entry.to_be_bytes())).collect())
    }

    fn of(leaves: Vec<Hash>) -> Self {
        let roots = (0..=leaves.len()).map(|size| mth(&leaves[..size])).collect();
        Self { leaves, roots }
    }

    fn root(&self, size: u64) -> Hash {
        self.roots[size as usize]
    }

    fn subtree(&self, subtree: Subtree) -> Hash {
        let leaves = subtree.index << subtree.level..(subtree.index + 1) << subtree.level;
        mth(&self.leaves[leaves.start as usize..leaves.end as usize])
    }

    fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        let read = |subtree| Ok::<_, Infallible>(self.subtree(subtree));
        inclusion_proof(index, size, read).unwrap()
    }

    fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        let read = |subtree| Ok::<_, Infallible>(self.subtree(subtree));
        consistency_proof(old, new, read).unwrap()
    }
}

/// MTH of RFC 6962 §2.1.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&mth(left), &mth(right))
        }
    }
}

/// PATH of RFC 6962 §2.1.1.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at(middle);
    if index < middle {
        [path(index, left), vec![mth(right)]].concat()
    } else {
        [path(index - middle, right), vec![mth(left)]].concat()
    }
}

/// SUBPROOF of RFC 6962 §2.1.2.
fn subproof(old: usize, leaves: &[Hash], old_root_is_known: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if old_root_is_known { Vec::new() } else { vec![mth(leaves)] };
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at(middle);
    if old <= middle {
        [subproof(old, left, old_root_is_known), vec![mth(right)]].concat()
    } else {
        [subproof(old - middle, right, false), vec![mth(left)]].concat()
    }
}

/// The largest power of two smaller than `length`.
fn split(length: usize) -> usize {
    length.next_power_of_two() / 2
}

fn edge_of(leaves: &[Hash]) -> TreeEdge {
    let mut edge = TreeEdge::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge
}

/// All tiles of a log by path: those of level 0, of the roots of the full ones, and so on.
fn tiles_of(leaves: &[Hash]) -> HashMap<String, Vec<u8>> {
    let mut tiles = HashMap::new();
    let mut hashes = leaves.to_vec();
    for level in 0.. {
        let kind = TileKind::Hashes { level };
        for (index, tile) in (0..).zip(hashes.chunks(TILE_WIDTH as usize)) {
            let name = Tile::in_tree(kind, index, leaves.len() as u64).unwrap();
            assert_eq!(usize::from(name.width()), tile.len());
            tiles.insert(name.path(), tile.iter().flat_map(|hash| *hash.as_bytes()).collect());
        }
        let full = hashes.chunks_exact(TILE_WIDTH as usize);
        hashes = full.map(|tile| edge_of(tile).root()).collect();
        if hashes.is_empty() {
            break;
        }
    }
    tiles
}
