//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use identity::{SerialNumber, SpiffeId, VerifiedSvid};

/// A verified peer. An HTTP service has it in the extensions of each request whose
/// client showed a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(Arc<VerifiedSvid>);

impl Peer {
    /// Who it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.0.spiffe_id()
    }

    /// Its certificate's serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        self.0.serial_number()
    }

    /// The last second of its certificate, since 1970.
    pub fn not_after(&self) -> i64 {
        self.0.not_after()
    }

    /// All that was verified.
    pub fn svid(&self) -> &VerifiedSvid {
        &self.0
    }
}

#[cfg(feature = "axum")]
mod extractor {
    use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
    use http::StatusCode;
    use http::request::Parts;

    use crate::peers::peer::Peer;

    /// Whoever is at the other end of the request's connection; 401 if nobody showed a certificate.
    impl<S: Sync> FromRequestParts<S> for Peer {
        type Rejection = (StatusCode, &'static str);

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
            let peer = parts.extensions.get::<Self>().cloned();
            peer.ok_or((StatusCode::UNAUTHORIZED, "a client certificate is required\n"))
        }
    }

    impl<S: Sync> OptionalFromRequestParts<S> for Peer {
        type Rejection = std::convert::Infallible;

        async fn from_request_parts(
            parts: &mut Parts,
            _: &S,
        ) -> Result<Option<Self>, Self::Rejection> {
            Ok(parts.extensions.get::<Self>().cloned())
        }
    }
}

impl From<VerifiedSvid> for Peer {
    fn from(svid: VerifiedSvid) -> Self {
        Self(Arc::new(svid))
    }
}

/// Where a connection comes from, in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

impl RemoteAddress {
    /// What one subscriber has: an IPv4 address, or an IPv6 /64, the smallest that can be told apart.
    pub fn network(&self) -> IpAddr {
        network(self.0.ip())
    }
}

/// The same of an address alone.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !(u128::MAX >> 64)).into()),
        v4 => v4,
    }
}
