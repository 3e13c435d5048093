//! Connections of an HTTP client: opened, verified and registered here, kept by hyper's pool.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection as HttpConnection, capture_connection,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{SerialNumber, Usage};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connections::connection::{Connection, Phase};
use crate::connections::stream::Stream;
use crate::connections::wire::Wire;
use crate::error::cause::{BoxError, Unresolved};
use crate::handshake::HTTP_2;
use crate::handshake::alert::with_alerts;
use crate::handshake::credentials::Credentials;
use crate::handshake::resumption::Tls;
use crate::peers::welcome::Welcome;
use crate::refusal::report_server;
use crate::verification::Verification;
use crate::verification::admission::admit;

/// Opens registered connections to whoever is welcome.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<Tls<ClientConfig>>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) verification: Arc<Verification>,
    pub(crate) welcome: Welcome,
}

impl Connector {
    /// Opens one. Nothing is sent to anybody else.
    pub(crate) async fn open(&self, host: &str, port: u16) -> io::Result<Stream> {
        let connect = async {
            let stream = TlsSocket::open(self.tls.of_now(), host, port).await?;
            let resumed = stream.has_resumed();
            match self.admit(stream) {
                // Its session may only be older than its certificate. Nothing was sent yet: a whole
                // handshake says what is the matter.
                Err(_) if resumed => {
                    self.tls.forget_sessions();
                    let config = self.tls.without_sessions();
                    self.admit(TlsSocket::open(config, host, port).await?)
                }
                admitted => admitted,
            }
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await?;
        connected.inspect_err(|error| {
            report_server(error, &format_args!("{host}:{port}"), self.own());
        })
    }

    fn admit(&self, TlsSocket { stream, remote }: TlsSocket) -> io::Result<Stream> {
        let welcome = self.welcome.clone();
        admit(&self.verification, stream.into(), remote, Usage::Server, welcome, self.own())
            .map_err(io::Error::other)
    }

    fn own(&self) -> Option<SerialNumber> {
        self.credentials.as_ref()?.serial_number()
    }
}

/// A connection to whomever its configuration believes.
pub(crate) struct TlsSocket {
    pub(crate) stream: TlsStream<Wire>,
    remote: SocketAddr,
}

impl TlsSocket {
    pub(crate) async fn open(tls: Arc<ClientConfig>, host: &str, port: u16) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|source| Unresolved { host: host.to_owned(), source })
            .map_err(io::Error::other)?
            .collect();
        let stream = TcpStream::connect(&addresses[..]).await?;
        stream.set_nodelay(true)?;
        // Asked now: of a connection that is reset later, nobody can say where it led.
        let remote = stream.peer_addr()?;
        let handshake = TlsConnector::from(tls).connect(name, Wire::new(stream));
        match with_alerts(handshake).await {
            (Err(_), Some(verdict)) => Err(io::Error::new(io::ErrorKind::InvalidData, verdict)),
            (shaken, _) => {
                let mut stream = shaken?;
                stream.get_mut().0.open();
                Ok(Self { stream, remote })
            }
        }
    }

    fn has_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

/// Where an URL leads.
pub(crate) fn target(uri: &Uri) -> (&str, u16) {
    // http::Uri leaves an IPv6 address its brackets.
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    (host, uri.port_u16().unwrap_or(HTTPS))
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let (host, port) = target(&uri);
            note(Opening::Since(Instant::now()));
            let stream = connector.open(host, port).await.inspect_err(|_| note(Opening::Not))?;
            note(Opening::Done(Arc::clone(stream.connection())));
            Ok(TokioIo::new(stream))
        })
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

/// The connection that a request goes over, as the pool tells it.
#[derive(Clone)]
struct Used(Arc<Connection>);

/// Open connections, each of which takes requests until its server's certificate expires.
pub(crate) struct Pool<B> {
    client: Client<Connector, B>,
    verification: Arc<Verification>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Connects only when asked something. HTTP/2 looks every `ping` whether the server still
    /// lives, and waits as long to hear so.
    pub(crate) fn new(connector: Connector, ping: Duration) -> Self {
        let verification = Arc::clone(&connector.verification);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .http2_keep_alive_interval(ping)
            .http2_keep_alive_timeout(ping)
            .build(connector);
        Self { client, verification }
    }

    /// What judges its connections.
    #[cfg(feature = "http")]
    pub(crate) fn verification(&self) -> &Arc<Verification> {
        &self.verification
    }

    /// Sends a request, once; says over which connection it was answered. An error is what lies
    /// behind it, as far as that is known.
    pub(crate) async fn request(
        &self,
        mut request: Request<B>,
    ) -> Result<(Response<Incoming>, Arc<Connection>), BoxError> {
        // What expired a moment ago leaves the pool before it is asked for a connection.
        self.verification.end_expired();
        let captured = capture_connection(&mut request);
        let mut chosen = captured.clone();
        let answered = async {
            tokio::select! {
                biased;
                answered = self.client.request(request) => answered.map_err(Unanswered::Failed),
                () = lost(&mut chosen) => Err(Unanswered::Lost),
            }
        };
        let (answered, opening) = noting_opening(answered).await;
        let taken = connection_of(&captured);
        let error: BoxError = match answered {
            Ok(response) => {
                return Ok((response, taken.expect("whoever answers was connected to")));
            }
            // hyper takes another connection for what it could not send, and none may be had.
            Err(Unanswered::Failed(error)) if error.is_connect() => return Err(error.into()),
            Err(Unanswered::Failed(error)) => error.into(),
            Err(Unanswered::Lost) => io::Error::from(io::ErrorKind::ConnectionAborted).into(),
        };
        match (taken, opening) {
            (Some(connection), _) | (None, Opening::Done(connection)) => {
                Err(connection.cause(error))
            }
            (None, _) => Err(error),
        }
    }
}

/// Why there is no answer.
enum Unanswered {
    Failed(hyper_util::client::legacy::Error),
    /// Its connection is gone, and hyper does not say so.
    Lost,
}

/// Returns once the connection that a request was given to is gone, and hyper has forgotten the
/// request. That happens where the one ends while the other is handed over: tokio's channel keeps
/// what is sent to a receiver that is being dropped, for as long as somebody might send.
///
/// Notes each connection that the request is given to: now and not with the answer, which may come
/// when it is too late to know.
async fn lost(captured: &mut CaptureConnection) {
    drop(captured.wait_for_connection_metadata().await);
    loop {
        let Some(taken) = connection_of(captured) else { std::future::pending().await };
        taken.past(Phase::Leaving).await;
        tokio::time::sleep(TOLD_WITHIN).await;
        let next = connection_of(captured);
        let is_another = next.is_some_and(|next| !Arc::ptr_eq(&next, &taken));
        let is_opening = OPENING.with(|noted| match &*noted.borrow() {
            Opening::Not => false,
            Opening::Since(begun) => begun.elapsed() < CONNECT_TIMEOUT,
            Opening::Done(next) => next.phase() < Phase::Closed,
        });
        if !is_another && !is_opening {
            return;
        }
    }
}

tokio::task_local! {
    /// The connection that is opened for a request. In TLS 1.3 a server refuses a certificate when
    /// the handshake is over for the client: the alert may come before hyper says which connection
    /// the request goes over, and then "channel closed" is all that it says.
    static OPENING: RefCell<Opening>;
}

/// How far the connection is that is opened for a request.
#[derive(Default)]
enum Opening {
    #[default]
    Not,
    Since(Instant),
    Done(Arc<Connection>),
}

/// hyper may open one that no request waits for any more.
fn note(opening: Opening) {
    let _ = OPENING.try_with(|noted| noted.replace(opening));
}

/// Runs a request; says how far the connection came that was opened for it, if one was.
async fn noting_opening<R: Future>(request: R) -> (R::Output, Opening) {
    OPENING
        .scope(RefCell::default(), async {
            let answered = request.await;
            (answered, OPENING.with(RefCell::take))
        })
        .await
}

/// The connection that a request goes over; it learns how the pool knows it.
fn connection_of(captured: &CaptureConnection) -> Option<Arc<Connection>> {
    let mut extras = http::Extensions::new();
    captured.connection_metadata().as_ref()?.get_extras(&mut extras);
    let Used(connection) = extras.remove()?;
    connection.used_by(captured);
    Some(connection)
}

const HTTPS: u16 = 443;
/// TCP and TLS together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's end ends its requests at once; so late it is only on a machine that has no time.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Below the 75 s that our servers wait for another request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
