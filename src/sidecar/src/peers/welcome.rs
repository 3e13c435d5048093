//! Whom a connection is for: asked in its handshake, after it, and again when something changed.

use std::sync::Arc;

use identity::{SpiffeId, TrustDomain};

use crate::peers::LivePeers;

/// Who may be at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Welcome {
    /// Any of these, with a certificate.
    Among(Arc<LivePeers>),
    /// Whoever verifies; at a server, whoever shows nothing too.
    Anyone,
    /// The CA, as its clients want it.
    Authority(ExpectedServer),
}

impl Welcome {
    /// The peers named, who may be replaced while the connection is open.
    pub(crate) fn peers(&self) -> Option<&Arc<LivePeers>> {
        match self {
            Self::Among(peers) => Some(peers),
            Self::Anyone | Self::Authority(_) => None,
        }
    }
}

/// Who must answer: the workload that has exactly this ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedServer(pub SpiffeId);

impl ExpectedServer {
    /// The CA of a trust domain.
    pub fn authority(trust_domain: &TrustDomain) -> Self {
        Self(SpiffeId::authority(trust_domain))
    }
}
