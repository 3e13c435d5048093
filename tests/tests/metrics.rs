//! What the library tells an operator by metrics, at a service that speaks and is then left alone.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Secret;
use countersign::{Builder, Peers, Staleness, Workload};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use system_tests::{Environment, PATIENCE};
use tokio::io::AsyncReadExt;

/// Keeps the last value of each metric, by its name and labels as Prometheus writes them.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Kept {
    fn value(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<String> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn bits(&self, name: &str) -> Option<u64> {
        self.0.lock().unwrap().get(name).map(|value| value.load(Ordering::SeqCst))
    }

    fn counter(&self, name: &str) -> u64 {
        self.bits(name).unwrap_or_default()
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        self.bits(name).map(f64::from_bits)
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// On one thread, whose recorder is the test's.
#[tokio::test]
async fn a_service_tells_how_it_is_doing() {
    let kept = Kept::default();
    let _recorder = set_default_local_recorder(&kept);
    let mut environment = Environment::start();
    let monolith = start_with(&environment, "/prod/monolith", |builder| {
        let max_staleness = Duration::from_secs(5);
        builder.staleness(Staleness { max_staleness, ..Staleness::default() })
    });
    let monolith = monolith.await;
    until(|| kept.gauge(WITHOUT_AUTHORITY).is_some_and(|left| left > 23.0 * 3600.0)).await;
    until(|| kept.gauge(FEED_AGE).is_some_and(|age| age <= 4.0)).await;
    until(|| kept.gauge(WITHOUT_REVOCATIONS) == Some(0.0)).await;

    let batch = start(&environment, "/prod/batch").await;
    let reports = start(&environment, "/prod/reports").await;
    let peers = |path| Peers::one_of([environment.id(path)]).unwrap();
    let mut listener = monolith.listen("127.0.0.1:0", peers("/prod/batch")).await.unwrap();
    let address = listener.local_address().to_string();
    let accepting = tokio::spawn(async move { (listener.accept().await, listener) });
    let mut refused = reports.connect(&address, peers("/prod/monolith")).await.unwrap();
    assert!(refused.read(&mut [0]).await.is_err());
    until(|| kept.counter(NOT_AMONG_PEERS) == 1).await;

    let _connected = batch.connect(&address, peers("/prod/monolith")).await.unwrap();
    let _accepted = accepting.await.unwrap();
    let revoke = ["revoke", "--yes", &environment.id("/prod/batch"), "--reason", "superseded"];
    environment.countersign(&revoke).success();
    until(|| kept.counter(CLOSED_REVOKED) == 1).await;

    // From here on there is one workload, whose gauges these are.
    batch.stop().await;
    reports.stop().await;
    let left = kept.gauge(WITHOUT_AUTHORITY).unwrap();
    until(|| kept.gauge(FEED_STALE) == Some(0.0)).await;
    environment.kill();
    until(|| kept.gauge(FEED_AGE).is_some_and(|age| age >= 5.0)).await;
    until(|| kept.gauge(FEED_STALE) == Some(1.0)).await;
    assert!(monolith.status().stale);
    assert!(kept.gauge(WITHOUT_AUTHORITY).unwrap() < left);
    monolith.stop().await;
}

/// Its feed is closed to it: that is no feed that is gone.
#[tokio::test]
async fn a_revoked_service_says_that_it_is_and_comes_back_by_a_new_token() {
    let kept = Kept::default();
    let _recorder = set_default_local_recorder(&kept);
    let environment = Environment::start();
    let token = |name: &str| environment.write(name, &environment.token("/prod/batch"));
    token("token");
    let max_staleness = Duration::from_secs(5);
    let batch = Workload::builder().url(environment.url()).trust_pin(environment.pin());
    let batch = batch.token_file(environment.path("token"));
    let batch = batch.staleness(Staleness { max_staleness, ..Staleness::default() });
    let batch = batch.start().await.unwrap();
    let (id, revoked) = (environment.id("/prod/batch"), batch.status().serial_number);
    environment.countersign(&["revoke", "--yes", &id, "--reason", "superseded"]).success();
    until(|| kept.gauge(CUT_OFF_REVOKED) == Some(1.0)).await;
    until(|| kept.gauge(FEED_AGE).is_some_and(|age| age >= 6.0)).await;
    let status = batch.status();
    assert_eq!((status.ready, status.stale), (false, false), "{status:?}");
    assert_eq!(kept.gauge(FEED_STALE), Some(0.0));
    let told = status.cut_off.unwrap().to_string();
    for what in [&format!("`countersign show {revoked}`"), &format!("token create {id}")] {
        assert!(told.contains(what), "{told}");
    }
    token("token");
    until(|| batch.ready()).await;
    assert_ne!(batch.status().serial_number, revoked);
    until(|| kept.gauge(CUT_OFF_REVOKED) == Some(0.0)).await;
    until(|| kept.gauge(FEED_AGE).is_some_and(|age| age <= 4.0)).await;
    batch.stop().await;
}

async fn start(environment: &Environment, path: &str) -> Workload {
    start_with(environment, path, |builder| builder).await
}

async fn start_with(
    environment: &Environment,
    path: &str,
    prepare: impl FnOnce(Builder) -> Builder,
) -> Workload {
    let workload = Workload::builder().url(environment.url()).trust_pin(environment.pin());
    let workload = workload.token(Secret::new(environment.token(path)));
    prepare(workload).start().await.unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it takes too long");
}

const WITHOUT_AUTHORITY: &str = "countersign_seconds_without_authority{}";
const FEED_AGE: &str = "countersign_feed_age_seconds{}";
const CUT_OFF_REVOKED: &str = "countersign_cut_off{reason=revoked}";
const FEED_STALE: &str = "countersign_feed_stale{}";
const WITHOUT_REVOCATIONS: &str = "countersign_without_revocations{}";
const NOT_AMONG_PEERS: &str = "countersign_handshakes_refused_total{reason=not-among-peers}";
const CLOSED_REVOKED: &str = "countersign_connections_closed_total{reason=revoked}";
