//! Inclusion and consistency proofs, read from stored complete subtrees.

use crate::tree::{edge_root, range_subtrees};
use crate::{Error, Hash, Subtree, empty_root};

/// Why a proof could not be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError<E> {
    /// There is no such proof: the index or the old size lies outside the tree.
    #[error(transparent)]
    Range(#[from] Error),
    /// The hash of a subtree could not be read.
    #[error("the hash of a subtree could not be read")]
    Read(#[source] E),
}

/// The proof that leaf `index` is in the tree of `size` leaves: PATH of RFC 6962 §2.1.1.
///
/// `read` gives the hash of a complete subtree within that tree and is asked for nothing else,
/// fewer than 128 times. The proof has at most 64 hashes, lowest first, for
/// [`verify_inclusion`](crate::verify_inclusion).
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(Subtree) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProofError<E>> {
    if index >= size {
        return Err(Error::IndexOutsideTree { index, size }.into());
    }
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = split(start, end);
        if index < middle {
            proof.push(range_root(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut read)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `new` leaves extends that of `old` leaves: PROOF of RFC 6962 §2.1.2.
///
/// It is empty where there is nothing to prove, `old` being 0 or `new`. `read` is as in
/// [`inclusion_proof`]; the proof has at most 65 hashes, lowest first, for
/// [`verify_consistency`](crate::verify_consistency).
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut read: impl FnMut(Subtree) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProofError<E>> {
    if old > new {
        return Err(Error::TreeShrank { old, new }.into());
    }
    let mut proof = Vec::new();
    if old == 0 {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = split(start, end);
        if old <= middle {
            proof.push(range_root(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut read)?);
            start = middle;
        }
    }
    // Where the walk never turned right, this is the old root, which the verifier has.
    if start > 0 {
        proof.push(range_root(start, end, &mut read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Where RFC 6962 §2.1 splits `start..end`, two leaves or more: after the largest power of two that
/// is smaller than their number.
fn split(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).ilog2())
}

fn range_root<E>(
    start: u64,
    end: u64,
    read: &mut impl FnMut(Subtree) -> Result<Hash, E>,
) -> Result<Hash, ProofError<E>> {
    let hashes: Result<Vec<_>, E> = range_subtrees(start, end).into_iter().map(read).collect();
    Ok(edge_root(&hashes.map_err(ProofError::Read)?).unwrap_or_else(empty_root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_outside_the_tree_has_no_proof() {
        let refused = inclusion_proof(5, 5, unreadable).unwrap_err();
        assert_eq!(refused, ProofError::Range(Error::IndexOutsideTree { index: 5, size: 5 }));
    }

    #[test]
    fn tree_that_shrank_has_no_proof() {
        let refused = consistency_proof(6, 5, unreadable).unwrap_err();
        assert_eq!(refused, ProofError::Range(Error::TreeShrank { old: 6, new: 5 }));
    }

    #[test]
    fn failing_read_ends_the_proof() {
        assert_eq!(inclusion_proof(0, 2, unreadable), Err(ProofError::Read(Unreadable)));
        assert_eq!(consistency_proof(1, 2, unreadable), Err(ProofError::Read(Unreadable)));
    }

    #[test]
    fn proofs_of_the_largest_trees_read_only_complete_subtrees() {
        for size in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) + 1] {
            let read = |subtree: Subtree| {
                assert!(subtree.is_within(size), "{subtree:?} in a tree of {size}");
                Ok::<_, Unreadable>(empty_root())
            };
            for position in [1, 2, 3, size / 2, size - 1] {
                assert!(inclusion_proof(position, size, read).unwrap().len() <= 64);
                assert!(consistency_proof(position, size, read).unwrap().len() <= 65);
            }
        }
    }

    #[derive(Debug, PartialEq)]
    struct Unreadable;

    fn unreadable(_: Subtree) -> Result<Hash, Unreadable> {
        Err(Unreadable)
    }
}
