//! HTTP over verified TLS: handshake, peer, requests, a graceful end.

mod answered;
#[cfg(test)]
mod floods;
mod frames;
mod headers;
mod http1;
#[cfg(test)]
mod kept_alive;
#[cfg(test)]
mod large_headers;
pub(crate) mod last_answer;
mod paced;
mod requests;
pub(crate) mod serving;
mod unread;
pub(crate) mod without_end;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use metrics::{counter, gauge};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::connections::connection::{Connection, Phase};
use crate::error::cause::BoxError;
use crate::handshake::HTTP_2;
use crate::handshake::resumption::Tls;
use crate::limits::Limits;
use crate::listen::accept::{Accepted, Drained, Ended, accept_loop};
use crate::listen::secure::{Client, Secure};
use crate::peers::welcome::Welcome;
use crate::places::Places;
use crate::serve::paced::{CUT, Paced, bound_kernel, cut};
use crate::serve::requests::{Requests, StreamTasks};
use crate::serve::unread::Unread;
use crate::verification::Verification;

/// Serves HTTP/1.1 and HTTP/2 over TLS until `shutdown`, then finishes the requests in flight.
///
/// Each request carries a [`RemoteAddress`](crate::RemoteAddress) in its extensions, and a
/// [`Peer`](crate::Peer) where the client showed a certificate. When that peer is revoked, its
/// requests end where they are: a handler at the await that it waits at. `service` is a hyper service; wrap a tower one, such as an axum router, in
/// `hyper_util::service::TowerToHyperService`.
///
/// Fails only if the listener is of no use; peers that misbehave end their own connection.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    verification: Arc<Verification>,
    service: S,
    places: impl Into<Places> + Send,
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
    let places = places.into();
    let drain = places.limits().drain;
    let (tls, credentials, welcome) = (Tls::Given(tls), None, Welcome::Anyone);
    let secure = Secure { tls, verification, credentials, welcome, places };
    serve_secure(listener.into(), secure, service, drain, shutdown).await
}

/// Serves whoever comes through the handshake.
pub(crate) async fn serve_secure<S, B>(
    socket: Arc<TcpListener>,
    secure: Secure,
    service: S,
    drain: Duration,
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
    let secure = Arc::new(secure);
    let places = secure.places.clone();
    accept_loop(socket, &places, drain, shutdown, move |accepted| {
        let (secure, service) = (Arc::clone(&secure), service.clone());
        async move {
            let limits = secure.places.limits();
            let Accepted { stream, remote, handshake, mut draining } = accepted;
            bound_kernel(&stream);
            // Boxed, so that a connection that is served does not keep room for a handshake.
            let shaking = Box::pin(secure.shake_hands(stream, remote, handshake));
            let client = tokio::select! {
                client = shaking => client,
                _ = draining.wait_for(|draining| *draining) => None,
            };
            match client {
                None => return Ended::InHandshake,
                Some(Client::Anonymous(stream, place)) => {
                    let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
                    let protocol = Protocol::of(is_http_2, Http2::of_stranger(limits));
                    let requests = Requests::new(service, remote, None, limits.unread);
                    tokio::select! {
                        () = serve_requests(stream, protocol, requests, limits, draining) => {}
                        () = place.cut() => {}
                    }
                }
                Some(Client::Verified(stream)) => {
                    let is_http_2 = stream.connection().has_protocol(HTTP_2);
                    let place = stream.connection().place();
                    let most = match place.is_some_and(|place| place.is_one_of_many()) {
                        true => Http2::of_one_of_many(limits),
                        false => Http2::of_peer(limits),
                    };
                    let protocol = Protocol::of(is_http_2, most);
                    let requests =
                        Requests::new(service, remote, Some(stream.connection()), limits.unread);
                    serve_requests(stream, protocol, requests, limits, draining).await;
                }
            }
            Ended::Served
        }
    })
    .await
}

/// Serves HTTP/1.1 without TLS, as [`serve`] does otherwise: for loopback only. Whoever comes is a
/// stranger, and has a place among [`Limits::handshakes`] for as long as nobody else needs it.
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
    let places = Places::new(limits);
    let (shared, drain) = (places.clone(), places.limits().drain);
    accept_loop(listener.into(), &places, drain, shutdown, move |accepted| {
        let (places, service) = (shared.clone(), service.clone());
        async move {
            let limits = places.limits();
            let Accepted { stream, remote, handshake: place, mut draining } = accepted;
            let _ = stream.set_nodelay(true);
            bound_kernel(&stream);
            let requests = Requests::new(service, remote, None, limits.unread);
            let served = async {
                let mut first = [0];
                tokio::select! {
                    _ = stream.peek(&mut first) => place.speaks(),
                    _ = draining.wait_for(|draining| *draining) => return,
                    () = tokio::time::sleep(limits.header_timeout) => return,
                }
                serve_requests(stream, Protocol::Http1, requests, limits, draining).await;
            };
            tokio::select! {
                () = served => {}
                () = place.cut() => {}
            }
            Ended::Served
        }
    })
    .await
}

enum Protocol {
    Http1,
    Http2(Http2),
}

impl Protocol {
    fn of(is_http_2: bool, most: Http2) -> Self {
        if is_http_2 { Self::Http2(most) } else { Self::Http1 }
    }
}

/// What HTTP/2 lets a client send before anything is answered.
struct Http2 {
    streams: u32,
    /// Bytes of a frame, and so of a header, too.
    frame: u32,
    stream_window: u32,
    connection_window: u32,
    /// Bytes of headers in flight.
    headers: usize,
    /// Requests in flight that have a body.
    bodies: usize,
}

impl Http2 {
    fn of_peer(limits: &Limits) -> Self {
        Self {
            streams: limits.streams,
            frame: BUFFER as u32,
            stream_window: 4 * BUFFER as u32,
            connection_window: 16 * BUFFER as u32,
            headers: limits.headers,
            bodies: usize::MAX,
        }
    }

    /// Of a line that has many connections none holds much at once: as many requests, but smaller headers,
    /// and less of bodies before they are read. What it sends is read into a buffer that has room for its
    /// largest frame, and keeps it.
    fn of_one_of_many(limits: &Limits) -> Self {
        Self {
            streams: limits.streams,
            frame: LITTLE,
            stream_window: LITTLE,
            connection_window: LEAST_WINDOW,
            headers: limits.headers.min(LITTLE as usize),
            bodies: usize::MAX,
        }
    }

    /// A stranger asks for trust, and for its first certificate: little, and one or two at once, each of
    /// which holds some kilobytes while it is on its way.
    fn of_stranger(limits: &Limits) -> Self {
        Self {
            streams: limits.streams.min(Limits::STRANGERS_STREAMS),
            frame: BUFFER as u32,
            stream_window: LITTLE,
            connection_window: LEAST_WINDOW,
            headers: limits.headers.min(Limits::STRANGERS_HEADERS),
            bodies: Limits::STRANGERS_BODIES,
        }
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
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let _open = OpenConnection::count();
    let (remote, connection) = (requests.remote(), requests.connection().cloned());
    let unread = Arc::clone(requests.unread());
    let stream = Paced::new(stream, limits.write_timeout);
    // Each in a box of its size: a task has room for the largest future that it may ever hold, and
    // for each place that one is moved through.
    let serving: Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> = match protocol {
        Protocol::Http1 => Box::pin(http1::serve(stream, requests, limits, draining)),
        Protocol::Http2(most) => {
            let mut http = http2::Builder::new(StreamTasks::of(connection.clone()));
            http.timer(TokioTimer::new())
                .max_concurrent_streams(most.streams)
                .max_header_list_size(most.frame)
                .max_send_buf_size(BUFFER)
                .initial_stream_window_size(most.stream_window)
                .initial_connection_window_size(most.connection_window)
                .keep_alive_interval(limits.ping_interval)
                .keep_alive_timeout(limits.ping_timeout);
            let stream = TokioIo::new(stream.with_frames(most.frame, requests.settled()));
            let requests = requests.with_headers(most.headers, most.bodies);
            let end = until_end(draining, limits.idle_timeout, requests.begun());
            let http = Box::pin(http.serve_connection(stream, requests));
            let unread = Arc::clone(&unread);
            Box::pin(async move {
                let driven = drive(http, connection.as_deref(), &unread, end, || false).await;
                driven.map(drop).map_err(|(error, _)| error.into())
            })
        }
    };
    let result = tokio::select! {
        result = serving => {
            let of_hyper = result.as_ref().err().and_then(|error| error.downcast_ref());
            if of_hyper.is_some_and(hyper::Error::is_parse_too_large) {
                // hyper has answered 431 by itself.
                counter!(CUT, "reason" => "header").increment(1);
            }
            result
        }
        () = unread.stuck(limits.write_timeout) => {
            Err(cut("unread", io::ErrorKind::TimedOut, "the peer does not take its answers").into())
        }
    };
    if let Err(error) = result {
        tracing::debug!(remote = %remote, %error, "connection ended early");
    }
}

/// Runs the HTTP of a connection; after `end`, or once the peer's certificate has expired, it takes
/// no new requests and finishes those in flight. When the connection is closed, it is dropped
/// before it can begin another request of those read already. Returned where it is taken away, and where
/// it failed.
async fn drive<C: GracefulConnection<Error = hyper::Error>>(
    mut http: Pin<Box<C>>,
    connection: Option<&Connection>,
    unread: &Unread,
    end: impl Future<Output = ()>,
    is_taken: impl Fn() -> bool,
) -> Result<Option<Pin<Box<C>>>, (hyper::Error, Pin<Box<C>>)> {
    let _ended = unread.open();
    let served = tokio::select! {
        biased;
        phase = past(connection, Phase::Open) => {
            if phase == Phase::Closed {
                return Ok(None);
            }
            None
        }
        // Before the requests: of a peer that asks all the time, there is always one.
        () = end => None,
        served = until_taken(&mut http, &is_taken) => Some(served),
    };
    let served = match served {
        Some(served) => served,
        None => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                () = closed(connection) => Ok(false),
                served = until_taken(&mut http, &is_taken) => served,
            }
        }
    };
    // Not before here: what was dropped would be dropped before it is said that the connection ended.
    match served {
        Ok(is_taken) => Ok(is_taken.then_some(http)),
        Err(error) => Err((error, http)),
    }
}

/// Returns at the end of a connection, or true where it waits and is taken away.
async fn until_taken<C: GracefulConnection<Error = hyper::Error>>(
    http: &mut Pin<Box<C>>,
    is_taken: &impl Fn() -> bool,
) -> hyper::Result<bool> {
    std::future::poll_fn(|cx| match http.as_mut().poll(cx) {
        Poll::Pending if is_taken() => Poll::Ready(Ok(true)),
        polled => polled.map_ok(|()| false),
    })
    .await
}

async fn past(connection: Option<&Connection>, phase: Phase) -> Phase {
    match connection {
        Some(connection) => connection.past(phase).await,
        None => std::future::pending().await,
    }
}

async fn closed(connection: Option<&Connection>) {
    past(connection, Phase::Leaving).await;
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

const OPEN: &str = "countersign_connections_open";
/// What HTTP keeps of one direction at most: a request's header, or what is to be written. Node's
/// limit of a header, and one record of TLS.
const BUFFER: usize = Limits::HEADER;
/// What of it one of many holds.
const LITTLE: u32 = 8 * 1024;
/// The protocol's own: there is no smaller one.
const LEAST_WINDOW: u32 = 65_535;
