//! What bodies may hold in memory before they are whole: so much for all strangers, so much for all
//! who show a certificate, and so much for each caller.
//!
//! A body that is slow is paid for as long as it lasts. One that finds no room is refused, not kept
//! waiting: what waits is held in the buffers of its connection instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;

use crate::rate::Source;

/// What all bodies hold now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bodies(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    by_strangers: usize,
    by_peers: usize,
    /// None holds nothing.
    by_source: HashMap<Source, usize>,
}

/// What one body holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Bodies,
    source: Source,
    bytes: usize,
}

/// There is no room for more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Bodies {
    /// The share of a request's caller; none where nobody knows who it is.
    pub(crate) fn share(&self, extensions: &Extensions) -> Option<Share> {
        let source = Source::of(extensions)?;
        Some(Share { bodies: self.clone(), source, bytes: 0 })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn of_kind(&mut self, source: Source) -> (&mut usize, usize) {
        match source {
            Source::Certificate(_) => (&mut self.by_peers, OF_PEERS),
            Source::Address(_) => (&mut self.by_strangers, OF_STRANGERS),
        }
    }
}

impl Share {
    /// Makes room for so many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let mut held = self.bodies.held();
        let (all, most) = held.of_kind(self.source);
        if *all + bytes > most {
            return Err(Full);
        }
        let own = held.by_source.get(&self.source).copied().unwrap_or_default();
        if own + bytes > OF_ONE_CALLER {
            return Err(Full);
        }
        *held.of_kind(self.source).0 += bytes;
        held.by_source.insert(self.source, own + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.bodies.held();
        *held.of_kind(self.source).0 -= self.bytes;
        let own = held.by_source.get(&self.source).copied().unwrap_or_default();
        if own <= self.bytes {
            held.by_source.remove(&self.source);
        } else {
            held.by_source.insert(self.source, own - self.bytes);
        }
    }
}

/// A hundred whole ones, or some thousands of requests for a certificate.
pub(crate) const OF_STRANGERS: usize = 8 * 1024 * 1024;
pub(crate) const OF_PEERS: usize = 16 * 1024 * 1024;
/// Sixteen whole ones; hundreds of the usual size that come from one address at once.
pub(crate) const OF_ONE_CALLER: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn share(bodies: &Bodies, address: u32) -> Share {
        let source = Source::Address(IpAddr::from(address.to_be_bytes()));
        Share { bodies: bodies.clone(), source, bytes: 0 }
    }

    #[test]
    fn one_caller_leaves_room_for_others_and_gets_its_own_back() {
        let bodies = Bodies::default();
        let mut first = share(&bodies, 1);
        first.grow(OF_ONE_CALLER).unwrap();
        assert_eq!(share(&bodies, 1).grow(1), Err(Full));
        share(&bodies, 2).grow(OF_ONE_CALLER).unwrap();
        drop(first);
        share(&bodies, 1).grow(OF_ONE_CALLER).unwrap();
        assert!(bodies.held().by_source.is_empty() && bodies.held().by_strangers == 0);
    }

    #[test]
    fn all_strangers_together_have_no_more_than_theirs() {
        let bodies = Bodies::default();
        let callers = (OF_STRANGERS / OF_ONE_CALLER) as u32;
        let mut shares: Vec<Share> = (0..callers).map(|caller| share(&bodies, caller)).collect();
        shares.iter_mut().for_each(|share| share.grow(OF_ONE_CALLER).unwrap());
        assert_eq!(share(&bodies, callers).grow(1), Err(Full));
        let known = identity::SerialNumber::from_octets(&[1; 16]).unwrap();
        let source = Source::Certificate(known);
        let mut known = Share { bodies, source, bytes: 0 };
        known.grow(OF_ONE_CALLER).unwrap();
    }
}
