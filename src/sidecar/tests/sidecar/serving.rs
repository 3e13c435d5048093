//! The accept loop: limits, and its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use countersign::{Drained, Limits, RemoteAddress, serve_plaintext};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::authority::TestAuthority;
use crate::server::{TestServer, connect, converse, http1_config, soon};

const GET: &str = "GET / HTTP/1.1\r\nhost: ca\r\n\r\n";
const SHORT: Duration = Duration::from_millis(100);

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// Answers GET / once `release` has a permit, and tells by `begun` that it was asked.
fn held_up(begun: Arc<Semaphore>, release: Arc<Semaphore>) -> Router {
    let answer = async move || {
        begun.add_permits(1);
        drop(release.acquire().await.unwrap());
        "hello"
    };
    Router::new().route("/", get(answer.clone())).route("/v1/trust", get(answer))
}

fn gates() -> (Arc<Semaphore>, Arc<Semaphore>) {
    (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)))
}

async fn start(authority: &TestAuthority, router: Router, limits: Limits) -> TestServer {
    TestServer::start_with(authority, authority.own_svid(), router, limits).await
}

#[tokio::test]
async fn shutdown_finishes_requests_in_flight() {
    let authority = TestAuthority::new();
    let (begun, release) = gates();
    let router = held_up(Arc::clone(&begun), Arc::clone(&release));
    let server = start(&authority, router, Limits::default()).await;
    let address = server.address;
    let config = http1_config(&authority, None);
    let mut idle = connect(address, Arc::clone(&config)).await.unwrap();
    let http_2 = server.client(&authority, None);
    let http_2 = tokio::spawn(async move { http_2.trust_note().await });
    let mut http_1 = connect(address, config).await.unwrap();
    http_1.write_all(GET.as_bytes()).await.unwrap();
    drop(soon(begun.acquire_many(2)).await.unwrap());
    let ended = server.stop();
    assert_eq!(soon(idle.read(&mut [0; 1])).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    assert!(!ended.is_finished());
    release.add_permits(2);
    let answer = soon(converse(&mut http_1, "", "hello")).await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    assert_eq!(soon(http_2).await.unwrap().unwrap(), b"hello");
    assert_eq!(soon(ended).await.unwrap().unwrap(), Drained { drained: 3, cut: 0 });
}

#[tokio::test]
async fn request_that_outlasts_the_drain_is_cut() {
    let authority = TestAuthority::new();
    let (begun, release) = gates();
    let router = held_up(Arc::clone(&begun), release);
    let server = start(&authority, router, Limits { drain: SHORT, ..Limits::default() }).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    drop(soon(begun.acquire()).await.unwrap());
    assert_eq!(soon(server.stop()).await.unwrap().unwrap(), Drained { drained: 0, cut: 1 });
    assert!(soon(stream.read(&mut [0; 1])).await.is_err(), "no close_notify: it was cut");
}

#[tokio::test]
async fn handshake_in_progress_does_not_delay_the_shutdown() {
    let authority = TestAuthority::new();
    let never = Duration::from_secs(3600);
    let limits = Limits { handshake_timeout: never, ..Limits::default() };
    let server = start(&authority, hello(), limits).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut polite = connect(server.address, http1_config(&authority, None)).await.unwrap();
    converse(&mut polite, GET, "hello").await.unwrap();
    assert_eq!(soon(server.stop()).await.unwrap().unwrap(), Drained { drained: 1, cut: 0 });
    assert_eq!(soon(silent.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn slow_handshake_is_cut_and_holds_nobody_up() {
    let authority = TestAuthority::new();
    let limits = Limits { handshake_timeout: SHORT, ..Limits::default() };
    let server = start(&authority, hello(), limits).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    let config = http1_config(&authority, None);
    let answer = soon(async {
        loop {
            // On a busy machine, whoever is quick is too slow now and then.
            if let Ok(mut stream) = connect(server.address, Arc::clone(&config)).await
                && let Ok(answer) = converse(&mut stream, GET, "hello").await
            {
                break answer;
            }
        }
    });
    assert!(answer.await.contains("200 OK"));
    assert_eq!(soon(slow.read(&mut [0; 1])).await.unwrap(), 0);
}

/// TLS would keep all of it until it is whole.
#[tokio::test]
async fn handshake_that_is_longer_than_any_is_cut_before_it_is_whole() {
    let authority = TestAuthority::new();
    let limits = Limits { handshake_timeout: Duration::from_secs(3600), ..Limits::default() };
    let server = start(&authority, hello(), limits).await;
    let mut long = TcpStream::connect(server.address).await.unwrap();
    let mut client_hello = vec![0; 6 * Limits::HANDSHAKE];
    client_hello[..6].copy_from_slice(&[1, 0, 0xff, 0xf0, 3, 3]);
    let mut ended = false;
    for piece in client_hello.chunks(8 * 1024) {
        let record = [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
        ended = ended || long.write_all(&record).await.is_err();
    }
    assert!(ended || matches!(soon(long.read(&mut [0; 1])).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let authority = TestAuthority::new();
    let server = start(&authority, hello(), Limits::default()).await;
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    garbage.shutdown().await.unwrap();
    soon(garbage.read_to_end(&mut Vec::new())).await.unwrap();
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    assert!(converse(&mut stream, GET, "hello").await.unwrap().contains("200 OK"));
}

#[tokio::test]
async fn connection_beyond_the_places_is_refused_until_one_is_free() {
    let authority = TestAuthority::new();
    let server = start(&authority, hello(), Limits { connections: 1, ..Limits::default() }).await;
    let [first, second] = ["/prod/reports", "/prod/batch"]
        .map(|path| http1_config(&authority, Some(authority.svid(path))));
    let mut held = connect(server.address, first).await.unwrap();
    converse(&mut held, GET, "hello").await.unwrap();
    let refused = async {
        let mut late = connect(server.address, Arc::clone(&second)).await?;
        converse(&mut late, GET, "hello").await
    };
    assert!(!matches!(soon(refused).await, Ok(answer) if answer.ends_with("hello")));
    drop(held);
    let answer = soon(async {
        loop {
            // The server learns a moment later that the first is gone.
            if let Ok(mut late) = connect(server.address, Arc::clone(&second)).await
                && let Ok(answer) = converse(&mut late, GET, "hello").await
                && answer.ends_with("hello")
            {
                break answer;
            }
        }
    });
    assert!(answer.await.contains("200 OK"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let authority = TestAuthority::new();
    let router =
        Router::new().route("/{name}", get(async |name: axum::extract::Path<String>| name.0));
    let server = start(&authority, router, Limits::default()).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    let requests = GET.replace("/ ", "/one ") + &GET.replace("/ ", "/two ");
    let answer = soon(converse(&mut stream, &requests, "two")).await.unwrap();
    assert!(answer.find("one").unwrap() < answer.find("two").unwrap(), "{answer}");
}

#[tokio::test]
async fn header_that_never_ends_is_cut() {
    let authority = TestAuthority::new();
    let limits = Limits { header_timeout: SHORT, ..Limits::default() };
    let server = start(&authority, hello(), limits).await;
    let mut stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(!matches!(soon(stream.read(&mut [0; 1])).await, Ok(read) if read > 0));
}

#[tokio::test]
async fn idle_connection_is_ended_and_a_busy_one_is_not() {
    let authority = TestAuthority::new();
    let (begun, release) = gates();
    let router = held_up(Arc::clone(&begun), Arc::clone(&release));
    let limits = Limits { idle_timeout: SHORT, ..Limits::default() };
    let server = start(&authority, router, limits).await;
    let config = http1_config(&authority, None);
    let mut busy = connect(server.address, Arc::clone(&config)).await.unwrap();
    busy.write_all(GET.as_bytes()).await.unwrap();
    drop(soon(begun.acquire()).await.unwrap());
    let mut idle = connect(server.address, config).await.unwrap();
    assert_eq!(soon(idle.read(&mut [0; 1])).await.unwrap(), 0);
    release.add_permits(1);
    let answer = soon(converse(&mut busy, "", "hello")).await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn plaintext_is_served_by_the_same_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let port = stream.local_addr().unwrap().port();
    let caller = async |remote: axum::Extension<RemoteAddress>| remote.0.0.port().to_string();
    let service = TowerToHyperService::new(Router::new().route("/", get(caller)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let served = tokio::spawn(serve_plaintext(listener, service, Limits::default(), stopped));
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(port.to_string().as_bytes()) {
        assert!(soon(stream.read_buf(&mut answer)).await.unwrap() > 0);
    }
    drop(stop);
    assert_eq!(soon(served).await.unwrap().unwrap(), Drained { drained: 1, cut: 0 });
}

/// Who shows no certificate keeps the place of its handshake: an address has no more than its share
/// of them, and the oldest makes room.
#[tokio::test]
async fn idle_strangers_hold_up_neither_strangers_nor_peers() {
    let authority = TestAuthority::new();
    let limits = Limits { handshakes: 4, handshakes_per_source: 2, ..Limits::default() };
    let server = start(&authority, hello(), limits).await;
    let config = http1_config(&authority, None);
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(connect(server.address, Arc::clone(&config)).await.unwrap());
    }
    let known = http1_config(&authority, Some(authority.svid("/prod/reports")));
    for config in [config, known] {
        let answer = soon(async {
            loop {
                // Refused as long as those before may still be in earnest.
                let Ok(mut late) = connect(server.address, Arc::clone(&config)).await else {
                    continue;
                };
                if let Ok(answer) = converse(&mut late, GET, "hello").await {
                    break answer;
                }
            }
        });
        assert!(answer.await.ends_with("hello"));
    }
    assert!(!matches!(soon(idle[0].read(&mut [0; 1])).await, Ok(1)));
}
