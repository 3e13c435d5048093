//! A running workload is offered trust states.

use std::sync::Arc;

use countersign::Workload;
use rustls::pki_types::UnixTime;

use crate::authority::TestAuthority;
use crate::endpoints::until;
use crate::server::{TestServer, soon};
use crate::stand_in::StandIn;

/// A workload that holds state 1.
struct Running {
    ca: Arc<StandIn>,
    workload: Workload,
    _server: TestServer,
}

impl Running {
    async fn start() -> Self {
        let (ca, server) = StandIn::start().await;
        let workload = soon(ca.workload(&server).start()).await.unwrap();
        Self { ca, workload, _server: server }
    }

    /// Heartbeats name this state, and this is what the CA has.
    fn offer(&self, named: u64, note: Vec<u8>) {
        self.ca.set_trust(note.clone());
        self.ca.say(move |ca| ca.heartbeat_naming(UnixTime::now(), named, &note));
    }

    async fn said(&self, what: &str) {
        let said = || self.workload.status().trust_error.is_some_and(|error| error.contains(what));
        until(said).await;
    }
}

fn successor(authority: &TestAuthority) -> Vec<u8> {
    authority.trust_note_with(|state| state.sequence = 2)
}

#[tokio::test]
async fn the_next_state_is_taken() {
    let running = Running::start().await;
    running.offer(2, successor(&running.ca.authority));
    until(|| running.workload.status().trust_sequence == 2).await;
    assert_eq!(running.workload.status().trust_error, None);
}

#[tokio::test]
async fn a_state_that_is_older_or_anothers_is_not_taken_and_that_is_said() {
    for (what, note) in [
        ("an old one is never taken", older as fn(&TestAuthority) -> Vec<u8>),
        ("0 of the 1 trust keys", |_| successor(&TestAuthority::new())),
        ("two trust states of sequence 1", forked),
    ] {
        let running = Running::start().await;
        running.offer(2, note(&running.ca.authority));
        running.said(what).await;
        let status = running.workload.status();
        assert_eq!((status.trust_sequence, status.ready), (1, true), "{what}");
    }
}

fn older(authority: &TestAuthority) -> Vec<u8> {
    authority.trust_note_with(|state| state.sequence = 0)
}

fn forked(authority: &TestAuthority) -> Vec<u8> {
    authority.trust_note_with(|state| state.countersignature_keys[0].not_before = 1)
}

#[tokio::test]
async fn a_state_that_cannot_be_fetched_now_is_no_fault_of_the_trust() {
    let running = Running::start().await;
    let fetched = || running.ca.asked("GET /v1/trust").len();
    let before = fetched();
    running.offer(2, vec![]);
    until(|| fetched() >= before + 2).await;
    assert_eq!(running.workload.status().trust_error, None);
    running.offer(2, successor(&running.ca.authority));
    until(|| running.workload.status().trust_sequence == 2).await;
}

#[tokio::test]
async fn a_heartbeat_that_names_another_state_of_our_sequence_is_a_fork() {
    let running = Running::start().await;
    let honest = running.ca.authority.trust_note();
    running.offer(1, forked(&running.ca.authority));
    running.said("two trust states of sequence 1").await;
    assert_eq!(running.workload.status().feed_error, None, "revocations are heard all the same");
    running.offer(1, honest);
    until(|| running.workload.status().trust_error.is_none()).await;
}
