//! A commit that hangs: its write neither fails nor returns, as where a disk stalls. Whoever waits is told
//! so, nothing that grants piles up behind it, and what it was about is found once it ends.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Attestation, Denial, DenyRequest, IssueRequest, IssuedCertificate, Secret};
use authority::sequencer::Member;
use authority::store::faulty::{Fault, FaultyStore};
use authority::store::{RecordQuery, Store, StoreError};
use authority::{Asks, Caller, Error, Event};
use support::{Environment, anonymous, csr, id, request};

/// A disk that stalls at the next write, until it is told to go on.
struct Disk {
    stalls: Arc<AtomicBool>,
    reached: Receiver<()>,
    go: Sender<()>,
}

async fn environment() -> (Environment, Disk) {
    let (reaches, reached) = channel();
    let (go, goes_on) = channel();
    let stalls = Arc::new(AtomicBool::new(false));
    let is_next = Arc::clone(&stalls);
    let goes_on = Mutex::new(goes_on);
    let wrap = |store| -> Arc<dyn Store> {
        let plan =
            move |_: &[Member]| is_next.swap(false, Ordering::SeqCst).then_some(Fault::Hangs);
        Arc::new(FaultyStore::new(store, plan).hanging(move || {
            reaches.send(()).unwrap();
            goes_on.lock().unwrap().recv_timeout(Duration::from_secs(120)).unwrap();
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    (environment, Disk { stalls, reached, go })
}

impl Disk {
    fn stall(&self) {
        self.stalls.store(true, Ordering::SeqCst);
    }

    async fn reached(&self) {
        until(async || self.reached.try_recv().is_ok()).await;
    }

    async fn go_on(&self, environment: &Environment) {
        self.go.send(()).unwrap();
        until(async || environment.authority.writer.require_commits().is_ok()).await;
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As the server asks it: a request is not waited for in vain.
async fn asked<T: Send + 'static>(
    environment: &Environment,
    request: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let asked = environment.authority.writer.unless_it_hangs(Asks::ToBeDone, request, drop);
    let told = tokio::time::timeout(Duration::from_secs(60), asked).await;
    told.expect("it waits for ever").and_then(|done| done)
}

async fn deny(environment: &Environment, by: &Caller, path: &str) -> Result<Denial, Error> {
    let reason = "key-compromise".to_owned();
    let request = DenyRequest { spiffe_id: id(path), reason, named_override: None };
    let (authority, by) = (Arc::clone(&environment.authority), by.clone());
    asked(environment, async move { authority.operations.deny(&by, &request).await }).await
}

async fn issue(
    environment: &Environment,
    token: &Secret,
    csr: &str,
) -> Result<IssuedCertificate, Error> {
    let authority = Arc::clone(&environment.authority);
    let attestation = Attestation::Token { token: token.clone() };
    let body = IssueRequest { attestation, ..request(csr) };
    asked(environment, async move { authority.issuing.issue(&anonymous(), &body, None).await })
        .await
}

async fn denials(environment: &Environment) -> usize {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == "deny").count()
}

fn is_unsure<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Store(StoreError::Unsure { .. })))
}

#[tokio::test]
async fn what_is_asked_while_a_commit_hangs_is_answered_and_what_was_done_is_found() {
    let (environment, disk) = environment().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let named = Caller { idempotency_key: Some("deny-1".to_owned()), ..operator.clone() };
    disk.stall();
    let first = deny(&environment, &named, REPORTS).await;
    assert!(is_unsure(&first), "{first:?}");
    disk.reached().await;
    let told = environment.authority.writer.require_commits().unwrap_err().to_string();
    assert!(told.contains("2026-11-21T12:00:00Z") && told.contains("has not ended"), "{told}");

    // What grants is not done, and is told so; what restricts waits for the disk.
    let request = csr();
    let refused = issue(&environment, &token, &request).await;
    assert!(matches!(refused, Err(Error::Store(StoreError::Hangs { .. }))), "{refused:?}");
    let again = deny(&environment, &named, REPORTS).await;
    assert!(is_unsure(&again), "{again:?}");

    disk.go_on(&environment).await;
    let done = deny(&environment, &named, REPORTS).await.unwrap();
    assert_eq!(deny(&environment, &named, REPORTS).await.unwrap(), done);
    assert_eq!(denials(&environment).await, 1);
    environment.verified(&environment.issue_with(&token, &request).await.unwrap());
}

#[tokio::test]
async fn a_certificate_whose_commit_hung_is_made_once_and_the_same_request_is_given_it() {
    let (environment, disk) = environment().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let request = csr();
    disk.stall();
    let first = issue(&environment, &token, &request).await;
    assert!(is_unsure(&first), "{first:?}");
    disk.go_on(&environment).await;
    let query = RecordQuery { spiffe_id: Some(id("/prod/quick")), limit: 9, ..Default::default() };
    let records = async || environment.store.records(query.clone()).await.unwrap();
    until(async || records().await.first().is_some_and(|it| it.certificate.is_some())).await;
    let issued = issue(&environment, &token, &request).await.unwrap();
    environment.verified(&issued);
    assert_eq!(records().await.len(), 1);
}

/// Nobody asks for anything meanwhile.
#[tokio::test]
async fn a_write_that_hangs_is_found_out_by_the_probe() {
    let (environment, disk) = environment().await;
    disk.stall();
    let authority = Arc::clone(&environment.authority);
    let probe = tokio::spawn(async move { authority.writer.probe_store().await });
    until(async || environment.authority.writer.require_commits().is_err()).await;
    disk.go_on(&environment).await;
    probe.await.unwrap().unwrap();
}

/// The state that they were decided under moves with the first that is committed.
#[tokio::test]
async fn of_what_restricts_all_is_done_once_the_commit_ends() {
    let (environment, disk) = environment().await;
    let operator = environment.operator().await;
    disk.stall();
    for path in [REPORTS, "/prod/monolith", "/prod/batch"] {
        let told = deny(&environment, &operator, path).await;
        assert!(is_unsure(&told), "{told:?}");
    }
    disk.go_on(&environment).await;
    until(async || denials(&environment).await == 3).await;
}

/// Whoever is only to be told something hears that nothing was done.
#[tokio::test]
async fn a_question_is_answered_by_what_is_the_matter() {
    let (environment, disk) = environment().await;
    let operator = environment.operator().await;
    disk.stall();
    assert!(is_unsure(&deny(&environment, &operator, REPORTS).await));
    let question =
        environment.authority.writer.unless_it_hangs(Asks::ToBeTold, pending::<()>(), drop);
    let told = question.await;
    assert!(matches!(told, Err(Error::Store(StoreError::Hangs { .. }))), "{told:?}");
    disk.go_on(&environment).await;
}

const REPORTS: &str = "/prod/reports";
