//! Places after the handshake: who gives way where they are scarce.
//!
//! While a fifth of them is free, nobody is refused one: a gateway is rightly the only caller. Above
//! that each *line* has an equal share. A line is what one caller can make of itself, a certificate
//! with those that it was renewed by: see [`Standing`]. An identity has as many shares as it has
//! lines connected, so 500 replicas that are redeployed are no attack, and one that connects 8,192
//! times is.
//!
//! Who is beyond its share is refused. Who is within takes a place of those that are left, the last
//! of them kept for a certificate's first connection and for whoever has a reserved standing; where
//! none is left, the newest of the busiest line gives way. A connection that is [kept](Place::keep)
//! never does: that of a certificate's revocation feed.

pub(crate) mod handshakes;
pub(crate) mod taken;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::Limits;
use crate::peers::peer::Peer;
use crate::places::handshakes::{Handshakes, Handshaking};
use crate::places::taken::{Crowded, GivesWay, Newcomer, Standing, Taken};

/// Says what a peer counts as.
pub type StandingOf =
    dyn Fn(Peer) -> Pin<Box<dyn Future<Output = Standing> + Send>> + Send + Sync + 'static;

/// The places of one listener: those of its [`Limits`], and who has them.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    limits: Limits,
    handshakes: Handshakes,
    standing: Option<Box<StandingOf>>,
    taken: Arc<Mutex<Taken>>,
    /// The system gives no file or memory for another connection.
    is_exhausted: AtomicBool,
}

impl Places {
    /// So many places. Each certificate is a line of its own.
    pub fn new(limits: Limits) -> Self {
        Self::of(limits, None)
    }

    /// So many places, for peers whose standing somebody knows. It is asked once for each
    /// connection; what takes longer than a second counts as a line of its own.
    pub fn with_standing(limits: Limits, standing: Box<StandingOf>) -> Self {
        Self::of(limits, Some(standing))
    }

    fn of(limits: Limits, standing: Option<Box<StandingOf>>) -> Self {
        let handshakes = Handshakes::new(limits.handshakes, limits.handshakes_per_source);
        let (taken, is_exhausted) = (Arc::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { limits, handshakes, standing, taken, is_exhausted }))
    }

    /// How many there are, and what each connection may do.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Verified peers' connections now.
    pub fn taken(&self) -> usize {
        open(&self.0.taken).count
    }

    /// Handshakes now, and clients of the CA that show no certificate.
    pub fn handshaking(&self) -> usize {
        self.0.handshakes.count()
    }

    /// Fails if a peer that has no connection yet would not be let in now.
    pub fn require_room(&self) -> Result<(), Crowded> {
        if self.0.is_exhausted.load(Ordering::Relaxed) {
            return Err(Crowded::Exhausted);
        }
        open(&self.0.taken).require_room(self.limits().connections)
    }

    /// Whether the system let in the last that came.
    pub(crate) fn let_in(&self, is_let_in: bool) {
        self.0.is_exhausted.store(!is_let_in, Ordering::Relaxed);
    }

    /// Returns once another handshake may begin. May be dropped at any await.
    pub(crate) async fn room(&self) {
        self.0.handshakes.room().await;
    }

    /// A place for the handshake of whoever comes from this address, unless it has its share.
    pub(crate) fn enter(&self, source: IpAddr) -> Option<Handshaking> {
        self.0.handshakes.enter(source)
    }

    /// A place for a peer that was just verified and comes from this address. `gives_way` ends its
    /// connection where the place is needed for another.
    pub(crate) async fn seat(
        &self,
        peer: &Peer,
        remote: SocketAddr,
        gives_way: GivesWay,
    ) -> Result<Seat, Crowded> {
        let own_line = Standing { line: *peer.serial_number(), is_reserved: false };
        let standing = match &self.0.standing {
            None => own_line,
            Some(standing) => {
                let asked = tokio::time::timeout(PATIENCE, standing(peer.clone())).await;
                asked.unwrap_or(own_line)
            }
        };
        let newcomer = Newcomer { standing, certificate: *peer.serial_number() };
        let (taken, places) = (&self.0.taken, self.limits().connections);
        let seated = open(taken).seat(newcomer, gives_way, places);
        let (id, other) = seated.inspect_err(|crowded| {
            metrics::counter!("countersign_handshakes_refused_total", "reason" => crowded.reason())
                .increment(1);
            let spiffe_id = peer.spiffe_id();
            tracing::debug!(%remote, %spiffe_id, %crowded, "connection refused");
        })?;
        let place = Place { taken: Arc::clone(&self.0.taken), standing, id };
        if let Some(other) = other {
            metrics::counter!("countersign_connections_cut_total", "reason" => "share")
                .increment(1);
            other();
        }
        Ok(Seat(place))
    }
}

impl From<Limits> for Places {
    fn from(limits: Limits) -> Self {
        Self::new(limits)
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = open(&self.0.taken).count;
        f.debug_struct("Places")
            .field("limits", self.limits())
            .field("taken", &taken)
            .finish_non_exhaustive()
    }
}

/// The place of a connection, in the extensions of its requests.
#[derive(Clone)]
pub struct Place {
    taken: Arc<Mutex<Taken>>,
    standing: Standing,
    id: u64,
}

impl Place {
    /// What its peer counts as, wherever something is scarce.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether its line has so many connections that each is granted less at once: an operator's has not,
    /// who ends what others fill.
    #[cfg(feature = "http")]
    pub(crate) fn is_one_of_many(&self) -> bool {
        let Standing { line, is_reserved } = self.standing;
        !is_reserved && open(&self.taken).of_line(&line) > AT_EASE
    }

    /// Keeps the connection from giving way for as long as the answer lives. None if its certificate
    /// keeps another already, or its line eight.
    pub fn keep(&self) -> Option<Kept> {
        open(&self.taken).keep(&self.standing.line, self.id).then(|| Kept(self.clone()))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("standing", &self.standing).finish_non_exhaustive()
    }
}

/// A connection that gives way to nobody while this lives.
#[derive(Debug)]
pub struct Kept(Place);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(held) = open(&self.0.taken).held(&self.0.standing.line, self.0.id) {
            held.is_kept = false;
        }
    }
}

/// A place, given back when dropped.
pub(crate) struct Seat(Place);

impl Seat {
    #[cfg(feature = "http")]
    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        open(&self.0.taken).leave(&self.0.standing.line, self.0.id);
    }
}

fn open(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For whoever says what a peer counts as.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections of one line that hold as much at once as a peer may.
#[cfg(feature = "http")]
const AT_EASE: usize = 64;
