//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use identity::{SerialNumber, SpiffeId, VerifiedSvid};

/// A verified peer. [`serve`](crate::serve()) puts it into the extensions of each request whose
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

impl From<VerifiedSvid> for Peer {
    fn from(svid: VerifiedSvid) -> Self {
        Self(Arc::new(svid))
    }
}

/// Where a connection comes from, in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);
