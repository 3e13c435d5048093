//! A running workload asks its CA for the next certificate.

use std::sync::Arc;

use api::ProblemType;
use countersign::Workload;
use time::Duration;

use crate::authority::now;
use crate::endpoints::{HeldClock, until};
use crate::server::{TestServer, soon};
use crate::stand_in::{Answer, Asked, StandIn};

/// A workload whose certificate is due for renewal.
struct Due {
    ca: Arc<StandIn>,
    clock: Arc<HeldClock>,
    workload: Workload,
    _server: TestServer,
}

impl Due {
    /// These are the CA's answers from then on.
    async fn with_answers(answers: impl IntoIterator<Item = Answer>) -> Self {
        let (ca, server) = StandIn::start().await;
        let clock = HeldClock::new();
        let workload = ca.workload(&server).clock(clock.clone()).start();
        let workload = soon(workload).await.unwrap();
        ca.next_answers(answers);
        clock.advance(2 * 3600);
        Self { ca, clock, workload, _server: server }
    }

    /// Waits for so many requests for certificates after the first one.
    async fn asked(&self, times: usize) -> Vec<Asked> {
        until(|| self.ca.asked(ISSUE).len() > times).await;
        self.ca.asked(ISSUE).split_off(1)
    }
}

#[tokio::test]
async fn the_newest_checkpoint_goes_with_reports_and_renewals() {
    let due = Due::with_answers([]).await;
    let renewal = &due.asked(1).await[0];
    until(|| !due.ca.asked(REPORT).is_empty()).await;
    let newest = Some(due.ca.authority.checkpoint(7));
    assert_eq!(renewal.shown, newest);
    assert!(due.ca.asked(REPORT).iter().all(|asked| asked.shown == newest));
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_an_attestation() {
    let due = Due::with_answers([Answer::Refuses(ProblemType::AttestationRefused)]).await;
    let first = due.workload.status().serial_number;
    let asked = due.asked(2).await;
    assert_eq!(asked.iter().map(Asked::is_renewal).collect::<Vec<_>>(), [true, false]);
    assert_ne!(asked[0].request().csr, asked[1].request().csr, "what was refused is over");
    until(|| due.workload.status().serial_number != first).await;
    assert_eq!(due.workload.status().renewal_error, None);
}

#[tokio::test]
async fn a_renewal_that_policy_refuses_is_no_reason_to_attest() {
    let due = Due::with_answers([Answer::Refuses(ProblemType::PolicyDenied)]).await;
    let asked = due.asked(1).await;
    until(|| due.workload.status().renewal_error.is_some()).await;
    assert!(asked.iter().all(Asked::is_renewal));
    assert!(due.workload.ready(), "its certificate is as good as ever");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_key() {
    let due = Due::with_answers([Answer::Loses]).await;
    until(|| due.workload.status().renewal_error.is_some()).await;
    due.clock.advance(5);
    let asked = due.asked(2).await;
    assert_eq!(asked[0].body, asked[1].body);
    assert!(asked[0].idempotency_key.is_some());
    assert_eq!(asked[0].idempotency_key, asked[1].idempotency_key);
    until(|| due.workload.status().renewal_error.is_none()).await;
}

#[tokio::test]
async fn a_certificate_that_peers_would_refuse_is_kept_until_they_take_it() {
    let later = now() + Duration::hours(5);
    let due = Due::with_answers([Answer::IssuesAt(later)]).await;
    let first = due.workload.status().serial_number;
    until(|| due.workload.status().renewal_error.is_some()).await;
    let status = due.workload.status();
    assert!(status.renewal_error.unwrap().contains("not valid before"));
    assert_eq!(status.serial_number, first, "it is shown to nobody");
    due.clock.advance_to(later.unix_timestamp());
    until(|| due.workload.status().serial_number != first).await;
    assert_eq!(due.asked(1).await.len(), 1, "it is asked for once");
}

const ISSUE: &str = "POST /v1/certificates";
const REPORT: &str = "PUT /v1/reports/self";
