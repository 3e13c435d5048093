//! What a limit refuses or cuts is counted, under the name by which `config check` shows it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use api::{CertificateFilter, ClosedConnections, Report};
use authority::{Caller, LIMIT_NAMES, LIMITS};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use support::{Environment, csr, policy_files, request};

/// How often each limit was reached.
#[derive(Default)]
struct Reached(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Reached {
    fn of(&self, limit: &str) -> u64 {
        self.0.lock().unwrap().get(limit).map_or(0, |count| count.load(Ordering::SeqCst))
    }
}

impl Recorder for Reached {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let limit = key.labels().find(|it| it.key() == "limit").filter(|_| key.name() == NAME);
        let Some(limit) = limit else { return Counter::noop() };
        let mut counts = self.0.lock().unwrap();
        Counter::from_arc(Arc::clone(counts.entry(limit.value().to_owned()).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

const NAME: &str = "countersign_limits_reached_total";

/// On one thread, whose recorder is the test's.
#[tokio::test]
async fn each_limit_of_a_policy_set_is_counted() {
    let reached = Reached::default();
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let _recorder = set_default_local_recorder(&reached);
    let with = |name: &str, text: String| {
        let mut files = policy_files();
        files.insert(name.to_owned(), text);
        files
    };
    let brackets = format!("{}true{}", "(".repeat(201), ")".repeat(201));
    let condition = format!("permit(principal, action, resource) when {{ {brackets} }};");
    let sets = format!("type T = {}Long{};", "Set<".repeat(31), ">".repeat(31));
    let types = (0..101).map(|at| format!("type T{at} = Long;")).collect();
    let doubled = (1..30).map(|at| format!("type L{at} = {{a: L{of}, b: L{of}}};", of = at - 1));
    let doubled = format!("type L0 = Long;{}", doubled.collect::<String>());
    let nested = (1..=33).map(|depth| {
        format!(r#"forbid (principal, action, resource in Path::"{}");"#, "/a".repeat(depth))
    });
    let nested = nested.enumerate().map(|(at, text)| format!(r#"@id("n{at}") {text}"#)).collect();
    let mut named = policy_files();
    named.insert(format!("{}.cedar", "a".repeat(33 * 1024)), String::new());
    for (limit, files) in [
        ("policy_depth", with("a.cedar", condition)),
        ("schema_depth", with("schema.cedarschema", sets)),
        ("schema_types", with("schema.cedarschema", types)),
        ("schema_words", with("schema.cedarschema", doubled)),
        ("policy_nested_paths", with("a.cedar", nested)),
        ("policy_set", with("a.cedar", "/".repeat(api::MAX_POLICY_BYTES))),
        ("policy_file_names", named),
    ] {
        environment
            .authority
            .operations
            .replace_policies_if(&operator, &files, |_| true)
            .await
            .expect_err(limit);
        assert_eq!(reached.of(limit), 1, "{limit}");
    }
}

#[tokio::test]
async fn each_limit_of_a_request_is_counted() {
    let reached = Reached::default();
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let workload = environment.caller(&issued);
    let _recorder = set_default_local_recorder(&reached);
    let authority = &environment.authority;

    let names: Vec<String> = (0..101).map(|at| format!("n{at}.internal")).collect();
    let many = api::IssueRequest { dns: Some(names), ..request(&csr()) };
    authority.issuing.issue(&workload, &many, None).await.unwrap_err();
    let padded = format!("{}{}", csr(), "\n".repeat(64 * 1024));
    authority.issuing.issue(&workload, &request(&padded), None).await.unwrap_err();
    let profile = api::IssueRequest { profile: Some("a".repeat(65)), ..request(&csr()) };
    authority.issuing.issue(&workload, &profile, None).await.unwrap_err();
    let named = "a".repeat(256);
    authority.issuing.issue(&workload, &request(&csr()), Some(&named)).await.unwrap_err();
    let page = CertificateFilter { limit: Some(1001), ..CertificateFilter::default() };
    authority.operations.certificates(&operator, &page).await.unwrap();
    let closed = |log_index| ClosedConnections { log_index, connections: 0 };
    let revocations = Report { closed: (0..101).map(closed).collect(), ..Report::default() };
    authority.fleet.report(&workload, revocations).await.unwrap_err();
    let subscribe = |caller: Caller| async move { authority.feed.subscribe(&caller, None).await };
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(subscribe(workload.clone()).await.unwrap());
    }
    assert!(subscribe(workload.clone()).await.is_err());

    for limit in [
        "certificate_names",
        "certificate_request",
        "profile_name",
        "idempotency_key",
        "page",
        "report_revocations",
        "feed_subscriptions_per_line",
    ] {
        assert_eq!(reached.of(limit), 1, "{limit}");
    }
}

#[test]
fn each_limit_has_a_name_and_a_value_of_its_own() {
    assert!(LIMITS.iter().all(|limit| !limit.shown().starts_with('0')));
    assert_eq!(LIMITS.iter().map(|limit| limit.name()).collect::<Vec<_>>(), LIMIT_NAMES);
}
