//! The log's head.

use tlog::{Hash, TreeEdge};

use crate::chain::CHAIN_START;

/// The log's head, and what moves with it: read and written under the head lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The tree's right edge.
    pub edge: TreeEdge,
    /// The time of the newest entry, in milliseconds since 1970.
    pub at: u64,
    /// Grows with each event that changes the revocation state.
    pub revocation_epoch: u64,
    /// The active policy set.
    pub policy_hash: Hash,
    /// Leaves below this index are accounted for: `issued`, `issue.abandoned` or `issue.lost`.
    pub swept: u64,
    /// A hash chain over places and leaf hashes of the events that the fold reads.
    pub chain: Hash,
}

impl Head {
    /// The head of an empty log.
    pub fn empty() -> Self {
        let edge = TreeEdge::new();
        let policy_hash = Hash::new([0; 32]);
        Self { edge, at: 0, revocation_epoch: 0, policy_hash, swept: 0, chain: CHAIN_START }
    }
}
