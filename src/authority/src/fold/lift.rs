//! A halt that an operator has lifted.

use api::KeyPurpose;
use tlog::{Checkpoint, Hash};

use super::ledger::KeyLedger;
use crate::event::Event;

/// A halt that an operator has lifted, as its event tells.
///
/// Judged is every checkpoint up to the one seen: whoever saw a part of what is lost holds some of
/// them, and would halt the CA again for as long as the part is lost. Nobody who lacks the entries
/// can tell these from the checkpoints of a second loss, so until the log has outgrown that size, or
/// has a new key, a second loss that leaves the lifting in the log halts nothing. The other way to be
/// wrong would let everyone with an old checkpoint stop the CA, for ever. Where the lifting itself is
/// lost it counts no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lift {
    size: u64,
    /// The log's keys that were known then. A later one has signed none of what was judged.
    log_keys: Vec<Hash>,
}

impl Lift {
    /// The detail of the event that lifts a halt.
    pub(crate) fn detail(why: &str, checkpoint: &Checkpoint, seen: &[u8]) -> serde_json::Value {
        serde_json::json!({
            "note_sha256": format!("{:?}", Hash::of(seen)),
            "root": format!("{:?}", checkpoint.root),
            "size": checkpoint.size,
            "why": why,
        })
    }

    /// Reads it back, after these keys.
    pub(crate) fn read(event: &Event, keys: &KeyLedger) -> Option<Self> {
        let log_keys = keys.keys().filter(|key| key.purpose == KeyPurpose::Log);
        let log_keys = log_keys.map(|key| key.id).collect();
        Some(Self { size: event.detail["size"].as_u64()?, log_keys })
    }

    /// Whether a checkpoint of this size, signed by these keys, is judged.
    pub(crate) fn covers(&self, size: u64, signed_by: &[Hash]) -> bool {
        size <= self.size && signed_by.iter().all(|key| self.log_keys.contains(key))
    }
}
