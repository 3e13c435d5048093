//! The feed, reports and witnesses over real connections.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::time::Duration;

use api::{Attestation, ClosedConnections, ProblemType, Report, RevokeRequest, WorkloadFilter};
use authority::clock::Clock;
use countersign::{AuthorityClient, Error, FeedStream};
use identity::Revocations;
use identity::feed::{FeedState, FeedUpdate, Line};
use support::Service;
use tlog::{Checkpoint, Hash, SignedNote};

/// A workload that follows the feed.
struct Follower<'a> {
    service: &'a Service,
    stream: FeedStream,
    state: FeedState,
    held: Revocations,
}

impl<'a> Follower<'a> {
    async fn start(service: &'a Service, client: &AuthorityClient, after: Option<u64>) -> Self {
        Self {
            stream: soon(client.feed(after)).await.unwrap(),
            state: FeedState::new(service.authority.view.trust_domain().clone()),
            held: Revocations::default(),
            service,
        }
    }

    async fn hear(&mut self) -> FeedUpdate {
        let Line::Message(envelope) = self.line().await else { panic!("no chunk is awaited") };
        let verified = envelope.verify(self.service.authority.view.trust().state()).unwrap();
        let now = self.service.clock.unix_milliseconds() + 10_000;
        let mut update = self.state.accept(verified, now).unwrap();
        if let FeedUpdate::Assemble(mut assembly) = update {
            while assembly.missing() > 0 {
                let Line::Chunk(chunk) = self.line().await else { panic!("a chunk is awaited") };
                assembly.take(&chunk).unwrap();
            }
            update = self.state.complete(assembly, now).unwrap();
        }
        update.clone().apply(&mut self.held);
        update
    }

    async fn line(&mut self) -> Line {
        soon(self.stream.next()).await.unwrap().unwrap()
    }

    async fn hear_of(&mut self, log_index: u64) {
        while self.state.position().sequence < log_index {
            drop(self.hear().await);
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it takes too long")
}

/// An identity has a certificate to lose.
async fn revoke(service: &Service, operator: &AuthorityClient, target: &str) -> u64 {
    if let Some(path) = target.strip_prefix("spiffe://pay.example") {
        drop(service.enrol(path).await);
    }
    let reason = "key-compromise".to_owned();
    let request =
        RevokeRequest { target: target.to_owned(), reason, dry_run: false, named_override: None };
    operator.revoke(&request).await.unwrap().log_index.unwrap()
}

#[tokio::test]
async fn a_revocation_reaches_whoever_listens_and_the_operator_learns_it() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    let (reports, _) = service.workload("/prod/reports").await;
    let mut follower = Follower::start(&service, &monolith, None).await;
    drop(follower.hear().await);
    monolith.report(&Report::default()).await.unwrap();
    let log_index = revoke(&service, &operator, &reports.serial_number.to_string()).await;
    follower.hear_of(log_index).await;
    assert!(follower.held.is_serial_revoked(&reports.serial_number));

    let waiting = operator.revocation_reach(log_index).await.unwrap();
    assert_eq!((waiting.live, waiting.reached), (1, 0));
    assert_eq!(waiting.waiting[0].spiffe_id, service.id("/prod/monolith"));
    let closed = vec![ClosedConnections { log_index, connections: 2 }];
    let report = Report { feed_sequence: log_index, closed, ..Report::default() };
    monolith.report(&report).await.unwrap();
    let reached = operator.revocation_reach(log_index).await.unwrap();
    assert_eq!((reached.live, reached.reached, reached.connections_closed), (1, 1, 2));
    let listed = operator.workloads(&WorkloadFilter::default()).await.unwrap();
    assert_eq!(listed.items[0].report, Some(report));
    drop(follower);
    service.running.stop().await;
}

#[tokio::test]
async fn heartbeats_carry_the_newest_checkpoint_and_trust() {
    let service = Service::start(time::Duration::ZERO).await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    let mut follower = Follower::start(&service, &monolith, Some(0)).await;
    assert_eq!(follower.hear().await, FeedUpdate::Nothing);
    let trust = (1, Hash::of(&service.authority.view.trust_note()));
    assert_eq!(follower.state.trust(), Some(trust));
    monolith.set_checkpoint(follower.state.checkpoint().unwrap());
    monolith.report(&Report::default()).await.unwrap();
    assert_eq!(service.authority.view.halted(), None);
    drop(follower);
    service.running.stop().await;
}

#[tokio::test]
async fn a_subscriber_goes_on_from_where_it_stands() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    let first = revoke(&service, &operator, "spiffe://pay.example/prod/reports").await;
    let mut follower = Follower::start(&service, &monolith, None).await;
    assert!(matches!(follower.hear().await, FeedUpdate::Replace(_)));
    let second = revoke(&service, &operator, "spiffe://pay.example/prod/batch").await;
    follower.stream = monolith.feed(Some(first)).await.unwrap();
    assert!(matches!(follower.hear().await, FeedUpdate::Apply(items) if items.len() == 1));
    assert_eq!(follower.state.position().sequence, second);
    drop(follower);
    service.running.stop().await;
}

/// More than a connection of the CA may have unread, many times over.
#[tokio::test]
async fn a_large_snapshot_comes_in_chunks_and_the_feed_goes_on_after_it() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    revoke(&service, &operator, "spiffe://pay.example/prod/reports").await;
    service.authority.view.pretend_revoked(|held| {
        for number in 0..100_000_u64 {
            let octets = [&[0x5a; 12][..], &number.to_be_bytes()].concat();
            held.revoke_serial(identity::SerialNumber::from_octets(&octets).unwrap());
        }
    });
    let mut follower = Follower::start(&service, &monolith, None).await;
    assert!(matches!(follower.hear().await, FeedUpdate::Replace(_)));
    assert_eq!(follower.held.serials().count(), 100_000);
    let log_index = revoke(&service, &operator, "spiffe://pay.example/prod/batch").await;
    follower.hear_of(log_index).await;
    assert_eq!(follower.held.identities().count(), 2);
    drop(follower);
    service.running.stop().await;
}

#[tokio::test]
async fn a_stop_ends_open_streams_at_once() {
    let service = Service::start(time::Duration::ZERO).await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    let mut stream = monolith.feed(None).await.unwrap();
    assert!(soon(stream.next()).await.unwrap().is_some());
    let Service { running, .. } = service;
    let (drained, ended) = tokio::join!(running.stop(), async {
        while stream.next().await.is_ok_and(|message| message.is_some()) {}
    });
    let () = ended;
    assert_eq!(drained.cut, 0, "none had to be cut when its time was over");
}

#[tokio::test]
async fn strangers_hear_and_report_nothing() {
    let service = Service::start(time::Duration::ZERO).await;
    let stranger = service.client(None);
    let refused = |error: Error| match error {
        Error::Authority(problem) => problem.problem_type,
        other => panic!("{other:?}"),
    };
    let heard = stranger.feed(None).await.unwrap_err();
    assert_eq!(refused(heard), ProblemType::AttestationRefused);
    let reported = stranger.report(&Report::default()).await.unwrap_err();
    assert_eq!(refused(reported), ProblemType::AttestationRefused);
    service.running.stop().await;
}

#[tokio::test]
async fn a_client_that_saw_more_of_the_log_stops_the_ca() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    let (_, monolith) = service.workload("/prod/monolith").await;
    assert!(operator.status().await.unwrap().halted.is_none());
    let key = tlog::VerifierKey::parse(&service.authority.view.trust().state().log.key).unwrap();
    let (origin, size) = (key.name().to_owned(), 1_000_000);
    let text = Checkpoint { origin, size, root: Hash::new([7; 32]) }.text();
    let signature =
        service.keys.first(api::KeyPurpose::Log).unwrap().sign(text.as_bytes()).await.unwrap();
    let note = SignedNote::unsigned(text).unwrap();
    let note = note.with_signature(key.name(), key.key_id(), &signature).unwrap().encode();
    monolith.set_checkpoint(std::str::from_utf8(&note).unwrap());
    monolith.report(&Report::default()).await.unwrap();

    assert!(operator.status().await.unwrap().halted.unwrap().contains("older database"));
    let (csr, _) = support::csr();
    let refused = monolith.issue(&support::request(csr, Attestation::Svid {}), None).await;
    match refused.unwrap_err() {
        Error::Authority(problem) => {
            assert_eq!(problem.problem_type, ProblemType::LogUnavailable);
            assert!(problem.detail.contains("older database"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    assert!(ready(service.running.admin_address).await.contains("503"));
    service.running.stop().await;
}

/// The answer of `/readyz`.
async fn ready(admin: std::net::SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
