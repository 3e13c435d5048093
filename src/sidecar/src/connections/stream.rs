//! A verified connection, as whoever uses it has it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::connections::Registered;
use crate::connections::connection::Connection;
use crate::error::Error;
use crate::peers::peer::Peer;

/// A connection with a verified peer, in either direction: bytes in, bytes out.
///
/// It ends when its peer is revoked, denied, no longer trusted or no longer among the peers
/// accepted, and at most 20 s after its peer's certificate has expired, whether or not it is used
/// meanwhile. The socket is closed at once then; reading and writing fail with
/// [`io::ErrorKind::ConnectionAborted`] around the [`Refusal`](crate::Refusal).
pub struct Stream {
    connection: Arc<Connection>,
    _registered: Registered,
}

impl Stream {
    pub(crate) fn new(connection: Arc<Connection>, registered: Registered) -> Self {
        Self { connection, _registered: registered }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.connection.peer()
    }

    /// Where the other end is.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote()
    }

    /// Says what an error of reading or writing means: [`Error::Peer`] if we ended the connection,
    /// [`Error::Refused`] if the other end does not take our certificate, which a client learns
    /// only when it reads.
    pub fn explain(&self, error: io::Error) -> Error {
        self.connection.explain(self.connection.remote().to_string(), error.into())
    }

    /// Whether its handshake resumed an earlier session: see [`Endpoint::allow_resumption`].
    ///
    /// [`Endpoint::allow_resumption`]: crate::Endpoint::allow_resumption
    pub fn has_resumed(&self) -> bool {
        self.connection.has_resumed()
    }

    /// The key exchange of its handshake, as IANA names it; none once it is closed.
    pub fn key_exchange(&self) -> Option<String> {
        self.connection.key_exchange()
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.poll_read(cx, |tls, cx| tls.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.poll_write(cx, |tls, cx| tls.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write =
            |tls: Pin<&mut TlsStream<_>>, cx: &mut Context<'_>| tls.poll_write_vectored(cx, slices);
        self.connection.poll_write(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_write(cx, |tls, cx| tls.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_write(cx, |tls, cx| tls.poll_shutdown(cx))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abandon();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("peer", &self.peer().spiffe_id())
            .field("remote", &self.remote_address())
            .field("phase", &self.connection.phase())
            .finish()
    }
}
