//! A request by which a peer ends itself is answered; nothing else on its connection is.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::routing::get;
use axum::{Extension, Router};
use countersign::{LastAnswer, Verification};
use tokio::sync::Notify;

use crate::authority::TestAuthority;
use crate::endpoints::REPORTS;
use crate::server::{TestServer, connect, converse, http1_config, soon};

/// A server whose `/ends` revokes the caller and answers, and whose `/never` does not answer.
async fn server(authority: &TestAuthority) -> TestServer {
    let held: Arc<OnceLock<Arc<Verification>>> = Arc::default();
    let id = authority.id(REPORTS);
    let revoke = {
        let held = Arc::clone(&held);
        move || {
            let id = id.clone();
            let verification = held.get().unwrap();
            verification.update_revocations(|held| held.revoke_identity(id, u64::MAX));
        }
    };
    let (ends, never) = (revoke.clone(), revoke.clone());
    let router = Router::new()
        .route(
            "/ends",
            get(|Extension(last): Extension<LastAnswer>| async move {
                let _answering = last.hold();
                ends();
                tokio::task::yield_now().await;
                "done"
            }),
        )
        .route(
            "/never",
            get(|Extension(last): Extension<LastAnswer>| async move {
                let _answering = last.hold();
                never();
                std::future::pending::<&str>().await
            }),
        )
        .route(
            "/silently",
            get(|| async move {
                revoke();
                tokio::task::yield_now().await;
                "never told"
            }),
        );
    let server = TestServer::start(authority, router).await;
    held.set(Arc::clone(&server.verification)).ok().unwrap();
    server
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

#[tokio::test]
async fn the_answer_leaves_and_the_connection_ends_with_it() {
    let authority = TestAuthority::new();
    let server = server(&authority).await;
    let config = http1_config(&authority, Some(authority.svid(REPORTS)));
    let mut stream = connect(server.address, config).await.unwrap();
    let twice = format!("{}{}", ask("/ends"), ask("/ends"));
    let answer = soon(converse(&mut stream, &twice, "nothing ends so")).await.unwrap();
    assert!(answer.ends_with("\r\n\r\ndone"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(server.verification.connections().closed.get("revoked"), Some(&1));
}

#[tokio::test]
async fn an_answer_that_does_not_come_holds_nothing_up_for_long() {
    let authority = TestAuthority::new();
    let server = server(&authority).await;
    let config = http1_config(&authority, Some(authority.svid(REPORTS)));
    let mut stream = connect(server.address, config).await.unwrap();
    let begun = Instant::now();
    let ended = soon(converse(&mut stream, &ask("/never"), "nothing ends so")).await;
    assert!(ended.is_err(), "it was cut off: {ended:?}");
    // No sooner, so that an answer has its time; how much later, a busy machine decides.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn a_request_that_has_not_asked_for_it_hears_nothing() {
    let authority = TestAuthority::new();
    let server = server(&authority).await;
    let config = http1_config(&authority, Some(authority.svid(REPORTS)));
    let mut stream = connect(server.address, config).await.unwrap();
    let ended = soon(converse(&mut stream, &ask("/silently"), "nothing ends so")).await;
    assert!(ended.is_err(), "it was cut off: {ended:?}");
}

/// Over HTTP/2 others are under way on the same connection.
#[tokio::test]
async fn other_requests_of_the_connection_end_where_they_are() {
    let authority = TestAuthority::new();
    let (waiting, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held: Arc<OnceLock<Arc<Verification>>> = Arc::default();
    let (begun, released, verification) =
        (Arc::clone(&waiting), Arc::clone(&go), Arc::clone(&held));
    let id = authority.id(REPORTS);
    let router = Router::new()
        .route(
            "/other",
            get(|| async move {
                begun.notify_one();
                released.notified().await;
                "told"
            }),
        )
        .route(
            "/ends",
            get(|Extension(last): Extension<LastAnswer>| async move {
                let _answering = last.hold();
                let verification = verification.get().unwrap();
                verification.update_revocations(|held| held.revoke_identity(id, u64::MAX));
                go.notify_one();
                tokio::task::yield_now().await;
                "done"
            }),
        );
    let server = TestServer::start(&authority, router).await;
    held.set(Arc::clone(&server.verification)).ok().unwrap();
    let mut config = (*http1_config(&authority, Some(authority.svid(REPORTS)))).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(server.address, Arc::new(config)).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send = |path: &str| {
        let uri = format!("{}{path}", server.url());
        let request = http::Request::get(uri).body(()).unwrap();
        requests.send_request(request, true).unwrap().0
    };
    let other = send("/other");
    soon(waiting.notified()).await;
    let mut answer = soon(send("/ends")).await.unwrap();
    assert_eq!(soon(answer.body_mut().data()).await.unwrap().unwrap(), "done");
    assert!(soon(other).await.is_err(), "it was told");
    drop(soon(connection).await);
}
