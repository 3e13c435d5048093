//! Each source address has a share of requests.

use std::net::IpAddr;
use std::num::NonZeroU32;

use countersign::RemoteAddress;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Extensions;

/// A bucket for each source address (IPv6: each /64).
#[derive(Debug)]
pub(crate) struct RateLimit(Option<DefaultKeyedRateLimiter<IpAddr>>);

impl RateLimit {
    /// So many requests a second, in bursts of twice as many; 0 is no limit.
    pub(crate) fn new(requests_per_second: u32) -> Self {
        let limiter = NonZeroU32::new(requests_per_second).map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst))
        });
        Self(limiter)
    }

    pub(crate) fn admits(&self, extensions: &Extensions) -> bool {
        let (Some(limiter), Some(remote)) = (&self.0, extensions.get::<RemoteAddress>()) else {
            return true;
        };
        limiter.check_key(&source(remote.0.ip())).is_ok()
    }

    /// Forgets addresses whose bucket is full again.
    pub(crate) fn forget(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
        }
    }
}

/// One subscriber has a /64: it is the smallest that can be told apart.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !(u128::MAX >> 64);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}
