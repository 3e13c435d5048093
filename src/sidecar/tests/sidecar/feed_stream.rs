//! The feed as it comes in: what is a message, and how long a silence is borne.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use countersign::{AnswerFault, AuthorityClient, Error, Limits, Verification};
use hyper::body::{Bytes, Frame};
use identity::Refusal;
use identity::feed::{Envelope, Line, MAX_CHUNK};
use tokio::sync::mpsc;

use crate::authority::TestAuthority;
use crate::endpoints::HeldClock;
use crate::server::{TestServer, soon};

/// A body that ends when its sender is dropped.
struct Streamed(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn events(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

fn envelope(body: &str) -> Envelope {
    Envelope::new(b"key", vec![7; 64], body)
}

fn event(body: &str) -> Bytes {
    [b"data: ", &envelope(body).encode()[..], b"\n\n"].concat().into()
}

async fn start(router: Router, limits: Limits) -> (TestServer, AuthorityClient) {
    let authority = TestAuthority::new();
    let server = TestServer::start_with(&authority, authority.own_svid(), router, limits).await;
    let client = server.client(&authority, None);
    (server, client)
}

/// A server whose feed is one stream, which the test feeds.
async fn streaming(limits: Limits) -> (TestServer, AuthorityClient, mpsc::Sender<Bytes>) {
    let (sender, receiver) = mpsc::channel(8);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let feed = async move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        events(Body::new(Streamed(receiver)))
    };
    let (server, client) = start(Router::new().route("/v1/feed", get(feed)), limits).await;
    (server, client, sender)
}

#[tokio::test]
async fn messages_come_in_order_until_the_ca_ends_the_stream() {
    let (_server, client, sender) = streaming(Limits::default()).await;
    let mut stream = soon(client.feed(Some(7))).await.unwrap();
    for body in ["one", "two"] {
        sender.send(event(body)).await.unwrap();
        assert_eq!(soon(stream.next()).await.unwrap(), Some(Line::Message(envelope(body))));
    }
    sender.send(Bytes::from_static(b"data: {\"a chunk\":1}\n\n")).await.unwrap();
    let chunk = Line::Chunk(br#"{"a chunk":1}"#.to_vec());
    assert_eq!(soon(stream.next()).await.unwrap(), Some(chunk));
    drop(sender);
    assert_eq!(soon(stream.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_outlives_the_rule_for_idle_connections() {
    let short = Duration::from_millis(50);
    let limits = Limits { idle_timeout: short, ..Limits::default() };
    let (_server, client, sender) = streaming(limits).await;
    let mut stream = soon(client.feed(None)).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < 10 * short {
        sender.send(event("beat")).await.unwrap();
        let beat = Line::Message(envelope("beat"));
        assert_eq!(soon(stream.next()).await.unwrap(), Some(beat));
        tokio::time::sleep(short).await;
    }
}

#[tokio::test]
async fn a_silence_longer_than_heartbeats_take_is_an_end() {
    let (_server, client, sender) = streaming(Limits::default()).await;
    let mut stream = soon(client.feed(None)).await.unwrap();
    let silent = soon(stream.next()).await;
    assert!(matches!(silent, Err(Error::Unreachable { .. })), "{silent:?}");
    drop(sender);
}

#[tokio::test]
async fn what_is_no_feed_is_refused() {
    let is_shape =
        |error: &Error| matches!(error, Error::UnexpectedAnswer { fault: AnswerFault::Shape, .. });
    let json = Router::new().route("/v1/feed", get(async || "{}"));
    let (_server, client) = start(json, Limits::default()).await;
    let error = soon(client.feed(None)).await.unwrap_err();
    assert!(is_shape(&error), "{error:?}");

    let long = format!("data: {{{}}}\n\n", " ".repeat(MAX_CHUNK - 1));
    let long = Router::new().route("/v1/feed", get(async || events(Body::from(long))));
    let (_server, client) = start(long, Limits::default()).await;
    let error = soon(soon(client.feed(None)).await.unwrap().next()).await.unwrap_err();
    assert!(is_shape(&error), "{error:?}");

    let garbage = Router::new().route("/v1/feed", get(async || events(Body::from("data: x\n\n"))));
    let (_server, client) = start(garbage, Limits::default()).await;
    let mut stream = soon(client.feed(None)).await.unwrap();
    let error = soon(stream.next()).await.unwrap_err();
    assert!(is_shape(&error), "{error:?}");
}

/// Who gets at the CA's key and answers in its name loses every client at once, too.
#[tokio::test]
async fn a_ca_whose_certificate_is_revoked_is_not_listened_to() {
    let authority = TestAuthority::new();
    let nothing = || futures_util::stream::pending::<Result<Bytes, Infallible>>();
    let feed = async move || events(Body::from_stream(nothing()));
    let server = TestServer::start(&authority, Router::new().fallback(feed)).await;
    let verification = Verification::new(authority.trust());
    let client = AuthorityClient::verified_by(&server.url(), Arc::clone(&verification), None);
    let client = client.unwrap();
    let mut feed = client.feed(None).await.unwrap();
    assert_eq!(verification.connections().open, 0, "it is not counted among the peers'");
    let serial_number = server.credentials.serial_number().unwrap();
    let (heard, ()) = soon(async {
        tokio::join!(feed.next(), async {
            // The feed is polled first.
            tokio::task::yield_now().await;
            verification.update_revocations(|held| held.revoke_serial(serial_number));
        })
    })
    .await;
    let revoked = matches!(heard, Err(Error::Peer { refusal: Refusal::Revoked { .. }, .. }));
    assert!(revoked, "{heard:?}");
    assert_eq!(verification.connections().closed_in_all(), 0, "nor there");
    assert!(matches!(client.status().await, Err(Error::Peer { .. })));
}

/// It has renewed long ago: who asks again meets its new certificate. No error, and no alarm.
#[tokio::test]
async fn a_stream_ends_in_peace_when_the_certificate_of_the_ca_does() {
    let authority = TestAuthority::new();
    let nothing = || futures_util::stream::pending::<Result<Bytes, Infallible>>();
    let feed = async move || events(Body::from_stream(nothing()));
    let server = TestServer::start(&authority, Router::new().fallback(feed)).await;
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn rustls::time_provider::TimeProvider>;
    let verification = Verification::with_clock(authority.trust(), time);
    let client = AuthorityClient::verified_by(&server.url(), verification, None).unwrap();
    let mut feed = client.feed(None).await.unwrap();
    clock.advance(24 * 3600 + 1);
    // At a moment of its own, so that a fleet does not come back as one: here it takes seconds.
    let ended = soon(async {
        loop {
            match feed.next().await {
                Err(Error::Unreachable { .. }) => {} // a silence, which no heartbeat breaks here
                ended => break ended,
            }
        }
    });
    assert!(matches!(ended.await, Ok(None)));
}
