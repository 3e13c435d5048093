//! A socket below TLS, on which a handshake has so many bytes.
//!
//! TLS keeps a message of a handshake until it is whole, and one may announce 64 KiB. Nobody's
//! handshake has that: a client sends its hello, and a chain of certificates after ours. So what comes
//! before a handshake ends, between one word of ours and the next, is bounded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::Limits;

/// The socket of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    /// Bytes that the other end may send before we say something; none once the handshake has ended.
    left: Option<usize>,
    /// What a client began with, where it is one.
    first: First,
}

/// The first byte that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// A capital letter: a request of HTTP, and no record of TLS.
    Letter,
    /// It has not come yet.
    ToCome,
    /// Whatever it is, TLS says what it thinks of it.
    Told,
}

impl Wire {
    /// To a server, before its handshake.
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, left: Some(ROOM), first: First::Told }
    }

    /// From a client, before its handshake.
    pub(crate) fn accepted(socket: TcpStream) -> Self {
        Self { first: First::ToCome, ..Self::new(socket) }
    }

    /// The handshake has ended.
    pub(crate) fn open(&mut self) {
        self.left = None;
    }

    /// Whether somebody speaks HTTP without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.first == First::Letter
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn said(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.left = self.left.map(|_| ROOM);
        }
    }
}

/// Whoever ends a handshake may begin to ask at once, and TLS reads that record to its end: it may
/// have so much (RFC 8446 §5.2).
const ROOM: usize = Limits::HANDSHAKE + 16 * 1024 + 256 + 5;

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == Some(0) {
            let why = "the peer's handshake is longer than any";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        let first = buffer.filled().get(before).filter(|_| self.first == First::ToCome);
        if let Some(first) = first {
            self.first = if first.is_ascii_uppercase() { First::Letter } else { First::Told };
            if self.is_plain() {
                // Before TLS sees it, and answers what nobody can read.
                let why = "the peer speaks HTTP, without TLS";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
        // What ends a handshake may have a request behind it.
        self.left = self.left.map(|left| left.saturating_sub(came));
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.said(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.said(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
