//! Whether a connection over HTTP/1 is between two requests.
//!
//! hyper alone knows whether all of a body has come and all of its answer was taken in. It starts the
//! clock of a header when both are so, and at no other time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// Whether the last request has been answered to its end, and nothing of it can still come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered(Arc<AtomicU8>);

impl Answered {
    /// HTTP begins, and waits for its first request.
    pub(crate) fn begin(&self) {
        self.0.store(FIRST, Ordering::Release);
    }

    /// A request has come.
    pub(crate) fn asked(&self) {
        self.0.store(ASKED, Ordering::Release);
    }

    /// That another request is waited for.
    pub(crate) fn is_last_word(&self) -> bool {
        self.0.load(Ordering::Acquire) == ANSWERED
    }

    fn awaits_header(&self) {
        let _ = self.0.compare_exchange(ASKED, ANSWERED, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// No request has come yet.
const FIRST: u8 = 0;
const ASKED: u8 = 1;
const ANSWERED: u8 = 2;

/// hyper's clock, of which a header is the only use over HTTP/1.
#[derive(Debug, Clone)]
pub(crate) struct HeaderClock(pub(crate) Answered);

impl Timer for HeaderClock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.awaits_header();
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.awaits_header();
        TokioTimer::new().sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.awaits_header();
        TokioTimer::new().reset(sleep, deadline);
    }
}
