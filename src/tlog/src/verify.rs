//! Inclusion and consistency proofs, verified against roots.

use crate::{Error, Hash, empty_root, node_hash};

/// Verifies that `leaf` is leaf `index` of the tree with this `size` and `root` (RFC 9162
/// §2.1.3.2).
///
/// `leaf` is a [`leaf_hash`](crate::leaf_hash), `proof` comes from
/// [`inclusion_proof`](crate::inclusion_proof). A missing or an excess hash fails as a wrong one.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), Error> {
    if index >= size {
        return Err(Error::IndexOutsideTree { index, size });
    }
    let refused = Error::InclusionProof { index, size };
    let mut climb = Climb { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match climb.step() {
            None => return Err(refused),
            Some(Side::Left) => node_hash(sibling, &hash),
            Some(Side::Right) => node_hash(&hash, sibling),
        };
    }
    (climb.is_at_root() && hash == *root).then_some(()).ok_or(refused)
}

/// Verifies that the tree of `new_size` leaves extends the tree of `old_size` (RFC 9162 §2.1.4.2).
///
/// `proof` comes from [`consistency_proof`](crate::consistency_proof), and must be empty if the
/// sizes are equal or `old_size` is 0; the roots must then be equal, or the old root be
/// [`empty_root`]. A missing or an excess hash fails as a wrong one.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), Error> {
    if old_size > new_size {
        return Err(Error::TreeShrank { old: old_size, new: new_size });
    }
    let proven = if old_size == new_size {
        proof.is_empty() && old_root == new_root && (old_size > 0 || *old_root == empty_root())
    } else if old_size == 0 {
        proof.is_empty() && *old_root == empty_root()
    } else {
        roots_from(old_size, old_root, new_size, proof) == Some((*old_root, *new_root))
    };
    proven.then_some(()).ok_or(Error::ConsistencyProof { old: old_size, new: new_size })
}

/// The old and the new root that `proof` leads to, for `0 < old_size < new_size`.
fn roots_from(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    proof: &[Hash],
) -> Option<(Hash, Hash)> {
    let mut climb = Climb { node: old_size - 1, last: new_size - 1 };
    climb.skip_right_turns();
    // A complete old tree is itself the first node, and the proof leaves it out.
    let (start, siblings) =
        if old_size.is_power_of_two() { (old_root, proof) } else { proof.split_first()? };
    let (mut old, mut new) = (*start, *start);
    for sibling in siblings {
        match climb.step()? {
            Side::Left => {
                old = node_hash(sibling, &old);
                new = node_hash(sibling, &new);
            }
            Side::Right => new = node_hash(&new, sibling),
        }
    }
    climb.is_at_root().then_some((old, new))
}

/// The way from a node to the root of a tree: `fn` and `sn` of RFC 9162.
struct Climb {
    /// The node's index in its level.
    node: u64,
    /// The index of the last node in that level.
    last: u64,
}

impl Climb {
    /// Goes to the parent and says on which side the sibling was; `None` at the root.
    fn step(&mut self) -> Option<Side> {
        if self.is_at_root() {
            return None;
        }
        let side =
            if self.node & 1 == 1 || self.node == self.last { Side::Left } else { Side::Right };
        if side == Side::Left {
            self.skip_missing_siblings();
        }
        self.up();
        Some(side)
    }

    fn is_at_root(&self) -> bool {
        self.last == 0
    }

    /// The last node of a level may be its own parent several times: levels without a sibling.
    fn skip_missing_siblings(&mut self) {
        while self.node & 1 == 0 && self.node != 0 {
            self.up();
        }
    }

    /// Goes up to the largest complete subtree that ends with the old tree's last leaf.
    fn skip_right_turns(&mut self) {
        while self.node & 1 == 1 {
            self.up();
        }
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

#[derive(PartialEq)]
enum Side {
    Left,
    Right,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    #[test]
    fn single_leaf_is_its_own_root() {
        let leaf = leaf_hash(b"only");
        assert_eq!(verify_inclusion(&leaf, 0, 1, &leaf, &[]), Ok(()));
        let refused = Err(Error::InclusionProof { index: 0, size: 1 });
        assert_eq!(verify_inclusion(&leaf, 0, 1, &leaf, &[leaf]), refused);
        assert_eq!(verify_inclusion(&leaf, 0, 1, &empty_root(), &[]), refused);
    }

    #[test]
    fn index_outside_the_tree_is_refused() {
        let leaf = leaf_hash(b"");
        for (index, size) in [(0, 0), (1, 1), (u64::MAX, u64::MAX)] {
            let refused = Err(Error::IndexOutsideTree { index, size });
            assert_eq!(verify_inclusion(&leaf, index, size, &leaf, &[]), refused);
        }
    }

    #[test]
    fn every_tree_extends_the_empty_one() {
        let root = leaf_hash(b"root");
        assert_eq!(verify_consistency(0, &empty_root(), 0, &empty_root(), &[]), Ok(()));
        assert_eq!(verify_consistency(0, &empty_root(), 9, &root, &[]), Ok(()));
        let refused = Err(Error::ConsistencyProof { old: 0, new: 9 });
        assert_eq!(verify_consistency(0, &root, 9, &root, &[]), refused);
        assert_eq!(verify_consistency(0, &empty_root(), 9, &root, &[root]), refused);
        assert!(verify_consistency(0, &root, 0, &root, &[]).is_err());
    }

    #[test]
    fn equal_sizes_need_equal_roots_and_no_proof() {
        let (root, other) = (leaf_hash(b"root"), leaf_hash(b"other"));
        assert_eq!(verify_consistency(9, &root, 9, &root, &[]), Ok(()));
        let refused = Err(Error::ConsistencyProof { old: 9, new: 9 });
        assert_eq!(verify_consistency(9, &root, 9, &other, &[]), refused);
        assert_eq!(verify_consistency(9, &root, 9, &root, &[root]), refused);
    }

    #[test]
    fn tree_that_shrank_is_refused() {
        let root = leaf_hash(b"root");
        let refused = Err(Error::TreeShrank { old: 9, new: 8 });
        assert_eq!(verify_consistency(9, &root, 8, &root, &[]), refused);
    }

    #[test]
    fn largest_sizes_end() {
        let root = leaf_hash(b"root");
        let proof = [root; 70];
        assert!(verify_inclusion(&root, u64::MAX - 1, u64::MAX, &root, &proof).is_err());
        assert!(verify_consistency(u64::MAX - 1, &root, u64::MAX, &root, &proof).is_err());
        assert!(verify_consistency(1 << 63, &root, u64::MAX, &root, &proof).is_err());
    }
}
