//! A commit that hangs: `/readyz` and a status say so within seconds, and whoever waits for it hears.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::DenyRequest;
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore};
use support::Service;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_told_at_every_door_and_so_is_its_end() {
    let (go, goes_on) = channel();
    let goes_on = Mutex::new(goes_on);
    let stalls = Arc::new(AtomicBool::new(false));
    let is_next = Arc::clone(&stalls);
    let wrap = |store| -> Arc<dyn Store> {
        let plan = move |group: &[_]| {
            let hangs = !group.is_empty() && is_next.swap(false, Ordering::SeqCst);
            hangs.then_some(Fault::Hangs)
        };
        let hangs = move || goes_on.lock().unwrap().recv_timeout(Duration::from_secs(180)).unwrap();
        Arc::new(FaultyStore::new(store, plan).hanging(hangs))
    };
    let service = Service::start_on(time::Duration::ZERO, 0, |keys| keys, wrap).await;
    let operator = service.operator().await;
    stalls.store(true, Ordering::SeqCst);
    let reason = "superseded".to_owned();
    let spiffe_id = service.id("/prod/reports");
    let asked = DenyRequest { spiffe_id, reason, named_override: None };
    let told = tokio::time::timeout(BOUND, operator.deny(&asked)).await;
    match told.expect("it is waited for in vain").unwrap_err() {
        countersign::Error::Authority(problem) => {
            assert_eq!(problem.status, 503);
            // An operator hears what is the matter inside.
            assert!(problem.detail.contains("has not ended"), "{problem:?}");
            let next = problem.next_step.unwrap();
            assert!(next.contains("same Idempotency-Key") && next.contains("disk"), "{next}");
        }
        other => panic!("{other:?}"),
    }
    let readiness = service.readiness().await;
    assert!(readiness.starts_with("HTTP/1.1 503"), "{readiness}");
    assert!(readiness.contains("has not ended"), "{readiness}");
    let status = tokio::time::timeout(BOUND, operator.status()).await.unwrap().unwrap();
    assert!(status.not_ready.unwrap().contains("has not ended"));
    go.send(()).unwrap();
    let begun = Instant::now();
    while !service.readiness().await.starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < BOUND, "{}", service.readiness().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was asked for goes on without whoever asked.
    let done = async || operator.denials().await.unwrap().items;
    while done().await.is_empty() {
        assert!(begun.elapsed() < BOUND, "it was left out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(done().await.len(), 1);
}

const BOUND: Duration = Duration::from_secs(60);
