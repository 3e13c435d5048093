//! Renewals that the CA wishes earlier than half-way through a certificate's life.

use std::collections::HashMap;

use api::RenewalWindow;
use identity::SpiffeId;

/// For each identity, which certificates are to be renewed when.
#[derive(Debug, Default)]
pub(crate) struct Hastened {
    windows: HashMap<SpiffeId, (u64, RenewalWindow)>,
}

impl Hastened {
    /// The window of certificates whose leaf stands before `before`.
    pub(crate) fn insert(&mut self, spiffe_id: SpiffeId, before: u64, window: RenewalWindow) {
        if self.windows.len() >= MAX_HASTENED {
            self.windows.clear();
        }
        self.windows.insert(spiffe_id, (before, window));
    }

    /// The window of one certificate, if another than usual.
    pub(crate) fn window(&self, spiffe_id: &SpiffeId, leaf_index: u64) -> Option<RenewalWindow> {
        let (before, window) = self.windows.get(spiffe_id)?;
        (leaf_index < *before).then_some(*window)
    }
}

/// More identities than a fleet has; beyond it, it is forgotten and the usual window holds.
const MAX_HASTENED: usize = 10_000;
