//! Answers without end over HTTP/1.1, which hyper does not write.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use countersign::{Drained, Limits, WithoutEnd};
use futures_util::stream;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Sender};
use tokio_rustls::client::TlsStream;

use crate::authority::TestAuthority;
use crate::endpoints::{REPORTS, until};
use crate::server::{TestServer, connect, converse, http1_config, soon};

/// A service that says what the test has it say.
struct Scene {
    authority: TestAuthority,
    server: TestServer,
    asked: Arc<AtomicUsize>,
    says: Arc<Mutex<Option<Sender<Bytes>>>>,
}

impl Scene {
    async fn set(limits: Limits) -> Self {
        let (authority, asked) = (TestAuthority::new(), Arc::<AtomicUsize>::default());
        let says = Arc::<Mutex<Option<Sender<Bytes>>>>::default();
        let (counted, sender) = (Arc::clone(&asked), Arc::clone(&says));
        let answer = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let (says, said) = mpsc::channel(1);
            *sender.lock().unwrap() = Some(says);
            let body = stream::unfold(said, async |mut said| {
                said.recv().await.map(|piece| (Ok::<_, Infallible>(piece), said))
            });
            let own = [(header::CONTENT_TYPE, "text/plain"), (header::DATE, "yesterday")];
            (Extension(WithoutEnd), own, Body::from_stream(body)).into_response()
        };
        let router = Router::new().route("/", get(answer));
        let server = TestServer::start_with(&authority, authority.own_svid(), router, limits).await;
        Self { authority, server, asked, says }
    }

    async fn open(&self) -> TlsStream<TcpStream> {
        let config = http1_config(&self.authority, Some(self.authority.svid(REPORTS)));
        connect(self.server.address, config).await.unwrap()
    }

    /// What the service says by, once it was asked.
    async fn said(&self) -> Sender<Bytes> {
        until(|| self.says.lock().unwrap().is_some()).await;
        self.says.lock().unwrap().take().unwrap()
    }
}

#[tokio::test]
async fn it_comes_as_it_is_made_and_is_the_last_of_its_connection() {
    let scene = Scene::set(Limits::default()).await;
    let mut stream = scene.open().await;
    let head = soon(converse(&mut stream, &[GET, GET].concat(), "\r\n\r\n")).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in ["content-type: text/plain", "transfer-encoding: chunked", "connection: close"] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
    }
    assert_eq!(head.matches("\r\ndate: ").count(), 1);
    assert!(head.contains(" GMT\r\n") && !head.contains("content-length"), "{head}");
    let said = scene.said().await;
    for (piece, chunk) in [("hello", "5\r\nhello\r\n"), ("again", "5\r\nagain\r\n")] {
        said.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        assert_eq!(soon(converse(&mut stream, "", "\n")).await.unwrap(), chunk);
    }
    drop(said);
    assert_eq!(soon(converse(&mut stream, "", "\n\r\n")).await.unwrap(), "0\r\n\r\n");
    assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(scene.asked.load(Ordering::SeqCst), 1, "what was asked behind it is not begun");
}

#[tokio::test]
async fn clients_of_others_read_every_byte_of_it() {
    let scene = Scene::set(Limits::default()).await;
    let stream = TokioIo::new(scene.open().await);
    let (mut client, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "ca").body(Empty::<Bytes>::new()).unwrap();
    let answer = soon(client.send_request(request)).await.unwrap();
    let said = scene.said().await;
    // Without length, of one byte, and larger than what is written at once.
    let pieces: Vec<_> = (0..300_usize).map(|n| vec![n as u8; (n % 7) * n * 40]).collect();
    let expected = pieces.concat();
    tokio::spawn(async move {
        for piece in pieces {
            said.send(piece.into()).await.unwrap();
        }
    });
    let read = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(read == expected, "{} of {} bytes", read.len(), expected.len());
}

#[tokio::test]
async fn whoever_goes_ends_it() {
    let scene = Scene::set(Limits::default()).await;
    for says_more in ["", GET] {
        let mut stream = scene.open().await;
        stream.write_all(GET.as_bytes()).await.unwrap();
        let said = scene.said().await;
        stream.write_all(says_more.as_bytes()).await.unwrap();
        drop(stream);
        // Of whoever said more nothing is read, so that it is the next word that fails.
        soon(async { while said.send(Bytes::from_static(b"x")).await.is_ok() {} }).await;
    }
}

#[tokio::test]
async fn whoever_goes_without_a_word_is_noticed_before_there_is_anything_to_say() {
    let scene = Scene::set(Limits::default()).await;
    let mut stream = scene.open().await;
    soon(converse(&mut stream, GET, "\r\n\r\n")).await.unwrap();
    let said = scene.said().await;
    drop(stream);
    soon(said.closed()).await;
}

#[tokio::test]
async fn whoever_does_not_read_is_cut() {
    let write_timeout = Duration::from_millis(300);
    let scene = Scene::set(Limits { write_timeout, ..Limits::default() }).await;
    let mut stream = scene.open().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    let said = scene.said().await;
    let much = Bytes::from(vec![b'.'; 16 * 1024]);
    soon(async { while said.send(much.clone()).await.is_ok() {} }).await;
    drop(stream);
}

#[tokio::test]
async fn a_peer_that_is_revoked_hears_no_more_of_it() {
    let scene = Scene::set(Limits::default()).await;
    let mut stream = scene.open().await;
    soon(converse(&mut stream, GET, "\r\n\r\n")).await.unwrap();
    let said = scene.said().await;
    let peer = scene.authority.id(REPORTS);
    scene.server.verification.update_revocations(|held| held.revoke_identity(peer, u64::MAX));
    soon(said.closed()).await;
    assert!(soon(stream.read(&mut [0])).await.is_err(), "no end that is one");
}

#[tokio::test]
async fn a_server_that_stops_waits_for_its_end() {
    let scene = Scene::set(Limits::default()).await;
    let mut stream = scene.open().await;
    soon(converse(&mut stream, GET, "\r\n\r\n")).await.unwrap();
    let said = scene.said().await;
    let ended = scene.server.stop();
    said.send(Bytes::from_static(b"last")).await.unwrap();
    assert_eq!(soon(converse(&mut stream, "", "\n")).await.unwrap(), "4\r\nlast\r\n");
    assert!(!ended.is_finished());
    drop(said);
    assert_eq!(soon(ended).await.unwrap().unwrap(), Drained { drained: 1, cut: 0 });
}

#[tokio::test]
async fn of_another_version_of_http_it_is_an_answer_like_others() {
    let scene = Scene::set(Limits::default()).await;
    let mut stream = scene.open().await;
    let head = soon(converse(&mut stream, "GET / HTTP/1.0\r\n\r\n", "\r\n\r\n")).await.unwrap();
    assert!(!head.contains("chunked"), "{head}");
    let said = scene.said().await;
    said.send(Bytes::from_static(b"plain")).await.unwrap();
    drop(said);
    assert_eq!(soon(converse(&mut stream, "", "\0")).await.unwrap(), "plain");
}

const GET: &str = "GET / HTTP/1.1\r\nhost: ca\r\n\r\n";
