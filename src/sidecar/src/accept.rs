//! The accept loop: who comes in, how many, and how it ends. What a connection does once accepted
//! is given as a function.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::limits::Limits;

/// How a listener ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open at shutdown and ended by themselves.
    pub drained: usize,
    /// Connections cut, because their requests took longer than [`Limits::drain`].
    pub cut: usize,
}

/// A TCP connection, before any byte of it is read, and its place among the limits.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    /// Dropped after the handshake.
    pub(crate) handshake: Handshaking,
    /// Dropped at the end of the connection.
    pub(crate) connection: OwnedSemaphorePermit,
    /// Becomes true at shutdown.
    pub(crate) draining: watch::Receiver<bool>,
}

/// A place among the handshakes, of all and of one source.
pub(crate) struct Handshaking {
    _place: OwnedSemaphorePermit,
    _source: SourceGuard,
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
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
    connection: C,
) -> io::Result<Drained>
where
    C: Fn(Accepted) -> F,
    F: Future<Output = Ended> + Send + 'static,
{
    tracing::debug!(address = %listener.local_addr()?, "accepting connections");
    let admission = Admission::new(limits);
    let (draining, watched) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = admission.next(&listener, &watched) => {
                connections.spawn(connection(accepted));
            }
        }
    }
    drop(listener);
    while connections.try_join_next().is_some() {}
    draining.send_replace(true);
    let drained = drain(connections, limits.drain).await;
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

/// Counts connections and handshakes.
struct Admission {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    sources: Sources,
}

impl Admission {
    fn new(limits: &Limits) -> Self {
        let places = |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: places(limits.connections),
            handshakes: places(limits.handshakes),
            sources: Sources::new(limits.handshakes_per_source),
        }
    }

    /// The next connection, once there is a place for it. May be dropped at any await. A source
    /// that has its share of handshakes open already is closed: waiting would hold up the others.
    async fn next(&self, listener: &TcpListener, draining: &watch::Receiver<bool>) -> Accepted {
        let connection = place(&self.connections).await;
        let handshake = place(&self.handshakes).await;
        loop {
            let (stream, remote) = accept(listener).await;
            if let Some(source) = self.sources.enter(remote.ip()) {
                let handshake = Handshaking { _place: handshake, _source: source };
                let draining = draining.clone();
                return Accepted { stream, remote, handshake, connection, draining };
            }
            metrics::counter!("countersign_handshakes_refused_total", "reason" => "source")
                .increment(1);
        }
    }
}

/// Handshakes open now, by source: silent connections of one must not take every place.
#[derive(Clone)]
struct Sources {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    share: usize,
}

impl Sources {
    fn new(share: usize) -> Self {
        Self { open: Arc::default(), share }
    }

    fn enter(&self, address: IpAddr) -> Option<SourceGuard> {
        let source = network(address);
        let mut open = self.open();
        let count = open.entry(source).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        Some(SourceGuard { sources: self.clone(), source })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SourceGuard {
    sources: Sources,
    source: IpAddr,
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        let mut open = self.sources.open();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// One subscriber has an IPv6 /64: it is the smallest that can be told apart.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !(u128::MAX >> 64)).into()),
        v4 => v4,
    }
}

async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

/// Accepts one connection, however often that fails: no error of `accept` ends a service.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        if !is_of_the_connection(&error) {
            // Out of files or memory: the connection stays in the backlog, so do not spin.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_its_share_of_handshakes_and_gets_it_back() {
        let sources = Sources::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = sources.enter(address("2001:db8::1")).unwrap();
        let second = sources.enter(address("2001:db8::2")).unwrap();
        assert!(sources.enter(address("2001:db8::3")).is_none(), "one /64 is one source");
        assert!(sources.enter(address("2001:db8:0:1::1")).is_some());
        drop(first);
        let third = sources.enter(address("2001:db8::3")).unwrap();
        drop((second, third));
        assert!(sources.open().is_empty());
    }
}
