//! The service ends after what it has begun.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::{Attestation, KeyPurpose, TokenRequest};
use authority::signer::{Signer, SignerError};
use authority::store::RecordQuery;
use authority::store::faulty::{Fault, FaultyStore};
use futures_util::future::BoxFuture;
use support::{Service, csr, request};
use tokio::sync::Semaphore;

/// The issuer's key, which signs nothing until it is let, once it is held.
#[derive(Debug)]
struct Held {
    inner: Arc<dyn Signer>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    is_held: AtomicBool,
    asked: AtomicUsize,
}

static LET: Semaphore = Semaphore::const_new(0);

impl Signer for Held {
    fn public_key(&self) -> &[u8] {
        self.inner.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        Box::pin(async move {
            if self.gate.is_held.load(Ordering::SeqCst) {
                self.gate.asked.fetch_add(1, Ordering::SeqCst);
                LET.acquire().await.unwrap().forget();
            }
            self.inner.sign(message).await
        })
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to that");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_logged_for_somebody_who_went_away_is_signed_before_the_end() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let wrap = |inner| Arc::new(Held { inner, gate: held }) as Arc<dyn Signer>;
    let none = time::Duration::ZERO;
    let service = Service::start_wrapped(none, 0, |keys| keys.wrap(KeyPurpose::Issuer, wrap)).await;
    let spiffe_id = service.id("/prod/reports");
    let asked = TokenRequest { spiffe_id: spiffe_id.clone(), ttl: None, key_sha256: None };
    let token = service.operator().await.create_token(&asked).await.unwrap().token;
    gate.is_held.store(true, Ordering::SeqCst);
    let (client, body) = (service.client(None), request(csr().0, Attestation::Token { token }));
    let asking = tokio::spawn(async move { client.issue(&body, None).await });
    until(|| gate.asked.load(Ordering::SeqCst) == 1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());

    let mut ending = tokio::spawn(service.running.stop());
    let soon = tokio::time::timeout(Duration::from_secs(1), &mut ending).await;
    assert!(soon.is_err(), "it ended before");
    LET.add_permits(1);
    ending.await.unwrap();
    let query = RecordQuery { spiffe_id: Some(spiffe_id), limit: 2, ..RecordQuery::default() };
    let records = service.store.records(query).await.unwrap();
    assert!(records.len() == 1 && records[0].certificate.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_in_its_time_where_the_store_hangs() {
    let hangs = Arc::<AtomicBool>::default();
    let asked = Arc::<AtomicUsize>::default();
    let (does_hang, counted) = (Arc::clone(&hangs), Arc::clone(&asked));
    let wrap = |store| {
        let plan = move |group: &[_]| {
            let fault = does_hang.load(Ordering::SeqCst).then_some(Fault::Unanswered);
            counted.fetch_add(usize::from(fault.is_some() && !group.is_empty()), Ordering::SeqCst);
            fault
        };
        Arc::new(FaultyStore::new(store, plan)) as Arc<dyn authority::store::Store>
    };
    let service = Service::start_on(time::Duration::ZERO, 0, |keys| keys, wrap).await;
    let asked_for =
        TokenRequest { spiffe_id: service.id("/prod/reports"), ttl: None, key_sha256: None };
    let operator = service.operator().await;
    let token = operator.create_token(&asked_for).await.unwrap().token;
    hangs.store(true, Ordering::SeqCst);
    let client = service.client(None);
    let body = request(csr().0, Attestation::Token { token });
    let asking = tokio::spawn(async move { client.issue(&body, None).await });
    until(|| asked.load(Ordering::SeqCst) > 0).await;
    let begun = Instant::now();
    let limit = Duration::from_secs(3);
    let ended = tokio::time::timeout(Duration::from_secs(60), service.running.stop_within(limit));
    ended.await.expect("it waits for the store");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    asking.await.unwrap().unwrap_err();
}
