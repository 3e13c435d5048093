//! Places after the handshake: who gives way where they are scarce.
//!
//! While a fifth of them is free, nobody is counted: a gateway is rightly the only caller. Above
//! that each *line* has an equal share. A line is what one caller can make of itself, a certificate
//! with those that it was renewed by: see [`Standing`]. An identity has as many shares as it has
//! lines connected, so 500 replicas that are redeployed are no attack, and one that connects 8,192
//! times is.
//!
//! Who is beyond its share is refused. Who is within takes a place of those that are left, the last
//! of them kept for a certificate's first connection and for whoever has a reserved standing; where
//! none is left, the newest of the busiest line gives way. A connection that is [kept](Place::keep)
//! never does: that of a certificate's revocation feed.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use identity::SerialNumber;

use crate::handshaking::{Handshakes, Handshaking};
use crate::limits::Limits;
use crate::peer::Peer;
use crate::stream::Connection;

/// What a verified peer counts as where places are scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The first certificate of its line of renewals: all of a line share one share.
    pub line: SerialNumber,
    /// Whether the last places are for it: an operator, who ends what fills the others.
    pub is_reserved: bool,
}

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

/// Why a newcomer is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Crowded {
    /// The system has nothing left for another connection.
    #[error("no file or memory is left for another connection (ulimit -n)")]
    Exhausted,
    /// All places are taken by peers that have one or two each.
    #[error("all {0} places for connections are taken")]
    Places(usize),
    /// Places are scarce, and this line has its share.
    #[error("places for connections are scarce, and this certificate's line has its share of {0}")]
    Share(usize),
}

impl Crowded {
    fn reason(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Places(_) => "places",
            Self::Share(_) => "share",
        }
    }
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

    /// Gives a connection whose peer was just verified its place, until it is closed.
    pub(crate) async fn seat(&self, connection: &Arc<Connection>) -> Result<(), Crowded> {
        let peer = connection.peer();
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
        let seated = open(taken).seat(newcomer, Arc::downgrade(connection), places);
        let (id, gives_way) = seated.inspect_err(|crowded| {
            metrics::counter!("countersign_handshakes_refused_total", "reason" => crowded.reason())
                .increment(1);
            let (remote, spiffe_id) = (connection.remote(), peer.spiffe_id());
            tracing::debug!(%remote, %spiffe_id, %crowded, "connection refused");
        })?;
        let place = Place { taken: Arc::clone(&self.0.taken), standing, id };
        connection.keep_place(Seat(place));
        if let Some(connection) = gives_way.and_then(|gives_way| gives_way.upgrade()) {
            metrics::counter!("countersign_connections_cut_total", "reason" => "share")
                .increment(1);
            connection.give_way();
        }
        Ok(())
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

/// Who asks for a place.
#[derive(Debug, Clone, Copy)]
struct Newcomer {
    standing: Standing,
    certificate: SerialNumber,
}

/// Who has which place.
#[derive(Default)]
struct Taken {
    /// By line, oldest first; none is empty.
    lines: HashMap<SerialNumber, Vec<Held>>,
    count: usize,
    next: u64,
}

struct Held {
    id: u64,
    certificate: SerialNumber,
    connection: Weak<Connection>,
    is_kept: bool,
}

impl Taken {
    /// A place for a newcomer, and who gives way for it.
    fn seat(
        &mut self,
        newcomer: Newcomer,
        connection: Weak<Connection>,
        places: usize,
    ) -> Result<(u64, Option<Weak<Connection>>), Crowded> {
        let gives_way = self.make_room(newcomer, places)?;
        let Newcomer { standing, certificate } = newcomer;
        let id = self.next;
        self.next += 1;
        self.count += 1;
        let held = Held { id, certificate, connection, is_kept: false };
        self.lines.entry(standing.line).or_default().push(held);
        Ok((id, gives_way))
    }

    fn make_room(
        &mut self,
        newcomer: Newcomer,
        places: usize,
    ) -> Result<Option<Weak<Connection>>, Crowded> {
        if self.count < places - places / 5 {
            return Ok(None);
        }
        let Newcomer { standing: Standing { line, is_reserved }, certificate } = newcomer;
        let of_line = self.lines.get(&line).map_or(&[][..], Vec::as_slice);
        let has = of_line.len();
        let is_first = !of_line.iter().any(|held| held.certificate == certificate);
        let lines = self.lines.len() + usize::from(has == 0);
        let share = (places / lines).max(1);
        if has >= share && !is_first && !is_reserved {
            return Err(Crowded::Share(share));
        }
        let usable = match (is_reserved, is_first) {
            (true, _) => places,
            (false, true) => places - for_reserved(places),
            (false, false) => places - for_reserved(places) - for_first(places),
        };
        if self.count < usable {
            return Ok(None);
        }
        self.newest_of_the_busiest(has + 1).map(Some).ok_or(Crowded::Places(places))
    }

    /// Frees a place of the line that has most, if those are more than so many.
    fn newest_of_the_busiest(&mut self, more_than: usize) -> Option<Weak<Connection>> {
        let busy = self.lines.iter().filter(|(_, held)| held.len() > more_than);
        let yielding = busy.filter(|(_, held)| held.iter().any(|held| !held.is_kept));
        let (&line, held) = yielding.max_by_key(|(_, held)| held.len())?;
        let newest = held.iter().rev().find(|held| !held.is_kept)?.id;
        Some(self.leave(&line, newest)?.connection)
    }

    fn require_room(&self, places: usize) -> Result<(), Crowded> {
        let is_full = self.count >= places - for_reserved(places);
        let yields = |held: &Vec<Held>| held.len() > 1 && held.iter().any(|held| !held.is_kept);
        if is_full && !self.lines.values().any(yields) {
            return Err(Crowded::Places(places));
        }
        Ok(())
    }

    /// None if it was given back before.
    fn leave(&mut self, line: &SerialNumber, id: u64) -> Option<Held> {
        let of_line = self.lines.get_mut(line)?;
        let place = of_line.binary_search_by_key(&id, |held| held.id).ok()?;
        let held = of_line.remove(place);
        if of_line.is_empty() {
            self.lines.remove(line);
        }
        self.count -= 1;
        Some(held)
    }

    fn keep(&mut self, line: &SerialNumber, id: u64) -> bool {
        let Some(certificate) = self.held(line, id).map(|held| held.certificate) else {
            return false;
        };
        let kept = self.lines[line].iter().filter(|held| held.is_kept);
        let (kept, of_certificate) = kept.fold((0, false), |(kept, of_certificate), held| {
            (kept + 1, of_certificate || held.certificate == certificate)
        });
        if of_certificate || kept >= KEPT_OF_A_LINE {
            return false;
        }
        self.held(line, id).is_some_and(|held| {
            held.is_kept = true;
            true
        })
    }

    fn held(&mut self, line: &SerialNumber, id: u64) -> Option<&mut Held> {
        let of_line = self.lines.get_mut(line)?;
        let place = of_line.binary_search_by_key(&id, |held| held.id).ok()?;
        of_line.get_mut(place)
    }
}

fn open(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Places for those of a reserved standing only.
fn for_reserved(places: usize) -> usize {
    places / 64
}

/// Places for the first connection of each certificate.
fn for_first(places: usize) -> usize {
    places / 16
}

/// For whoever says what a peer counts as.
const PATIENCE: Duration = Duration::from_secs(1);
/// Renewals overlap; no line has more certificates in use at once, and none makes itself a crowd
/// that gives way to nobody.
const KEPT_OF_A_LINE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 640;

    fn serial(number: u16) -> SerialNumber {
        let mut octets = [1; 16];
        octets[..2].copy_from_slice(&(number + 1).to_be_bytes());
        SerialNumber::from_octets(&octets).unwrap()
    }

    fn newcomer(line: u16, certificate: u16) -> Newcomer {
        let standing = Standing { line: serial(line), is_reserved: false };
        Newcomer { standing, certificate: serial(certificate) }
    }

    impl Taken {
        /// Takes places until one is refused; says how many and why.
        fn fill(&mut self, newcomer: Newcomer) -> (usize, Crowded) {
            let mut taken = 0;
            loop {
                match self.seat(newcomer, Weak::new(), PLACES) {
                    Ok(_) => taken += 1,
                    Err(crowded) => return (taken, crowded),
                }
            }
        }

        fn places_of(&self, line: u16) -> usize {
            self.lines.get(&serial(line)).map_or(0, Vec::len)
        }
    }

    #[test]
    fn only_caller_has_all_but_the_last() {
        let mut taken = Taken::default();
        let last = for_first(PLACES) + for_reserved(PLACES);
        let (count, crowded) = taken.fill(newcomer(1, 1));
        assert_eq!((count, crowded), (PLACES - last, Crowded::Places(PLACES)));
        taken.require_room(PLACES).unwrap();
    }

    #[test]
    fn who_has_most_gives_way_until_all_have_the_same() {
        let mut taken = Taken::default();
        taken.fill(newcomer(1, 1));
        taken.fill(newcomer(2, 2));
        let (first, second) = (taken.places_of(1), taken.places_of(2));
        assert!(first.abs_diff(second) <= 2, "{first} and {second}");
        assert_eq!(taken.fill(newcomer(1, 1)).0, 0, "nobody has more");
    }

    #[test]
    fn certificates_of_one_line_have_one_share() {
        let mut taken = Taken::default();
        for certificate in 0..PLACES as u16 {
            taken.fill(newcomer(1, certificate));
        }
        taken.fill(newcomer(2, 2000));
        let (many, one) = (taken.places_of(1), taken.places_of(2));
        assert!(one + for_first(PLACES) >= many, "{many} and {one}");
    }

    #[test]
    fn replicas_that_are_redeployed_are_no_crowd() {
        let mut taken = Taken::default();
        for replica in 0..250 {
            for _ in 0..2 {
                taken.seat(newcomer(replica, replica), Weak::new(), PLACES).unwrap();
            }
        }
        for replica in 500..600 {
            taken.seat(newcomer(replica, replica), Weak::new(), PLACES).unwrap();
        }
        assert!((0..250).all(|replica| taken.places_of(replica) == 2), "nobody gives way");
    }

    #[test]
    fn last_places_are_for_those_who_end_what_fills_the_others() {
        let mut taken = Taken::default();
        for line in 0..PLACES as u16 {
            let _ = taken.seat(newcomer(line, line), Weak::new(), PLACES);
        }
        assert_eq!(taken.count, PLACES - for_reserved(PLACES));
        assert_eq!(taken.require_room(PLACES), Err(Crowded::Places(PLACES)));
        let standing = Standing { line: serial(5000), is_reserved: true };
        let operator = Newcomer { standing, certificate: serial(5000) };
        assert_eq!(taken.fill(operator).0, for_reserved(PLACES));
        assert_eq!(taken.count, PLACES);
    }

    #[test]
    fn kept_connection_gives_way_to_nobody_and_each_certificate_keeps_one() {
        let mut taken = Taken::default();
        taken.fill(newcomer(1, 1));
        let newest = taken.lines[&serial(1)].last().unwrap().id;
        assert!(taken.keep(&serial(1), newest));
        assert!(!taken.keep(&serial(1), newest - 1), "its certificate keeps another");
        for line in 2..500 {
            let _ = taken.seat(newcomer(line, line), Weak::new(), PLACES);
        }
        assert!(taken.places_of(1) < PLACES / 2);
        assert!(taken.held(&serial(1), newest).is_some_and(|held| held.is_kept));
    }

    #[test]
    fn line_keeps_no_crowd() {
        let mut taken = Taken::default();
        for certificate in 0..40 {
            let (id, _) = taken.seat(newcomer(1, certificate), Weak::new(), PLACES).unwrap();
            let is_kept = taken.keep(&serial(1), id);
            assert_eq!(is_kept, usize::from(certificate) < KEPT_OF_A_LINE, "{certificate}");
        }
    }

    #[test]
    fn place_given_back_is_free_and_given_back_once() {
        let mut taken = Taken::default();
        let (id, _) = taken.seat(newcomer(1, 1), Weak::new(), 1).unwrap();
        assert!(taken.seat(newcomer(2, 2), Weak::new(), 1).is_err());
        assert!(taken.leave(&serial(1), id).is_some());
        assert!(taken.leave(&serial(1), id).is_none());
        assert!(taken.lines.is_empty() && taken.count == 0);
        taken.seat(newcomer(2, 2), Weak::new(), 1).unwrap();
    }
}
