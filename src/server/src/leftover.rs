//! What nobody read of a request's body is left to its sender, who has to finish what it sends: one
//! that is cut off while it sends does not see why, and its next request follows on the same
//! connection.
//!
//! So the rest is read, and nothing of it kept, while its answer is on the way. Where it may be more
//! than is ever ignored, or is not sent before its sender is told to go on, the connection ends after
//! the answer, and the answer says so (RFC 9112 §9.6): a request that follows would be lost.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http::header;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;

/// Whether what is left of a request ends its connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leftover {
    ends_connection: Arc<AtomicBool>,
    is_refused: Arc<AtomicBool>,
}

impl Leftover {
    /// The request, whose body is seen to when it is dropped.
    pub(crate) fn watch(&self, request: Request) -> Request {
        // RFC 9110 §10.1.1. It may be one of a list, and nothing else is defined.
        let expects = request.headers().get_all(header::EXPECT);
        let asks_first =
            expects.iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        request.map(|body| {
            let (leftover, begun) = (self.clone(), Instant::now());
            Body::new(Watched { body, leftover, begun, asks_first, state: Left::Rest })
        })
    }

    /// Its sender sends more than its share: not much more of it is read.
    pub(crate) fn refuse(&self) {
        self.is_refused.store(true, Ordering::Release);
    }

    /// Whether the connection is closed after the answer: asked when the body has been dropped.
    pub(crate) fn ends_connection(&self) -> bool {
        self.ends_connection.load(Ordering::Acquire)
    }
}

/// A body that is not lost when it is dropped.
struct Watched {
    body: Body,
    leftover: Leftover,
    begun: Instant,
    /// Its sender waits to be told to go on: by the first look at the body.
    asks_first: bool,
    state: Left,
}

/// What may still come.
#[derive(PartialEq, Eq)]
enum Left {
    /// Nothing: the body broke off.
    Broken,
    /// Nothing: it was whole.
    Nothing,
    Rest,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.asks_first = false;
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match frame {
            Poll::Ready(None) => self.state = Left::Nothing,
            Poll::Ready(Some(Err(_))) => self.state = Left::Broken,
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.state == Left::Nothing || self.body.is_end_stream() {
            return;
        }
        let is_broken = self.state == Left::Broken;
        let is_refused = self.leftover.is_refused.load(Ordering::Acquire);
        let most = if is_refused { MOST_OF_REFUSED } else { MOST };
        let is_bounded = self.body.size_hint().upper().is_some_and(|rest| rest <= most);
        let is_slow = self.begun.elapsed() >= PATIENCE;
        let ends = is_broken || self.asks_first || is_slow || !is_bounded;
        self.leftover.ends_connection.store(ends, Ordering::Release);
        if is_broken || self.asks_first {
            return;
        }
        let rest = std::mem::take(&mut self.body);
        // Without a runtime there is no connection either.
        if let Ok(runtime) = Handle::try_current() {
            let patience = if ends { LINGER } else { PATIENCE };
            runtime.spawn(tokio::time::timeout(patience, ignore(rest, most)));
        }
    }
}

async fn ignore(mut body: Body, most: u64) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len) as u64;
        if seen > most {
            return;
        }
    }
}

/// As much as the largest body that is read anywhere.
const MOST: u64 = api::MAX_POLICY_BYTES as u64;
/// As much as most bodies have.
const MOST_OF_REFUSED: u64 = crate::caller::MAX_BODY as u64;
/// As long as most bodies may take.
const PATIENCE: Duration = crate::caller::BODY_TIME;
/// Whoever hears that the connection ends has time to stop, and hears why before it is cut off.
const LINGER: Duration = Duration::from_secs(5);
