//! The accept loop: who comes in, how many, and how it ends. What a connection does once accepted
//! is given as a function.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::places::Places;
use crate::places::handshakes::Handshaking;

/// How a listener ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open at shutdown and ended by themselves.
    pub drained: usize,
    /// Connections cut, because their requests took longer than [`Limits::drain`](crate::Limits).
    pub cut: usize,
}

/// A TCP connection, before any byte of it is read, and its place among the handshakes.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    /// Dropped after the handshake, or with a client that shows no certificate: it ends when this is
    /// cut.
    pub(crate) handshake: Handshaking,
    /// Becomes true at shutdown.
    pub(crate) draining: watch::Receiver<bool>,
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    InHandshake,
    #[cfg(feature = "http")]
    Served,
}

/// Accepts until `shutdown`, runs `connection` for each in a task of its own, then waits for them.
pub(crate) async fn accept_loop<C, F>(
    listener: Arc<TcpListener>,
    places: &Places,
    drained_within: Duration,
    shutdown: impl Future<Output = ()>,
    connection: C,
) -> io::Result<Drained>
where
    C: Fn(Accepted) -> F,
    F: Future<Output = Ended> + Send + 'static,
{
    tracing::debug!(address = %listener.local_addr()?, "accepting connections");
    let (draining, watched) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = next(places, &listener, &watched) => {
                connections.spawn(connection(accepted));
            }
        }
    }
    drop(listener);
    while connections.try_join_next().is_some() {}
    draining.send_replace(true);
    let drained = drain(connections, drained_within).await;
    tracing::debug!(drained = drained.drained, cut = drained.cut, "no connection is left");
    Ok(drained)
}

async fn drain(mut connections: JoinSet<Ended>, limit: Duration) -> Drained {
    let mut drained = 0;
    let all = async {
        while let Some(ended) = connections.join_next().await {
            drained += usize::from(!matches!(ended, Ok(Ended::InHandshake)));
        }
    };
    // Past the limit, whoever is left is cut.
    let _ = tokio::time::timeout(limit, all).await;
    let cut = connections.len();
    connections.shutdown().await;
    Drained { drained, cut }
}

/// The next connection, once there is a place for its handshake. May be dropped at any await. One
/// of a source that has its share of handshakes already is closed: waiting would hold up the others.
async fn next(
    places: &Places,
    listener: &TcpListener,
    draining: &watch::Receiver<bool>,
) -> Accepted {
    loop {
        places.room().await;
        let (stream, remote) = accept(places, listener).await;
        if let Some(handshake) = places.enter(remote.ip()) {
            return Accepted { stream, remote, handshake, draining: draining.clone() };
        }
        metrics::counter!("countersign_handshakes_refused_total", "reason" => "source")
            .increment(1);
    }
}

/// Accepts one connection, however often that fails: no error of `accept` ends a service.
async fn accept(places: &Places, listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => {
                places.let_in(true);
                return accepted;
            }
            Err(error) => error,
        };
        if !is_of_the_connection(&error) {
            // Out of files or memory: the connection stays in the backlog, so do not spin.
            places.let_in(false);
            metrics::counter!("countersign_accept_errors_total").increment(1);
            tracing::error!(%error, "cannot accept connections now; trying again");
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// Errors of a peer that went away while it waited: the next one may be fine (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

const BACKOFF: Duration = Duration::from_millis(200);
