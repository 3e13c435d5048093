//! The shape of the Merkle tree: complete subtrees, and the right edge from which it grows.

use crate::{Error, Hash, empty_root, node_hash};

/// A complete subtree: the `1 << level` leaves that start at `index << level`.
///
/// Level 0 is a single leaf, whose hash is [`leaf_hash`](crate::leaf_hash). The hash of a complete
/// subtree never changes once its last leaf is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// Its height above the leaves, at most 63 in a tree that can exist.
    pub level: u8,
    /// Its position among the subtrees of the same level, from 0 at the left.
    pub index: u64,
}

impl Subtree {
    /// Whether a tree of `size` leaves holds all leaves of this subtree.
    pub(crate) fn is_within(self, size: u64) -> bool {
        self.index < size.checked_shr(self.level.into()).unwrap_or(0)
    }
}

/// The complete subtrees that make up a tree of `size` leaves, largest (leftmost) first.
///
/// There is one for each bit set in `size`; their hashes are [`TreeEdge::hashes`].
pub fn edge_subtrees(size: u64) -> Vec<Subtree> {
    range_subtrees(0, size)
}

/// The complete subtrees of the leaves `start..end`, largest first. `start` must be a multiple of a
/// power of two that is not less than the number of leaves, as in every split of RFC 6962 §2.1.
pub(crate) fn range_subtrees(start: u64, end: u64) -> Vec<Subtree> {
    let length = end - start;
    let levels = (0..64).rev().filter(|level| length >> level & 1 == 1);
    let mut first = start;
    levels
        .map(|level| {
            let index = first >> level;
            first += 1 << level;
            Subtree { level, index }
        })
        .collect()
}

/// The root above neighbouring complete subtrees, largest first (RFC 6962 §2.1).
pub(crate) fn edge_root(hashes: &[Hash]) -> Option<Hash> {
    hashes.iter().rev().copied().reduce(|right, left| node_hash(&left, &right))
}

/// The right edge of a tree, all that appending needs: its size and the hashes of
/// [`edge_subtrees`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeEdge {
    size: u64,
    hashes: Vec<Hash>,
}

impl TreeEdge {
    /// The edge of the empty tree.
    pub const fn new() -> Self {
        Self { size: 0, hashes: Vec::new() }
    }

    /// The edge of a stored tree: `hashes` are those of [`edge_subtrees`]`(size)`, in that order.
    ///
    /// Fails if there is not exactly one hash for each bit set in `size`, or if `size` exceeds
    /// `i64::MAX`. Whether they are the right hashes only a root that somebody signed can tell.
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Result<Self, Error> {
        if size > MAX_SIZE {
            return Err(Error::TreeTooLarge { size });
        }
        if hashes.len() != size.count_ones() as usize {
            return Err(Error::EdgeHashCount { size, found: hashes.len() });
        }
        Ok(Self { size, hashes })
    }

    /// The number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of [`edge_subtrees`]`(size)`, largest subtree first; at most 63.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends a leaf, given by its [`leaf_hash`](crate::leaf_hash).
    pub fn push(&mut self, leaf: Hash) {
        // Each trailing one of the size is a subtree that the new leaf completes a pair with.
        let paired = self.size.trailing_ones() as usize;
        let kept = self.hashes.len() - paired;
        let pairs = self.hashes.drain(kept..).rev();
        let subtree = pairs.fold(leaf, |right, left| node_hash(&left, &right));
        self.hashes.push(subtree);
        self.size += 1;
    }

    /// The Merkle tree hash of all leaves (RFC 6962 §2.1).
    pub fn root(&self) -> Hash {
        edge_root(&self.hashes).unwrap_or_else(empty_root)
    }
}

/// The largest size that [`TreeEdge::from_parts`] takes: SQL integers hold it, and nobody lives to
/// push the 2^63 further leaves that would overflow the count.
const MAX_SIZE: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_has_one_subtree_for_each_bit_of_the_size() {
        assert_eq!(edge_subtrees(0), []);
        let expected = [(2, 0), (1, 2), (0, 6)].map(|(level, index)| Subtree { level, index });
        assert_eq!(edge_subtrees(7), expected);
        assert_eq!(edge_subtrees(u64::MAX).len(), 64);
    }

    #[test]
    fn subtree_is_within_a_tree_that_holds_its_last_leaf() {
        let subtree = Subtree { level: 3, index: 2 };
        assert!(subtree.is_within(24));
        assert!(!subtree.is_within(23));
        assert!(!Subtree { level: 64, index: 0 }.is_within(u64::MAX));
        assert!(!Subtree { level: 0, index: u64::MAX }.is_within(u64::MAX));
    }

    #[test]
    fn edge_is_restored_from_its_parts() {
        let mut edge = TreeEdge::new();
        for leaf in 0..100 {
            edge.push(Hash::new([leaf; 32]));
            assert_eq!(TreeEdge::from_parts(edge.size(), edge.hashes().to_vec()), Ok(edge.clone()));
        }
    }

    #[test]
    fn edge_with_a_wrong_number_of_hashes_is_refused() {
        let hashes = vec![empty_root(); 3];
        assert!(TreeEdge::from_parts(7, hashes.clone()).is_ok());
        let refused = TreeEdge::from_parts(8, hashes);
        assert_eq!(refused, Err(Error::EdgeHashCount { size: 8, found: 3 }));
    }

    #[test]
    fn edge_that_could_overflow_is_refused() {
        let refused = TreeEdge::from_parts(u64::MAX, vec![empty_root(); 64]);
        assert_eq!(refused, Err(Error::TreeTooLarge { size: u64::MAX }));
        assert!(TreeEdge::from_parts(MAX_SIZE, vec![empty_root(); 63]).is_ok());
    }
}
