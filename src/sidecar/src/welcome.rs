//! Whom a connection is for: asked in its handshake, after it, and again when something changed.

use std::sync::Arc;

use identity::Usage;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::error::{OtherServer, refuse};
use crate::handshake::ExpectedServer;
use crate::peer::Peer;
use crate::peers::LivePeers;
use crate::refusal::RefusedPeer;
use crate::verification::{Epoch, Verification};

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
    /// Verifies a chain, and that it is the one of somebody welcome; says in which epoch.
    pub(crate) fn believe(
        &self,
        verification: &Verification,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(Peer, Epoch), rustls::Error> {
        let refused = |refusal| refuse(RefusedPeer::new(refusal, chain.first()));
        let verified = match self {
            Self::Among(_) | Self::Anyone => verification.admit(chain, usage, now),
            // From the CA comes what makes old revocations fresh: their age is no reason to refuse it.
            Self::Authority(_) => verification.verify_in_epoch(chain, usage, now),
        };
        let (peer, epoch) = verified.map_err(refused)?;
        match self {
            Self::Among(peers) => peers.check(peer.svid()).map_err(refused)?,
            Self::Authority(ExpectedServer(expected)) if peer.spiffe_id() != expected => {
                let (expected, found) = (expected.clone(), peer.spiffe_id().clone());
                return Err(refuse(OtherServer { expected, found }));
            }
            Self::Anyone | Self::Authority(_) => {}
        }
        Ok((peer, epoch))
    }

    /// The peers named, who may be replaced while the connection is open.
    pub(crate) fn peers(&self) -> Option<&Arc<LivePeers>> {
        match self {
            Self::Among(peers) => Some(peers),
            Self::Anyone | Self::Authority(_) => None,
        }
    }
}
