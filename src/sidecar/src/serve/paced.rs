//! A transport whose other end must take what is written, and may not chatter.
//!
//! Two things a peer does without asking anything, and at our cost: it does not read, so what we
//! wrote waits in our memory and its connection keeps a place; or it sends frames of HTTP/2 that
//! are no requests (SETTINGS, PING, PRIORITY, …) or none that comes to an answer, each of which we
//! read, decrypt and often answer.
//! Either ends its connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::limits::UNSENT_IN_KERNEL;
use crate::serve::frames::Frames;

/// A transport that fails where its other end is too slow, or too busy with nothing.
pub(crate) struct Paced<IO> {
    transport: IO,
    patience: Duration,
    /// Runs while something cannot be written.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Of HTTP/2.
    frames: Option<Frames>,
}

impl<IO> Paced<IO> {
    /// What is written must move within `patience`.
    pub(crate) fn new(transport: IO, patience: Duration) -> Self {
        Self { transport, patience, stuck: None, frames: None }
    }

    /// For HTTP/2: looks at the frames that come in, too, each of so many bytes at most; requests that
    /// are no chatter are counted there.
    pub(crate) fn with_frames(self, most: u32, settled: Arc<AtomicU64>) -> Self {
        Self { frames: Some(Frames::new(most, settled)), ..self }
    }

    fn paced<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if stuck.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(cut("unread", io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

/// Has the kernel keep little that the peer makes no room for. (A user timeout would end a quiet stream
/// that nobody reads, too; and, measured, whoever reads all the time but slowly.)
pub(crate) fn bound_kernel(stream: &TcpStream) {
    // It fails where the peer has gone already.
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_IN_KERNEL);
}

/// Why a connection is ended here, counted.
pub(crate) fn cut(reason: &'static str, kind: io::ErrorKind, why: &'static str) -> io::Error {
    metrics::counter!(CUT, "reason" => reason).increment(1);
    io::Error::new(kind, why)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.transport).poll_read(cx, buffer);
        if let (Poll::Ready(Ok(())), Some(frames)) = (&read, &mut this.frames)
            && !frames.may_send(&buffer.filled()[before..])
        {
            let why = "the peer sends too many frames that ask for nothing, or too large a one";
            return Poll::Ready(Err(cut("frames", io::ErrorKind::ConnectionAborted, why)));
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.credit(&written);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        self.credit(&written);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.paced(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.paced(cx, shut)
    }
}

impl<IO> Paced<IO> {
    /// Who is sent much has much to acknowledge.
    fn credit(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(bytes)), Some(frames)) = (written, &mut self.frames) {
            frames.credit(*bytes);
        }
    }
}

pub(crate) const CUT: &str = "countersign_connections_cut_total";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn peer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = duplex(16);
        let mut paced = Paced::new(ours, PATIENCE);
        let begun = tokio::time::Instant::now();
        let error = paced.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_reads_slowly_is_not() {
        let (ours, mut theirs) = duplex(16);
        let mut paced = Paced::new(ours, PATIENCE);
        let writing = tokio::spawn(async move { paced.write_all(&[0; 160]).await });
        for _ in 0..16 {
            tokio::time::sleep(PATIENCE / 2).await;
            theirs.read_exact(&mut [0; 10]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn settings_without_end_are_cut_and_those_of_a_download_are_not() {
        const WINDOW_UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0];
        let (ours, mut theirs) = duplex(1 << 20);
        let mut paced = Paced::new(ours, PATIENCE).with_frames(1 << 14, Arc::default());
        let mut room = vec![0; 1 << 16];
        theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        paced.read_exact(&mut room[..24]).await.unwrap();
        for _ in 0..20_000 {
            paced.write_all(&[0; 4096]).await.unwrap();
            theirs.write_all(&WINDOW_UPDATE).await.unwrap();
            paced.read_exact(&mut room[..13]).await.unwrap();
            theirs.read_exact(&mut room[..4096]).await.unwrap();
        }
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let mut cut = None;
        for _ in 0..20_000 {
            theirs.write_all(&settings).await.unwrap();
            cut = paced.read_exact(&mut room[..9]).await.err();
            if cut.is_some() {
                break;
            }
        }
        assert_eq!(cut.unwrap().kind(), io::ErrorKind::ConnectionAborted);
    }
}
