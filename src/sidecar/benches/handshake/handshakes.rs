//! Whole handshakes over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign::{Endpoint, Listener};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER, client_config, endpoint, peers, server_config};
use crate::process::{Metered, Thread, in_thread, median, runtime};

/// As rustls' own verifier has it, without registry, limits or countersignatures.
pub(crate) fn bare(authority: &TestAuthority) -> f64 {
    let tls = TlsAcceptor::from(Arc::new(server_config(authority)));
    let (thread, address) = in_thread(async move |ready| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move { tls.accept(stream).await.map(drop) });
        }
    });
    measure(&thread, address, || returning_clients(authority))
}

pub(crate) fn returning(authority: &TestAuthority) -> f64 {
    let (thread, address) = listen(authority);
    measure(&thread, address, || returning_clients(authority))
}

/// Every handshake with another certificate.
pub(crate) fn new(authority: &TestAuthority) -> f64 {
    let (thread, address) = listen(authority);
    measure(&thread, address, || new_clients(authority))
}

/// Where sessions may resume, and all but the first do.
pub(crate) fn resuming(authority: &TestAuthority) -> f64 {
    let (thread, address) = listen_by(authority, |endpoint| endpoint.allow_resumption(AN_HOUR));
    let mut client = client_config(authority, authority.svid(CLIENT));
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    measure(&thread, address, || vec![Arc::clone(&client); HANDSHAKES])
}

/// The clients of a round, all with the same certificate.
pub(crate) fn returning_clients(authority: &TestAuthority) -> Vec<Arc<ClientConfig>> {
    let client = Arc::new(client_config(authority, authority.svid(CLIENT)));
    vec![client; HANDSHAKES]
}

/// The clients of a round, each with a certificate of its own.
pub(crate) fn new_clients(authority: &TestAuthority) -> Vec<Arc<ClientConfig>> {
    let client = || Arc::new(client_config(authority, authority.svid(CLIENT)));
    (0..HANDSHAKES).map(|_| client()).collect()
}

fn listen(authority: &TestAuthority) -> (Thread, SocketAddr) {
    listen_by(authority, |endpoint| endpoint)
}

fn listen_by(
    authority: &TestAuthority,
    prepare: impl FnOnce(Endpoint) -> Endpoint,
) -> (Thread, SocketAddr) {
    let server = prepare(endpoint(authority, authority.svid(SERVER)));
    let peers = peers(authority, CLIENT);
    in_thread(async move |ready| {
        let mut listener: Listener = Endpoint::listen(&server, "127.0.0.1:0", peers).await.unwrap();
        ready.send(listener.local_address()).unwrap();
        while let Some(stream) = listener.accept().await {
            drop(stream);
        }
    })
}

fn measure(
    server: &impl Metered,
    address: SocketAddr,
    clients: impl Fn() -> Vec<Arc<ClientConfig>>,
) -> f64 {
    median((0..ROUNDS).map(|_| round(server, address, b"", clients())).collect())
}

/// Microseconds of the server for each connection: a handshake, then what the request needs, if
/// there is one, until the server closes.
pub(crate) fn round(
    server: &impl Metered,
    address: SocketAddr,
    request: &'static [u8],
    clients: Vec<Arc<ClientConfig>>,
) -> f64 {
    let count = clients.len();
    let before = server.micros();
    runtime().block_on(async {
        for group in clients.chunks(AT_ONCE) {
            let connecting =
                group.iter().map(|client| tokio::spawn(connect(address, client.clone(), request)));
            for connected in connecting.collect::<Vec<_>>() {
                connected.await.unwrap();
            }
        }
    });
    (server.micros() - before) / count as f64
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>, request: &[u8]) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::from(address.ip());
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    // Until the server has closed its end: then it is done. Not all close as TLS has it.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(request.is_empty() || answer.ends_with(b"hello"));
}

const AN_HOUR: Duration = Duration::from_secs(3600);
const ROUNDS: usize = 5;
const HANDSHAKES: usize = 400;
const AT_ONCE: usize = 8;
