//! The accepting side of TLS: from a TCP connection to a peer that is verified and registered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{SerialNumber, Usage};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connections::stream::Stream;
use crate::connections::wire::Wire;
use crate::handshake::HTTP_2;
use crate::handshake::alert::with_alerts;
use crate::handshake::credentials::Credentials;
use crate::handshake::resumption::Tls;
use crate::limits::Limits;
use crate::peers::welcome::Welcome;
use crate::places::Places;
use crate::places::handshakes::Handshaking;
use crate::refusal::{report_failure, report_timeout};
use crate::verification::Verification;
use crate::verification::admission::admit;

/// What the handshakes of one listener share.
pub(crate) struct Secure {
    pub(crate) tls: Tls<ServerConfig>,
    pub(crate) verification: Arc<Verification>,
    /// What we show, for diagnostics.
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// Who may come.
    pub(crate) welcome: Welcome,
    /// How many.
    pub(crate) places: Places,
}

/// Who came in.
pub(crate) enum Client {
    /// Somebody who showed no certificate, where none is required.
    /// It keeps its place: nobody knows how many of them are one.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only the CA serves them"))]
    Anonymous(Box<TlsStream<Wire>>, Handshaking),
    /// A peer.
    Verified(Stream),
}

impl Secure {
    /// Shakes hands; none if that failed or lasted too long, which is reported here.
    pub(crate) async fn shake_hands(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        place: Handshaking,
    ) -> Option<Client> {
        // Answers are written whole: waiting for more of them only delays.
        let _ = stream.set_nodelay(true);
        let handshake = async {
            // An error is the handshake's, too.
            let _ = stream.peek(&mut [0]).await;
            place.speaks();
            let tls = self.tls_for(&place);
            TlsAcceptor::from(tls).accept(Wire::accepted(stream)).into_fallible().await
        };
        let handshake = tokio::time::timeout(self.places.limits().handshake_timeout, handshake);
        let (shaken, verdict) = tokio::select! {
            shaken = with_alerts(handshake) => shaken,
            () = place.cut() => return None,
        };
        match shaken {
            Ok(Ok(mut stream)) => {
                let (wire, tls) = stream.get_mut();
                wire.open();
                let unsent = self.places.limits().unread / RECORDS;
                tls.set_buffer_limit(Some(unsent.clamp(SMALL_RECORD, FULL_RECORD)));
                if stream.get_ref().1.peer_certificates().is_some() {
                    return self.seat(self.admit(stream, remote)?, place).await;
                }
                if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
                    place.withdraw_http_2();
                }
                // Where a certificate is required, the handshake has not come this far without.
                let anonymous = || Client::Anonymous(Box::new(stream), place);
                matches!(self.welcome, Welcome::Anyone).then(anonymous)
            }
            Ok(Err((error, stream))) => {
                let error = verdict.map_or(error, io::Error::other);
                report_failure(&error, remote, self.own());
                let _ = tokio::time::timeout(LINGER, linger(stream)).await;
                None
            }
            Err(_) => {
                report_timeout(remote);
                None
            }
        }
    }

    /// Who may be without a certificate is not offered what many of them cannot have.
    fn tls_for(&self, place: &Handshaking) -> Arc<ServerConfig> {
        let tls = self.tls.of_now();
        let is_limited = matches!(self.welcome, Welcome::Anyone);
        if !is_limited || place.offers_http_2(Limits::STRANGERS_OVER_HTTP_2) {
            return tls;
        }
        metrics::counter!("countersign_http_two_not_offered_total").increment(1);
        let mut tls = (*tls).clone();
        tls.alpn_protocols.retain(|protocol| protocol != HTTP_2);
        Arc::new(tls)
    }

    /// Gives a peer the place that it has from now on.
    async fn seat(&self, stream: Stream, handshake: Handshaking) -> Option<Client> {
        let connection = stream.connection();
        let weak = Arc::downgrade(connection);
        let gives_way = move || {
            if let Some(connection) = weak.upgrade() {
                connection.give_way();
            }
        };
        let seated = self.places.seat(connection.peer(), connection.remote(), Box::new(gives_way));
        let seat = tokio::select! {
            seat = seated => seat.ok()?,
            () = handshake.cut() => return None,
        };
        connection.keep_place(seat);
        Some(Client::Verified(stream))
    }

    fn admit(&self, stream: TlsStream<Wire>, remote: SocketAddr) -> Option<Stream> {
        let welcome = self.welcome.clone();
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        match admit(&self.verification, stream.into(), remote, Usage::Client, welcome, self.own()) {
            Ok(stream) => Some(stream),
            Err(refused) => {
                report_failure(&refused, remote, self.own());
                if resumed {
                    // It has the next session already: a whole handshake is to say why.
                    self.tls.forget_sessions();
                }
                None
            }
        }
    }

    fn own(&self) -> Option<SerialNumber> {
        self.credentials.as_ref()?.serial_number()
    }
}

/// Lets the alert reach the peer. To close with bytes unread resets the connection, and a reset
/// overtakes the alert; so read on for a moment.
async fn linger(mut stream: Wire) {
    stream.open();
    if stream.is_plain() && stream.write_all(SPEAKS_TLS).await.is_err() {
        return;
    }
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(MAX_LINGER);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }
}

/// What TLS keeps of what is written until the kernel takes it is one record: a full one (RFC 8446
/// §5.1), or less where answers may hold little. Each that nobody reads keeps it for the write timeout.
/// At the CA it is 2.7 KiB: an answer with a certificate is 2.2, and one write instead of two.
const FULL_RECORD: usize = 16 * 1024;
const SMALL_RECORD: usize = 1024;
const RECORDS: usize = 24;
/// For who forgot the `s` of `https://`.
const SPEAKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 31\r\nconnection: close\r\n\r\nthis port speaks TLS: https://\n";
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// More than a client sends before it has read an alert, or an answer.
pub(crate) const MAX_LINGER: u64 = 256 * 1024;
