//! Refusals in the diagnostics: so many a second, and how many more there were.
//!
//! Whoever is refused writes a line, and may be refused as often as requests are answered: without a
//! bound, some megabytes a second are a stranger's to write.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use authority::Error;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Says why a request was refused, unless too many were in this second.
pub(crate) fn tell(error: &Error, request_id: &str) {
    if LINES.check().is_err() {
        UNTOLD.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("countersign_refusals_untold_total").increment(1);
        return;
    }
    let untold = UNTOLD.swap(0, Ordering::Relaxed);
    if untold > 0 {
        tracing::warn!(untold, "requests refused, too many in a second to tell of each");
    }
    tracing::info!(request_id, %error, "request refused");
}

static LINES: LazyLock<DefaultDirectRateLimiter> =
    LazyLock::new(|| RateLimiter::direct(Quota::per_second(A_SECOND)));
static UNTOLD: AtomicU64 = AtomicU64::new(0);
/// More than anybody reads.
pub(crate) const A_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("it is not zero");
