//! Whom a connection is for: asked in its handshake, after it, and again when something changed.

use std::sync::Arc;

use identity::{Refusal, Usage, VerifiedSvid};
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
    Exactly(ExpectedServer),
}

impl Welcome {
    /// Verifies a chain; says in which epoch.
    pub(crate) fn verify(
        &self,
        verification: &Verification,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(Peer, Epoch), Refusal> {
        match self {
            Self::Among(_) | Self::Anyone => verification.admit(chain, usage, now),
            // From the CA comes what makes old revocations fresh: their age is no reason to refuse it.
            Self::Exactly(_) => verification.verify_in_epoch(chain, usage, now),
        }
    }

    /// Refuses, in a handshake, whoever verified and is somebody else.
    pub(crate) fn check(
        &self,
        svid: &VerifiedSvid,
        shown: &CertificateDer<'_>,
    ) -> Result<(), rustls::Error> {
        match self {
            Self::Among(peers) => {
                peers.check(svid).map_err(|refusal| refuse(RefusedPeer::new(refusal, shown)))
            }
            Self::Exactly(ExpectedServer(expected)) if svid.spiffe_id() != expected => {
                let (expected, found) = (expected.clone(), svid.spiffe_id().clone());
                Err(refuse(OtherServer { expected, found }))
            }
            Self::Anyone | Self::Exactly(_) => Ok(()),
        }
    }

    /// The peers named, who may be replaced while the connection is open.
    pub(crate) fn peers(&self) -> Option<&Arc<LivePeers>> {
        match self {
            Self::Among(peers) => Some(peers),
            Self::Anyone | Self::Exactly(_) => None,
        }
    }
}
