//! Whether this node can do its work, and why not.

use std::sync::Arc;

use api::{ConnectionsStatus, Status};
use countersign::Places;

use crate::own_certificate::OwnCertificate;

/// What a node needs to be ready: the store answers, its own certificate is of use, it has not
/// halted, and whoever comes finds a place.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    pub(crate) own: Arc<OwnCertificate>,
    pub(crate) places: Places,
    /// What the places were made of.
    pub(crate) open_files: usize,
}

impl Readiness {
    pub(crate) async fn require(&self) -> Result<(), String> {
        self.places.require_room().map_err(|crowded| crowded.to_string())?;
        self.own.ready().await
    }

    /// A status with what only this node knows.
    pub(crate) async fn complete(&self, status: Status) -> Status {
        let limits = self.places.limits();
        let connections = ConnectionsStatus {
            open: self.places.taken() as u64,
            limit: limits.connections as u64,
            strangers: self.places.handshaking() as u64,
            strangers_limit: limits.handshakes as u64,
            open_files_limit: self.open_files as u64,
        };
        Status { not_ready: self.require().await.err(), connections: Some(connections), ..status }
    }
}
