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
}

impl Wire {
    /// Before its handshake.
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, left: Some(Limits::HANDSHAKE) }
    }

    /// The handshake has ended.
    pub(crate) fn open(&mut self) {
        self.left = None;
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if let Some(left) = &mut self.left {
            let came = buffer.filled().len() - before;
            if came > *left {
                let why = "the peer's handshake is longer than any";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            *left -= came;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.left = self.left.map(|_| Limits::HANDSHAKE);
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.left = self.left.map(|_| Limits::HANDSHAKE);
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
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
