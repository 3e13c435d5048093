//! HTTP to peers, over connections that are registered.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection as HttpConnection, capture_connection,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;

use crate::endpoint::{CONNECT_TIMEOUT, Endpoint, open};
use crate::error::{BoxError, ConfigurationFault, Error};
use crate::handshake::{HTTP_2, http_protocols};
use crate::peers::{LivePeers, Peers};
use crate::reply::Reply;
use crate::stream::{Connection, Stream};
use crate::verification::{Verification, seconds};

impl Endpoint {
    /// A client of these peers, whatever their addresses. Connects only when asked something.
    pub fn http_client(&self, peers: Peers) -> HttpClient {
        let peers = LivePeers::new(peers);
        let mut tls = self
            .client_config(Arc::clone(&peers))
            .expect("the one crypto provider has the cipher suites of TLS 1.3");
        tls.alpn_protocols = http_protocols();
        let verification = Arc::clone(self.verification());
        HttpClient(Arc::new(Mutex::new(Pool::new(Arc::new(tls), verification, peers))))
    }
}

/// HTTP/1.1 and HTTP/2 to peers, over a pool of connections; clones share it.
///
/// A server is believed for its SPIFFE ID, not for the name in the URL, and
/// [`Reply::peer`] names it. A connection whose server is revoked is
/// closed, with the requests on it; one whose server's certificate has expired takes no further
/// request. A request is never sent twice, and takes as long as it takes: put a timeout around it.
#[derive(Clone)]
pub struct HttpClient(Arc<Mutex<Pool>>);

impl HttpClient {
    /// Asks for a resource.
    pub async fn get(&self, url: &str) -> Result<Reply, Error> {
        let uri: Uri = url.parse().map_err(|_| not_a_target(url, "it is not an URL"))?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri;
        self.request(request).await
    }

    /// Sends any request whose URI is `https://HOST[:PORT]/…`.
    ///
    /// Fails with [`Error::Peer`] if the server is not to be believed, or was cut off meanwhile,
    /// and with [`Error::Refused`] if it does not take our certificate.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Reply, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let url = request.uri().to_string();
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            return Err(not_a_target(&url, "it does not begin with https://"));
        }
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let used = capture_connection(&mut request);
        let answered = self.connections().request(request).await;
        match (answered, connection_of(&used)) {
            (Ok(response), connection) => {
                let connection = connection.expect("whoever answers was connected to");
                Reply::new(url, response, connection)
            }
            (Err(error), Some(connection)) => Err(connection.explain(url, error.into())),
            (Err(error), None) => Err(Error::of_connection(url, error.into())),
        }
    }

    fn connections(&self) -> Connections {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pool.connections()
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpClient")
    }
}

/// The connections of now, begun anew once the certificate of a server among them has expired:
/// hyper's pool cannot be asked to leave one out. Requests in flight end where they began.
struct Pool {
    connections: Connections,
    connector: Connector,
}

type Connections = Client<Connector, UnsyncBoxBody<Bytes, BoxError>>;

impl Pool {
    fn new(tls: Arc<ClientConfig>, verification: Arc<Verification>, peers: Arc<LivePeers>) -> Self {
        let first_expiry = Arc::new(AtomicI64::new(i64::MAX));
        let connector = Connector { tls, verification, peers, first_expiry };
        let connections = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(connector.clone());
        Self { connections, connector }
    }

    fn connections(&mut self) -> Connections {
        let Connector { tls, verification, peers, first_expiry } = &self.connector;
        if seconds(verification.now()) > first_expiry.load(Ordering::Relaxed) {
            *self = Self::new(Arc::clone(tls), Arc::clone(verification), Arc::clone(peers));
        }
        self.connections.clone()
    }
}

/// Opens registered connections.
#[derive(Clone)]
struct Connector {
    tls: Arc<ClientConfig>,
    verification: Arc<Verification>,
    peers: Arc<LivePeers>,
    /// The last second of the first to expire of the servers connected to.
    first_expiry: Arc<AtomicI64>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Stream>> {
        // http::Uri leaves an IPv6 address its brackets.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(HTTPS);
        let connect = open(&self.verification, self.tls, host, port, self.peers);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
        self.first_expiry.fetch_min(stream.peer().not_after(), Ordering::Relaxed);
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl HttpConnection for Stream {
    fn connected(&self) -> Connected {
        let used = Used(Arc::clone(self.connection()));
        let connected = Connected::new().extra(self.peer().clone()).extra(used);
        match self.connection().has_protocol(HTTP_2) {
            true => connected.negotiated_h2(),
            false => connected,
        }
    }
}

/// The connection that a request went over, as the pool tells it.
#[derive(Clone)]
struct Used(Arc<Connection>);

/// Finds the connection that a request used.
fn connection_of(used: &CaptureConnection) -> Option<Arc<Connection>> {
    let mut extras = http::Extensions::new();
    used.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove().map(|Used(connection)| connection)
}

fn not_a_target(url: &str, why: &'static str) -> Error {
    Error::Configuration(ConfigurationFault::Target { given: url.to_owned(), why })
}

const HTTPS: u16 = 443;
/// Below the 75 s that our servers wait for another request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often HTTP/2 looks whether the peer still lives, and for how long it waits to hear so.
const PING: Duration = Duration::from_secs(20);
