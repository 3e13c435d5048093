//! Answers without end over HTTP/1.1.
//!
//! hyper keeps a buffer of 8 KiB for each direction as long as a connection lasts. An answer that is
//! heard for hours by thousands, a few bytes now and then, needs neither: once it has begun, hyper is
//! put away with them, and the rest is written here. Such an answer is the last of its connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Response, StatusCode, header, response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::clock::date;
use crate::error::cause::BoxError;
use crate::limits::Limits;

/// Marks an answer that goes on without end, as an extension of the response: where it is given (200) to
/// a GET without a body over HTTP/1.1 by [`serve`](crate::serve()) or a [`Serving`](crate::Serving), its connection keeps no
/// buffers for it, and is closed after it. Trailers are not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithoutEnd;

/// Where the answer lies that is not hyper's any more.
#[derive(Default)]
pub(crate) struct PutAside(Mutex<Option<Response<Pieces>>>);

type Pieces = UnsyncBoxBody<Bytes, BoxError>;

impl PutAside {
    /// Takes an answer that is marked; returns every other one.
    pub(crate) fn take_in<B>(&self, answer: Response<B>) -> Option<Response<B>>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        // Others may have no body (RFC 9110 §15).
        let is_one = answer.extensions().get::<WithoutEnd>().is_some();
        if !is_one || answer.status() != StatusCode::OK {
            return Some(answer);
        }
        let answer = answer.map(|body| {
            let body = body
                .map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())));
            body.map_err(Into::into).boxed_unsync()
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        None
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Writes it to its end, unless the peer goes before that.
    pub(crate) async fn write<IO>(&self, mut stream: IO) -> Result<(), BoxError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(answer) = answer else { return Ok(()) };
        let (head, body) = begun(answer);
        let mut body = Heard { body, has_ended: false, is_silent: true };
        stream.write_all(&head).await?;
        drop(head);
        loop {
            stream.flush().await?;
            let next = std::future::poll_fn(|cx| body.poll_next(cx, &mut stream));
            let Some(chunk) = next.await? else { break };
            stream.write_all_buf(&mut chunk.framed()).await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
        Ok(stream.shutdown().await?)
    }
}

/// The header as it is written, and the body. Nothing else is kept for hours.
fn begun(answer: Response<Pieces>) -> (Vec<u8>, Pieces) {
    let (head, body) = answer.into_parts();
    (head_of(&head), body)
}

/// A body that a peer listens to.
struct Heard {
    body: Pieces,
    has_ended: bool,
    /// Nothing came from the peer since it asked.
    is_silent: bool,
}

impl Heard {
    /// What there is of the body, as one chunk, as soon as there is any; none at its end. Fails where the
    /// peer goes before that.
    fn poll_next<IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut IO,
    ) -> Poll<Result<Option<Chunk>, BoxError>> {
        let mut chunk = Chunk::default();
        while !self.has_ended && chunk.has_room() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => chunk.extend(frame.into_data().ok()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => self.has_ended = true,
                Poll::Pending => break,
            }
        }
        if !chunk.pieces.is_empty() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if self.has_ended {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Err(ready!(self.poll_gone(cx, stream)).into()))
    }

    /// Returns once the peer has gone. It has nothing more to say: should it say something, that is not
    /// read.
    fn poll_gone<IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut IO,
    ) -> Poll<io::Error> {
        if !self.is_silent {
            return Poll::Pending;
        }
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        match ready!(Pin::new(stream).poll_read(cx, &mut read)) {
            Err(error) => Poll::Ready(error),
            Ok(()) if read.filled().is_empty() => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(()) => {
                self.is_silent = false;
                Poll::Pending
            }
        }
    }
}

/// Pieces of a body that are written together: RFC 9112 §7.1.
#[derive(Default)]
struct Chunk {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Chunk {
    fn has_room(&self) -> bool {
        self.pieces.len() < MOST_PIECES && self.bytes < Limits::HEADER
    }

    /// An empty piece would be the end.
    fn extend(&mut self, piece: Option<Bytes>) {
        if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn framed(mut self) -> Self {
        let size = Bytes::from(format!("{:x}\r\n", self.bytes));
        self.bytes += size.len() + 2;
        self.pieces.push_front(size);
        self.pieces.push_back(Bytes::from_static(b"\r\n"));
        self
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pairs = self.pieces.iter().zip(slices);
        pairs.map(|(piece, slice)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

/// The first line and the fields of an answer: RFC 9112 §4, §5 and §9.6.
fn head_of(head: &response::Parts) -> Vec<u8> {
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut written = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).into_bytes();
    let mut field = |name: &[u8], value: &[u8]| {
        written.extend([name, b": ", value, b"\r\n"].concat());
    };
    let ours =
        [header::CONNECTION, header::CONTENT_LENGTH, header::DATE, header::TRANSFER_ENCODING];
    for (name, value) in head.headers.iter().filter(|(name, _)| !ours.contains(name)) {
        field(name.as_str().as_bytes(), value.as_bytes());
    }
    field(b"transfer-encoding", b"chunked");
    field(b"connection", b"close");
    if let Some(now) = DefaultTimeProvider.current_time()
        && let Ok(now) = date(now).format(IMF_FIXDATE)
    {
        field(b"date", now.as_bytes());
    }
    written.extend(b"\r\n");
    written
}

/// RFC 9110 §5.6.7.
const IMF_FIXDATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
/// As many as a system call takes with their size and end, and more than a message has.
const MOST_PIECES: usize = 16;
