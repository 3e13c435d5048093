//! Snapshots of many revocations, as newcomers hear them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::DenyRequest;
use authority::clock::Clock;
use authority::{Authority, Caller, FeedMessage, Start, Subscription, TooSlow};
use identity::feed::{Assembly, Content, FeedState, FeedUpdate, Line, MAX_CHUNK};
use identity::{Revocations, SerialNumber, SpiffeId};
use support::{Environment, id};

/// A newcomer that believes only what it verifies.
struct Newcomer {
    authority: Arc<Authority>,
    subscription: Subscription,
    now: u64,
    state: FeedState,
    held: Revocations,
}

impl Newcomer {
    async fn start(environment: &Environment, caller: &Caller) -> Self {
        let authority = Arc::clone(&environment.authority);
        Self {
            subscription: authority.feed.subscribe(caller, None).await.unwrap(),
            now: environment.clock.unix_milliseconds(),
            state: FeedState::new(support::trust_domain()),
            held: Revocations::default(),
            authority,
        }
    }

    async fn line(&mut self) -> FeedMessage {
        soon(self.subscription.next()).await.unwrap()
    }

    /// What the next message means.
    async fn hear(&mut self) -> FeedUpdate {
        let told = self.line().await;
        let Line::Message(envelope) = Line::parse(told.line()).unwrap() else {
            panic!("no chunk is awaited")
        };
        let verified = envelope.verify(self.authority.view.trust().state()).unwrap();
        self.state.accept(verified, self.now).unwrap()
    }

    async fn head(&mut self) -> Assembly {
        let FeedUpdate::Assemble(assembly) = self.hear().await else { panic!("it is a head") };
        assembly
    }

    async fn take_rest(&mut self, mut assembly: Assembly) -> FeedUpdate {
        while assembly.missing() > 0 {
            let told = self.line().await;
            let Line::Chunk(chunk) = Line::parse(told.line()).unwrap() else {
                panic!("a chunk is awaited")
            };
            assembly.take(&chunk).unwrap();
        }
        let update = self.state.complete(assembly, self.now).unwrap();
        update.clone().apply(&mut self.held);
        update
    }

    async fn follow(&mut self) -> FeedUpdate {
        let update = self.hear().await;
        update.clone().apply(&mut self.held);
        update
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), future).await.expect("it takes too long")
}

fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_octets(&[&[0x5a; 12][..], &number.to_be_bytes()].concat()).unwrap()
}

/// An identity is revoked, and so many certificates.
async fn revoked(count: u64) -> (Environment, Caller) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    environment.authority.view.pretend_revoked(|held| {
        (0..count).for_each(|number| held.revoke_serial(serial(number)));
    });
    (environment, operator)
}

async fn revoke(environment: &Environment, operator: &Caller, target: &str) -> u64 {
    environment.revoke(operator, target).await
}

async fn deny(environment: &Environment, operator: &Caller, spiffe_id: SpiffeId) -> String {
    let reason = "key-compromise".to_owned();
    let request = DenyRequest { spiffe_id, reason, named_override: None };
    environment.authority.operations.deny(operator, &request).await.unwrap().id
}

#[tokio::test]
async fn a_million_revocations_reach_a_newcomer() {
    let (environment, operator) = revoked(1_000_000).await;
    let begun = Instant::now();
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    println!("{} chunks, made in {:?}", head.missing(), begun.elapsed());
    assert!(head.missing() > 500, "far more than one message may hold");
    assert!(matches!(newcomer.take_rest(head).await, FeedUpdate::Replace(_)));
    println!("taken in {:?}", begun.elapsed());
    assert_eq!(newcomer.held.serials().count(), 1_000_000);
    assert!(newcomer.held.is_serial_revoked(&serial(999_999)));
    assert_eq!(newcomer.held.identities().count(), 1);
    environment.authority.feed.heartbeat().await.unwrap();
    assert_eq!(newcomer.follow().await, FeedUpdate::Nothing, "it has all there is");
}

#[tokio::test]
async fn all_newcomers_are_told_the_same_bytes_in_chunks_of_bounded_size() {
    let (environment, operator) = revoked(10_000).await;
    let mut told: Vec<Vec<*const u8>> = Vec::new();
    for _ in 0..4 {
        // Another head each time, and the same chunks.
        environment.clock.advance(time::Duration::seconds(6));
        let mut newcomer = Newcomer::start(&environment, &operator).await;
        let head = newcomer.head().await;
        let mut lines = Vec::new();
        for _ in 0..head.missing() {
            let line = newcomer.line().await.line().clone();
            assert!(line.len() <= MAX_CHUNK);
            lines.push(line.as_ptr());
        }
        told.push(lines);
    }
    assert!(told[0].len() > 3);
    assert!(told.iter().all(|lines| *lines == told[0]), "made once, and never copied");
}

#[tokio::test]
async fn what_comes_while_a_snapshot_is_read_follows_it() {
    let (environment, operator) = revoked(10_000).await;
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    // More than a listener may be behind, and another snapshot is made for others.
    for number in 0..150 {
        environment.authority.feed.heartbeat().await.unwrap();
        revoke(&environment, &operator, id(&format!("/prod/{number}")).as_str()).await;
    }
    environment.clock.advance(time::Duration::minutes(6));
    drop(Newcomer::start(&environment, &operator).await);
    assert!(matches!(newcomer.take_rest(head).await, FeedUpdate::Replace(_)));
    let FeedUpdate::Apply(items) = newcomer.follow().await else { panic!("items are missing") };
    assert_eq!(items.len(), 150);
    let last = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    assert!(matches!(newcomer.follow().await, FeedUpdate::Apply(items) if items.len() == 1));
    assert_eq!(newcomer.state.position().sequence, last);
    assert_eq!(newcomer.held.identities().count(), 152);
}

#[tokio::test]
async fn a_snapshot_is_told_with_what_came_since_and_made_anew_after_a_while() {
    let (environment, operator) = revoked(10).await;
    let first = {
        let mut newcomer = Newcomer::start(&environment, &operator).await;
        let head = newcomer.head().await;
        drop(newcomer.take_rest(head).await);
        newcomer.state.position().sequence
    };
    let second = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    environment.clock.advance(time::Duration::minutes(4));
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    drop(newcomer.take_rest(head).await);
    assert_eq!(newcomer.state.position().sequence, first, "the same snapshot");
    assert!(matches!(newcomer.follow().await, FeedUpdate::Apply(items) if items.len() == 1));
    assert_eq!(newcomer.state.position().sequence, second);
    environment.clock.advance(time::Duration::minutes(2));
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    drop(newcomer.take_rest(head).await);
    assert_eq!(newcomer.state.position().sequence, second, "another one");
}

/// Whoever comes back has connections with it.
#[tokio::test]
async fn nobody_is_told_once_more_of_a_denial_that_was_lifted() {
    let (environment, operator) = revoked(10).await;
    let denied = deny(&environment, &operator, id("/prod/monolith")).await;
    drop(Newcomer::start(&environment, &operator).await);
    environment.authority.operations.allow(&operator, &denied).await.unwrap();
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    drop(newcomer.take_rest(head).await);
    assert!(!newcomer.held.is_denied(&id("/prod/monolith")));
}

/// Its reading pace is not our memory.
#[tokio::test]
async fn whoever_reads_a_snapshot_for_longer_than_it_is_kept_must_ask_again() {
    let (environment, operator) = revoked(10_000).await;
    let mut slow = Newcomer::start(&environment, &operator).await;
    let head = slow.head().await;
    let polled = environment.authority.feed.subscribe(&operator, None).await;
    let mut polled = polled.unwrap();
    drop(soon(polled.next_news(Duration::ZERO)).await.unwrap());
    assert!(matches!(polled.next_of_snapshot(), Some(Ok(_))));
    for _ in 0..3 {
        assert!(soon(slow.subscription.next()).await.is_some(), "two newer ones may be made");
        environment.clock.advance(time::Duration::minutes(6));
        drop(Newcomer::start(&environment, &operator).await);
    }
    assert!(head.missing() > 3);
    assert_eq!(soon(slow.subscription.next()).await, None);
    assert_eq!(polled.next_of_snapshot(), Some(Err(TooSlow)));
    let mut again = Newcomer::start(&environment, &operator).await;
    let head = again.head().await;
    assert!(matches!(again.take_rest(head).await, FeedUpdate::Replace(_)));
}

#[tokio::test]
async fn a_poll_is_answered_with_the_head_and_all_chunks() {
    let (environment, operator) = revoked(10_000).await;
    let mut subscription = environment.authority.feed.subscribe(&operator, None).await.unwrap();
    let told = soon(subscription.next_news(Duration::ZERO)).await.unwrap();
    let Line::Message(envelope) = Line::parse(told.line()).unwrap() else { panic!("a head") };
    let verified = envelope.verify(environment.authority.view.trust().state()).unwrap();
    let Content::Snapshot(head) = verified.message().content.clone() else { panic!("a head") };
    let mut count = 0;
    while let Some(chunk) = subscription.next_of_snapshot() {
        assert_eq!(tlog::Hash::of(chunk.unwrap().line()), head.chunks[count]);
        count += 1;
    }
    assert_eq!(count, head.chunks.len());
}

/// As a node that was cut off from the store finds it.
#[tokio::test]
async fn more_items_at_once_than_are_remembered_send_listeners_back_for_a_snapshot() {
    let (environment, operator) = revoked(10).await;
    let mut listening = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    drop(soon(listening.next()).await);
    environment.authority.view.pretend_told(10_001);
    environment.authority.view.refresh().await.unwrap();
    assert_eq!(soon(listening.next()).await, None);
    let mut newcomer = Newcomer::start(&environment, &operator).await;
    let head = newcomer.head().await;
    assert!(matches!(newcomer.take_rest(head).await, FeedUpdate::Replace(_)));
}

/// Whoever keeps what it hears asks for one in place of many deltas: none may be older than those.
#[tokio::test]
async fn a_snapshot_can_be_asked_for_that_is_not_older_than_what_one_has() {
    let (environment, operator) = revoked(10).await;
    drop(Newcomer::start(&environment, &operator).await);
    let last = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    let reached = async |start: Start| {
        let subscription = environment.authority.feed.subscribe(&operator, start).await.unwrap();
        let mut newcomer =
            Newcomer { subscription, ..Newcomer::start(&environment, &operator).await };
        let head = newcomer.head().await;
        assert!(matches!(newcomer.take_rest(head).await, FeedUpdate::Replace(_)));
        newcomer.state.position().sequence
    };
    assert!(reached(Start::Snapshot { at_least: 0 }).await < last, "one that was made before");
    assert_eq!(reached(Start::Snapshot { at_least: last }).await, last);
    assert_eq!(reached(Start::Snapshot { at_least: u64::MAX }).await, last, "there is no other");
}
