//! What a laptop that slept over the weekend needs: certificates have ended meanwhile, and renew
//! nothing any more. The services attest again, each by a token that is put where it looks for one;
//! the developer's own certificate is made anew.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use countersign::CutOffRule;
use identity::{SerialNumber, SpiffeId};
use time::OffsetDateTime;

use super::services::{self, Services};
use super::{Dev, TOKENS};
use crate::ca_host;
use crate::clock;
use crate::context;
use crate::session::Session;

impl Dev {
    /// Looks, for as long as `dev` runs, whether anybody has overslept.
    pub(super) async fn keep_awake(
        &self,
        services: &Services,
        session: &Session,
    ) -> anyhow::Result<()> {
        let mut given = HashMap::new();
        // The tour has told of its own.
        let mut told: HashSet<_> = cut_off(services).map(|(told, _)| told).collect();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for (which, text) in cut_off(services) {
                if told.insert(which) {
                    self.line(session, "cut off", &text)?;
                }
            }
            let now = clock::now();
            let overslept: Vec<SpiffeId> = services
                .workloads()
                .iter()
                .map(|workload| workload.status())
                .filter(|status| needs_token(status.not_after, given.get(&status.spiffe_id), now))
                .map(|status| status.spiffe_id)
                .collect();
            if overslept.is_empty() {
                continue;
            }
            let (said, who) = (given.is_empty(), names(&overslept));
            // The CA may have to renew its own certificate first: looked at again in a moment.
            match self.wake(&overslept, session).await {
                Ok(()) => {
                    given.extend(overslept.into_iter().map(|id| (id, now)));
                    if said {
                        let text = format!("certificates ended; attesting again: {who}");
                        self.line(session, "awake", &text)?;
                    }
                }
                Err(error) => tracing::warn!(%error, "the services cannot attest again yet"),
            }
        }
    }

    async fn wake(&self, overslept: &[SpiffeId], session: &Session) -> anyhow::Result<()> {
        let operator = match context::open(session).await {
            Ok(operator) => operator,
            Err(error) => {
                tracing::debug!(%error, "the developer's certificate is made anew");
                let (authority, folder) = (self.running.authority(), self.folder.join("operator"));
                let url = self.url();
                ca_host::install_operator(authority, "developer", &url, self.pin, &folder).await?;
                context::open(session).await?
            }
        };
        for id in overslept {
            let file = services::token_file(&self.folder.join(TOKENS), id);
            services::give_token(&operator.client, id, &file).await?;
        }
        Ok(())
    }
}

/// Whom an operator has cut off, by which certificate, and what it says of that.
fn cut_off(services: &Services) -> impl Iterator<Item = ((SerialNumber, CutOffRule), String)> {
    services.workloads().into_iter().filter_map(|workload| {
        let status = workload.status();
        let cut_off = status.cut_off?;
        let is_told = matches!(cut_off.rule, CutOffRule::Denied | CutOffRule::Revoked);
        is_told.then(|| ((status.serial_number, cut_off.rule), cut_off.to_string()))
    })
}

/// Whether a certificate has ended, and the last token for it is not one of a moment ago.
fn needs_token(
    not_after: OffsetDateTime,
    given: Option<&OffsetDateTime>,
    now: OffsetDateTime,
) -> bool {
    not_after <= now && given.is_none_or(|given| now - *given > ANOTHER_AFTER)
}

fn names(ids: &[SpiffeId]) -> String {
    ids.iter().map(|id| id.path().trim_start_matches('/')).collect::<Vec<_>>().join(", ")
}

/// Sooner than the first try of a service that finds its token spent is repeated.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shorter than a token counts.
const ANOTHER_AFTER: time::Duration = time::Duration::minutes(5);

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn whose_certificate_has_ended_is_given_one_token_for_a_while() {
        let end = datetime!(2026-11-28 8:00 UTC);
        assert!(!needs_token(end, None, end - time::Duration::SECOND));
        let monday = end + time::Duration::hours(48);
        assert!(needs_token(end, None, monday));
        assert!(!needs_token(end, Some(&monday), monday + time::Duration::MINUTE));
        assert!(needs_token(end, Some(&monday), monday + time::Duration::hours(1)));
        assert!(needs_token(end, Some(&(end - time::Duration::days(9))), monday));
    }
}
