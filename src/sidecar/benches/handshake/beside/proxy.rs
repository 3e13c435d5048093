//! A proxy that runs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use countersign::{Endpoint, Verification};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::backend::Backend;
use super::software::Peer;
use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER, client_config, peers};
use crate::idle::Clients;
use crate::process::{Process, runtime};

/// Killed when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    child: Child,
    _folder: TempDir,
}

impl Proxy {
    /// Returns once it listens.
    pub(crate) fn start(peer: &Peer, backend: &Backend, folder: TempDir) -> Self {
        let address = free_address();
        let mut command =
            peer.software.command(&peer.program, address, backend.address, folder.path());
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let process = Process(child.id());
        let mut proxy = Self { address, process, child, _folder: folder };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "{} ended: {ended:?}", peer.software.name());
            assert!(begun.elapsed() < PATIENCE, "{} does not listen", peer.software.name());
            sleep(Duration::from_millis(20));
        }
        sleep(SETTLE);
        proxy
    }

    /// Demands that it lets nobody of another CA through.
    pub(crate) fn refuses_strangers(&self, authority: &TestAuthority) {
        let stranger = TestAuthority::new().svid(CLIENT).credentials();
        let stranger = Endpoint::new(stranger, Verification::new(authority.trust()));
        let config = stranger.unregistered_client_config(peers(authority, SERVER)).unwrap();
        let exchanged = runtime().block_on(exchange(self.address, config));
        assert!(exchanged.is_err(), "it forwards for anybody");
    }

    /// The key exchange that it agrees to.
    pub(crate) fn key_exchange(&self, authority: &TestAuthority) -> String {
        let config = client_config(authority, authority.svid(CLIENT));
        runtime().block_on(exchange(self.address, config)).unwrap()
    }

    /// KiB that each idle connection adds, beyond the first hundred.
    pub(crate) fn idle(&self, authority: &TestAuthority, backend: &Backend, count: usize) -> f64 {
        let connect = |more: usize, all: usize| {
            let clients = Clients::start(authority, self.address, more);
            let begun = Instant::now();
            while backend.open() < all {
                assert!(begun.elapsed() < PATIENCE, "{} connections arrived", backend.open());
                sleep(Duration::from_millis(20));
            }
            sleep(SETTLE);
            (clients, self.process.resident())
        };
        let (warm, before) = connect(WARM, WARM);
        let (clients, after) = connect(count - WARM, count);
        drop((warm, clients));
        (after - before) / (count - WARM) as f64
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection with one request; says by which key exchange.
async fn exchange(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let tls = TlsConnector::from(Arc::new(config));
    let mut stream = tls.connect(ServerName::from(address.ip()), stream).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    if !answer.ends_with(b"hello") {
        return Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()));
    }
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    Ok(format!("{:?}", group.name()))
}

/// Free a moment ago; none of them says which port it took by itself.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n";
const WARM: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);
/// Until memory is what it will be.
const SETTLE: Duration = Duration::from_secs(1);
