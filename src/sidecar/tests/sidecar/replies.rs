//! What a client makes of an answer, and what it is spared.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use countersign::{Endpoint, Error, HttpClient, ReplyFault};
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use identity::Refusal;
use tokio::sync::Semaphore;

use crate::authority::TestAuthority;
use crate::endpoints::{LEDGER, REPORTS, until};
use crate::server::soon;

/// A ledger that answers, and reports as its client.
struct Answering {
    authority: TestAuthority,
    ledger: Endpoint,
    reports: Endpoint,
    client: HttpClient,
    address: std::net::SocketAddr,
}

impl Answering {
    async fn start(router: Router) -> Self {
        let authority = TestAuthority::new();
        let ledger = authority.endpoint(LEDGER);
        let listener = authority.listener(&ledger).await;
        let address = listener.local_address();
        tokio::spawn(listener.serve(router).until(std::future::pending(), Duration::ZERO));
        let reports = authority.endpoint(REPORTS);
        let client = reports.http_client(authority.peers(&[LEDGER]));
        Self { authority, ledger, reports, client, address }
    }

    async fn get(&self, path: &str) -> countersign::Reply {
        soon(self.client.get(&format!("https://{}{path}", self.address))).await.unwrap()
    }
}

fn fault(error: Error) -> ReplyFault {
    match error {
        Error::UnusableReply { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

/// A body whose length nobody announces.
fn stream_of(pieces: usize) -> Body {
    let piece = || Ok::<_, Infallible>(Bytes::from_static(&[b'1'; 10]));
    Body::from_stream(stream::iter((0..pieces).map(move |_| piece())))
}

#[tokio::test]
async fn body_is_read_as_bytes_text_json_or_piece_by_piece() {
    let router = Router::new().route("/", get(async || stream_of(1)));
    let answering = Answering::start(router).await;
    assert_eq!(answering.get("/").await.bytes().await.unwrap(), "1111111111");
    assert_eq!(answering.get("/").await.text().await.unwrap(), "1111111111");
    assert_eq!(answering.get("/").await.json::<u64>().await.unwrap(), 1_111_111_111);
    let mut pieces = answering.get("/").await;
    assert_eq!(pieces.chunk().await.unwrap().unwrap(), "1111111111");
    assert!(pieces.chunk().await.unwrap().is_none());
}

#[tokio::test]
async fn body_larger_than_the_limit_is_refused() {
    let router = Router::new().route("/", get(async || stream_of(3)));
    let answering = Answering::start(router).await;
    let whole = answering.get("/").await.with_limit(30).bytes().await.unwrap();
    assert_eq!(whole.len(), 30);
    let error = answering.get("/").await.with_limit(29).text().await.unwrap_err();
    assert!(error.to_string().contains("29 bytes"), "{error}");
    assert!(matches!(fault(error), ReplyFault::TooLarge { limit: 29 }));
}

#[tokio::test]
async fn body_that_announces_more_than_the_limit_is_not_awaited() {
    let never = || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let router = Router::new().route("/", get(async move || ([(CONTENT_LENGTH, 30)], never())));
    let answering = Answering::start(router).await;
    let error = soon(answering.get("/").await.with_limit(29).bytes()).await.unwrap_err();
    assert!(matches!(fault(error), ReplyFault::TooLarge { limit: 29 }));
}

#[tokio::test]
async fn body_of_another_form_is_refused() {
    let router = Router::new().route("/", get(async || [0xff_u8].as_slice()));
    let answering = Answering::start(router).await;
    let error = answering.get("/").await.text().await.unwrap_err();
    assert!(matches!(fault(error), ReplyFault::NotText));
    let error = answering.get("/").await.json::<u64>().await.unwrap_err();
    assert!(matches!(fault(error), ReplyFault::NotJson(_)));
}

/// All of the body has come before the revocation, and waits to be read.
#[tokio::test]
async fn body_of_a_server_that_is_revoked_gives_nothing_more() {
    let sent = Arc::new(Semaphore::new(0));
    let after = Arc::clone(&sent);
    let body = async move || {
        let pieces = stream::unfold(0, move |count| {
            let after = Arc::clone(&after);
            async move {
                // Asked for the third: the second has been taken.
                after.add_permits(usize::from(count == 2));
                (count < 2).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"piece")), count + 1))
            }
        });
        Body::from_stream(pieces)
    };
    let answering = Answering::start(Router::new().route("/", get(body))).await;
    let mut reply = answering.get("/").await;
    assert_eq!(soon(reply.chunk()).await.unwrap().unwrap(), "piece");
    until(|| sent.available_permits() == 1).await;
    let ledger = answering.authority.id(LEDGER);
    answering.reports.verification().update_revocations(|held| held.deny(ledger, 0));
    let error = soon(reply.chunk()).await.unwrap_err();
    assert!(matches!(error, Error::Peer { refusal: Refusal::Denied, .. }), "{error:?}");
}

/// The server has ended the connection by itself: there is none to close when it is revoked.
#[tokio::test]
async fn body_of_a_connection_that_is_over_is_judged_by_now() {
    let answering = Answering::start(Router::new().fallback(async || stream_of(1))).await;
    let mut reply = answering.get("/").await;
    answering.ledger.stop();
    let reports = answering.reports.verification();
    until(|| reports.connections().open == 0).await;
    let ledger = answering.authority.id(LEDGER);
    reports.update_revocations(|held| held.deny(ledger, 0));
    let error = soon(reply.chunk()).await.unwrap_err();
    assert!(matches!(error, Error::Peer { refusal: Refusal::Denied, .. }), "{error:?}");
}
