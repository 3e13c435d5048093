//! Who is let in: a chain is believed in its handshake, and once more when its connection is
//! registered.

use std::net::SocketAddr;
use std::sync::Arc;

use identity::{Refusal, SerialNumber, Usage};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::TlsStream;

use crate::connections::connection::Connection;
use crate::connections::stream::Stream;
use crate::connections::wire::Wire;
use crate::error::cause::{OtherServer, RefusedPeer, refuse};
use crate::peers::peer::Peer;
use crate::peers::welcome::{ExpectedServer, Welcome};
use crate::verification::Verification;
use crate::verification::epoch::Epoch;

/// Takes a connection whose handshake is done, in which we showed `own`: registers it, and only then
/// believes its verdict.
pub(crate) fn admit(
    verification: &Arc<Verification>,
    tls: TlsStream<Wire>,
    remote: SocketAddr,
    usage: Usage,
    welcome: Welcome,
    own: Option<SerialNumber>,
) -> Result<Stream, rustls::Error> {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let (peer, epoch) = believe(chain, usage, verification.now(), &welcome, verification)?;
    let connection = Connection::new(tls, remote, peer, usage, welcome, own);
    let registered = verification.registry().register(&connection);
    let stream = Stream::new(Arc::clone(&connection), registered);
    match compare(verification, &connection, epoch) {
        Ok(()) => Ok(stream),
        Err(refusal) => {
            connection.close(&refusal);
            let serial_number = Some(*connection.peer().serial_number());
            Err(refuse(RefusedPeer { refusal, serial_number }))
        }
    }
}

/// Judges a registered connection again if anything changed since it was verified.
fn compare(
    verification: &Verification,
    connection: &Connection,
    verified_in: Epoch,
) -> Result<(), Refusal> {
    if let Some(peers) = connection.welcome().peers() {
        peers.check(connection.peer().svid())?;
    }
    if verification.epoch() == verified_in {
        return Ok(());
    }
    let chain = connection.chain();
    if chain.is_empty() {
        // The change has found it already.
        return Ok(());
    }
    verification.verify(&chain, connection.usage(), verification.now()).map(drop)
}

/// Verifies a chain, and that it is the one of somebody welcome; says in which epoch.
pub(crate) fn believe(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    welcome: &Welcome,
    verification: &Verification,
) -> Result<(Peer, Epoch), rustls::Error> {
    let refused = |refusal| refuse(RefusedPeer::new(refusal, chain.first()));
    let verified = match welcome {
        Welcome::Among(_) | Welcome::Anyone => verification.admit(chain, usage, now),
        // From the CA comes what makes old revocations fresh: their age is no reason to refuse it.
        Welcome::Authority(_) => verification.verify_in_epoch(chain, usage, now),
    };
    let (peer, epoch) = verified.map_err(refused)?;
    match welcome {
        Welcome::Among(peers) => peers.check(peer.svid()).map_err(refused)?,
        Welcome::Authority(ExpectedServer(expected)) if peer.spiffe_id() != expected => {
            let (expected, found) = (expected.clone(), peer.spiffe_id().clone());
            return Err(refuse(OtherServer { expected, found }));
        }
        Welcome::Anyone | Welcome::Authority(_) => {}
    }
    Ok((peer, epoch))
}
