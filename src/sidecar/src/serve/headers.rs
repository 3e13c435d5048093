//! What the headers of HTTP/2 requests hold: those in flight on one connection, and of these the ones
//! that wait until their peer has read more; and how many of them have a body.
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
    bodies: Arc<Budget>,
}

impl Headers {
    /// With room for so many bytes in all, and so many requests with a body.
    pub(crate) fn new(most: usize, bodies: usize) -> Self {
        let of = |most| Arc::new(Budget { most, held: AtomicUsize::new(0) });
        let waiting = of((most / 2).min(Limits::WAITING));
        Self { in_flight: of(most), waiting, bodies: of(bodies) }
    }

    /// Room for a request, its header and its body, until it is answered.
    pub(crate) fn begin(&self, request: &Request<Incoming>) -> Option<[Held; 2]> {
        let body = self.bodies.take(usize::from(!request.body().is_end_stream()))?;
        Some([self.in_flight.take(size(request))?, body])
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
    fn take(self: &Arc<Self>, amount: usize) -> Option<Held> {
        let before = self.held.fetch_add(amount, Ordering::AcqRel);
        let held = Held { amount, budget: Arc::clone(self) };
        (before + amount <= self.most).then_some(held)
    }
}

/// What is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    amount: usize,
    budget: Arc<Budget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// As RFC 7541 §4.1 counts it.
fn size(request: &Request<Incoming>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}
