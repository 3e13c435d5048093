//! Acts take turns: what one decides from is what it commits on, so that none starts again because
//! of another.
//!
//! The commit compares the state anyway: turns only spare the work, and see to it that of many acts
//! at once each is done. Operators wait for one workload's act at most, however many there are.

use tokio::sync::{Mutex, MutexGuard};

use crate::caller::Caller;

/// Whose turn it is on this node.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    everybody: Mutex<()>,
    workloads: Mutex<()>,
}

/// A turn; the next begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _everybody: MutexGuard<'a, ()>,
    _workloads: Option<MutexGuard<'a, ()>>,
}

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn take(&self, caller: &Caller) -> Turn<'_> {
        let svid = caller.svid.as_ref();
        let is_operator = svid.is_some_and(|svid| svid.spiffe_id().operator_name().is_some());
        let workloads = if is_operator { None } else { Some(self.workloads.lock().await) };
        Turn { _workloads: workloads, _everybody: self.everybody.lock().await }
    }
}
