//! A socket that lets in nobody but the peers named.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connections::connection::Phase;
use crate::connections::stream::Stream;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::limits::Limits;
use crate::listen::accept::{Accepted, Ended, accept_loop};
use crate::listen::secure::{Client, Secure};
use crate::peers::welcome::Welcome;
use crate::peers::{LivePeers, Peers};
use crate::places::Places;
use crate::verification::Verification;

impl Endpoint {
    /// Listens for these peers, and nobody else. Accepts once the [`Listener`] is used.
    pub async fn listen(
        &self,
        address: impl ToSocketAddrs + fmt::Debug,
        peers: Peers,
    ) -> Result<Listener, Error> {
        let named = format!("{address:?}");
        let failed = |source| Error::Listen { address: named, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        Listener::new(socket, self.clone(), peers)
    }
}

/// A bound socket. Take streams from it with [`accept`](Self::accept), or give it a service with
/// `serve`.
///
/// A client must show a certificate, pass verification and be among the [`Peers`]; one that does
/// not takes nothing but its own connection with it. Handshakes run beside each other, so that a
/// slow peer holds up nobody.
pub struct Listener {
    socket: Arc<TcpListener>,
    address: SocketAddr,
    endpoint: Endpoint,
    tls: ServerConfig,
    peers: Arc<LivePeers>,
    places: Places,
    acceptor: Option<Acceptor>,
}

impl Listener {
    fn new(socket: TcpListener, endpoint: Endpoint, peers: Peers) -> Result<Self, Error> {
        let unbound = |source| Error::Listen { address: String::new(), source };
        let address = socket.local_addr().map_err(unbound)?;
        let (socket, peers) = (Arc::new(socket), LivePeers::new(peers));
        let tls = endpoint.server_config(Arc::clone(&peers))?;
        let places = Places::new(Limits::of_this_process());
        Ok(Self { socket, address, endpoint, tls, peers, places, acceptor: None })
    }

    /// Other limits than the default ones, which fit the files that the process may open; to be said
    /// before the first use.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.places = Places::new(limits);
        self
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Its places, for whoever asks whether there are any.
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// The peers let in, replaceable while it is used.
    pub fn peers(&self) -> ListenerPeers {
        let verification = Arc::clone(self.endpoint.verification());
        ListenerPeers { verification, live: Arc::clone(&self.peers) }
    }

    /// The next verified peer's stream; none once the endpoint has stopped.
    ///
    /// May be dropped at any await. Streams that nobody takes wait, and keep their places among
    /// [`Limits::connections`] until they are dropped.
    pub async fn accept(&mut self) -> Option<Stream> {
        if self.acceptor.is_none() {
            self.acceptor = Some(self.start());
        }
        let streams = &mut self.acceptor.as_mut()?.streams;
        loop {
            let stream = streams.recv().await?;
            // One whose peer was revoked while it waited is nothing to take.
            if stream.connection().phase() != Phase::Closed {
                return Some(stream);
            }
        }
    }

    fn start(&self) -> Acceptor {
        let (sender, streams) = mpsc::channel(WAITING);
        let secure = Arc::new(self.secure(self.tls.clone()));
        let (socket, places) = (Arc::clone(&self.socket), self.places.clone());
        let drain = places.limits().drain;
        let stopped = self.endpoint.stopped();
        let task = tokio::spawn(async move {
            let accepting = accept_loop(socket, &places, drain, stopped, move |accepted| {
                hand_over(Arc::clone(&secure), accepted, sender.clone())
            });
            if let Err(error) = accepting.await {
                tracing::error!(%error, "the listener has ended");
            }
        });
        Acceptor { streams, task }
    }

    /// Takes the socket back from the task that accepts.
    #[cfg(feature = "http")]
    pub(crate) async fn end_accepting(&mut self) {
        if let Some(mut acceptor) = self.acceptor.take() {
            acceptor.task.abort();
            // Cancelled, as it was told.
            let _ = (&mut acceptor.task).await;
        }
    }

    /// What it accepts with, for a service that speaks one of these protocols.
    #[cfg(feature = "http")]
    pub(crate) fn into_parts(
        self,
        protocols: Vec<Vec<u8>>,
    ) -> (Arc<TcpListener>, Secure, Endpoint) {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols;
        let secure = self.secure(tls);
        (self.socket, secure, self.endpoint)
    }

    fn secure(&self, tls: ServerConfig) -> Secure {
        Secure {
            tls: self.endpoint.tls(tls, &self.peers),
            verification: Arc::clone(self.endpoint.verification()),
            credentials: Some(Arc::clone(self.endpoint.credentials())),
            welcome: Welcome::Among(Arc::clone(&self.peers)),
            places: self.places.clone(),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("peers", &self.peers.current())
            .finish_non_exhaustive()
    }
}

/// The peers of a [`Listener`], whoever holds it now.
#[derive(Debug, Clone)]
pub struct ListenerPeers {
    verification: Arc<Verification>,
    live: Arc<LivePeers>,
}

impl ListenerPeers {
    /// Who is let in now.
    pub fn current(&self) -> Arc<Peers> {
        self.live.current()
    }

    /// Lets in these from now on, and closes the open connections of whoever is not among them
    /// before it returns; says how many.
    pub fn replace(&self, peers: Peers) -> usize {
        self.live.replace(peers);
        let registry = self.verification.registry();
        let refused = registry.refused(|open| match open.connection.welcome().peers() {
            Some(peers) if Arc::ptr_eq(peers, &self.live) => peers.check(open.peer.svid()),
            _ => Ok(()),
        });
        registry.close_all(refused)
    }
}

/// The task that accepts, and where it leaves the streams. Ends when dropped.
struct Acceptor {
    streams: mpsc::Receiver<Stream>,
    task: JoinHandle<()>,
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shakes hands and leaves the stream to whoever accepts.
async fn hand_over(
    secure: Arc<Secure>,
    accepted: Accepted,
    streams: mpsc::Sender<Stream>,
) -> Ended {
    let Accepted { stream, remote, handshake, mut draining } = accepted;
    let handed_over = async {
        let client = secure.shake_hands(stream, remote, handshake).await;
        if let Some(Client::Verified(stream)) = client {
            // Whoever accepted may be gone; the stream then is too.
            let _ = streams.send(stream).await;
        }
    };
    tokio::select! {
        () = handed_over => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
    Ended::InHandshake
}

/// Streams that wait to be accepted without a task of their own.
const WAITING: usize = 64;
