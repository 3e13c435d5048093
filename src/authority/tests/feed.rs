//! The feed as its subscribers hear it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::DenyRequest;
use authority::clock::Clock;
use authority::signer::spy::SpySigner;
use authority::signer::{Signer, SignerError};
use authority::{Authority, Caller, Error, FeedMessage, Keys, Subscription};
use futures_util::future::BoxFuture;
use identity::Revocations;
use identity::feed::{Content, FeedState, FeedUpdate, Line, Message};
use support::{Environment, id};
use tokio::sync::Notify;

/// A subscriber that believes only what it verifies.
struct Listener {
    authority: Arc<Authority>,
    now: u64,
    subscription: Subscription,
    state: FeedState,
    held: Revocations,
}

impl Listener {
    async fn start(environment: &Environment, caller: &Caller, after: Option<u64>) -> Self {
        let authority = Arc::clone(&environment.authority);
        Self {
            subscription: authority.feed.subscribe(caller, after).await.unwrap(),
            now: environment.clock.unix_milliseconds(),
            state: FeedState::new(support::trust_domain()),
            held: Revocations::default(),
            authority,
        }
    }

    /// What the next message asks for; what it says is applied.
    async fn hear(&mut self) -> FeedUpdate {
        let Line::Message(envelope) = self.line().await else { panic!("no chunk is awaited") };
        let verified = envelope.verify(self.authority.view.trust().state()).unwrap();
        let mut update = self.state.accept(verified, self.now).unwrap();
        if let FeedUpdate::Assemble(mut assembly) = update {
            while assembly.missing() > 0 {
                let Line::Chunk(chunk) = self.line().await else { panic!("a chunk is awaited") };
                assembly.take(&chunk).unwrap();
            }
            update = self.state.complete(assembly, self.now).unwrap();
        }
        update.clone().apply(&mut self.held);
        update
    }

    async fn line(&mut self) -> Line {
        let message = soon(self.subscription.next()).await.unwrap();
        Line::parse(message.line()).unwrap()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it takes too long")
}

fn message(told: &FeedMessage) -> Message {
    let line = told.line();
    let body = line.splitn(3, |&byte| byte == b' ').last().unwrap();
    serde_json::from_slice(body).unwrap()
}

async fn revoke(environment: &Environment, operator: &Caller, target: &str) -> u64 {
    environment.revoke(operator, target).await
}

#[tokio::test]
async fn a_revocation_is_told_before_the_call_that_made_it_returns() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let listening = environment.caller(&environment.issue(&operator, "/prod/monolith").await);
    let mut listener = Listener::start(&environment, &listening, None).await;
    assert!(matches!(listener.hear().await, FeedUpdate::Nothing), "a snapshot of nothing");
    let log_index = revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    let told = tokio::time::timeout(Duration::ZERO, listener.hear()).await;
    assert!(matches!(told, Ok(FeedUpdate::Apply(items)) if items.len() == 1));
    assert_eq!(listener.state.position().sequence, log_index);
    assert!(listener.held.is_serial_revoked(&issued.serial_number));
    environment.authority.feed.heartbeat().await.unwrap();
    assert_eq!(listener.hear().await, FeedUpdate::Nothing);
    let size = environment.store.checkpoint().await.unwrap().unwrap().size;
    assert_eq!(listener.state.checkpoint_size(), Some(size));
}

#[tokio::test]
async fn every_subscriber_hears_the_same_bytes() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut subscriptions = Vec::new();
    for _ in 0..16 {
        subscriptions.push(environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap());
    }
    revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    let first = soon(subscriptions[0].next()).await.unwrap();
    for subscription in &mut subscriptions[1..] {
        let line = soon(subscription.next()).await.unwrap().line().clone();
        assert_eq!(line.as_ptr(), first.line().as_ptr(), "signed once, and never copied");
    }
}

#[tokio::test]
async fn a_newcomer_hears_what_it_lacks() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut indexes = Vec::new();
    for path in ["/prod/a", "/prod/b", "/prod/c"] {
        indexes.push(revoke(&environment, &operator, id(path).as_str()).await);
    }
    let first = async |after| {
        let mut subscription =
            environment.authority.feed.subscribe(&operator, after).await.unwrap();
        match soon(subscription.next_news(Duration::ZERO)).await {
            Some(told) => format!("{:?}", message(&told).content),
            None => "nothing".to_owned(),
        }
    };
    assert!(first(None).await.starts_with("Snapshot"));
    assert!(first(Some(indexes[0] - 1)).await.starts_with("Snapshot"), "no item stands there");
    assert!(first(Some(indexes[2] + 9)).await.starts_with("Snapshot"), "nor in the future");
    let delta = first(Some(indexes[0])).await;
    assert!(delta.starts_with("Delta") && delta.contains("/prod/b") && delta.contains("/prod/c"));
    assert!(!delta.contains("/prod/a"));
    assert_eq!(first(Some(indexes[2])).await, "nothing");
}

#[tokio::test]
async fn a_poll_waits_past_heartbeats_for_news() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut subscription = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    let mut poll = pin!(subscription.next_news(Duration::from_secs(3600)));
    for _ in 0..2 {
        assert!(tokio::time::timeout(Duration::ZERO, poll.as_mut()).await.is_err(), "it waits");
        environment.authority.feed.heartbeat().await.unwrap();
    }
    revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    let told = soon(poll).await.unwrap();
    assert!(matches!(message(&told).content, Content::Delta(delta) if delta.items.len() == 1));
}

#[tokio::test]
async fn a_poll_without_news_ends_with_the_newest_heartbeat() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut polling = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    let mut streaming = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    let mut newest = None;
    for _ in 0..2 {
        environment.authority.feed.heartbeat().await.unwrap();
        newest = soon(streaming.next()).await;
    }
    let told = soon(polling.next_news(Duration::ZERO)).await;
    assert!(matches!(message(told.as_ref().unwrap()).content, Content::Heartbeat(_)));
    assert_eq!(told, newest);
}

#[tokio::test]
async fn all_nodes_and_restarts_derive_the_same_position() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    let request = DenyRequest {
        spiffe_id: id("/prod/monolith"),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    let denial = environment.authority.operations.deny(&operator, &request).await.unwrap();
    let mut before = Listener::start(&environment, &operator, None).await;
    drop(before.hear().await);
    environment.restart().await;
    let mut after = Listener::start(&environment, &operator, None).await;
    drop(after.hear().await);
    assert_eq!((after.state.position(), &after.held), (before.state.position(), &before.held));

    environment.authority.operations.allow(&operator, &denial.id).await.unwrap();
    assert!(matches!(after.hear().await, FeedUpdate::Apply(_)));
    assert!(!after.held.is_denied(&id("/prod/monolith")));
}

#[tokio::test]
async fn a_message_is_never_older_than_the_one_before() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut subscription = environment.authority.feed.subscribe(&operator, None).await.unwrap();
    let mut newest = message(&soon(subscription.next()).await.unwrap()).at;
    for _ in 0..3 {
        environment.clock.advance(time::Duration::seconds(-1));
        environment.authority.feed.heartbeat().await.unwrap();
        let at = message(&soon(subscription.next()).await.unwrap()).at;
        assert!(at > newest);
        newest = at;
    }
}

#[tokio::test]
async fn a_snapshot_is_made_again_before_subscribers_take_it_for_a_replay() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    let snapshot = async || {
        let mut subscription = environment.authority.feed.subscribe(&operator, None).await.unwrap();
        message(&soon(subscription.next()).await.unwrap()).at
    };
    let first = snapshot().await;
    assert_eq!(snapshot().await, first, "it is kept");
    // Past the life of the snapshot that newcomers share, too.
    environment.clock.advance(time::Duration::seconds(6));
    assert!(snapshot().await >= first + 5_000);
}

#[tokio::test]
async fn a_slow_subscriber_is_dropped_and_the_others_are_not() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut slow = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    let mut quick = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
    for _ in 0..300 {
        environment.authority.feed.heartbeat().await.unwrap();
        assert!(soon(quick.next()).await.is_some());
    }
    assert_eq!(soon(slow.next()).await, None);
}

#[tokio::test]
async fn a_subscriber_hears_nothing_once_its_certificate_is_revoked_or_expired() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let mut subscription = environment.authority.feed.subscribe(&caller, Some(0)).await.unwrap();
    revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    assert_eq!(soon(subscription.next()).await, None);
    assert!(environment.authority.feed.subscribe(&caller, None).await.is_err());

    let caller = environment.caller(&environment.issue(&operator, "/prod/monolith").await);
    let mut subscription = environment.authority.feed.subscribe(&caller, None).await.unwrap();
    environment.clock.advance(time::Duration::hours(25));
    assert_eq!(soon(subscription.next()).await, None);
}

#[tokio::test]
async fn while_the_feed_key_does_not_sign_no_heartbeat_hides_a_revocation() {
    let broken = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&broken);
    let environment = Environment::start_with(
        |keys, _| {
            let watch = move |_: &[u8]| {
                let refused = || SignerError::Refused("it is away".to_owned());
                if watched.load(Ordering::Relaxed) { Err(refused()) } else { Ok(()) }
            };
            keys.wrap(api::KeyPurpose::Feed, |feed| Arc::new(SpySigner::new(feed, watch)))
        },
        |store| store,
    )
    .await;
    let operator = environment.operator().await;
    let mut listener = Listener::start(&environment, &operator, Some(0)).await;
    broken.store(true, Ordering::Relaxed);
    let log_index = revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    assert!(environment.authority.feed.heartbeat().await.is_err());
    broken.store(false, Ordering::Relaxed);
    environment.authority.view.refresh().await.unwrap();
    assert!(matches!(listener.hear().await, FeedUpdate::Apply(_)));
    assert_eq!(listener.state.position().sequence, log_index);
}

#[tokio::test]
async fn no_revocation_waits_for_a_snapshot() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let environment = Environment::start_with(
        |keys, _| {
            let hold = |inner| Arc::new(HeldSigner { inner, gate: held }) as Arc<dyn Signer>;
            keys.wrap(api::KeyPurpose::Feed, hold)
        },
        |store| store,
    )
    .await;
    let operator = environment.operator().await;
    let mut listener = Listener::start(&environment, &operator, Some(0)).await;
    gate.closed.store(true, Ordering::SeqCst);
    let mut newcomer = pin!(Listener::start(&environment, &operator, None));
    soon(async {
        tokio::select! {
            _ = &mut newcomer => panic!("its snapshot is not signed yet"),
            () = gate.waits.notified() => {}
        }
    })
    .await;
    let log_index = soon(revoke(&environment, &operator, id("/prod/reports").as_str())).await;
    assert!(matches!(listener.hear().await, FeedUpdate::Apply(_)));
    gate.opened.notify_one();
    let mut newcomer = newcomer.await;
    while newcomer.state.position().sequence < log_index {
        drop(newcomer.hear().await);
    }
    assert_eq!(newcomer.held, listener.held);
}

/// Holds one signature up.
#[derive(Debug, Default)]
struct Gate {
    closed: AtomicBool,
    waits: Notify,
    opened: Notify,
}

#[derive(Debug)]
struct HeldSigner {
    inner: Arc<dyn Signer>,
    gate: Arc<Gate>,
}

impl Signer for HeldSigner {
    fn public_key(&self) -> &[u8] {
        self.inner.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        Box::pin(async move {
            if self.gate.closed.swap(false, Ordering::SeqCst) {
                self.gate.waits.notify_one();
                self.gate.opened.notified().await;
            }
            self.inner.sign(message).await
        })
    }
}

#[tokio::test]
async fn a_revocation_leaves_the_ca_and_its_snapshots_a_day_after_its_certificate() {
    let mut environment = Environment::start().await;
    let revoked = async |environment: &Environment, path| {
        let operator = environment.operator().await;
        let serial_number = environment.issue(&operator, path).await.serial_number;
        revoke(environment, &operator, &serial_number.to_string()).await;
        serial_number
    };
    let told = async |environment: &Environment| {
        let operator = environment.operator().await;
        let mut newcomer = Listener::start(environment, &operator, None).await;
        assert!(matches!(newcomer.hear().await, FeedUpdate::Replace(_)));
        newcomer.held
    };
    let first = revoked(&environment, "/prod/reports").await;
    let operator = environment.operator().await;
    revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    // It lives for a day; then, for whoever's clock is behind, a day more.
    environment.clock.advance(time::Duration::hours(48));
    let second = revoked(&environment, "/prod/quick").await;
    environment.authority.view.forget_expired().await.unwrap();
    let held = told(&environment).await;
    assert!(held.is_serial_revoked(&first) && held.is_serial_revoked(&second));
    environment.clock.advance(time::Duration::minutes(61));
    // Nothing was logged since: the clock alone does not count.
    let logged = environment.store.head().await.unwrap().at / 1000;
    assert_eq!(environment.authority.view.forget_expired().await.unwrap(), logged);
    assert!(told(&environment).await.is_serial_revoked(&first));
    let now = environment.clock.unix_milliseconds() / 1000;
    assert_eq!(environment.authority.view.forget_expired().await.unwrap(), now, "something was");
    environment.clock.advance(time::Duration::minutes(6));
    let held = told(&environment).await;
    assert!(!held.is_serial_revoked(&first) && held.is_serial_revoked(&second));
    assert_eq!(held.identities().count(), 1);

    environment.clock.leap(time::Duration::days(9));
    assert!(environment.authority.view.forget_expired().await.is_err(), "a clock that leapt ahead");
    environment.clock.leap(time::Duration::days(-9));
    // A restart folds the whole log, finds the tables as they should be, and forgets again.
    environment.restart().await;
    environment.authority.view.forget_expired().await.unwrap();
    assert!(!told(&environment).await.is_serial_revoked(&first));
}

#[tokio::test]
async fn one_certificate_has_its_share_of_subscriptions_and_gets_it_back() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let subscribe = || environment.authority.feed.subscribe(&operator, Some(0));
    let mut subscriptions = Vec::new();
    for _ in 0..16 {
        subscriptions.push(subscribe().await.unwrap());
    }
    assert!(matches!(subscribe().await, Err(Error::Subscriptions(16))));
    assert!(
        environment.authority.feed.subscribe(&environment.operator().await, None).await.is_ok()
    );
    subscriptions.pop();
    assert!(subscribe().await.is_ok());
}

#[tokio::test]
async fn certificates_of_one_line_share_subscriptions_and_each_has_its_first() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let mut held = environment.issue(&operator, "/prod/reports").await;
    let mut subscriptions = Vec::new();
    let mut firsts = 0;
    for _ in 0..16 {
        let caller = environment.caller(&held);
        subscriptions.push(environment.authority.feed.subscribe(&caller, Some(0)).await.unwrap());
    }
    for _ in 0..40 {
        held = environment.renew(&environment.caller(&held), &support::csr()).await.unwrap();
        let caller = environment.caller(&held);
        let subscribe = || environment.authority.feed.subscribe(&caller, Some(0));
        match subscribe().await {
            Ok(subscription) => {
                subscriptions.push(subscription);
                firsts += 1;
                let second = subscribe().await;
                assert!(matches!(second, Err(Error::Subscriptions(_))), "{firsts}");
            }
            Err(error) => assert!(matches!(error, Error::Subscriptions(47)), "{error}"),
        }
    }
    assert_eq!(firsts, 31);
    // What ended makes room, and another line has its own.
    subscriptions.clear();
    let caller = environment.caller(&held);
    environment.authority.feed.subscribe(&caller, Some(0)).await.unwrap();
    let other = environment.issue(&operator, "/prod/reports").await;
    environment.authority.feed.subscribe(&environment.caller(&other), Some(0)).await.unwrap();
}

#[tokio::test]
async fn strangers_do_not_listen() {
    let environment = Environment::start().await;
    let refused = environment.authority.feed.subscribe(&support::anonymous(), None).await;
    assert!(matches!(refused, Err(Error::Attestation { .. })));
}

#[tokio::test]
async fn another_key_in_the_feed_keys_place_signs_nothing() {
    let environment = Environment::start().await;
    let folder = environment.folder.path().join("keys");
    std::fs::copy(folder.join("log.key"), folder.join("feed.key")).unwrap();
    let keys = Keys::open(environment.folder.path(), &api::Secret::new("online")).unwrap();
    let opened = support::open(
        environment.folder.path(),
        &environment.store,
        &keys,
        &environment.clock,
        environment.pin,
    );
    let refused = opened.await.unwrap().feed.heartbeat().await.unwrap_err().to_string();
    assert!(refused.contains("holds the feed key") && refused.contains("backup"), "{refused}");
}
