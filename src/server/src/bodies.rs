//! What bodies may hold in memory before they are whole: so much for operators, so much for strangers
//! and so much for workloads.
//!
//! Where one of these is short, it is not who comes that is refused: of the caller that holds most,
//! the largest body gives way, and of small ones the oldest. Callers are lines of renewals and
//! networks ([`Source`]): whatever certificates and addresses somebody has, everybody else is left as
//! much as they hold each. A body is paid for as long as it lasts; one that comes whole in one piece
//! lasts no time, and needs no room.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;
use tokio::sync::oneshot;

use crate::rate::Source;

/// What all bodies hold now.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Arc<Mutex<Pools>>);

#[derive(Debug)]
struct Pools {
    operators: Pool,
    strangers: Pool,
    workloads: Pool,
}

/// What callers of one kind share.
#[derive(Debug)]
struct Pool {
    kind: &'static str,
    most: usize,
    /// Bytes of each body that take nothing of it.
    free: usize,
    held: usize,
    sources: HashMap<Source, Own>,
    next: u64,
}

/// What one caller holds; at least one body.
#[derive(Debug, Default)]
struct Own {
    bytes: usize,
    /// Oldest first.
    bodies: Vec<Held>,
}

/// What one body holds.
#[derive(Debug)]
struct Held {
    id: u64,
    /// So many more are free.
    free: usize,
    bytes: usize,
    /// When it is dropped, its reader hears that it gave way.
    _stays: oneshot::Sender<Infallible>,
}

/// One body's room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Bodies,
    source: Source,
    id: u64,
    stays: oneshot::Receiver<Infallible>,
}

/// There is no room for it: it was the largest of the caller that holds most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Pools {
            operators: Pool::new("operators", OF_OPERATORS, 0),
            strangers: Pool::new("strangers", OF_STRANGERS, FREE),
            workloads: Pool::new("workloads", OF_WORKLOADS, 0),
        })))
    }
}

impl Bodies {
    /// Nothing yet, for a body of a request's caller; none where nobody knows who it is.
    pub(crate) fn share(&self, extensions: &Extensions) -> Option<Share> {
        Source::of(extensions).map(|source| self.share_of(source))
    }

    fn share_of(&self, source: Source) -> Share {
        let (sender, stays) = oneshot::channel();
        let id = self.pools().of(source).begin(source, sender);
        Share { bodies: self.clone(), source, id, stays }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    fn of(&mut self, source: Source) -> &mut Pool {
        match source {
            Source::Address(_) => &mut self.strangers,
            Source::Line(_) => &mut self.workloads,
            Source::Operator(_) => &mut self.operators,
        }
    }
}

impl Share {
    /// Makes room for so many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        self.bodies.pools().of(self.source).grow(self.source, self.id, bytes)
    }

    /// Returns once this body has given way. May be dropped at any await.
    pub(crate) async fn gives_way(&mut self) {
        // Nobody sends anything: its end is what is waited for.
        drop((&mut self.stays).await);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.pools().of(self.source).leave(self.source, self.id);
    }
}

impl Pool {
    fn new(kind: &'static str, most: usize, free: usize) -> Self {
        Self { kind, most, free, held: 0, sources: HashMap::new(), next: 0 }
    }

    fn begin(&mut self, source: Source, stays: oneshot::Sender<Infallible>) -> u64 {
        let id = self.next;
        self.next += 1;
        let held = Held { id, free: self.free, bytes: 0, _stays: stays };
        self.sources.entry(source).or_default().bodies.push(held);
        id
    }

    /// Counts it first, then lets give way who holds most with that: it may be this one itself.
    fn grow(&mut self, source: Source, id: u64, bytes: usize) -> Result<(), Full> {
        let own = self.sources.get_mut(&source).ok_or(Full)?;
        let place = own.bodies.binary_search_by_key(&id, |held| held.id).map_err(|_| Full)?;
        let held = &mut own.bodies[place];
        let free = held.free.min(bytes);
        held.free -= free;
        let bytes = bytes - free;
        held.bytes += bytes;
        own.bytes += bytes;
        self.held += bytes;
        metrics::gauge!(HELD, "kind" => self.kind).increment(bytes as f64);
        while self.held > self.most {
            let Some((busiest, largest)) = self.gives_way(source) else { break };
            self.leave(busiest, largest);
            if (busiest, largest) == (source, id) {
                return Err(Full);
            }
        }
        Ok(())
    }

    /// Whose body gives way for one of this source: that of another where both hold the same. There
    /// are no more to look through than connections, and it is rare that anybody must.
    fn gives_way(&self, newcomer: Source) -> Option<(Source, u64)> {
        let sources = self.sources.iter();
        let (source, own) =
            sources.max_by_key(|(source, own)| (own.bytes, **source != newcomer))?;
        let bodies = own.bodies.iter().filter(|held| held.bytes > 0);
        let largest = bodies.max_by_key(|held| (held.bytes.max(SMALL), Reverse(held.id)))?;
        Some((*source, largest.id))
    }

    /// Nothing, if it has given way before.
    fn leave(&mut self, source: Source, id: u64) {
        let Some(own) = self.sources.get_mut(&source) else { return };
        let Ok(place) = own.bodies.binary_search_by_key(&id, |held| held.id) else { return };
        let Held { bytes, .. } = own.bodies.remove(place);
        own.bytes -= bytes;
        if own.bodies.is_empty() {
            self.sources.remove(&source);
        }
        self.held -= bytes;
        metrics::gauge!(HELD, "kind" => self.kind).decrement(bytes as f64);
    }
}

/// Thirty-two whole ones at once, of people and of their commands.
pub(crate) const OF_OPERATORS: usize = 2 * 1024 * 1024;
/// Thirty-two whole ones. With what is free, at the most places that strangers have, 2 KiB for each of
/// them: a token and a request for a certificate of any key but RSA's.
pub(crate) const OF_STRANGERS: usize = 2 * 1024 * 1024;
/// Of a stranger's body: it has one, or two over HTTP/2, so that as many as there are places for may
/// hold that much.
const FREE: usize = 1024;
/// Sixty-four whole ones, or a report of each of a thousand lines, in the moment before it is whole.
pub(crate) const OF_WORKLOADS: usize = 4 * 1024 * 1024;
/// A request for a certificate, or for anything else that one does by hand. Among those no larger it
/// is the oldest that gives way: whoever sends them comes to an end soon.
const SMALL: usize = 4 * 1024;
const HELD: &str = "countersign_bodies_bytes";

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use identity::SerialNumber;

    use super::*;

    const WHOLE: usize = 64 * 1024;

    fn address(number: u32) -> Source {
        Source::Address(IpAddr::from(number.to_be_bytes()))
    }

    fn line(number: u32) -> Source {
        Source::Line(serial(number))
    }

    fn serial(number: u32) -> SerialNumber {
        SerialNumber::from_octets(&[&[1; 12][..], &number.to_be_bytes()].concat()).unwrap()
    }

    fn body(bodies: &Bodies, source: Source, bytes: usize) -> Share {
        let mut share = bodies.share_of(source);
        share.grow(bytes).unwrap();
        share
    }

    /// Whole bodies of each source, in turn, until so many bytes are held, beside those that are free.
    fn fill(
        bodies: &Bodies,
        bytes: usize,
        sources: impl Iterator<Item = Source> + Clone,
    ) -> Vec<Share> {
        let whole = |source| {
            let free = if matches!(source, Source::Address(_)) { FREE } else { 0 };
            body(bodies, source, WHOLE + free)
        };
        sources.cycle().take(bytes / WHOLE).map(whole).collect()
    }

    fn has_given_way(share: &mut Share) -> bool {
        share.stays.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn whoever_holds_most_gives_way_and_not_who_comes() {
        let bodies = Bodies::default();
        let mut held = fill(&bodies, OF_STRANGERS, (0..10).map(address));
        let mut newcomer = body(&bodies, address(99), 2000);
        let gone: Vec<_> =
            held.iter_mut().filter_map(|it| has_given_way(it).then_some(it.source)).collect();
        assert_eq!(gone.len(), 1);
        assert!(!has_given_way(&mut newcomer));
        assert!(bodies.pools().strangers.held <= OF_STRANGERS);
    }

    #[test]
    fn who_holds_most_is_refused_once_its_next_would_be_the_largest() {
        let bodies = Bodies::default();
        let _others = fill(&bodies, OF_STRANGERS - WHOLE, (0..10).map(address));
        let mut only = bodies.share_of(address(99));
        only.grow(FREE + WHOLE).unwrap();
        let mut busiest = bodies.share_of(address(1));
        assert_eq!(busiest.grow(FREE + WHOLE + 1), Err(Full));
        assert_eq!(busiest.grow(1), Err(Full), "it has given way");
        assert!(has_given_way(&mut busiest) && !has_given_way(&mut only));
    }

    #[test]
    fn small_body_finds_room_beside_large_ones_from_the_same_address() {
        let bodies = Bodies::default();
        let mut held = fill(&bodies, OF_STRANGERS, std::iter::once(address(1)));
        let mut newcomer = body(&bodies, address(1), 2000);
        assert!(!has_given_way(&mut newcomer) && has_given_way(&mut held[0]));
    }

    #[test]
    fn of_small_bodies_the_oldest_gives_way() {
        let bodies = Bodies::default();
        let count = OF_STRANGERS / 1024;
        let mut held: Vec<_> = (0..count).map(|_| body(&bodies, address(1), FREE + 1024)).collect();
        let mut newcomer = body(&bodies, address(1), FREE + 3 * 1024);
        assert!(!has_given_way(&mut newcomer), "although it is larger");
        assert!(held[..3].iter_mut().all(has_given_way) && !has_given_way(&mut held[3]));
    }

    #[test]
    fn every_stranger_that_has_a_place_has_room_for_a_small_body() {
        let bodies = Bodies::default();
        let most = countersign::Limits::default().handshakes as u32;
        let mut held: Vec<_> = (0..most).map(|it| body(&bodies, address(it), SMALL / 2)).collect();
        assert!(!held.iter_mut().any(has_given_way));
        drop(held.pop());
        body(&bodies, address(most), SMALL / 2);
    }

    #[test]
    fn workloads_and_strangers_leave_operators_theirs() {
        let bodies = Bodies::default();
        let _workloads = fill(&bodies, 2 * OF_WORKLOADS, (0..17).map(line));
        let _strangers = fill(&bodies, OF_STRANGERS, (0..100).map(address));
        let operator = Source::Operator(serial(99));
        let mut held = fill(&bodies, OF_OPERATORS, std::iter::once(operator));
        assert!(!held.iter_mut().any(has_given_way));
    }

    #[test]
    fn what_is_held_is_given_back_once_however_it_ends() {
        let bodies = Bodies::default();
        let mut held = fill(&bodies, OF_WORKLOADS, (0..3).map(line));
        held.extend(fill(&bodies, OF_WORKLOADS, (3..300).map(line)));
        assert!(bodies.pools().workloads.held <= OF_WORKLOADS);
        drop(bodies.share_of(line(1)));
        drop(held);
        let pools = bodies.pools();
        assert!(pools.workloads.sources.is_empty() && pools.workloads.held == 0);
    }
}
