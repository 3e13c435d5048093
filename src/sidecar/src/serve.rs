//! HTTP over verified TLS: handshake, peer, requests, a graceful end.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use identity::{Refusal, Usage};
use metrics::{counter, gauge};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::accept::{Accepted, Drained, Ended, accept_loop};
use crate::error::{refusal, tls_error};
use crate::handshake::HTTP_2;
use crate::limits::Limits;
use crate::peer::{Peer, RemoteAddress};
use crate::verification::Verification;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves HTTP/1.1 and HTTP/2 over TLS until `shutdown`, then finishes the requests in flight.
///
/// Each request carries a [`RemoteAddress`] in its extensions, and a [`Peer`] where the client
/// showed a certificate. `service` is a hyper service; wrap a tower one, such as an axum router, in
/// `hyper_util::service::TowerToHyperService`.
///
/// Fails only if the listener is of no use; peers that misbehave end their own connection.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    verification: Arc<Verification>,
    service: S,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<Drained>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let secure = Arc::new(Secure { tls, verification, limits: limits.clone() });
    accept_loop(listener, &limits, shutdown, move |accepted| {
        let (secure, service) = (Arc::clone(&secure), service.clone());
        async move {
            let Accepted { stream, remote, handshake, connection: _connection, mut draining } =
                accepted;
            let remote = RemoteAddress(remote);
            let hands = tokio::select! {
                hands = secure.shake_hands(stream, remote) => hands,
                _ = draining.wait_for(|draining| *draining) => None,
            };
            let Some((stream, peer)) = hands else { return Ended::InHandshake };
            drop(handshake);
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(HTTP_2) => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let requests = Requests { service, peer, remote, begun: Arc::default() };
            serve_requests(stream, protocol, requests, &secure.limits, draining).await;
            Ended::Served
        }
    })
    .await
}

/// Serves HTTP/1.1 without TLS, as [`serve`] does otherwise: for loopback only.
pub async fn serve_plaintext<S, B>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<Drained>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let shared = Arc::new(limits.clone());
    accept_loop(listener, &limits, shutdown, move |accepted| {
        let (limits, service) = (Arc::clone(&shared), service.clone());
        async move {
            let Accepted { stream, remote, handshake, connection: _connection, draining } =
                accepted;
            drop(handshake);
            let _ = stream.set_nodelay(true);
            let remote = RemoteAddress(remote);
            let requests = Requests { service, peer: None, remote, begun: Arc::default() };
            serve_requests(stream, Protocol::Http1, requests, &limits, draining).await;
            Ended::Served
        }
    })
    .await
}

enum Protocol {
    Http1,
    Http2,
}

/// What the handshakes of one listener share.
struct Secure {
    tls: Arc<ServerConfig>,
    verification: Arc<Verification>,
    limits: Limits,
}

impl Secure {
    /// The stream and its peer; none if the handshake failed or lasted too long.
    async fn shake_hands(
        &self,
        stream: TcpStream,
        remote: RemoteAddress,
    ) -> Option<(TlsStream<TcpStream>, Option<Peer>)> {
        // Answers are written whole: waiting for more of them only delays.
        let _ = stream.set_nodelay(true);
        let handshake = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream).into_fallible();
        match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let peer = self.peer_of(&stream);
                let peer = peer.inspect_err(|refusal| report_refusal(refusal, remote)).ok()?;
                Some((stream, peer))
            }
            Ok(Err((error, stream))) => {
                report_failure(&error, remote);
                let _ = tokio::time::timeout(LINGER, linger(stream)).await;
                None
            }
            Err(_) => {
                counter!(REFUSED, "reason" => "timeout").increment(1);
                tracing::debug!(remote = %remote.0, "handshake took too long");
                None
            }
        }
    }

    /// Who the client is. Asked again after the handshake, because a revocation may have come
    /// during it; and because the answer comes from the cache, it costs next to nothing.
    fn peer_of(&self, stream: &TlsStream<TcpStream>) -> Result<Option<Peer>, Refusal> {
        let (_, connection) = stream.get_ref();
        let Some(chain) = connection.peer_certificates() else { return Ok(None) };
        // rustls has read this clock a moment ago; without a time everything is expired.
        let now = self.tls.time_provider.current_time().unwrap_or(END_OF_TIME);
        self.verification.verify(chain, Usage::Client, now).map(|svid| Some(Peer::from(svid)))
    }
}

/// Lets the alert reach the peer. To close with bytes unread resets the connection, and a reset
/// overtakes the alert; so read on for a moment.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(MAX_LINGER);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }
}

async fn serve_requests<IO, S, B>(
    stream: IO,
    protocol: Protocol,
    requests: Requests<S>,
    limits: &Limits,
    draining: watch::Receiver<bool>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let _open = OpenConnection::count();
    let remote = requests.remote;
    let end = until_end(draining, limits.idle_timeout, Arc::clone(&requests.begun));
    let stream = TokioIo::new(stream);
    let result = match protocol {
        Protocol::Http1 => {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .pipeline_flush(true);
            drive(http.serve_connection(stream, requests), end).await
        }
        Protocol::Http2 => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .keep_alive_interval(limits.ping_interval)
                .keep_alive_timeout(limits.ping_timeout);
            drive(http.serve_connection(stream, requests), end).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(remote = %remote.0, %error, "connection ended early");
    }
}

/// Runs a connection; after `end` it takes no new requests and finishes those in flight.
async fn drive<C: GracefulConnection>(
    connection: C,
    end: impl Future<Output = ()>,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        result = connection.as_mut() => return result,
        () = end => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Returns at shutdown, or when no request began for the whole of `idle_timeout`.
async fn until_end(
    mut draining: watch::Receiver<bool>,
    idle_timeout: Duration,
    begun: Arc<AtomicU64>,
) {
    let idle = async {
        loop {
            let before = begun.load(Ordering::Relaxed);
            tokio::time::sleep(idle_timeout).await;
            if begun.load(Ordering::Relaxed) == before {
                return;
            }
        }
    };
    tokio::select! {
        _ = draining.wait_for(|draining| *draining) => {}
        () = idle => {}
    }
}

/// The service as one connection calls it: requests learn whose they are.
struct Requests<S> {
    service: S,
    peer: Option<Peer>,
    remote: RemoteAddress,
    begun: Arc<AtomicU64>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Requests<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> S::Future {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let extensions = request.extensions_mut();
        extensions.insert(self.remote);
        if let Some(peer) = &self.peer {
            extensions.insert(peer.clone());
        }
        self.service.call(request)
    }
}

/// A connection counted as open while this lives.
struct OpenConnection;

impl OpenConnection {
    fn count() -> Self {
        gauge!(OPEN).increment(1.0);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(OPEN).decrement(1.0);
    }
}

fn report_failure(error: &io::Error, remote: RemoteAddress) {
    match tls_error(error).and_then(refusal) {
        Some(refusal) => report_refusal(refusal, remote),
        None => {
            counter!(REFUSED, "reason" => "tls").increment(1);
            tracing::debug!(remote = %remote.0, %error, "handshake failed");
        }
    }
}

fn report_refusal(refusal: &Refusal, remote: RemoteAddress) {
    counter!(REFUSED, "reason" => reason(refusal)).increment(1);
    tracing::info!(remote = %remote.0, %refusal, "client certificate refused");
}

/// The label of a refusal in metrics.
fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Denied => "denied",
        Refusal::Expired { .. } => "expired",
        Refusal::NoCertificate => "no-certificate",
        Refusal::NotAmongPeers { .. } => "not-among-peers",
        Refusal::NotAnSvid(_) => "not-an-svid",
        Refusal::NotCountersigned(_) => "not-countersigned",
        Refusal::NotYetValid { .. } => "not-yet-valid",
        Refusal::Revoked { .. } => "revoked",
        Refusal::StaleRevocations { .. } => "stale-revocations",
        Refusal::UnknownAuthority(_) => "unknown-authority",
        Refusal::UnknownTrustDomain(_) => "unknown-trust-domain",
        _ => "other",
    }
}

/// Later than any certificate's end.
const END_OF_TIME: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(i64::MAX as u64));
const REFUSED: &str = "countersign_handshakes_refused_total";
const OPEN: &str = "countersign_connections_open";
const LINGER: Duration = Duration::from_secs(1);
/// More than a client sends before it has read an alert.
const MAX_LINGER: u64 = 256 * 1024;
