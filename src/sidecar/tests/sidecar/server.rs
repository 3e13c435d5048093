//! A server on a free port, and clients that speak to it more or less politely.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use countersign::{
    AuthorityClient, Credentials, Drained, ExpectedServer, Limits, Places, Verification,
    client_config, serve, server_config,
};
use hyper_util::service::TowerToHyperService;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{TestAuthority, TestSvid};

pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) verification: Arc<Verification>,
    pub(crate) credentials: Arc<Credentials>,
    shutdown: oneshot::Sender<()>,
    ended: JoinHandle<std::io::Result<Drained>>,
}

impl TestServer {
    /// The CA of `authority`, with the routes given.
    pub(crate) async fn start(authority: &TestAuthority, router: Router) -> Self {
        Self::start_with(authority, authority.own_svid(), router, Limits::default()).await
    }

    pub(crate) async fn start_with(
        authority: &TestAuthority,
        svid: TestSvid,
        router: Router,
        places: impl Into<Places> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let verification = Verification::new(authority.trust());
        let credentials = svid.credentials();
        let tls = server_config(Arc::clone(&credentials), Arc::clone(&verification), None).unwrap();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let service = TowerToHyperService::new(router);
        let stopped = async { drop(stopped.await) };
        let serving = serve(listener, tls, Arc::clone(&verification), service, places, stopped);
        let ended = tokio::spawn(serving);
        Self { address, verification, credentials, shutdown, ended }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A client of this CA.
    pub(crate) fn client(
        &self,
        authority: &TestAuthority,
        svid: Option<TestSvid>,
    ) -> AuthorityClient {
        let credentials = svid.map(TestSvid::credentials);
        AuthorityClient::new(&self.url(), authority.trust(), credentials).unwrap()
    }

    /// Begins the shutdown; the result tells how it went.
    pub(crate) fn stop(self) -> JoinHandle<std::io::Result<Drained>> {
        self.shutdown.send(()).unwrap();
        self.ended
    }
}

/// A configuration that offers HTTP/1.1 only.
pub(crate) fn http1_config(authority: &TestAuthority, svid: Option<TestSvid>) -> Arc<ClientConfig> {
    let expected = ExpectedServer(authority.id("/countersign/authority"));
    let verification = Verification::new(authority.trust());
    let credentials = svid.map(TestSvid::credentials);
    let mut config = (*client_config(verification, expected, credentials).unwrap()).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    shake(TcpStream::connect(address).await?, config).await
}

/// TLS on a connection that is open already.
pub(crate) async fn shake(
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(config).connect(name, stream).await
}

/// Sends text and reads until the other end closes, or what it says ends with `end`.
pub(crate) async fn converse(
    stream: &mut TlsStream<TcpStream>,
    text: &str,
    end: &str,
) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    while stream.read_buf(&mut answer).await? > 0 && !answer.ends_with(end.as_bytes()) {}
    Ok(String::from_utf8(answer).unwrap())
}

/// Bounds a wait: whatever takes longer has failed, also on a machine that is busy with other work.
/// Shorter than what would end the wait by itself: 75 s without a header, 5 min without a request.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it takes too long")
}
