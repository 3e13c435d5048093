//! Each caller has a share of requests: a line of renewals its own, and strangers that of their
//! address, or of the token that they name.
//!
//! So a flood from an operator's address (NAT, a load balancer) does not refuse the operator, and who
//! renews its certificate again and again has no more than before. Behind a NAT, or a load balancer that
//! hides who calls, one stranger has the address of all: whoever has a token there is let in by that,
//! which costs a look-up, and only where the address has nothing left.

use std::net::IpAddr;
use std::num::NonZeroU32;

use countersign::{Peer, Place, RemoteAddress, Standing};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::Extensions;
use identity::SerialNumber;
use tlog::Hash;

/// A bucket for each caller, and each token.
#[derive(Debug)]
pub(crate) struct RateLimit(Option<Buckets>);

#[derive(Debug)]
struct Buckets {
    sources: DefaultKeyedRateLimiter<Source>,
    tokens: DefaultKeyedRateLimiter<Hash>,
    /// For what everybody begins by, beyond the share.
    starts: DefaultKeyedRateLimiter<Source>,
}

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
            let tokens = Quota::per_second(NonZeroU32::MIN).allow_burst(OF_A_TOKEN);
            Buckets {
                sources: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)),
                tokens: RateLimiter::keyed(tokens),
                starts: RateLimiter::keyed(Quota::per_second(rate.saturating_mul(STARTS))),
            }
        });
        Self(limiter)
    }

    pub(crate) fn admits(&self, extensions: &Extensions) -> bool {
        let (Some(buckets), Some(source)) = (&self.0, Source::of(extensions)) else {
            return true;
        };
        buckets.sources.check_key(&source).is_ok()
    }

    /// The same for whoever names a token. Only of those that live: each takes its memory.
    pub(crate) fn admits_token(&self, token: &Hash) -> bool {
        self.0.as_ref().is_none_or(|buckets| buckets.tokens.check_key(token).is_ok())
    }

    /// The same for whoever has no share left, and asks for what it begins by.
    pub(crate) fn admits_start(&self, extensions: &Extensions) -> bool {
        let (Some(buckets), Some(source)) = (&self.0, Source::of(extensions)) else {
            return true;
        };
        buckets.starts.check_key(&source).is_ok()
    }

    /// Forgets callers whose bucket is full again.
    pub(crate) fn forget(&self) {
        if let Some(Buckets { sources, tokens, starts }) = &self.0 {
            sources.retain_recent();
            tokens.retain_recent();
            starts.retain_recent();
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
        extensions.get::<RemoteAddress>().map(|remote| Self::Address(remote.network()))
    }
}

/// Requests that a token has at once beside those of its address, and one a second more: it is used
/// once, and asked with again where an answer is lost.
pub(crate) const OF_A_TOKEN: NonZeroU32 = NonZeroU32::new(5).expect("five is not zero");

/// How many times its share an address may begin beside it: each costs little more than a refusal.
const STARTS: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
