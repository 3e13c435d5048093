//! Exceptions from revocations: identities for whom some do not count yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::serial_number::SerialNumber;
use crate::spiffe_id::SpiffeId;

/// Exceptions from revocations, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spared {
    /// They may be a million, and are copied with the revocations.
    pub(crate) serials: Arc<HashSet<SerialNumber>>,
    pub(crate) identities: HashMap<SpiffeId, Standing>,
}

/// How far an identity's own revocations count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The place in the log before which its certificates are revoked nevertheless.
    pub(crate) before: Option<u64>,
    /// A revocation or denial of the identity up to this place is held back. With a later one they
    /// count, too.
    pub(crate) until: u64,
}

impl Spared {
    /// How many identities are spared.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Named once more, by itself: it counts for everybody.
    pub(crate) fn insist_on(&mut self, serial_number: &SerialNumber) {
        if self.serials.contains(serial_number) {
            Arc::make_mut(&mut self.serials).remove(serial_number);
        }
    }
}
