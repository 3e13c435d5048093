//! Keys are replaced beneath running services, by `countersign rotate` as cron would run it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use api::Secret;
use countersign::{Peers, Workload};
use system_tests::{Environment, Outcome, PATIENCE, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_keys_are_replaced_beneath_it() {
    let mut environment = Environment::start_with(&Settings {
        configuration: "requests_per_second = 0\n[keys]\nrotate_every = \"1s\"".to_owned(),
        ..Settings::default()
    });
    let first_pin = pin(&environment).await;
    let monolith = start(&environment, "/prod/monolith", &first_pin).await;
    let batch = start(&environment, "/prod/batch", &first_pin).await;
    let before = keys(&environment).await;
    let calls = Calls::begin(&monolith, &batch, &environment).await;

    // The workloads report the trust state; then what waits for them is due.
    let mut steps: Vec<String> = Vec::new();
    let begun = Instant::now();
    while !["feed", "log"].iter().all(|key| steps.contains(&format!("retire {key}"))) {
        assert!(begun.elapsed() < 3 * PATIENCE, "still waiting: {steps:?}");
        let rotated = countersign(&environment, &["--json", "rotate", "--config", "ca.toml"]);
        let rotated = rotated.success().stdout;
        for line in rotated.lines() {
            let step: serde_json::Value = serde_json::from_str(line).unwrap();
            if step["nothing_due"] == true {
                continue;
            }
            let text = |field: &str| step[field].as_str().unwrap().to_owned();
            steps.push(format!("{} {}", text("step"), text("key")));
        }
    }
    for key in ["issuer", "countersignature"] {
        assert!(steps.contains(&format!("activate {key}")), "{steps:?}");
        assert!(!steps.contains(&format!("retire {key}")), "its certificates live on");
    }
    // Trust keys are replaced by hand; the pin of the first day leads to the new ones.
    for step in ["prepare", "activate"] {
        countersign(&environment, &["key", step, "trust", "--config", "ca.toml"]).success();
    }
    assert_ne!(pin(&environment).await, first_pin);
    let late = start(&environment, "/prod/reports", &first_pin).await;
    assert_eq!(late.status().trust_sequence, monolith_follows(&monolith, &late).await);

    let status = countersign(&environment, &["status"]).success().stdout;
    assert!(status.contains("retire issuer: waits for"), "{status}");
    assert!(status.contains("retire countersignature: waits for"), "{status}");

    // A restart in the midst finds every key; old certificates and new ones speak with each other.
    calls.require_progress().await;
    tokio::task::block_in_place(|| {
        assert_eq!(environment.stop(), 0);
        environment.serve();
    });
    let after = keys(&environment).await;
    assert_eq!(before.len(), 6);
    assert_eq!(after.iter().filter(|key| key["state"] == "active").count(), 6);
    calls.require_progress().await;
    let log = environment.log();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(calls.end().await, 0, "calls that failed");
    for workload in [late, batch, monolith] {
        let status = workload.status();
        assert_eq!((status.trust_error, status.clock_error, status.stale), (None, None, false));
        workload.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_twice_at_once_is_as_good_as_once() {
    let environment = Environment::start();
    let rotate = || {
        let mut command = environment.command(&["key", "prepare", "issuer", "--config", "ca.toml"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let (first, second) = (rotate(), rotate());
    let outcomes = [first, second].map(|child| child.wait_with_output().unwrap());
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.status.success()).collect();
    assert_eq!(failed.len(), 1);
    let why = String::from_utf8_lossy(&failed[0].stderr).into_owned();
    assert!(why.contains("on its way") && why.contains("countersign rotate"), "{why}");
    let files = std::fs::read_dir(environment.path("state/keys")).unwrap();
    let keys = files.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "key");
    assert_eq!(keys.count(), 6, "one key was made, not two");

    // Nothing is due but what was begun; a second run finds nothing, and both say 0.
    let first = countersign(&environment, &["rotate", "--config", "ca.toml"]).success().stdout;
    assert!(first.contains("activate issuer"), "{first}");
    let second = countersign(&environment, &["rotate", "--config", "ca.toml"]).success();
    second.says("nothing is due");
    let refused = countersign(&environment, &["issuer", "retire", "--config", "ca.toml"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("retire waits for"), "{}", refused.stderr);
}

/// Trust is not `serve`'s to change: root and trust keys are not there, and nobody misses them.
#[test]
fn a_ca_without_its_offline_keys_serves_and_says_what_it_cannot_rotate() {
    let mut environment = Environment::prepare(&Settings {
        configuration: "requests_per_second = 0\n[keys]\nrotate_every = \"1s\"".to_owned(),
        ..Settings::default()
    });
    environment.countersign(&["init", "--config", "ca.toml"]).success();
    let (offline, away) = (environment.path("state/offline"), environment.path("away"));
    std::fs::rename(&offline, &away).unwrap();
    environment.serve();
    environment.issue("/prod/reports", "reports");
    environment.countersign(&["verify", "reports/svid.pem"]).success();
    let id = environment.id("/prod/reports");
    environment.countersign(&["revoke", &id, "--reason", "superseded", "--yes"]).success();
    environment.countersign(&["list", "--revoked"]).success().says("/prod/reports");

    let rotate = ["rotate", "--config", "ca.toml"];
    let mut rotated = environment.countersign(&rotate);
    let begun = Instant::now();
    while rotated.code == 0 {
        assert!(begun.elapsed() < PATIENCE, "nothing is due: {rotated:?}");
        rotated = environment.countersign(&rotate);
    }
    let rotated = rotated.exits(1).says("prepare issuer failed");
    let folder = offline.display();
    rotated.says(&format!("{folder} is not there")).says("next: put that folder back");

    std::fs::rename(&away, &offline).unwrap();
    environment.countersign(&rotate).success().says("prepare  issuer");
}

/// The pin that is recorded beside an SVID leads to the newest keys, and what it led to is recorded.
#[test]
fn a_lost_trust_note_is_fetched_again_across_other_trust_keys() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    for step in ["prepare", "activate"] {
        environment.countersign(&["key", step, "trust", "--config", "ca.toml"]).success();
    }
    std::fs::remove_file(environment.path("reports/trust.note")).unwrap();
    let lost = environment.countersign(&["renew", "reports"]);
    let step = lost.stderr.split("next: countersign ").nth(1).expect(&lost.stderr).trim();
    let repair: Vec<&str> = step.split(' ').collect();
    environment.countersign(&repair).success();
    environment.countersign(&["renew", "reports"]).success();
    environment.countersign(&repair).success();
}

/// Calls from one service to another, each with a handshake of its own, until told to end.
struct Calls {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: tokio::task::JoinHandle<usize>,
}

impl Calls {
    async fn begin(callee: &Workload, caller: &Workload, environment: &Environment) -> Self {
        let peers = Peers::one_of([environment.id("/prod/batch")]).unwrap();
        let mut listener = callee.listen("127.0.0.1:0", peers).await.unwrap();
        let address = listener.local_address().to_string();
        tokio::spawn(async move {
            while let Some(mut stream) = listener.accept().await {
                tokio::spawn(async move { stream.write_all(b"hello").await });
            }
        });
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let to = Peers::one_of([environment.id("/prod/monolith")]).unwrap();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let caller = caller.endpoint().clone();
        let failed = tokio::spawn(async move {
            let mut failed = 0;
            while !stopped.load(Ordering::Relaxed) {
                let call = async {
                    let mut stream = caller.connect(&address, to.clone()).await?;
                    let mut heard = [0; 5];
                    let read = stream.read_exact(&mut heard).await;
                    read.map(drop).map_err(|error| stream.explain(error))
                };
                if let Err(error) = call.await {
                    eprintln!("a call failed: {error}");
                    failed += 1;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            failed
        });
        Self { stop, done, failed }
    }

    /// Twenty further calls.
    async fn require_progress(&self) {
        let enough = self.done.load(Ordering::Relaxed) + 20;
        let begun = Instant::now();
        while self.done.load(Ordering::Relaxed) < enough {
            assert!(begun.elapsed() < PATIENCE, "nobody calls any more");
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.await.unwrap()
    }
}

/// The trust state that a running service holds once it is no older than a newcomer's.
async fn monolith_follows(monolith: &Workload, newcomer: &Workload) -> u64 {
    let newest = newcomer.status().trust_sequence;
    let mut changes = monolith.changes();
    let followed = changes.wait_for(|status| status.trust_sequence >= newest);
    let followed = tokio::time::timeout(PATIENCE, followed).await;
    followed.expect("a new trust state reaches a running service").unwrap().trust_sequence
}

async fn keys(environment: &Environment) -> Vec<serde_json::Value> {
    let listed = countersign(environment, &["--json", "key", "list"]).success().stdout;
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn start(environment: &Environment, path: &str, pin: &str) -> Workload {
    let id = environment.id(path);
    let token = countersign(environment, &["token", "create", &id]).success().stdout;
    let workload = Workload::builder().url(environment.url()).trust_pin(pin);
    workload.token(Secret::new(token.trim())).start().await.unwrap()
}

async fn pin(environment: &Environment) -> String {
    countersign(environment, &["trust", "pin"]).success().stdout.trim().to_owned()
}

fn countersign(environment: &Environment, arguments: &[&str]) -> Outcome {
    tokio::task::block_in_place(|| environment.countersign(arguments))
}
