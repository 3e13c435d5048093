//! A workload whose clock is not the CA's.

use std::sync::Arc;
use std::time::Duration;

use countersign::{Builder, Error, Staleness, WhenStale, Workload};
use identity::feed::{Position, Snapshot};
use identity::{Refusal, SerialNumber};
use rustls::pki_types::UnixTime;
use tlog::Hash;

use crate::authority::now;
use crate::endpoints::{HeldClock, until};
use crate::server::{TestServer, soon};
use crate::stand_in::StandIn;

struct Running {
    ca: Arc<StandIn>,
    clock: Arc<HeldClock>,
    workload: Workload,
    _server: TestServer,
}

impl Running {
    async fn start(prepare: impl FnOnce(Builder) -> Builder) -> Self {
        let (ca, server) = StandIn::start().await;
        let clock = HeldClock::new();
        let workload = prepare(ca.workload(&server).clock(clock.clone()));
        let workload = soon(workload.start()).await.unwrap();
        Self { ca, clock, workload, _server: server }
    }

    /// Waits until it says something of the clocks that has all of this in it.
    async fn said(&self, what: &[&str]) {
        let has_all = |error: String| what.iter().all(|what| error.contains(what));
        until(|| self.workload.status().clock_error.is_some_and(has_all)).await;
    }

    async fn set_right(&self) {
        self.clock.advance_to(now().unix_timestamp());
        until(|| self.workload.status().clock_error.is_none()).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_behind_is_named_and_revocations_are_applied() {
    let running = Running::start(|builder| builder).await;
    running.clock.advance_to(now().unix_timestamp() - 300);
    running.said(&["behind", "set it"]).await;
    let revoked = SerialNumber::from_octets(&[7]).unwrap();
    running.ca.say(move |ca| {
        let position = Position { sequence: 3, hash: Hash::of(b"three") };
        let serials = [(u64::MAX, vec![revoked])].into();
        ca.snapshot(position, Snapshot { serials, ..Snapshot::default() })
    });
    let verification = running.workload.endpoint().verification();
    until(|| running.workload.status().feed_sequence == 3).await;
    assert!(verification.with_revocations(|held| held.is_serial_revoked(&revoked)));
    let status = running.workload.status();
    assert_eq!((status.feed_error, status.ready), (None, true));
    running.ca.say(|ca| {
        let position = Position { sequence: 3, hash: Hash::of(b"three") };
        ca.heartbeat_at(UnixTime::now(), position, 1, &ca.trust_note())
    });
    running.set_right().await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_named_before_and_while_everybody_is_refused() {
    let running = Running::start(|builder| {
        let (max_staleness, then) = (Duration::from_secs(300), WhenStale::Refuse);
        builder.staleness(Staleness { max_staleness, then })
    })
    .await;
    running.clock.advance_to(now().unix_timestamp() + 100);
    running.said(&["ahead", "set the clock"]).await;
    assert!(running.workload.ready());
    running.clock.advance(300);
    assert!(!running.workload.ready());
    running.said(&["ahead"]).await;
    running.set_right().await;
    until(|| running.workload.ready()).await;
}

#[tokio::test]
async fn a_certificate_of_the_future_is_waited_for_and_not_asked_for_again() {
    let (ca, server) = StandIn::start().await;
    let clock = HeldClock::new();
    clock.advance_to(now().unix_timestamp() - 300);
    let workload = || ca.workload(&server).clock(clock.clone());
    let refused = soon(workload().give_up_after(Duration::ZERO).start()).await.unwrap_err();
    let Error::OwnCertificate { refusal } = &refused else { panic!("{refused}") };
    assert!(matches!(refusal, Refusal::NotYetValid { .. }), "{refusal}");
    assert_eq!(ca.asked("POST /v1/certificates").len(), 1);
    let starting = tokio::spawn(workload().start());
    until(|| ca.asked("POST /v1/certificates").len() == 2).await;
    clock.advance_to(now().unix_timestamp());
    assert!(soon(starting).await.unwrap().unwrap().ready());
    assert_eq!(ca.asked("POST /v1/certificates").len(), 2);
}
