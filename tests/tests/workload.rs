//! Two services by the library: they start from two strings and a token, speak, and are cut off.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::{Duration, Instant};

use api::Secret;
use countersign::{Builder, Error, Listener, Peers, Stream, Workload};
use identity::Refusal;
use system_tests::{Environment, PATIENCE, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_workload_loses_its_stream_and_comes_back_with_nothing() {
    let environment = Environment::start();
    let monolith = start(&environment, "/prod/monolith").await;
    let batch = start(&environment, "/prod/batch").await;
    let peers = Peers::one_of([environment.id("/prod/batch")]).unwrap();
    let mut listener = monolith.listen("127.0.0.1:0", peers).await.unwrap();
    let address = listener.local_address().to_string();
    let accepted = tokio::spawn(async move { (listener.accept().await.unwrap(), listener) });
    let to = Peers::one_of([environment.id("/prod/monolith")]).unwrap();
    let mut ours = batch.connect(&address, to.clone()).await.unwrap();
    let (mut theirs, mut listener) = accepted.await.unwrap();
    assert_eq!(theirs.peer().spiffe_id().path(), "/prod/batch");
    exchange(&mut ours, &mut theirs).await;

    let outcome = countersign(
        &environment,
        &[
            "--json",
            "revoke",
            "--yes",
            &environment.id("/prod/batch"),
            "--reason",
            "superseded",
            "--wait",
            "60s",
        ],
    )
    .success();
    // Whoever was told closed its connection, whichever end hears of it first.
    let mut byte = [0];
    let ended = tokio::time::timeout(PATIENCE, ours.read(&mut byte)).await.expect("cut off");
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    assert!(matches!(theirs.read(&mut byte).await, Err(_) | Ok(0)));
    let told = outcome.json();
    assert_eq!(told["reach"]["connections_closed"].as_u64(), Some(1), "{told}");

    let refused = tokio::spawn(async move { listener.accept().await.map(drop) });
    let again = batch.connect(&address, to).await;
    let seen = match again {
        Ok(mut stream) => {
            let ended = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.unwrap();
            stream.explain(ended.expect_err("a revoked client hears nothing"))
        }
        Err(error) => error,
    };
    assert!(matches!(seen, Error::Refused { .. } | Error::Peer { .. }), "{seen}");
    assert!(!refused.is_finished(), "nobody was accepted");
    assert_eq!(monolith.status().connections.closed["revoked"], 1);
    batch.stop().await;
    monolith.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pin_sends_no_evidence() {
    let environment = Environment::start();
    let token = token(&environment, "/prod/batch").await;
    let other = Environment::start();
    let workload = Workload::builder().url(environment.url()).trust_pin(pin(&other).await);
    let error = workload.token(Secret::new(&token)).start().await.unwrap_err();
    assert!(error.to_string().contains("pin"), "{error}");
    // The token was not burnt: the right pin still starts with it.
    let workload = Workload::builder().url(environment.url()).trust_pin(pin(&environment).await);
    workload.token(Secret::new(&token)).start().await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_waits_for_its_authority_and_gives_up_by_its_limit() {
    let mut environment = Environment::start();
    let pin = pin(&environment).await;
    let token = token(&environment, "/prod/batch").await;
    environment.stop();
    let start = |limit| {
        let builder = Workload::builder().url(environment.url()).trust_pin(&pin);
        builder.token(Secret::new(&token)).give_up_after(limit).start()
    };
    let error = start(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let waiting = tokio::spawn(start(2 * PATIENCE));
    tokio::task::block_in_place(|| environment.serve());
    let workload = waiting.await.unwrap().unwrap();
    assert_eq!(workload.status().spiffe_id.to_string(), environment.id("/prod/batch"));
    assert!(workload.ready());
    workload.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_peers_named_comes_in() {
    let environment = Environment::start();
    let monolith = start(&environment, "/prod/monolith").await;
    let batch = start(&environment, "/prod/batch").await;
    let reports = Peers::one_of([environment.id("/prod/reports")]).unwrap();
    let mut listener = monolith.listen("127.0.0.1:0", reports.clone()).await.unwrap();
    let address = listener.local_address().to_string();
    let accepting = tokio::spawn(async move { listener.accept().await.map(drop) });
    let wrong = batch.connect(&address, reports).await.unwrap_err();
    let Error::Peer { refusal, .. } = &wrong else { panic!("{wrong}") };
    assert!(matches!(refusal, Refusal::NotAmongPeers { .. }), "{refusal}");
    assert!(!accepting.is_finished());
    monolith.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_workload_resumes_no_session() {
    let environment = Environment::start();
    let resuming = |builder: Builder| builder.allow_resumption(Duration::from_secs(60));
    let monolith = start_with(&environment, "/prod/monolith", resuming).await;
    let batch = start_with(&environment, "/prod/batch", resuming).await;
    let peers = Peers::one_of([environment.id("/prod/batch")]).unwrap();
    let mut listener = monolith.listen("127.0.0.1:0", peers).await.unwrap();
    let url = format!("https://{}/", listener.local_address());
    let (resumed, mut how) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(mut stream) = listener.accept().await {
            resumed.send(stream.has_resumed()).unwrap();
            let _request = stream.read(&mut [0; 1024]).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let http = batch.http_client(Peers::one_of([environment.id("/prod/monolith")]).unwrap());
    for expected in [false, true, true] {
        http.get(&url).await.unwrap();
        assert_eq!(how.recv().await, Some(expected));
    }
    let id = environment.id("/prod/batch");
    let arguments = ["revoke", "--yes", &id, "--reason", "superseded", "--wait", "60s"];
    countersign(&environment, &arguments).success();
    let refused = http.get(&url).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(how.try_recv().is_err(), "nobody was accepted");
    batch.stop().await;
    monolith.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_call_each_other_while_their_authority_is_down() {
    let mut environment = Environment::start();
    let monolith = start(&environment, "/prod/monolith").await;
    let batch = start(&environment, "/prod/batch").await;
    let (from, to) = (environment.id("/prod/batch"), environment.id("/prod/monolith"));
    let (from, to) = (Peers::one_of([from]).unwrap(), Peers::one_of([to]).unwrap());
    let mut listener = monolith.listen("127.0.0.1:0", from).await.unwrap();
    let address = listener.local_address().to_string();
    tokio::task::block_in_place(|| environment.kill());
    for workload in [&monolith, &batch] {
        let mut changes = workload.changes();
        let missed = changes.wait_for(|status| status.feed_error.is_some());
        tokio::time::timeout(PATIENCE, missed).await.expect("it is missed").unwrap();
    }
    let call = async |listener: &mut Listener| {
        let (accepted, connected) =
            tokio::join!(listener.accept(), batch.connect(&address, to.clone()));
        let (mut theirs, mut ours) = (accepted.unwrap(), connected.unwrap());
        exchange(&mut ours, &mut theirs).await;
    };
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, call(&mut listener)).await.expect("it is answered");
    }
    let status = monolith.status();
    assert!(status.ready && status.seconds_without_authority > 23 * 3600, "{status:?}");
    batch.stop().await;
    monolith.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_all_its_peers_holds_the_last_back_and_the_operator_sees_it() {
    let paths = ["/prod/batch", "/prod/reports", "/prod/orders"];
    let rows = paths.into_iter().chain(["/prod/monolith"]).map(|id| format!(r#"{{"id": "{id}"}}"#));
    let rows = rows.collect::<Vec<_>>().join(",");
    let workloads = format!(r#"{{"operators": [], "workloads": [{rows}]}}"#);
    let environment = Environment::start_with(&Settings { workloads, ..Settings::default() });
    let cautious = |builder: Builder| builder.hold_back_above(0.5);
    let monolith = start_with(&environment, "/prod/monolith", cautious).await;
    let peers = Peers::one_of(paths.map(|path| environment.id(path))).unwrap();
    let mut listener = monolith.listen("127.0.0.1:0", peers).await.unwrap();
    let address = listener.local_address().to_string();
    let to = Peers::one_of([environment.id("/prod/monolith")]).unwrap();
    let mut connected = vec![];
    for path in paths {
        let workload = start(&environment, path).await;
        let (theirs, ours) =
            tokio::join!(listener.accept(), workload.connect(&address, to.clone()));
        connected.push((workload, ours.unwrap(), theirs.unwrap()));
    }
    let revoke = |path: &str, wait: &[&str]| {
        let id = environment.id(path);
        let arguments = ["--json", "revoke", "--yes", &id, "--reason", "superseded"];
        countersign(&environment, &[&arguments, wait].concat())
    };
    // One stroke is what comes within ten seconds: nobody is waited for in between.
    for path in &paths[..2] {
        revoke(path, &[]);
    }
    let told = revoke(paths[2], &["--wait", "2s"]).json();
    let (workload, mut ours, mut theirs) = connected.pop().unwrap();
    exchange(&mut ours, &mut theirs).await;
    let holder = environment.id("/prod/monolith");
    let of_holder = |reach: &serde_json::Value| {
        let mut waiting = reach["waiting"].as_array().unwrap().iter();
        waiting.find(|it| it["spiffe_id"] == *holder).unwrap_or_else(|| panic!("{reach}")).clone()
    };
    let mut waiting = of_holder(&told["reach"]);
    let (path, begun) = (format!("/v1/revocations/{}", told["log_index"]), Instant::now());
    // It says so a moment later, which on a busy machine is long.
    while waiting["held_back"].is_null() && begun.elapsed() < PATIENCE {
        let reach = tokio::task::block_in_place(|| environment.curl(&path, &[])).success();
        waiting = of_holder(&reach.json());
    }
    assert_eq!(waiting["held_back"]["peers"].as_u64(), Some(1), "{waiting}");
    let held = monolith.status().held_back.unwrap();
    assert_eq!(held.log_indexes, told["log_index"].as_u64().map(|at| at..=at).unwrap(), "{told}");

    assert_eq!(monolith.release_revocations(), 1);
    assert!(matches!(theirs.read(&mut [0]).await, Err(_) | Ok(0)));
    workload.stop().await;
    monolith.stop().await;
}

async fn start(environment: &Environment, path: &str) -> Workload {
    start_with(environment, path, |builder| builder).await
}

async fn start_with(
    environment: &Environment,
    path: &str,
    prepare: impl FnOnce(Builder) -> Builder,
) -> Workload {
    let token = token(environment, path).await;
    let workload = Workload::builder().url(environment.url()).trust_pin(pin(environment).await);
    prepare(workload.token(Secret::new(&token))).start().await.unwrap()
}

async fn token(environment: &Environment, path: &str) -> String {
    tokio::task::block_in_place(|| environment.token(path))
}

async fn pin(environment: &Environment) -> String {
    tokio::task::block_in_place(|| environment.pin())
}

fn countersign(environment: &Environment, arguments: &[&str]) -> system_tests::Outcome {
    tokio::task::block_in_place(|| environment.countersign(arguments))
}

async fn exchange(ours: &mut Stream, theirs: &mut Stream) {
    ours.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    theirs.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}
