//! Peers that ask and do not read: what they leave in our memory, and how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use countersign::{Limits, Places, Standing, StandingOf, serve_plaintext};
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use h2::Reason;
use h2::client::SendRequest;
use http::Request;
use hyper_util::service::TowerToHyperService;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::authority::TestAuthority;
use crate::endpoints::REPORTS;
use crate::server::{TestServer, connect, converse, http1_config, shake, soon};

const GET: &str = "GET / HTTP/1.1\r\nhost: ca\r\n\r\n";
const ANSWER: usize = 256 * 1024;

/// Answers with much, and counts how often.
fn generous(answers: &Arc<AtomicUsize>) -> Router {
    let answers = Arc::clone(answers);
    let much = Bytes::from(vec![b'.'; ANSWER]);
    Router::new().route(
        "/",
        get(async move || {
            answers.fetch_add(1, Ordering::Relaxed);
            much.clone()
        }),
    )
}

/// Streams without end, and counts the pieces made.
fn endless(pieces: &Arc<AtomicUsize>) -> Router {
    let pieces = Arc::clone(pieces);
    let body = move || {
        let pieces = Arc::clone(&pieces);
        Body::from_stream(stream::repeat_with(move || {
            pieces.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'.'; 16 * 1024]))
        }))
    };
    Router::new().route("/", get(async move || body()))
}

fn impatient() -> Limits {
    Limits { write_timeout: Duration::from_millis(300), ..Limits::default() }
}

async fn start(authority: &TestAuthority, router: Router, limits: Limits) -> TestServer {
    TestServer::start_with(authority, authority.own_svid(), router, limits).await
}

/// What the kernel's buffers hold on loopback, at most, and some more.
const IN_THE_KERNEL: usize = 16 * 1024 * 1024;
/// The same for a reader that says from the start that it has no room.
const FOR_THE_DEAF: usize = 512 * 1024;

/// A connection to a server, asked, whose reader takes nothing: its kernel has room for 4 KiB.
async fn deaf(authority: &TestAuthority, server: &TestServer) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let mut stream = shake(stream, http1_config(authority, None)).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream
}

/// Returns once nothing that is written arrives any more.
async fn is_cut(mut stream: impl AsyncWrite + Unpin) {
    while stream.write_all(b"\r\n").await.is_ok() && stream.flush().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pipelined_requests_wait_for_the_answers_before_them() {
    let authority = TestAuthority::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let server = start(&authority, generous(&answers), impatient()).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    let asked = async { while stream.write_all(GET.as_bytes()).await.is_ok() {} };
    soon(asked).await;
    let made = answers.load(Ordering::Relaxed);
    assert!(made * ANSWER < IN_THE_KERNEL, "{made} answers were made for nobody");
    assert!(made > 0);
}

#[tokio::test]
async fn stream_that_nobody_reads_is_not_made_and_ends() {
    let authority = TestAuthority::new();
    let pieces = Arc::new(AtomicUsize::new(0));
    let server = start(&authority, endless(&pieces), impatient()).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    // It is cut: nothing that is written arrives any more.
    let cut = async {
        while stream.write_all(b"\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(cut).await;
    let made = pieces.load(Ordering::Relaxed);
    assert!(made * 16 * 1024 < IN_THE_KERNEL, "{made} pieces were made for nobody");
}

#[tokio::test]
async fn kernel_keeps_little_for_a_reader_without_room() {
    let authority = TestAuthority::new();
    let pieces = Arc::new(AtomicUsize::new(0));
    let server = start(&authority, endless(&pieces), impatient()).await;
    soon(is_cut(deaf(&authority, &server).await)).await;
    let made = pieces.load(Ordering::Relaxed);
    assert!(made * 16 * 1024 < FOR_THE_DEAF, "{made} pieces were made for nobody");
}

/// A feed with little to tell: all of it fits into the kernel, so nothing that is written waits.
#[tokio::test]
async fn http_2_peer_that_grants_no_room_begins_few_requests_and_ends() {
    let authority = TestAuthority::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let limits = Limits { unread: ANSWER / 2, ..impatient() };
    let server = start(&authority, generous(&answers), limits).await;
    let (mut requests, connection) = http_2_that_grants_nothing(&authority, &server).await;
    let mut responses = Vec::new();
    while let Ok(ready) = soon(requests.ready()).await {
        requests = ready;
        let request = Request::get("https://ca/").body(()).unwrap();
        let Ok((response, _)) = requests.send_request(request, true) else { break };
        // The first tells that it has begun; the others wait for what it leaves unread.
        responses.push(soon(response).await);
        if responses.last().is_some_and(Result::is_err) {
            break;
        }
    }
    assert!(soon(connection).await.unwrap().is_err(), "its connection is cut");
    assert_eq!(answers.load(Ordering::Relaxed), 1);
}

async fn http_2_that_grants_nothing(
    authority: &TestAuthority,
    server: &TestServer,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let mut config = (*http1_config(authority, None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(server.address, Arc::new(config)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1).initial_connection_window_size(65_535);
    let (requests, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    (requests, tokio::spawn(connection))
}

/// What waits for a peer that does not read holds one connection's share; the rest is told that it was
/// not begun, and goes on once the peer reads.
#[tokio::test]
async fn http_2_requests_that_wait_hold_few_headers_and_no_body() {
    let authority = TestAuthority::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let limits = Limits { unread: ANSWER / 2, ..Limits::default() };
    let server = start(&authority, generous(&answers), limits).await;
    let (requests, _connection) = http_2_that_grants_nothing(&authority, &server).await;
    let mut requests = soon(requests.ready()).await.unwrap();
    let ask = |requests: &mut SendRequest<Bytes>, bytes: usize, is_whole| {
        let request = Request::get("https://ca/").header("x", "a".repeat(bytes)).body(()).unwrap();
        requests.send_request(request, is_whole).unwrap()
    };
    let (first, _) = ask(&mut requests, 1, true);
    let unread = soon(first).await.unwrap().into_body();
    let (with_body, mut body) = ask(&mut requests, 1, false);
    body.send_data(Bytes::from(vec![b'.'; 1000]), false).unwrap();
    let refused = soon(with_body).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    let mut others: FuturesUnordered<_> =
        (0..6).map(|_| ask(&mut requests, 6_000, true).0).collect();
    for _ in 0..5 {
        let refused = soon(others.next()).await.unwrap().unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    }
    assert_eq!(answers.load(Ordering::Relaxed), 1);
    drop(unread);
    assert_eq!(soon(others.next()).await.unwrap().unwrap().status(), 200);
}

/// A stranger's requests with bodies are two at once, and those without go on beside them.
#[tokio::test]
async fn http_2_of_a_strangers_bodies_few_are_on_their_way() {
    let authority = TestAuthority::new();
    let whole = async |body: Bytes| format!("{}", body.len());
    let router = Router::new().route("/", get(async || "hello").post(whole));
    let server = start(&authority, router, Limits::default()).await;
    let (requests, _connection) = http_2_that_grants_nothing(&authority, &server).await;
    let mut requests = soon(requests.ready()).await.unwrap();
    let post = |requests: &mut SendRequest<Bytes>| {
        let request = Request::post("https://ca/").body(()).unwrap();
        requests.send_request(request, false).unwrap()
    };
    let (first, mut its_body) = post(&mut requests);
    let (second, mut the_other) = post(&mut requests);
    let (third, _) = post(&mut requests);
    let refused = soon(third).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    let request = Request::get("https://ca/").body(()).unwrap();
    let question = requests.send_request(request, true).unwrap().0;
    assert_eq!(soon(question).await.unwrap().status(), 200);
    for (asked, body) in [(first, &mut its_body), (second, &mut the_other)] {
        body.send_data(Bytes::from_static(b"12"), true).unwrap();
        assert_eq!(soon(asked).await.unwrap().status(), 200);
    }
}

/// Whoever reads, and asks for more than one connection's share of headers, gets all that it asks again.
#[tokio::test]
async fn http_2_headers_in_flight_have_a_share() {
    let authority = TestAuthority::new();
    let (begun, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, gate) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow = async move || {
        count.fetch_add(1, Ordering::Relaxed);
        gate.notified().await;
    };
    let server = start(&authority, Router::new().route("/", get(slow)), Limits::default()).await;
    let (requests, _connection) = http_2_that_grants_nothing(&authority, &server).await;
    let mut requests = soon(requests.ready()).await.unwrap();
    let mut ask = || {
        let request = Request::get("https://ca/").header("x", "a".repeat(6_000)).body(()).unwrap();
        requests.send_request(request, true).unwrap().0
    };
    let mut asked: FuturesUnordered<_> = (0..3).map(|_| ask()).collect();
    let refused = soon(asked.next()).await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    for _ in 0..2 {
        go_on.notify_one();
        assert_eq!(soon(asked.next()).await.unwrap().unwrap().status(), 200);
    }
    go_on.notify_one();
    assert_eq!(soon(ask()).await.unwrap().status(), 200);
    assert_eq!(begun.load(Ordering::Relaxed), 3);
}

/// As over HTTP/1.1: one that is as large as any is read, and of a larger one it is said that it is.
#[tokio::test]
async fn http_2_header_that_is_too_large_is_answered() {
    let authority = TestAuthority::new();
    let router = Router::new().route("/", get(async || ""));
    let server = start(&authority, router, Limits::default()).await;
    for svid in [None, Some(authority.svid(REPORTS))] {
        let mut config = (*http1_config(&authority, svid)).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        for (bytes, status) in
            [(100, 200), (9_000, 200), (15_000, 200), (17_000, 431), (30_000, 431)]
        {
            let stream = connect(server.address, Arc::clone(&config)).await.unwrap();
            let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
            let _connection: JoinHandle<Result<(), h2::Error>> = tokio::spawn(connection);
            // Letters for which Huffman's code has no shorter ones.
            let request = Request::get("https://ca/").header("x", "Z".repeat(bytes));
            let (answer, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
            assert_eq!(soon(answer).await.unwrap().status(), status, "{bytes}");
        }
    }
}

/// Beyond so many of them HTTP/1.1 is all that anybody is offered; one that leaves makes room.
#[tokio::test]
async fn http_2_is_for_so_many_strangers_at_once() {
    let authority = TestAuthority::new();
    let router = Router::new().route("/", get(async || "here"));
    let server = start(&authority, router, Limits::default()).await;
    let offering = |svid| {
        let mut config = (*http1_config(&authority, svid)).clone();
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Arc::new(config)
    };
    let (stranger, known) = (offering(None), offering(Some(authority.svid(REPORTS))));
    let over_http_2 = async |config: &Arc<ClientConfig>| {
        let stream = connect(server.address, Arc::clone(config)).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        (stream, chosen)
    };
    let mut strangers = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..Limits::STRANGERS_OVER_HTTP_2 {
        // Whoever shows a certificate takes none of theirs.
        let (mut peer, is_http_2) = over_http_2(&known).await;
        assert!(is_http_2);
        // The server's settings come first: it has seen the certificate.
        soon(peer.read_u8()).await.unwrap();
        peers.push(peer);
        let (mut stranger, is_http_2) = over_http_2(&stranger).await;
        assert!(is_http_2);
        soon(stranger.read_u8()).await.unwrap();
        strangers.push(stranger);
    }
    for config in [&stranger, &known] {
        let (mut other, is_http_2) = over_http_2(config).await;
        assert!(!is_http_2);
        assert!(converse(&mut other, GET, "here").await.unwrap().contains("200"));
    }
    strangers.pop();
    // Once its end is seen.
    soon(async { while !over_http_2(&stranger).await.1 {} }).await;
}

/// What a line of certificates can make us hold is not as many times what one connection can; operators
/// end what others fill.
#[tokio::test]
async fn http_2_of_a_line_with_many_connections_holds_little_on_each() {
    let authority = TestAuthority::new();
    let reserved: Box<StandingOf> = Box::new(|peer| {
        let standing = Standing { line: *peer.serial_number(), is_reserved: true };
        Box::pin(async move { standing })
    });
    let operators = Places::with_standing(Limits::default(), reserved);
    let (at_ease, little) = (64 * 1024, 8 * 1024);
    for (places, of_the_65th) in [(Limits::default().into(), little), (operators, at_ease)] {
        let (svid, router) = (authority.own_svid(), Router::new());
        let server = TestServer::start_with(&authority, svid, router, places).await;
        let mut config = (*http1_config(&authority, Some(authority.svid(REPORTS)))).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let mut open = Vec::new();
        for number in 1..=65 {
            let mut stream = connect(server.address, Arc::clone(&config)).await.unwrap();
            let expected = if number == 65 { of_the_65th } else { at_ease };
            assert_eq!(stream_window(&mut stream).await, expected, "{number}");
            open.push(stream);
        }
    }
}

/// How much of a body a server takes before it has read any (RFC 9113 §6.5.2).
async fn stream_window(stream: &mut TlsStream<TcpStream>) -> u32 {
    let mut frame = [0; 9];
    soon(stream.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[3], 4, "its settings come first");
    let mut settings = vec![0; frame[2].into()];
    soon(stream.read_exact(&mut settings)).await.unwrap();
    let window = settings.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
    u32::from_be_bytes(window[2..].try_into().unwrap())
}

/// Whoever has not seen our settings yet sends a body in frames as large as any.
#[tokio::test]
async fn http_2_bodies_of_strangers_may_come_before_our_settings() {
    let authority = TestAuthority::new();
    let router = Router::new().route("/", post(async |body: Bytes| body.len().to_string()));
    let server = start(&authority, router, Limits::default()).await;
    let mut config = (*http1_config(&authority, None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(server.address, Arc::new(config)).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let request = Request::post("https://ca/").body(()).unwrap();
    let (answer, mut body) = requests.send_request(request, false).unwrap();
    body.send_data(Bytes::from(vec![b'.'; 60_000]), true).unwrap();
    let _connection = tokio::spawn(connection);
    let mut answer = soon(answer).await.unwrap().into_body();
    assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "60000");
}

/// Whoever answers late, or is taken back, keeps nobody from going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http_2_requests_that_waited_are_all_begun() {
    let authority = TestAuthority::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let brief = async |path: http::Uri| {
        if path.path().starts_with("/late") {
            tokio::task::yield_now().await;
        }
        "a word"
    };
    let router = generous(&answers).fallback(brief);
    let limits = Limits { unread: ANSWER / 2, ..Limits::default() };
    let server = start(&authority, router, limits).await;
    let (requests, _connection) = http_2_that_grants_nothing(&authority, &server).await;
    for _ in 0..20 {
        let unread = soon(ask(&requests, "/").await).await.unwrap().into_body();
        let mut others = Vec::new();
        for n in 0..60 {
            let path = if n % 2 == 0 { format!("/{n}") } else { format!("/late/{n}") };
            others.push(ask(&requests, &path).await);
        }
        others.truncate(50);
        drop(unread);
        for other in others {
            assert_eq!(soon(other).await.unwrap().status(), 200);
        }
    }
}

async fn ask(requests: &SendRequest<Bytes>, path: &str) -> h2::client::ResponseFuture {
    let mut requests = soon(requests.clone().ready()).await.unwrap();
    let request = Request::get(format!("https://ca{path}")).body(()).unwrap();
    requests.send_request(request, true).unwrap().0
}

#[tokio::test]
async fn slow_reader_gets_all_of_it() {
    let authority = TestAuthority::new();
    let answers = Arc::new(AtomicUsize::new(0));
    let server = start(&authority, generous(&answers), Limits::default()).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    stream.write_all(format!("{GET}{GET}").as_bytes()).await.unwrap();
    let mut read = 0;
    while read < 2 * ANSWER {
        let mut room = [0; 1024];
        read += soon(stream.read(&mut room)).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(answers.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn malformed_request_is_told_so() {
    let authority = TestAuthority::new();
    let server = start(&authority, Router::new(), Limits::default()).await;
    let many: String = (0..101).map(|n| format!("x-{n}: a\r\n")).collect();
    let long = format!("x: {}\r\n", "a".repeat(20_000));
    for (header, status) in [("host : ca\r\n", "400"), (&*many, "431"), (&*long, "431")] {
        let request = format!("GET / HTTP/1.1\r\n{header}\r\n");
        let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
        let answer = soon(converse(&mut stream, &request, "\r\n\r\n")).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{status}: {answer}");
        let answer = plaintext(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{status}: {answer}");
    }
}

async fn plaintext(request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TowerToHyperService::new(Router::new());
    let serving = serve_plaintext(listener, service, Limits::default(), std::future::pending());
    let serving = tokio::spawn(serving);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = soon(stream.read(&mut answer)).await.unwrap();
    serving.abort();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}
