//! One connection over HTTP/1.1 after another request: what it holds between two, and that nothing of
//! one is taken for the next.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::task::Context;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

const GET: &str = "GET /a HTTP/1.1\r\nhost: ca\r\n\r\n";
const POST: &str = "POST /b HTTP/1.1\r\nhost: ca\r\ncontent-length: 5\r\n\r\n";

/// The far end of a connection that is served.
struct Client {
    stream: DuplexStream,
    serving: JoinHandle<()>,
    /// For how many bytes the server has room where it waits for some.
    room: Arc<AtomicUsize>,
    drains: watch::Sender<bool>,
}

impl Client {
    /// Of a server that answers with the method, the path and the body, or without having read that
    /// where the path is `/early`, `/kept` or `/later`; `/long` has a long answer.
    fn new() -> Self {
        Self::with_room(1024)
    }

    /// The same where so many bytes may be on their way.
    fn with_room(bytes: usize) -> Self {
        let (ours, stream) = duplex(bytes);
        let room = Arc::<AtomicUsize>::default();
        let ours = Watched { stream: ours, room: Arc::clone(&room) };
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let service = service_fn(|request: Request<Incoming>| async move {
            let (head, body) = request.into_parts();
            let mut text = format!("{} {} ", head.method, head.uri);
            match head.uri.path() {
                "/early" => {}
                // As a handler does that reads on while it has answered.
                "/kept" => drop(tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(body);
                })),
                "/later" => drop(tokio::spawn(body.collect())),
                "/long" => text += &"x".repeat(50_000),
                _ => {
                    let body = body.collect().await.unwrap().to_bytes();
                    text += std::str::from_utf8(&body).unwrap();
                }
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text + "."))))
        });
        let requests = Requests::new(service, remote, None, Limits::default().unread);
        let (drains, draining) = watch::channel(false);
        let serving = tokio::spawn(async move {
            serve_requests(ours, Protocol::Http1, requests, &Limits::default(), draining).await;
        });
        Self { stream, serving, room, drains }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads to the end of this answer.
    async fn hear(&mut self, answer: &str) {
        let mut heard = String::new();
        while !heard.ends_with(answer) {
            let byte = self.stream.read_u8().await;
            heard.push(byte.unwrap_or_else(|_| panic!("{answer}: {heard}")) as char);
        }
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
    }

    /// Whether it waits without a buffer.
    async fn is_at_rest(&self) -> bool {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.room.load(Ordering::Relaxed) == 1
    }

    /// What is still said, and the end.
    async fn end(mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await.unwrap();
        self.serving.await.unwrap();
        rest
    }
}

struct Watched {
    stream: DuplexStream,
    room: Arc<AtomicUsize>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.room.store(buffer.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn no_buffer_is_kept_before_the_first_request_nor_between_two() {
    let mut client = Client::new();
    assert!(client.is_at_rest().await);
    for (path, end) in [("/a", " ."), ("/long", "x."), ("/a", " .")] {
        client.say("G").await;
        assert!(!client.is_at_rest().await);
        client.say(&format!("ET {path} HTTP/1.1\r\nhost: ca\r\n\r\n")).await;
        client.hear(end).await;
        assert!(client.is_at_rest().await, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_buffer_is_kept_after_a_body_that_was_read_to_its_end() {
    let mut client = Client::new();
    for head in ["content-length: 5\r\n\r\n", "transfer-encoding: chunked\r\n\r\n5\r\n"] {
        let post = format!("POST /b HTTP/1.1\r\nhost: ca\r\n{head}123");
        client.say(&post).await;
        assert!(!client.is_at_rest().await, "half a body");
        client.say(if head.ends_with("5\r\n") { "45\r\n0\r\n\r\n" } else { "45" }).await;
        client.hear("POST /b 12345.").await;
        assert!(client.is_at_rest().await, "{head}");
    }
    client.say(GET).await;
    client.hear("GET /a .").await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_fast_and_stops_keeps_no_larger_buffer() {
    let mut client = Client::with_room(64 * 1024);
    client.say(&POST.replace("5\r", "50000\r")).await;
    client.say(&"x".repeat(49_999)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let room = client.room.load(Ordering::Relaxed);
    assert!(room < 8 * 1024, "{room}");
    client.say("x").await;
    client.hear("x.").await;
}

/// Whoever is answered before all of their body has come may go on with both.
#[tokio::test(start_paused = true)]
async fn a_body_that_ends_after_its_answer_is_none_of_the_next_request() {
    let mut client = Client::new();
    client.say(&POST.replace("/b", "/later")).await;
    client.hear("POST /later .").await;
    assert!(!client.is_at_rest().await);
    client.say("12345").await;
    assert!(client.is_at_rest().await);
    client.say(GET).await;
    client.hear("GET /a .").await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_not_lost() {
    let mut client = Client::new();
    client.say(&GET.replace("/a", "/long")).await;
    for _ in 0..5 {
        assert!(!client.is_at_rest().await);
        client.stream.read_exact(&mut [0; 17]).await.unwrap();
    }
    let mut read = vec![0; 50_000 - 5 * 17];
    client.stream.read_exact(&mut read).await.unwrap();
    let mut rest = Vec::new();
    while rest.last() != Some(&b'.') {
        rest.push(client.stream.read_u8().await.unwrap());
    }
    client.say(GET).await;
    client.hear("GET /a .").await;
}

#[tokio::test(start_paused = true)]
async fn requests_in_one_piece_are_answered_in_their_order_however_they_are_cut() {
    let second = GET.replace("/a", "/c");
    let all = [GET, POST, "12345", &second, GET].concat();
    for cut in 1..all.len() {
        let mut client = Client::new();
        client.say(&all[..cut]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        client.say(&all[cut..]).await;
        for answer in ["GET /a .", "POST /b 12345.", "GET /c .", "GET /a ."] {
            client.hear(answer).await;
        }
    }
}

/// A body that was answered before it came is not the next request.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_body_is_no_request() {
    for path in ["/early", "/kept"] {
        let mut client = Client::new();
        let length = GET.len() + 10;
        let head = format!("POST {path} HTTP/1.1\r\nhost: ca\r\ncontent-length: {length}\r\n\r\n");
        client.say(&head).await;
        client.hear(&format!("POST {path} .")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = client.stream.write_all(GET.as_bytes()).await;
        let mut rest = [0; 4096];
        let heard = tokio::time::timeout(Duration::from_secs(1), client.stream.read(&mut rest));
        let heard = heard.await.map_or(0, Result::unwrap);
        assert_eq!(String::from_utf8_lossy(&rest[..heard]), "", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_ended_after_the_time_of_a_header() {
    for request in [None, Some(GET)] {
        let mut client = Client::new();
        if let Some(request) = request {
            client.say(request).await;
            client.hear("GET /a .").await;
        }
        let begun = Instant::now();
        assert_eq!(client.end().await, "");
        let waited = begun.elapsed();
        let expected = Limits::default().header_timeout;
        assert!(waited >= expected && waited < expected + Duration::from_secs(1), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_comes_by_the_byte_has_its_time_and_no_more() {
    let mut client = Client::new();
    let begun = Instant::now();
    while client.stream.write_all(b"G").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() <= 2 * Limits::default().header_timeout, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_ends_ends_what_rests() {
    let mut client = Client::new();
    client.say(GET).await;
    client.hear("GET /a .").await;
    assert!(client.is_at_rest().await);
    client.drains.send_replace(true);
    let begun = Instant::now();
    assert_eq!(client.end().await, "");
    assert!(begun.elapsed() < Duration::from_secs(1));
}
