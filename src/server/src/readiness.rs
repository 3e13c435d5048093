//! Whether this node can do its work, and why not.

use std::sync::Arc;
use std::time::Duration;

use api::{ConnectionsStatus, Status};
use authority::Authority;
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

    /// Says each second, as a metric, whether the node is ready; whether the store takes what is
    /// written is tried now and then, and each second once it did not. What changes is told.
    pub(crate) async fn watch(self, authority: Arc<Authority>) {
        let mut was: Option<String> = None;
        for second in 0_u64.. {
            if second % PROBE_EVERY == 0 || authority.require_commits().is_err() {
                // It is remembered, and told below.
                drop(authority.probe_store().await);
            }
            let why = self.require().await.err();
            metrics::gauge!("countersign_ready").set(f64::from(u8::from(why.is_none())));
            match (&was, &why) {
                (None, Some(why)) => tracing::warn!(%why, "not ready"),
                (Some(_), None) => tracing::info!("ready again"),
                _ => {}
            }
            was = why;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
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

const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// In seconds. It costs a page and a sync.
pub(crate) const PROBE_EVERY: u64 = 5;
