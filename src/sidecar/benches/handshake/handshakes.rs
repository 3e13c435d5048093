//! Whole handshakes over TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign::{Endpoint, Listener};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER, client_config, endpoint, peers, server_config};
use crate::process::{Thread, in_thread, median, runtime};

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
    let client = Arc::new(client_config(authority, authority.svid(CLIENT)));
    measure(&thread, address, |_| Arc::clone(&client))
}

pub(crate) fn returning(authority: &TestAuthority) -> f64 {
    let (thread, address) = listen(authority);
    let client = Arc::new(client_config(authority, authority.svid(CLIENT)));
    measure(&thread, address, |_| Arc::clone(&client))
}

/// Every handshake with another certificate.
pub(crate) fn new(authority: &TestAuthority) -> f64 {
    let (thread, address) = listen(authority);
    let clients: Vec<_> = (0..ROUNDS * HANDSHAKES)
        .map(|_| Arc::new(client_config(authority, authority.svid(CLIENT))))
        .collect();
    measure(&thread, address, |number| Arc::clone(&clients[number]))
}

fn listen(authority: &TestAuthority) -> (Thread, SocketAddr) {
    let server = endpoint(authority, authority.svid(SERVER));
    let peers = peers(authority, CLIENT);
    in_thread(async move |ready| {
        let mut listener: Listener = Endpoint::listen(&server, "127.0.0.1:0", peers).await.unwrap();
        ready.send(listener.local_address()).unwrap();
        while let Some(stream) = listener.accept().await {
            drop(stream);
        }
    })
}

/// Microseconds of the server's thread for each handshake.
fn measure(
    thread: &Thread,
    address: SocketAddr,
    client: impl Fn(usize) -> Arc<ClientConfig>,
) -> f64 {
    let runtime = runtime();
    let round = |round: usize| {
        let before = thread.micros();
        let first = round * HANDSHAKES;
        runtime.block_on(async {
            for group in (first..first + HANDSHAKES).step_by(AT_ONCE) {
                let connecting = (group..group + AT_ONCE)
                    .map(|number| tokio::spawn(connect(address, client(number))));
                for connected in connecting.collect::<Vec<_>>() {
                    connected.await.unwrap();
                }
            }
        });
        (thread.micros() - before) / HANDSHAKES as f64
    };
    median((0..ROUNDS).map(round).collect())
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::from(address.ip());
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    // Until the server has closed its end: then it is done.
    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
}

const ROUNDS: usize = 5;
const HANDSHAKES: usize = 400;
const AT_ONCE: usize = 8;
