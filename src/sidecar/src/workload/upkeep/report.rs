//! Reporting to the CA: what this workload holds, saw and closed.

use std::time::Duration;

use api::Report;

use super::Upkeep;
use crate::authority::client::AuthorityClient;
use crate::error::Error;
use crate::pace::renewal::Backoff;
use crate::pace::retry::chance;

impl Upkeep {
    /// Reports at each change and every 20 s. A report that is lost is made good by the next.
    pub(super) async fn keep_reporting(&self) {
        self.heard().await;
        let mut client: Option<(AuthorityClient, _)> = None;
        let mut backoff = Backoff::default();
        loop {
            let held = self.status().serial_number;
            if client.as_ref().is_none_or(|(_, shown)| *shown != held) {
                client = self.authority().ok().map(|made| (made, held));
            }
            let Some((authority, serial_number)) = &client else { return };
            if let Err(error) = self.report(authority, serial_number).await {
                tracing::debug!(%error, "cannot report");
                self.note_refusal(&error);
                tokio::time::sleep(backoff.next(REPORT_EVERY, chance())).await;
                continue;
            }
            backoff = Backoff::default();
            let _ = tokio::time::timeout(REPORT_EVERY, self.news.notified()).await;
        }
    }

    async fn report(
        &self,
        authority: &AuthorityClient,
        serial_number: &identity::SerialNumber,
    ) -> Result<(), Error> {
        authority.report(&self.as_reported()).await?;
        let window = authority.renewal(serial_number).await?;
        self.hasten(serial_number, window);
        Ok(())
    }

    pub(super) fn as_reported(&self) -> Report {
        let status = self.status();
        let peers = self.verification.registry().peers(MAX_PEERS);
        let now = self.now();
        let held_back = status.held_back.as_ref().map(|held| api::HeldBack {
            first: *held.log_indexes.start(),
            last: *held.log_indexes.end(),
            peers: held.peers as u64,
            seconds: (held.until - now).whole_seconds().try_into().unwrap_or(0),
        });
        let state = self.state();
        Report {
            trust_sequence: status.trust_sequence,
            feed_sequence: status.feed_sequence,
            checkpoint_size: state.checkpoint_size,
            closed: state.closed.iter().copied().collect(),
            open_connections: status.connections.open as u64,
            peers,
            seconds_without_authority: status.seconds_without_authority,
            replaces: state.replaces,
            held_back,
        }
    }
}

const REPORT_EVERY: Duration = Duration::from_secs(20);
/// As many as a report may name.
const MAX_PEERS: usize = 200;
