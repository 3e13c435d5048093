//! The feed with curl, and an operator who waits until everybody has heard.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::{Client, Door, Environment, PATIENCE, Process, Target, pause, post};
use tokio::io::AsyncWriteExt;

/// A report, by the operator's certificate, of how far the feed was applied.
fn report(environment: &Environment, feed_sequence: u64) {
    let body = serde_json::json!({
        "trust_sequence": 1, "feed_sequence": feed_sequence, "open_connections": 0,
        "seconds_without_authority": 3600,
    });
    let arguments = ["-X", "PUT", "--json", &body.to_string()];
    let answer = environment.curl("/v1/reports/self", &arguments).success();
    assert_eq!(answer.stdout, "");
}

/// Runs this while the operator reports to have the feed so far: no further than it goes is believed.
fn while_reporting<T>(environment: &Environment, feed_sequence: u64, run: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                report(environment, feed_sequence);
            }
        });
        let result = run();
        ended.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn an_operator_waits_until_everybody_has_heard_or_learns_who_has_not() {
    let environment = Environment::start();
    let revoke = |path: &str, wait: &str| {
        environment.issue(path, path.trim_start_matches("/prod/"));
        let id = environment.id(path);
        let arguments = ["revoke", &id, "--reason", "superseded", "--yes", "--wait", wait];
        environment.countersign(&arguments)
    };
    revoke("/prod/reports", "1s").exits(1).says("nobody was told");
    report(&environment, 0);
    revoke("/prod/monolith", "1s")
        .exits(1)
        .says("0 of 1 workloads")
        .says("no answer from spiffe://pay.example/countersign/operator/admin");
    let revoked = while_reporting(&environment, 1_000_000, || revoke("/prod/batch", "60s"));
    revoked.success().says("1 of 1 workloads have it");
    let again = environment.issue("/prod/reports", "again");
    assert!(again.exists());
    let id = environment.id("/prod/reports");
    let arguments = ["--json", "revoke", &id, "--reason", "superseded", "--yes", "--wait", "60s"];
    let revoked = while_reporting(&environment, 1_000_000, || environment.countersign(&arguments));
    let json = revoked.success().json();
    assert_eq!((&json["certificates"], &json["reach"]["reached"]), (&1.into(), &1.into()));
}

/// One that reports and acknowledges nothing is found out, and holds up no operator any more.
#[test]
fn who_is_stuck_is_named_and_nobody_waits_for_it() {
    let environment = Environment::start();
    let revoke = |path: &str| {
        environment.issue(path, path.trim_start_matches("/prod/"));
        let begun = Instant::now();
        let id = environment.id(path);
        let arguments = ["revoke", &id, "--reason", "superseded", "--yes", "--wait", "300s"];
        (environment.countersign(&arguments), begun.elapsed())
    };
    let both = || ["/prod/reports", "/prod/monolith"].map(revoke);
    let most = [150, 10].map(Duration::from_secs);
    for ((revoked, took), most) in while_reporting(&environment, 0, both).into_iter().zip(most) {
        revoked.exits(1).says("0 of 1 workloads").says("stuck").says("countersign revoke ");
        assert!(took < most, "it waited for {took:?}");
    }
}

#[test]
fn the_feed_can_be_polled_and_streamed_with_curl() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    let id = environment.id("/prod/reports");
    environment.countersign(&["revoke", &id, "--reason", "superseded", "--yes"]).success();
    let snapshot = environment.curl("/v1/feed", &[]).success();
    let (head, chunk) = snapshot.stdout.split_once('\n').unwrap();
    assert!(head.contains(r#""content":{"snapshot":{"chunks":["#), "{head}");
    assert!(head.contains(&format!("{:?}", tlog::Hash::of(chunk.as_bytes()))), "{head} {chunk}");
    assert!(chunk.contains(&id), "{chunk}");
    let delta = environment.curl("/v1/feed?after=0", &[]).success();
    assert!(delta.stdout.contains(r#""content":{"delta":{"#), "{}", delta.stdout);
    let refused = environment.curl("/v1/feed?since=0", &["-o", "/dev/null", "-w", "%{http_code}"]);
    assert_eq!(refused.stdout, "400");

    let streamed =
        environment.curl("/v1/feed", &["-N", "-m", "8", "-H", "Accept: text/event-stream"]);
    let heartbeats = streamed.exits(28).says("data: ").stdout.matches("\"heartbeat\"").count();
    assert!((1..=5).contains(&heartbeats), "{heartbeats} in 8 s");
}

/// What a client without server-sent events does, again and again.
#[test]
fn a_poll_that_waits_is_woken_by_a_revocation() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    let id = environment.id("/prod/reports");
    thread::scope(|scope| {
        let poll = scope.spawn(|| environment.curl("/v1/feed?after=0", &["-m", "60"]));
        let begun = Instant::now();
        while !environment.admin("/metrics").contains("countersign_feed_subscribers 1") {
            assert!(begun.elapsed() < PATIENCE, "nobody polls");
            pause();
        }
        assert!(!poll.is_finished(), "there is nothing to tell yet");
        environment.countersign(&["revoke", &id, "--reason", "superseded", "--yes"]).success();
        let told = poll.join().unwrap().success().stdout;
        assert!(told.contains(r#""content":{"delta":{"#), "{told}");
        assert!(told.contains(&id), "{told}");
    });
}

/// What each of them is told is made once; what they do not take is not kept for them.
#[tokio::test]
async fn subscribers_that_read_nothing_are_cut_counted_and_cost_nothing() {
    let environment = Environment::start();
    let reports = environment.issue("/prod/reports", "reports");
    let bundle = std::fs::read(reports.join("bundle.pem")).unwrap();
    let deaf = Door::showing(&reports, environment.address(), &bundle).unwrap();
    let deaf = deaf.with_receive_buffer(4096);
    let mut subscribers = Vec::new();
    for _ in 0..DEAF {
        let mut stream = deaf.open().await.unwrap();
        stream.write_all(SUBSCRIBE).await.unwrap();
        subscribers.push(stream);
    }
    wait_for(&environment, &format!("countersign_feed_subscribers {DEAF}"));
    let process = Process(environment.server_pid());
    let before = process.memory().now;
    deny_and_allow(&environment, 750).await;
    let cut = format!("countersign_connections_cut_total{{reason=\"unread\"}} {DEAF}");
    wait_for(&environment, &cut);
    wait_for(&environment, "countersign_feed_subscribers 0");
    let grown = process.memory().now - before;
    assert!(grown < 16.0, "{grown} MiB more");
}

/// Two messages of the feed each time.
async fn deny_and_allow(environment: &Environment, times: usize) {
    let target = Target::of(environment).unwrap();
    let (host, mut operator) = (target.door.host(), Client::connect(&target.door).await.unwrap());
    let denial =
        serde_json::json!({"spiffe_id": environment.id("/prod/batch"), "reason": "superseded"});
    let deny = post("/v1/denials", &denial.to_string(), &host);
    for _ in 0..times {
        assert!((200..300).contains(&operator.exchange(&deny).await.unwrap()));
        let denied: serde_json::Value = serde_json::from_str(&operator.body()).unwrap();
        let id = denied["id"].as_str().unwrap();
        let allow = format!("DELETE /v1/denials/{id} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let status = operator.exchange(allow.as_bytes()).await.unwrap();
        assert!((200..300).contains(&status), "{status} {}", operator.body());
    }
}

fn wait_for(environment: &Environment, metric: &str) {
    let begun = Instant::now();
    while !environment.admin("/metrics").lines().any(|line| line == metric) {
        let late = begun.elapsed() > PATIENCE;
        assert!(!late, "{metric} is not in {}", environment.admin("/metrics"));
        pause();
    }
}

/// Below what one certificate may have.
const DEAF: usize = 14;
const SUBSCRIBE: &[u8] = b"GET /v1/feed HTTP/1.1\r\nhost: ca\r\naccept: text/event-stream\r\n\r\n";
