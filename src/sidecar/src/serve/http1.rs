//! HTTP/1.1 on one connection.
//!
//! hyper keeps a buffer of 8 KiB for each direction as long as it serves a connection. Most connections
//! say nothing most of the time: so hyper begins with the first byte of a request, and where a request
//! was read to its end and answered, it is put away with its buffers until the next one comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use super::{BUFFER, closed, drive, past, until_end};
use crate::connections::connection::{Connection, Phase};
use crate::error::cause::BoxError;
use crate::limits::Limits;
use crate::listen::secure::{LINGER, MAX_LINGER};
use crate::serve::answered::{Answered, HeaderClock};
use crate::serve::paced::Paced;
use crate::serve::requests::Requests;
use crate::serve::without_end::PutAside;

/// Serves requests until the connection ends.
pub(super) async fn serve<IO, S, B>(
    mut stream: Paced<IO>,
    requests: Requests<S>,
    limits: &Limits,
    draining: watch::Receiver<bool>,
) -> Result<(), BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (connection, unread) = (requests.connection().cloned(), Arc::clone(requests.unread()));
    let connection = connection.as_deref();
    let begun = requests.begun();
    let end = || until_end(draining.clone(), limits.idle_timeout, Arc::clone(&begun));
    let (put_aside, answered) = (Arc::<PutAside>::default(), Answered::default());
    let mut requests = requests.for_http1(&put_aside, &answered);
    let mut builder = http1::Builder::new();
    builder
        .timer(HeaderClock(answered.clone()))
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER);
    let mut came = Bytes::new();
    loop {
        if came.is_empty() {
            let first = tokio::select! {
                biased;
                phase = past(connection, Phase::Open) => match phase {
                    Phase::Closed => return Ok(()),
                    _ => None,
                },
                first = first_byte(&mut stream) => first?,
                () = end() => None,
                () = tokio::time::sleep(limits.header_timeout) => None,
            };
            let Some(first) = first else { return shut(stream, connection).await };
            came = Bytes::copy_from_slice(&[first]);
        }
        answered.begin();
        let flushed = Flushed::default();
        let begun = Begun { came, stream, flushed: flushed.clone() };
        let http = Box::pin(builder.serve_connection(TokioIo::new(begun), requests));
        let is_taken = || flushed.is_all() && (put_aside.is_there() || answered.is_last_word());
        let (http, failed) = match drive(http, connection, &unread, end(), is_taken).await {
            Ok(None) => return Ok(()),
            Ok(Some(http)) => (http, None),
            Err((error, http)) => (http, Some(error)),
        };
        let Parts { io, read_buf, service, .. } = Pin::into_inner(http).into_parts();
        stream = io.into_inner().stream;
        if let Some(error) = failed {
            if error.is_parse_too_large() {
                tokio::select! {
                    () = read_on(stream) => {}
                    () = closed(connection) => {}
                }
            }
            return Err(error.into());
        }
        if put_aside.is_there() {
            drop((read_buf, service));
            return tokio::select! {
                biased;
                () = closed(connection) => Ok(()),
                written = put_aside.write(stream) => written,
            };
        }
        // An empty one has its buffer still.
        came = if read_buf.is_empty() { Bytes::new() } else { read_buf };
        requests = service;
    }
}

/// None at the end of what the peer says.
async fn first_byte(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let read = stream.read(&mut byte).await?;
    Ok((read > 0).then_some(byte[0]))
}

/// Ends a connection on which nothing is under way.
async fn shut(
    mut stream: impl AsyncWrite + Unpin,
    connection: Option<&Connection>,
) -> Result<(), BoxError> {
    tokio::select! {
        biased;
        () = closed(connection) => Ok(()),
        shut = stream.shutdown() => Ok(shut?),
    }
}

/// Lets the last answer reach a peer that is still sending: to close with bytes unread resets the
/// connection, and a reset overtakes the answer.
async fn read_on(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(MAX_LINGER);
    let mut nowhere = tokio::io::sink();
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await;
}

/// A transport of which something was read already. Says whether all that was written has left.
struct Begun<IO> {
    came: Bytes,
    stream: IO,
    flushed: Flushed,
}

/// Whether nothing waits in the transport, as the one who writes knows it: nothing was written since
/// it was last flushed.
#[derive(Clone, Default)]
struct Flushed(Arc<AtomicBool>);

impl Flushed {
    fn is_all(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_all: bool) {
        self.0.store(is_all, Ordering::Relaxed);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Begun<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.came.is_empty() {
            return self.poll_piece(cx, buffer, PIECE);
        }
        let fits = self.came.len().min(buffer.remaining()).min(PIECE as usize);
        buffer.put_slice(&self.came[..fits]);
        self.came.advance(fits);
        if !self.came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.came = Bytes::new();
        // What is behind it may be there, too. Where that fails, the next read fails, or is the end.
        let _ = self.poll_piece(cx, buffer, PIECE.saturating_sub(fits as u64));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> Begun<IO> {
    /// hyper doubles its buffer where a read fills it, and keeps that while a body is on its way.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut (&mut self.stream).take(most)).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Begun<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushed.set(false);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed.set(false);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed.set(matches!(flushed, Poll::Ready(Ok(()))));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed.set(false);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a read brings at most: not quite hyper's smallest buffer.
const PIECE: u64 = 8 * 1024 - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;

    /// hyper's buffer has 8 KiB, and grows with the first read that fills it.
    #[test]
    fn no_read_fills_hypers_buffer_what_came_before_it_included() {
        for came in [0, 1, 5_000, 20_000] {
            let stream = &[b'x'; 20_000][..];
            let came = Bytes::from(vec![b'x'; came]);
            let mut begun = Begun { came, stream, flushed: Flushed::default() };
            let mut room = [0; 8 * 1024];
            let mut buffer = ReadBuf::new(&mut room);
            let mut cx = Context::from_waker(noop_waker_ref());
            assert!(Pin::new(&mut begun).poll_read(&mut cx, &mut buffer).is_ready());
            assert_eq!(buffer.filled().len(), 8 * 1024 - 1);
        }
    }
}
