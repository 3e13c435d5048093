//! Revocation bites: what a revoked peer sees of verifiers that follow the feed.
//!
//! The peer runs no code of ours: plain rustls with its certificate, sessions to resume, and no
//! wish to end. Its verifiers write one word before the revocation and another one afterwards, so
//! that what it may no longer see needs no clock to be told apart.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::Secret;
use countersign::{Error, Listener, Peers, Stream, Workload};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use system_tests::{Environment, PATIENCE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_peer_keeps_nothing_and_gets_nothing_and_the_operator_learns_how_much() {
    let house = House::start().await;
    let (streaming, idle) = (house.connect(STREAM).await, house.connect(IDLE).await);
    let streamed_to = house.call_the_peer().await;
    let streaming = tokio::spawn(read_to_end(streaming));
    let (let_client, client) = house.withheld_client().await;
    let (let_server, server, calling) = house.withheld_server().await;

    assert_eq!(house.revoke_the_peer().await, 3, "streaming, idle, and the one that was called");
    house.revoked.store(true, Ordering::SeqCst);

    for read in [soon(streaming).await.unwrap(), soon(streamed_to).await.unwrap()] {
        assert_eq!(read, [BEFORE], "nothing of what was written afterwards");
    }
    assert_eq!(read_to_end(idle).await, b"");
    let_client.send_replace(true);
    assert_eq!(soon(client).await.unwrap(), b"", "it was let in");
    let_server.send_replace(true);
    assert!(soon(calling).await.unwrap().is_err(), "it was believed");
    assert_eq!(soon(server).await.unwrap(), b"");
    house.require_that_nobody_comes_back().await;
}

/// A verifier that accepts, one that connects, and the peer of both.
struct House {
    environment: Environment,
    accepting: Workload,
    connecting: Workload,
    address: SocketAddr,
    peer: Hostile,
    /// Once the revocation is done: what the verifiers write from then on is another word.
    revoked: Arc<AtomicBool>,
}

impl House {
    async fn start() -> Self {
        let environment = Environment::start();
        let accepting = start(&environment, "/prod/reports").await;
        let connecting = start(&environment, "/prod/monolith").await;
        let peers = Peers::one_of([environment.id("/prod/batch")]).unwrap();
        let listener = accepting.listen("127.0.0.1:0", peers).await.unwrap();
        let (address, revoked) = (listener.local_address(), Arc::default());
        tokio::spawn(serve(listener, Arc::clone(&revoked)));
        let peer = Hostile::of(&environment);
        Self { environment, accepting, connecting, address, peer, revoked }
    }

    /// A connection of the peer that wishes this.
    async fn connect(&self, wish: u8) -> TlsStream<TcpStream> {
        let mut stream = self.peer.connect(self.address).await.unwrap();
        let session = stream.get_ref().1.handshake_kind();
        assert_eq!(session, Some(HandshakeKind::Full), "its certificate was not verified");
        stream.write_all(&[wish]).await.unwrap();
        let mut hello = [0];
        soon(stream.read_exact(&mut hello)).await.unwrap();
        assert_eq!(hello, [HELLO]);
        stream
    }

    /// The connecting verifier streams to the peer; what the peer reads comes in the end.
    async fn call_the_peer(&self) -> JoinHandle<Vec<u8>> {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let read = self.peer.answer(socket);
        let stream = self.connecting.connect(&address.to_string(), self.peers()).await.unwrap();
        tokio::spawn(write(stream, Arc::clone(&self.revoked)));
        read
    }

    /// The peer has sent its ClientHello; its certificate goes out once it is let.
    async fn withheld_client(&self) -> (watch::Sender<bool>, JoinHandle<Vec<u8>>) {
        let (gate, mut through) = Gate::before(self.address).await;
        let peer = self.peer.clone();
        let reading = tokio::spawn(async move {
            match peer.connect(through.address).await {
                Ok(stream) => read_to_end(stream).await,
                Err(_) => vec![],
            }
        });
        soon(through.waits.changed()).await.unwrap();
        (gate, reading)
    }

    /// A verifier has sent its ClientHello to the peer, whose certificate is on hold.
    async fn withheld_server(
        &self,
    ) -> (watch::Sender<bool>, JoinHandle<Vec<u8>>, JoinHandle<Result<Stream, Error>>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (gate, mut through) = Gate::before(socket.local_addr().unwrap()).await;
        let read = self.peer.answer(socket);
        let (endpoint, peers) = (self.connecting.endpoint().clone(), self.peers());
        let address = through.address.to_string();
        let calling = tokio::spawn(async move { endpoint.connect(&address, peers).await });
        soon(through.waits.changed()).await.unwrap();
        (gate, read, calling)
    }

    /// Revokes as an operator does, and returns how many connections it says to have closed.
    async fn revoke_the_peer(&self) -> u64 {
        let id = self.environment.id("/prod/batch");
        let arguments =
            ["--json", "revoke", "--yes", &id, "--reason", "key-compromise", "--wait", "60s"];
        let outcome = countersign(&self.environment, &arguments).success().json();
        assert_eq!(outcome["reach"]["reached"].as_u64(), Some(2), "{outcome}");
        outcome["reach"]["connections_closed"].as_u64().unwrap()
    }

    /// Neither by a session that it has, nor anew, nor called.
    async fn require_that_nobody_comes_back(&self) {
        for peer in [self.peer.clone(), Hostile::of(&self.environment)] {
            if let Ok(stream) = peer.connect(self.address).await {
                assert_eq!(read_to_end(stream).await, b"");
            }
        }
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let read = self.peer.answer(socket);
        assert!(self.connecting.connect(&address, self.peers()).await.is_err());
        assert_eq!(soon(read).await.unwrap(), b"");
        for verifier in [&self.accepting, &self.connecting] {
            assert_eq!(verifier.status().connections.open, 0);
        }
    }

    fn peers(&self) -> Peers {
        Peers::one_of([self.environment.id("/prod/batch")]).unwrap()
    }
}

/// The peer, by plain rustls: it keeps every session that it is given.
#[derive(Clone)]
struct Hostile {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Hostile {
    fn of(environment: &Environment) -> Self {
        let folder = environment.path("batch");
        if !folder.exists() {
            tokio::task::block_in_place(|| environment.issue("/prod/batch", "batch"));
        }
        let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
            let found = CertificateDer::pem_file_iter(folder.join(name)).unwrap();
            found.map(Result::unwrap).collect()
        };
        let chain = certificates("svid.pem");
        let key = PrivateKeyDer::from_pem_file(folder.join("svid.key")).unwrap();
        let mut roots = RootCertStore::empty();
        certificates("bundle.pem").into_iter().for_each(|root| roots.add(root).unwrap());
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server.with_single_cert(chain, key).unwrap();
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::clone(&self.client));
        connector.connect(ServerName::from(address.ip()), stream).await
    }

    /// Answers one client, and reads what that sends, to the end.
    fn answer(&self, socket: TcpListener) -> JoinHandle<Vec<u8>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        tokio::spawn(async move {
            let (stream, _) = soon(socket.accept()).await.unwrap();
            match soon(acceptor.accept(stream)).await {
                Ok(stream) => read_to_end(stream).await,
                Err(_) => vec![],
            }
        })
    }
}

/// A way to an address that takes everything there, and back only what it is let.
struct Gate {
    address: SocketAddr,
    /// Changes once something waits to come back.
    waits: watch::Receiver<bool>,
}

impl Gate {
    async fn before(target: SocketAddr) -> (watch::Sender<bool>, Self) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (gate, mut open) = watch::channel(false);
        let (waiting, waits) = watch::channel(false);
        tokio::spawn(async move {
            let (mut client, _) = socket.accept().await.unwrap();
            let mut server = TcpStream::connect(target).await.unwrap();
            let ((from_client, mut to_client), (from_server, mut to_server)) =
                (client.split(), server.split());
            let (mut there, mut back) = (from_client, from_server);
            let answer = async {
                back.readable().await?;
                waiting.send_replace(true);
                // A sender that is gone lets nothing through.
                if open.wait_for(|open| *open).await.is_err() {
                    return Ok(0);
                }
                tokio::io::copy(&mut back, &mut to_client).await
            };
            tokio::select! {
                _ = tokio::io::copy(&mut there, &mut to_server) => {}
                _ = answer => {}
            }
        });
        (gate, Self { address, waits })
    }
}

async fn start(environment: &Environment, path: &str) -> Workload {
    let token = countersign(environment, &["token", "create", &environment.id(path)]).success();
    let pin = countersign(environment, &["trust", "pin"]).success();
    let workload = Workload::builder().url(environment.url()).trust_pin(pin.stdout.trim());
    let workload = workload.token(Secret::new(token.stdout.trim()));
    let named = path == "/prod/reports";
    let workload = if named { workload.ip(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { workload };
    workload.start().await.unwrap()
}

/// Says hello to whoever comes in, and streams to who wishes it.
async fn serve(mut listener: Listener, revoked: Arc<AtomicBool>) {
    while let Some(mut stream) = listener.accept().await {
        let revoked = Arc::clone(&revoked);
        tokio::spawn(async move {
            let mut wish = [0];
            if stream.write_all(&[HELLO]).await.is_err()
                || stream.read_exact(&mut wish).await.is_err()
            {
                return;
            }
            match wish {
                [STREAM] => write(stream, revoked).await,
                // Held, and not looked at.
                _ => std::future::pending().await,
            }
        });
    }
}

async fn write(mut stream: Stream, revoked: Arc<AtomicBool>) {
    loop {
        let word = if revoked.load(Ordering::SeqCst) { AFTERWARDS } else { BEFORE };
        if stream.write_all(&[word; 1024]).await.is_err() {
            return;
        }
    }
}

/// All that comes until the end, each word once however often it is repeated.
async fn read_to_end(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut words, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    while let Ok(length @ 1..) = soon(stream.read(&mut buffer)).await {
        words.extend_from_slice(&buffer[..length]);
        words.dedup();
    }
    words
}

fn countersign(environment: &Environment, arguments: &[&str]) -> system_tests::Outcome {
    tokio::task::block_in_place(|| environment.countersign(arguments))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

const HELLO: u8 = b'h';
const STREAM: u8 = b's';
const IDLE: u8 = b'i';
const BEFORE: u8 = b'b';
const AFTERWARDS: u8 = b'a';
