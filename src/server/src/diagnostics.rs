//! One line for each request that did something or was refused: who asked, from where, for what, what
//! came of it, and how long it took. Requests that only read are told with `--verbose`.
//!
//! Whoever is refused writes a line, and may be refused as often as requests are answered: without a
//! bound, some megabytes a second are a stranger's to write. So of refusals so many a second are told,
//! and how many more there were; of failures as well, which anybody causes while the CA is halted. What
//! strangers cause takes no line from workloads, nor either from operators.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use countersign::{Peer, RemoteAddress};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::Method;
use identity::SerialNumber;

/// What an act did: a handler leaves it with its answer.
#[derive(Debug, Clone)]
pub(crate) struct Did {
    what: &'static str,
    subject: String,
    serial_number: Option<SerialNumber>,
    log_index: Option<u64>,
}

impl Did {
    pub(crate) fn new(what: &'static str, subject: impl fmt::Display) -> Self {
        Self { what, subject: subject.to_string(), serial_number: None, log_index: None }
    }

    pub(crate) fn to(self, serial_number: SerialNumber) -> Self {
        Self { serial_number: Some(serial_number), ..self }
    }

    pub(crate) fn at(self, log_index: Option<u64>) -> Self {
        Self { log_index, ..self }
    }
}

/// Why a request was refused: its problem leaves it with the answer.
#[derive(Debug, Clone)]
pub(crate) struct Why(pub(crate) String);

/// A request, before it is answered.
pub(crate) struct Asked {
    method: Method,
    route: &'static str,
    remote: Option<SocketAddr>,
    caller: Option<Peer>,
    request_id: String,
    begun: Instant,
}

impl Asked {
    /// `route` as the table of routes has it: the path itself is the caller's to write.
    pub(crate) fn new(request: &Request, route: &'static str, request_id: &str) -> Self {
        let extensions = request.extensions();
        Self {
            method: request.method().clone(),
            route,
            remote: extensions.get::<RemoteAddress>().map(|remote| remote.0),
            caller: extensions.get::<Peer>().cloned(),
            request_id: request_id.to_owned(),
            begun: Instant::now(),
        }
    }

    /// Whether an operator asks: of this CA, or the handshake would have failed.
    pub(crate) fn is_by_operator(&self) -> bool {
        self.caller.as_ref().is_some_and(|peer| peer.spiffe_id().operator_name().is_some())
    }

    /// Tells what came of it, and measures it.
    pub(crate) fn answered(self, response: &Response) {
        let Self { method, route, remote, caller, request_id, begun } = self;
        let (took, status) = (begun.elapsed(), response.status());
        let outcome = outcome(status.as_u16());
        metrics::counter!("countersign_requests_total", "status" => outcome).increment(1);
        metrics::histogram!(DURATION, "route" => route, "outcome" => outcome).record(took);
        let status = status.as_u16();
        // To the microsecond: a float has more digits than the clock.
        let milliseconds = took.as_micros() as f64 / 1e3;
        let who = caller.as_ref().map(|peer| tracing::field::display(peer.spiffe_id()));
        let by = caller.as_ref().map(|peer| tracing::field::display(peer.serial_number()));
        let remote = remote.map(tracing::field::display);
        let extensions = response.extensions();
        match (extensions.get::<Did>(), extensions.get::<Why>()) {
            (Some(Did { what, subject, serial_number, log_index }), _) => {
                let serial_number = serial_number.map(tracing::field::display);
                tracing::info!(
                    request_id, who, by, remote, %method, route, status, milliseconds, subject,
                    serial_number, log_index, "{what}"
                );
            }
            (None, Some(Why(why))) => {
                let lines = Lines::of(caller.as_ref(), status);
                let Some(untold) = lines.may_tell() else { return };
                lines.tell_untold(untold);
                if status >= 500 {
                    tracing::error!(
                        request_id, who, by, remote, %method, route, status, milliseconds, why,
                        "request failed"
                    );
                } else {
                    tracing::info!(
                        request_id, who, by, remote, %method, route, status, milliseconds, why,
                        "request refused"
                    );
                }
            }
            (None, None) => {
                tracing::debug!(
                    request_id, who, by, remote, %method, route, status, milliseconds, "request"
                );
            }
        }
    }
}

/// The lines for what one kind of caller is refused, or what fails for it.
struct Lines {
    of: &'static str,
    rate: LazyLock<DefaultDirectRateLimiter>,
    untold: AtomicU64,
}

impl Lines {
    const fn new(of: &'static str) -> Self {
        Self {
            of,
            rate: LazyLock::new(|| RateLimiter::direct(Quota::per_second(REFUSALS_A_SECOND))),
            untold: AtomicU64::new(0),
        }
    }

    fn of(caller: Option<&Peer>, status: u16) -> &'static Self {
        let [refused, failed] = match caller.map(|peer| peer.spiffe_id().operator_name()) {
            None => &OF_STRANGERS,
            Some(None) => &OF_WORKLOADS,
            Some(Some(_)) => &OF_OPERATORS,
        };
        if status >= 500 { failed } else { refused }
    }

    /// How many were not told since the last, if this one is to be.
    fn may_tell(&self) -> Option<u64> {
        if self.rate.check().is_ok() {
            return Some(self.untold.swap(0, Ordering::Relaxed));
        }
        self.untold.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("countersign_refusals_untold_total").increment(1);
        None
    }

    fn tell_untold(&self, untold: u64) {
        if untold > 0 {
            tracing::warn!(untold, "requests of {}, too many in a second to tell all", self.of);
        }
    }
}

pub(crate) fn outcome(status: u16) -> &'static str {
    match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// Those refused, and those that failed.
static OF_STRANGERS: [Lines; 2] =
    [Lines::new("strangers were refused"), Lines::new("strangers failed")];
static OF_WORKLOADS: [Lines; 2] =
    [Lines::new("workloads were refused"), Lines::new("workloads failed")];
static OF_OPERATORS: [Lines; 2] =
    [Lines::new("operators were refused"), Lines::new("operators failed")];
/// Of each kind of caller, and of failures as many: more than anybody reads.
pub(crate) const REFUSALS_A_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("it is not zero");
pub(crate) const DURATION: &str = "countersign_request_duration_seconds";
