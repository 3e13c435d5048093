//! The chain of folding events: which of them there are, and in which order.

use tlog::{Hash, leaf_hash};

/// Before the first folding event.
pub(crate) const CHAIN_START: Hash = Hash::new([0; 32]);

/// The chain of folding events, one event longer.
pub(crate) fn chained(chain: &Hash, index: u64, entry: &Hash) -> Hash {
    Hash::of(&[&chain.as_bytes()[..], &index.to_be_bytes(), entry.as_bytes()].concat())
}

/// The same, for an entry's bytes.
pub(crate) fn chained_entry(chain: &Hash, index: u64, bytes: &[u8]) -> Hash {
    chained(chain, index, &leaf_hash(bytes))
}
