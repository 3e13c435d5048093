//! Both ends of mutual TLS, under one identity.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::error::Error;
use crate::handshake::credentials::Credentials;
use crate::handshake::resumption::{Eras, Ground, KeepsSessions, Tls};
use crate::handshake::{mutual_client_config, mutual_server_config};
use crate::peers::{LivePeers, Peers};
use crate::verification::Verification;

/// What a workload speaks mutual TLS with: its own credentials, and what it believes of others.
///
/// Every connection made here is registered with the [`Verification`], which closes it when its
/// peer is no longer welcome. Clones stop together.
#[derive(Debug, Clone)]
pub struct Endpoint {
    credentials: Arc<Credentials>,
    verification: Arc<Verification>,
    session_max_age: Duration,
    stopping: Arc<watch::Sender<bool>>,
}

impl Endpoint {
    /// Shows `credentials`, and believes whom `verification` does.
    pub fn new(credentials: Arc<Credentials>, verification: Arc<Verification>) -> Self {
        let stopping = Arc::new(watch::Sender::new(false));
        Self { credentials, verification, session_max_age: Duration::ZERO, stopping }
    }

    /// Lets TLS sessions resume for so long, at most for a day, in the listeners and HTTP clients
    /// that are made of what this returns: a peer that comes back is spared the signatures, and
    /// proves no more than that it was here before. Off unless said.
    ///
    /// Whoever resumes is verified again. No session outlives a change: of trust, of revocations, of
    /// the peers named, of our own certificate. Connections of [`connect`](Self::connect) and the
    /// unregistered configurations never resume.
    ///
    /// Sessions are kept in memory, one for each of up to 1,024 clients and more for servers. Who
    /// steals one can be that peer to us, or us to that peer, without its key: for `max_age`, or
    /// until something changes. A connection opened with it lasts as long as any other.
    #[must_use]
    pub fn allow_resumption(mut self, max_age: Duration) -> Self {
        self.session_max_age = max_age.min(LONGEST_SESSION);
        self
    }

    /// Our own chain and key.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// What is believed of others; it counts our connections too.
    pub fn verification(&self) -> &Arc<Verification> {
        &self.verification
    }

    /// For software that takes a rustls configuration, such as reqwest: our credentials, servers
    /// among these peers only, no application protocol until the caller names some.
    ///
    /// *Unregistered*: each handshake is verified, but nobody closes a connection that is open, so
    /// it outlives a revocation, a deny and its peer's certificate. Prefer
    /// [`connect`](Self::connect) where one can. Leave resumption off: a session that resumes is
    /// not verified at all.
    pub fn unregistered_client_config(&self, peers: Peers) -> Result<ClientConfig, Error> {
        self.client_config(LivePeers::new(peers))
    }

    /// The same for servers, such as axum-server: clients must show a certificate and be among
    /// these peers.
    ///
    /// *Unregistered*, as [`unregistered_client_config`](Self::unregistered_client_config) says.
    pub fn unregistered_server_config(&self, peers: Peers) -> Result<ServerConfig, Error> {
        self.server_config(LivePeers::new(peers))
    }

    /// Ends all listeners: `accept` gives none any more, and HTTP finishes as at its own shutdown.
    /// Connections go on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once [`stop`](Self::stop) was called.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.subscribe();
        async move {
            // A sender that is gone will never stop anything.
            if stopping.wait_for(|stopping| *stopping).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// A configuration, with sessions where they are allowed.
    pub(crate) fn tls<C: KeepsSessions>(&self, base: C, peers: &Arc<LivePeers>) -> Tls<C> {
        let ground = Ground {
            credentials: Arc::clone(&self.credentials),
            verification: Arc::clone(&self.verification),
            peers: Arc::clone(peers),
        };
        match self.session_max_age {
            Duration::ZERO => Tls::Given(Arc::new(base)),
            max_age => Tls::Resuming(Eras::new(base, ground, max_age)),
        }
    }

    pub(crate) fn client_config(&self, peers: Arc<LivePeers>) -> Result<ClientConfig, Error> {
        mutual_client_config(Arc::clone(&self.credentials), Arc::clone(&self.verification), peers)
    }

    pub(crate) fn server_config(&self, peers: Arc<LivePeers>) -> Result<ServerConfig, Error> {
        mutual_server_config(Arc::clone(&self.credentials), Arc::clone(&self.verification), peers)
    }
}

/// As long as a session is good for by its ticket.
const LONGEST_SESSION: Duration = Duration::from_secs(24 * 3600);
