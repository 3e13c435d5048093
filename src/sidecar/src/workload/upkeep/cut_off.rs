//! What a workload says whose own certificate is refused.

use std::sync::Arc;
use std::time::Duration;

use identity::SerialNumber;
use identity::feed::{FeedChange, FeedItem, FeedUpdate};
use rustls::AlertDescription;
use tokio::task::JoinSet;

use super::alone::{Alone, Diagnostics};
use crate::error::Error;
use crate::workload::cut_off::CutOffRule;
use crate::workload::status::Status;

/// Longer than two looks at the clock are apart.
const A_LOOK: Duration = Duration::from_secs(6);
/// In seconds: longer than anything may be unheard.
const LONG: u64 = 600;
const OURS: &str = "/prod/reports";

/// A workload that measures how it is doing, and has just heard of revocations.
async fn measured() -> (Alone, Diagnostics, JoinSet<()>) {
    let (alone, said) = (Alone::new(), Diagnostics::capture());
    let (upkeep, mut tasks) = (Arc::clone(&alone.upkeep), JoinSet::new());
    tasks.spawn(async move { upkeep.keep_measuring().await });
    tokio::time::sleep(A_LOOK).await;
    alone.verification().confirm_revocations(alone.now());
    (alone, said, tasks)
}

impl Alone {
    fn status(&self) -> Status {
        self.upkeep.status()
    }

    fn rule(&self) -> Option<CutOffRule> {
        self.status().cut_off.map(|cut_off| cut_off.rule)
    }

    /// The feed says so.
    async fn hears(&self, log_index: u64, change: FeedChange) {
        let update = FeedUpdate::Apply(vec![FeedItem { log_index, change }]);
        self.upkeep.apply(update, log_index).await.unwrap();
        self.upkeep.publish();
    }

    /// The CA says so, of this certificate.
    fn refused(&self, alert: AlertDescription, serial_number: Option<SerialNumber>) {
        let url = "https://ca.pay.internal:8443".to_owned();
        self.upkeep.note_refusal(&Error::Refused { url, alert, serial_number });
    }

    /// Nothing is heard any more, and that is looked at some times.
    async fn long_after(&self) -> Status {
        self.advance(LONG);
        tokio::time::sleep(A_LOOK * 3).await;
        self.status()
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_revoked_says_so_once_and_does_not_call_it_a_feed_that_is_gone() {
    let (alone, said, _tasks) = measured().await;
    let mut changes = alone.upkeep.changes();
    changes.borrow_and_update();
    alone.revoke(OURS, 8).await;
    alone.upkeep.publish();
    assert!(changes.has_changed().unwrap(), "who watches is told");
    let told = changes.borrow_and_update().cut_off.clone().unwrap();
    assert_eq!((told.rule, told.rule.name()), (CutOffRule::Revoked, "revoked"));
    let (text, serial_number) = (told.to_string(), alone.status().serial_number);
    for what in [format!("show {serial_number}"), "an operator of pay.example".to_owned()] {
        assert!(text.contains(&what), "{text}");
    }
    assert!(text.contains("`countersign renew nowhere`"), "how it gets another: {text}");
    let status = alone.long_after().await;
    assert_eq!((status.ready, status.stale), (false, false), "{status:?}");
    assert_eq!(status.cut_off, Some(told));
    assert_eq!(said.count("ERROR", "is revoked"), 1);
    assert_eq!(said.count("ERROR", "max_staleness"), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_denied_hears_whom_to_ask_and_is_revoked_once_that_is_lifted() {
    let (alone, said, _tasks) = measured().await;
    alone.hears(8, FeedChange::Deny(alone.authority.id(OURS))).await;
    assert_eq!(alone.rule(), Some(CutOffRule::Denied));
    let lifts = format!("countersign allow {}", alone.authority.id(OURS));
    assert!(alone.status().cut_off.unwrap().to_string().contains(&lifts));
    let status = alone.long_after().await;
    assert_eq!((status.ready, status.stale), (false, false));
    alone.hears(9, FeedChange::Allow(alone.authority.id(OURS))).await;
    assert_eq!(alone.rule(), Some(CutOffRule::Revoked), "what was issued before stays so");
    assert_eq!((said.count("ERROR", "denied"), said.count("ERROR", "is revoked")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_asks_for_another_certificate_soon() {
    let alone = Alone::new();
    assert!(alone.status().next_renewal > alone.upkeep.now() + Duration::from_secs(3600));
    alone.revoke(OURS, 8).await;
    alone.status();
    let soon = alone.upkeep.now() + Duration::from_secs(3);
    assert!(alone.status().next_renewal <= soon, "{:?}", alone.status());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_at_its_end_is_told_as_that() {
    let (alone, said, _tasks) = measured().await;
    alone.advance(24 * 3600 - 30);
    alone.verification().confirm_revocations(alone.now());
    assert_eq!(alone.rule(), None);
    alone.upkeep.state().renewal_error = Some("the CA is away".to_owned());
    alone.advance(31);
    assert_eq!(alone.rule(), Some(CutOffRule::Expired));
    let status = alone.long_after().await;
    assert_eq!((status.ready, status.stale), (false, false));
    assert_eq!((said.count("ERROR", "ended at"), said.count("ERROR", "the CA is away")), (1, 1));
    assert_eq!(said.count("ERROR", "max_staleness"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_gone_before_stays_an_alarm() {
    let (alone, said, _tasks) = measured().await;
    alone.upkeep.state().feed_error = Some("no answer from the CA".to_owned());
    assert!(alone.long_after().await.stale);
    assert_eq!(said.count("ERROR", "no answer from the CA"), 1, "it says why");
    alone.advance(24 * 3600);
    tokio::time::sleep(A_LOOK).await;
    assert_eq!((alone.rule(), alone.status().stale), (Some(CutOffRule::Expired), true));
    assert_eq!(said.count("INFO", "those of now again"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_alert_of_the_authority_names_the_rule() {
    use AlertDescription as Alert;
    for (alert, rule) in [
        (Alert::AccessDenied, CutOffRule::Denied),
        (Alert::BadCertificate, CutOffRule::Refused),
        (Alert::CertificateExpired, CutOffRule::Clock),
        (Alert::CertificateRevoked, CutOffRule::Revoked),
        (Alert::UnknownCA, CutOffRule::OtherAuthority),
    ] {
        let (alone, said, _tasks) = measured().await;
        let own = alone.status().serial_number;
        alone.refused(alert, Some(own));
        alone.refused(alert, Some(own));
        assert_eq!(alone.rule(), Some(rule));
        assert_eq!(said.count("ERROR", rule.name()), 1, "{rule:?}");
        // What only the CA has against it stops nobody: peers may think otherwise, and revocations
        // grow old meanwhile.
        let (everybody, status) = (rule.is_by_everybody(), alone.long_after().await);
        assert_eq!((status.ready, status.stale), (!everybody, !everybody), "{rule:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_anybody_may_have_sent_or_of_another_certificate_cuts_nobody_off() {
    let alone = Alone::new();
    for whose in [None, Some(SerialNumber::from_octets(&[7]).unwrap())] {
        alone.refused(AlertDescription::CertificateRevoked, whose);
        assert_eq!((alone.rule(), alone.status().ready), (None, true));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_revoked_stays_so_after_the_end_of_its_certificate() {
    let (alone, said, _tasks) = measured().await;
    let own = alone.status().serial_number;
    alone.refused(AlertDescription::CertificateRevoked, Some(own));
    alone.advance(25 * 3600);
    tokio::time::sleep(A_LOOK).await;
    // By then the CA says less.
    for alert in [AlertDescription::CertificateExpired, AlertDescription::UnknownCA] {
        alone.refused(alert, Some(own));
        assert_eq!((alone.rule(), alone.status().ready), (Some(CutOffRule::Revoked), false));
    }
    assert_eq!(said.count("ERROR", ""), 1);
}

#[tokio::test(start_paused = true)]
async fn what_only_the_authority_had_against_it_is_over_once_it_is_let_in() {
    let (alone, _, _tasks) = measured().await;
    let own = alone.status().serial_number;
    for (alert, is_over) in [
        (AlertDescription::CertificateExpired, true),
        (AlertDescription::CertificateRevoked, false),
    ] {
        alone.refused(alert, Some(own));
        assert!(alone.rule().is_some());
        alone.upkeep.note_let_in();
        assert_eq!(alone.rule().is_none(), is_over);
    }
}
