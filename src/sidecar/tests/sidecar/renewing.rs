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

const ISSUE: &str = "POST /v1/certificates";
const REPORT: &str = "PUT /v1/reports/self";
