//! Requests on a connection that is kept alive.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER, client_config, endpoint, peers, server_config};
use crate::process::{Metered, Thread, in_thread, median, runtime};
use crate::verdict;

pub(crate) fn print(authority: &TestAuthority) {
    println!("\nHTTP/1.1 requests on one connection, one after the other: CPU of the server");
    println!("{:<46} {:>9} {:>8} {:>8}", "", "µs", "x bare", "target");
    let (thread, address) = bare(authority);
    let bare = measure(authority, &thread, address);
    println!("{:<46} {bare:>9.1} {:>8.2}", "hyper on tokio-rustls", 1.0);
    let (thread, address) = listen(authority);
    let ours = measure(authority, &thread, address);
    let added = verdict(ours / bare, (bare + GHOSTUNNEL) / bare, 2);
    println!("{:<46} {ours:>9.1} {:>8.2} {added}", "Listener::serve", ours / bare);
}

/// A service that says hello.
pub(crate) fn listen(authority: &TestAuthority) -> (Thread, SocketAddr) {
    let server = endpoint(authority, authority.svid(SERVER));
    let peers = peers(authority, CLIENT);
    in_thread(async move |ready| {
        let listener = server.listen("127.0.0.1:0", peers).await.unwrap();
        ready.send(listener.local_address()).unwrap();
        let serving = listener.serve(tower::service_fn(hello));
        serving.until(std::future::pending(), Duration::ZERO).await.unwrap();
    })
}

fn bare(authority: &TestAuthority) -> (Thread, SocketAddr) {
    let tls = TlsAcceptor::from(Arc::new(server_config(authority)));
    in_thread(async move |ready| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(tls.accept(stream).await.unwrap());
        let http = hyper::server::conn::http1::Builder::new();
        let _ = http.serve_connection(stream, hyper::service::service_fn(hello)).await;
    })
}

pub(crate) async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

fn measure(authority: &TestAuthority, server: &Thread, address: SocketAddr) -> f64 {
    runtime().block_on(async {
        let mut stream = connect(authority, address).await;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let before = server.micros();
            for _ in 0..REQUESTS {
                ask(&mut stream).await;
            }
            rounds.push((server.micros() - before) / f64::from(REQUESTS));
        }
        median(rounds)
    })
}

pub(crate) async fn connect(
    authority: &TestAuthority,
    address: SocketAddr,
) -> TlsStream<TcpStream> {
    let mut config = client_config(authority, authority.svid(CLIENT));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

pub(crate) async fn ask<IO: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut IO) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ledger\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
}

const ROUNDS: usize = 5;
const REQUESTS: u32 = 4000;
/// What it takes for a request, in µs: ours may add no more.
const GHOSTUNNEL: f64 = 15.0;
