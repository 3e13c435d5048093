//! Why a service refused somebody, from the service's own mouth: a client learns no more than a TLS
//! alert, but the library reports each refusal with its rule and both serial numbers. The tour shows
//! what was reported, not what it expects.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context as _;
use identity::SerialNumber;
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer;

/// What services of this process report.
#[derive(Debug, Clone)]
pub(super) struct Refusals(broadcast::Sender<Refused>);

/// A report that somebody was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// The rule's name, such as `not-among-peers`.
    pub(super) rule: String,
    /// The same in words.
    refusal: String,
    peer_serial_number: String,
    own_serial_number: String,
}

/// Reports from a moment on.
pub(super) struct Heard(broadcast::Receiver<Refused>);

impl Refusals {
    /// The reports, and what is to be told of all diagnostics for them to come.
    pub(super) fn new() -> (Self, impl Layer<tracing_subscriber::Registry> + Send + Sync) {
        let (sender, _) = broadcast::channel(KEPT);
        let reports = Targets::new().with_target(TARGET, Level::INFO);
        (Self(sender.clone()), Reporter(sender).with_filter(reports))
    }

    /// Hears what is reported from now on.
    pub(super) fn listen(&self) -> Heard {
        Heard(self.0.subscribe())
    }
}

impl Heard {
    /// Waits for the report of the service with certificate `by` about certificate `whom`.
    pub(super) async fn report(
        mut self,
        by: &SerialNumber,
        whom: &SerialNumber,
    ) -> anyhow::Result<Refused> {
        let (by, whom) = (by.to_string(), whom.to_string());
        let is_it = |refused: &Refused| {
            refused.own_serial_number == by && refused.peer_serial_number == whom
        };
        let found = async {
            loop {
                match self.0.recv().await {
                    Ok(refused) if is_it(&refused) => break Ok(refused),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(closed @ RecvError::Closed) => break Err(closed),
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        Ok(found.with_context(|| format!("no report why certificate {whom} was refused"))??)
    }
}

impl Refused {
    /// The claim, if this is the rule by which somebody was refused; else what happened instead.
    pub(super) fn or_what_else(&self, rule: &str, claim: &str) -> String {
        match self.rule == rule {
            true => claim.to_owned(),
            false => format!("refused, but for another rule, {}: {}", self.rule, self.refusal),
        }
    }
}

/// Tells the reports among the diagnostics.
struct Reporter(broadcast::Sender<Refused>);

impl<S: Subscriber> Layer<S> for Reporter {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let mut refused = Refused::default();
        event.record(&mut refused);
        // Nobody listens but the tour, while it waits for one.
        if !refused.rule.is_empty() {
            drop(self.0.send(refused));
        }
    }
}

impl Visit for Refused {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let place = match field.name() {
            "rule" => &mut self.rule,
            "refusal" => &mut self.refusal,
            "peer_serial_number" => &mut self.peer_serial_number,
            "own_serial_number" => &mut self.own_serial_number,
            _ => return,
        };
        *place = format!("{value:?}");
    }
}

/// Where the library reports refusals.
const TARGET: &str = "countersign::refusal";
/// More than are reported while one is waited for.
const KEPT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn refused(rule: &str) -> Refused {
        Refused { rule: rule.to_owned(), refusal: "it is revoked".to_owned(), ..Refused::default() }
    }

    #[test]
    fn another_rule_than_the_one_expected_is_never_claimed() {
        let (expected, claim) = ("not-among-peers", "valid certificate, not among peers");
        assert_eq!(refused(expected).or_what_else(expected, claim), claim);
        let other = refused("revoked").or_what_else(expected, claim);
        assert_eq!(other, "refused, but for another rule, revoked: it is revoked");
    }

    #[tokio::test]
    async fn only_the_report_about_this_peer_by_this_service_counts() {
        let serial = |text: &str| text.parse::<SerialNumber>().unwrap();
        let (refusals, layer) = Refusals::new();
        let heard = refusals.listen();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let report = |rule, peer: &str, own: &str| {
                let (peer, own) = (serial(peer), serial(own));
                let peer_serial_number = Some(tracing::field::display(&peer));
                let own_serial_number = Some(tracing::field::display(&own));
                let refusal = "words";
                tracing::info!(
                    target: TARGET, rule, %refusal, peer_serial_number, own_serial_number, "refused"
                );
            };
            report("revoked", "0a", "0b");
            report("expired", "0c", "0d");
            report("not-among-peers", "0a", "0d");
        });
        let found = heard.report(&serial("0d"), &serial("0a")).await.unwrap();
        assert_eq!((found.rule.as_str(), found.refusal.as_str()), ("not-among-peers", "words"));
    }
}
