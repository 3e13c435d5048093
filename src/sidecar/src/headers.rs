//! What the headers of HTTP/2 requests hold: those in flight on one connection, and of these the ones
//! that wait until their peer has read more.
//!
//! What would make them hold more is refused, as the protocol has it (RFC 9113 §8.7): it was not begun,
//! and may be sent again. So is a request with a body that would have to wait: its body would, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use hyper::body::{Body, Incoming};

use crate::limits::Limits;

/// The headers of one connection's requests.
#[derive(Debug)]
pub(crate) struct Headers {
    in_flight: Arc<Budget>,
    waiting: Arc<Budget>,
}

impl Headers {
    /// With room for so many bytes in all.
    pub(crate) fn new(most: usize) -> Self {
        let of = |most| Arc::new(Budget { most, held: AtomicUsize::new(0) });
        Self { in_flight: of(most), waiting: of(most.min(Limits::WAITING)) }
    }

    /// Room for a request's header until it is answered.
    pub(crate) fn begin(&self, request: &Request<Incoming>) -> Option<Held> {
        self.in_flight.take(size(request))
    }

    /// The same until the request may begin.
    pub(crate) fn wait(&self, request: &Request<Incoming>) -> Option<Held> {
        request.body().is_end_stream().then(|| self.waiting.take(size(request))).flatten()
    }
}

#[derive(Debug)]
struct Budget {
    most: usize,
    held: AtomicUsize,
}

impl Budget {
    fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let before = self.held.fetch_add(bytes, Ordering::AcqRel);
        let held = Held { bytes, budget: Arc::clone(self) };
        (before + bytes <= self.most).then_some(held)
    }
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// As RFC 7541 §4.1 counts it.
fn size(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}
