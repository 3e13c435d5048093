//! Each caller has a share of requests: a line of renewals its own, and strangers that of their
//! address.
//!
//! So a flood from an operator's address (NAT, a load balancer) does not refuse the operator, and who
//! renews its certificate again and again has no more than before.

use std::net::IpAddr;
use std::num::NonZeroU32;

use countersign::{Peer, Place, RemoteAddress, Standing};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Extensions;
use identity::SerialNumber;

/// A bucket for each caller.
#[derive(Debug)]
pub(crate) struct RateLimit(Option<DefaultKeyedRateLimiter<Source>>);

/// Who sends requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// IPv6: a /64.
    Address(IpAddr),
    /// By the first certificate of its line.
    Line(SerialNumber),
    /// The same of an operator, who ends what others do.
    Operator(SerialNumber),
}

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
        let (Some(limiter), Some(source)) = (&self.0, Source::of(extensions)) else {
            return true;
        };
        limiter.check_key(&source).is_ok()
    }

    /// Forgets callers whose bucket is full again.
    pub(crate) fn forget(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
        }
    }
}

impl Source {
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        match extensions.get::<Place>().map(Place::standing) {
            Some(Standing { line, is_reserved: true }) => return Some(Self::Operator(line)),
            Some(Standing { line, is_reserved: false }) => return Some(Self::Line(line)),
            None => {}
        }
        if let Some(peer) = extensions.get::<Peer>() {
            return Some(Self::Line(*peer.serial_number()));
        }
        extensions.get::<RemoteAddress>().map(|remote| Self::Address(network(remote.0.ip())))
    }
}

/// One subscriber has a /64: it is the smallest that can be told apart.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !(u128::MAX >> 64);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}
