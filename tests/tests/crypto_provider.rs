//! The library's TLS leaves that of the program that links it alone. In a process of its own: what is
//! process-wide is seen by every other test.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use api::Secret;
use axum::Router;
use axum::routing::get;
use countersign::{Peers, Workload};
use rustls::crypto::CryptoProvider;
use system_tests::Environment;

#[tokio::test(flavor = "multi_thread")]
async fn no_crypto_provider_is_installed_for_the_whole_process() {
    let environment = Environment::start();
    let monolith = start(&environment, "/prod/monolith").await;
    let batch = start(&environment, "/prod/batch").await;
    let listener = monolith.listen("127.0.0.1:0", peer(&environment, "/prod/batch")).await.unwrap();
    let url = format!("https://{}", listener.local_address());
    let service = Router::new().route("/", get(async || "hello"));
    let serving = listener.serve(service).until(std::future::pending(), Duration::ZERO);
    let serving = tokio::spawn(serving);
    let answer = batch.http_client(peer(&environment, "/prod/monolith")).get(&url).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    assert!(CryptoProvider::get_default().is_none());
    serving.abort();
    batch.stop().await;
    monolith.stop().await;
}

async fn start(environment: &Environment, path: &str) -> Workload {
    let (token, pin) = tokio::task::block_in_place(|| (environment.token(path), environment.pin()));
    let workload = Workload::builder().url(environment.url()).trust_pin(pin);
    workload.token(Secret::new(&token)).start().await.unwrap()
}

fn peer(environment: &Environment, path: &str) -> Peers {
    Peers::one_of([environment.id(path)]).unwrap()
}
