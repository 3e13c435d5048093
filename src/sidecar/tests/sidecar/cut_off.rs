//! What a service is doing for a peer ends when that peer is revoked: no handler begins, none goes
//! on, and no body gives another byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use bytes::Bytes;
use countersign::{Endpoint, Verification};
use futures_util::stream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use identity::SpiffeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::TestAuthority;
use crate::endpoints::{LEDGER, REPORTS, until};
use crate::server::soon;

/// What the handlers of the ledger share: a gate before each step, and counts of what happened.
#[derive(Clone)]
struct Steps {
    caller: SpiffeId,
    verification: Arc<Verification>,
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Steps {
    fn revoke_caller(&self) {
        let caller = self.caller.clone();
        self.verification.update_revocations(|held| held.revoke_identity(caller, u64::MAX));
    }

    async fn step(&self) {
        self.gate.acquire().await.unwrap().forget();
        self.passed.fetch_add(1, Ordering::SeqCst);
    }

    fn begin(&self) -> CountsEnd {
        self.begun.fetch_add(1, Ordering::SeqCst);
        CountsEnd(Arc::clone(&self.ended))
    }
}

/// Lives as long as a handler or a body does.
struct CountsEnd(Arc<AtomicUsize>);

impl Drop for CountsEnd {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn held(State(steps): State<Steps>) -> &'static str {
    let _end = steps.begin();
    steps.step().await;
    "passed"
}

async fn held_body(State(steps): State<Steps>) -> Body {
    let end = steps.begin();
    Body::from_stream(stream::unfold((steps, end), async |(steps, end)| {
        steps.step().await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), (steps, end)))
    }))
}

/// The service itself learns of the revocation while it answers.
async fn revoking(State(steps): State<Steps>) -> &'static str {
    let _end = steps.begin();
    steps.revoke_caller();
    "done"
}

/// The ledger, serving reports.
async fn serve(authority: &TestAuthority) -> (Steps, SocketAddr) {
    let verification = Verification::new(authority.trust());
    let ledger = Endpoint::new(authority.svid(LEDGER).credentials(), Arc::clone(&verification));
    let steps = Steps {
        caller: authority.id(REPORTS),
        verification,
        gate: Arc::new(Semaphore::new(0)),
        begun: Arc::default(),
        passed: Arc::default(),
        ended: Arc::default(),
    };
    let router = Router::new()
        .route("/held", get(held))
        .route("/body", get(held_body))
        .route("/revoking", get(revoking))
        .with_state(steps.clone());
    let listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    tokio::spawn(listener.serve(router).until(std::future::pending(), Duration::ZERO));
    (steps, address)
}

async fn connect(
    authority: &TestAuthority,
    address: SocketAddr,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let reports = authority.endpoint(REPORTS);
    let mut config = reports.unregistered_client_config(authority.peers(&[LEDGER])).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

async fn http_2(authority: &TestAuthority, address: SocketAddr) -> SendRequest<Bytes> {
    let stream = connect(authority, address, b"h2").await;
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn ask(requests: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let request = Request::get(format!("https://ledger{path}")).body(()).unwrap();
    requests.send_request(request, true).unwrap().0
}

#[tokio::test]
async fn handler_and_body_in_flight_go_no_further() {
    let authority = TestAuthority::new();
    let (steps, address) = serve(&authority).await;
    let mut requests = http_2(&authority, address).await;
    let handler = ask(&mut requests, "/held");
    let mut body = soon(ask(&mut requests, "/body")).await.unwrap().into_body();
    until(|| steps.begun.load(Ordering::SeqCst) == 2).await;
    let buffered = ask(&mut requests, "/held");
    steps.revoke_caller();
    steps.gate.add_permits(10);
    until(|| steps.ended.load(Ordering::SeqCst) == 2).await;
    assert_eq!(steps.passed.load(Ordering::SeqCst), 0);
    assert!(soon(handler).await.is_err());
    assert!(soon(buffered).await.is_err());
    assert!(soon(body.data()).await.unwrap().is_err());
    assert_eq!(steps.begun.load(Ordering::SeqCst), 2);
}

/// All of them were read, and have tasks, when the first revokes its caller.
#[tokio::test]
async fn requests_that_were_accepted_already_are_not_handled() {
    let authority = TestAuthority::new();
    let (steps, address) = serve(&authority).await;
    let mut requests = http_2(&authority, address).await;
    let asked: Vec<_> = (0..8).map(|_| ask(&mut requests, "/revoking")).collect();
    for answer in asked {
        assert!(soon(answer).await.is_err());
    }
    assert_eq!(steps.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn pipelined_request_is_not_handled_after_one_that_revoked() {
    let authority = TestAuthority::new();
    let (steps, address) = serve(&authority).await;
    let mut stream = connect(&authority, address, b"http/1.1").await;
    let request = "GET /revoking HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.repeat(4).as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    assert!(soon(stream.read_to_end(&mut rest)).await.is_err());
    assert_eq!((rest.len(), steps.begun.load(Ordering::SeqCst)), (0, 1));
}
