//! The registry: every connection with a verified peer, so that none outlives its welcome.
//!
//! Who registers compares afterwards: a connection stands here *before* its verdict is compared
//! with the newest revocations and trust, so a change finds it here, or it finds the change.

pub(crate) mod connection;
pub(crate) mod stream;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use identity::{Refusal, SpiffeId};
use metrics::{counter, gauge};
use rustls::time_provider::TimeProvider;
use tokio::task::JoinHandle;

use crate::clock;
use crate::connections::connection::{Connection, Phase};
use crate::peers::peer::Peer;

/// How many connections with verified peers are open, and how many were closed for a refusal; those
/// with the CA are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCounts {
    /// Open now, in both directions.
    pub open: usize,
    /// Closed by us since the start, by the rule that the peer breaks: `revoked`, `denied`,
    /// `expired`, `not-among-peers`, ….
    pub closed: BTreeMap<&'static str, u64>,
}

impl ConnectionCounts {
    /// All that were closed: its difference over a change says how many the change closed.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.values().sum()
    }
}

/// An open connection. Its peer, shared by all connections with the same certificate, stands beside
/// it so that ten thousand are judged without looking at each.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) peer: Peer,
    pub(crate) connection: Arc<Connection>,
}

/// A connection that is to be closed.
pub(crate) struct RefusedConnection {
    id: u64,
    connection: Arc<Connection>,
    refusal: Refusal,
}

/// The registry of one [`Verification`](crate::Verification).
pub(crate) struct Connections {
    live: Mutex<Live>,
    closed: Mutex<BTreeMap<&'static str, u64>>,
    clock: Arc<dyn TimeProvider>,
}

#[derive(Default)]
struct Live {
    connections: HashMap<u64, Open>,
    next: u64,
    /// The second after which one of them is to be looked at; since 1970.
    look_after: Option<i64>,
    watch: Option<JoinHandle<()>>,
}

impl Connections {
    /// Nobody is connected. What expires is ended by this clock.
    pub(crate) fn new(clock: Arc<dyn TimeProvider>) -> Arc<Self> {
        Arc::new(Self { live: Mutex::default(), closed: Mutex::default(), clock })
    }

    /// Takes a connection until what is returned is dropped.
    pub(crate) fn register(self: &Arc<Self>, connection: &Arc<Connection>) -> Registered {
        let id = self.insert(Arc::clone(connection));
        self.watch_expiry();
        Registered { connections: Arc::clone(self), id }
    }

    /// Those that `judge` refuses now, at the cost of a few look-ups each: nobody registers
    /// meanwhile.
    pub(crate) fn refused(
        &self,
        judge: impl Fn(&Open) -> Result<(), Refusal>,
    ) -> Vec<RefusedConnection> {
        let live = self.live();
        let refused = live.connections.iter().filter_map(|(&id, open)| open.refused(id, &judge));
        refused.collect()
    }

    /// The same for a judge that takes its time. Who registers meanwhile compares for itself.
    pub(crate) fn refused_slowly(
        &self,
        judge: impl Fn(&Open) -> Result<(), Refusal>,
    ) -> Vec<RefusedConnection> {
        self.snapshot().iter().filter_map(|(id, open)| open.refused(*id, &judge)).collect()
    }

    /// Closes these before it returns; says how many were open.
    pub(crate) fn close_all(&self, refused: Vec<RefusedConnection>) -> usize {
        let close = |refused: &RefusedConnection| {
            self.close(refused.id, &refused.connection, &refused.refusal)
        };
        let closed = refused.iter().filter(|refused| close(refused)).count();
        if closed > 0 {
            tracing::info!(closed, "connections closed, their peers are no longer welcome");
        }
        closed
    }

    /// Ends those whose peer's certificate has expired: politely first, [`GRACE`] later anyhow.
    pub(crate) fn end_expired(&self) {
        let now = clock::seconds(clock::now(&*self.clock));
        if self.live().look_after.is_none_or(|look_after| now <= look_after) {
            return;
        }
        for (id, Open { peer, connection }) in self.snapshot() {
            let (serial_number, not_after) = (*peer.serial_number(), peer.not_after());
            if now > not_after.saturating_add(GRACE) {
                self.close(id, &connection, &Refusal::Expired { serial_number, not_after });
            } else if now > not_after {
                connection.end_gracefully();
            }
        }
        let mut live = self.live();
        live.look_after = live.connections.values().map(next_look).min();
    }

    /// Identities of the peers connected now, at most `limit`.
    pub(crate) fn peers(&self, limit: usize) -> Vec<SpiffeId> {
        let live = self.live();
        let peers = live.connections.values().filter(|open| !open.connection.is_with_authority());
        let ids = peers.map(|open| open.peer.spiffe_id());
        let distinct: BTreeSet<&SpiffeId> = ids.collect();
        distinct.into_iter().take(limit).cloned().collect()
    }

    /// The identities connected now, and whether `judge` refuses all that each has shown.
    pub(crate) fn refused_whole(&self, judge: impl Fn(&Peer) -> bool) -> BTreeMap<SpiffeId, bool> {
        let live = self.live();
        let peers = live.connections.values().filter(|open| !open.connection.is_with_authority());
        let mut identities: HashMap<&SpiffeId, bool> = HashMap::new();
        for Open { peer, .. } in peers {
            let is_refused = identities.entry(peer.spiffe_id()).or_insert(true);
            *is_refused = *is_refused && judge(peer);
        }
        identities.into_iter().map(|(id, is_refused)| (id.clone(), is_refused)).collect()
    }

    pub(crate) fn counts(&self) -> ConnectionCounts {
        let open = self
            .live()
            .connections
            .values()
            .filter(|open| !open.connection.is_with_authority())
            .count();
        ConnectionCounts { open, closed: self.closed().clone() }
    }

    /// Whether it was open until now, and with a peer.
    fn close(&self, id: u64, connection: &Arc<Connection>, refusal: &Refusal) -> bool {
        let closed = connection.close(refusal);
        self.remove(id);
        if !closed {
            return false;
        }
        let (peer, remote) = (connection.peer(), connection.remote());
        let (spiffe_id, serial_number) = (peer.spiffe_id(), peer.serial_number());
        tracing::debug!(%remote, %spiffe_id, %serial_number, %refusal, "connection closed");
        if connection.is_with_authority() {
            return false;
        }
        let reason = refusal.name();
        counter!(CLOSED, "reason" => reason).increment(1);
        *self.closed().entry(reason).or_default() += 1;
        true
    }

    fn insert(&self, connection: Arc<Connection>) -> u64 {
        let open = Open { peer: connection.peer().clone(), connection };
        if !open.connection.is_with_authority() {
            gauge!(OPEN).increment(1.0);
        }
        let mut live = self.live();
        let id = live.next;
        live.next += 1;
        let look = next_look(&open);
        live.look_after = Some(live.look_after.map_or(look, |earlier| earlier.min(look)));
        live.connections.insert(id, open);
        id
    }

    fn remove(&self, id: u64) {
        let removed = self.live().connections.remove(&id);
        if removed.is_some_and(|open| !open.connection.is_with_authority()) {
            gauge!(OPEN).decrement(1.0);
        }
    }

    /// Starts the task that ends what expires, unless one runs: the last may have ended with its
    /// runtime.
    fn watch_expiry(self: &Arc<Self>) {
        let mut live = self.live();
        if live.watch.as_ref().is_none_or(JoinHandle::is_finished) {
            live.watch = Some(tokio::spawn(end_expired(Arc::downgrade(self))));
        }
    }

    fn snapshot(&self) -> Vec<(u64, Open)> {
        let live = self.live();
        live.connections.iter().map(|(&id, open)| (id, open.clone())).collect()
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn refused(
        &self,
        id: u64,
        judge: impl Fn(&Self) -> Result<(), Refusal>,
    ) -> Option<RefusedConnection> {
        let refusal = judge(self).err()?;
        Some(RefusedConnection { id, connection: Arc::clone(&self.connection), refusal })
    }
}

/// A place in the registry, given back when dropped.
pub(crate) struct Registered {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.remove(self.id);
    }
}

/// Looks at the clock every second, because a timer does not see that it was set or the machine
/// slept.
async fn end_expired(connections: Weak<Connections>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(connections) = connections.upgrade() else { return };
        connections.end_expired();
    }
}

/// The second after which a connection expires, or its grace ends.
fn next_look(open: &Open) -> i64 {
    let not_after = open.peer.not_after();
    match open.connection.phase() {
        Phase::Open => not_after,
        Phase::Ending | Phase::Leaving | Phase::Closed => not_after.saturating_add(GRACE),
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Seconds for requests in flight when a certificate expires: as many as at a shutdown.
const GRACE: i64 = 20;
const CLOSED: &str = "countersign_connections_closed_total";
const OPEN: &str = "countersign_peer_connections_open";
