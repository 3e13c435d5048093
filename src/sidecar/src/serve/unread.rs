//! What a peer has not read yet is bounded: answers of one connection that wait for their reader.
//!
//! Over HTTP/1 the socket tells who does not read. Over HTTP/2 it does not: a peer that grants a
//! stream no room answers pings while the stream's answer waits in our memory. So each piece of an
//! answer is counted until it is written: a connection that has left too much unread begins no
//! further request, and one whose pieces do not move for the write timeout ends.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// The bytes of one connection's answers that nobody has read.
#[derive(Debug)]
pub(crate) struct Unread {
    most: usize,
    bytes: AtomicUsize,
    /// Grows with each byte that goes out.
    moved: AtomicU64,
    room: Notify,
    ended: AtomicBool,
}

impl Unread {
    /// With room for so many bytes, and the answer that begins below that.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            bytes: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            room: Notify::new(),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < self.most
    }

    /// Returns when another answer may be made, to one after the other in the order in which they
    /// came (see [`next`](Self::next)); never, once the connection has ended: answers that
    /// are dropped with it make room for nobody.
    pub(crate) async fn room(&self) {
        loop {
            // Made before the look: what is written between the two is not missed.
            let room = self.room.notified();
            if self.has_room() && !self.ended.load(Ordering::Acquire) {
                return;
            }
            room.await;
        }
    }

    /// Lets the next go on, where one waits and there is room for it still. To be called when one that
    /// may have waited was polled: what it answered is counted then, and where it answers later, or
    /// was dropped, it holds nobody up.
    pub(crate) fn next(&self) {
        if self.has_room() {
            self.room.notify_one();
        }
    }

    /// Returns when answers have waited, and nothing of any was written, for all of `patience` (at
    /// most twice).
    pub(crate) async fn stuck(&self, patience: Duration) {
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            let waited = self.bytes.load(Ordering::Acquire) > 0;
            tokio::time::sleep(patience).await;
            let waits = self.bytes.load(Ordering::Acquire) > 0;
            if waited && waits && self.moved.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// The connection goes on until this is dropped.
    pub(crate) fn open(&self) -> Open<'_> {
        self.ended.store(false, Ordering::Release);
        Open(self)
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn take(&self, bytes: usize) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.most && before - bytes < self.most {
            self.room.notify_one();
        }
    }
}

/// Dropped before the connection's answers are.
pub(crate) struct Open<'a>(&'a Unread);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// Calls [`Unread::next`] when it is dropped, after a panic too.
pub(crate) struct Turn(pub(crate) Arc<Unread>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.next();
    }
}

/// A body whose pieces are counted until they are written. One that is known whole is counted from
/// the start.
pub(crate) struct Counted<B> {
    body: Pin<Box<B>>,
    whole: Option<Waiting>,
    unread: Arc<Unread>,
}

impl<B: Body> Counted<B> {
    pub(crate) fn new(body: B, unread: &Arc<Unread>) -> Self {
        let exact = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let whole = exact.filter(|bytes| *bytes > 0).map(|bytes| Waiting::new(bytes, unread));
        let (body, unread) = (Box::pin(body), Arc::clone(unread));
        Self { body, whole, unread }
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        let this = &mut *self;
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|data| {
                    let waiting =
                        Waiting::of_piece(data.remaining(), &mut this.whole, &this.unread);
                    Piece { data, waiting }
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of an answer, until it was written.
pub(crate) struct Piece<D> {
    data: D,
    waiting: Waiting,
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        self.waiting.shrink(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let bytes = self.data.copy_to_bytes(count);
        self.waiting.shrink(count);
        bytes
    }
}

/// Bytes counted as unread while this lives.
struct Waiting {
    bytes: usize,
    unread: Arc<Unread>,
}

impl Waiting {
    fn new(bytes: usize, unread: &Arc<Unread>) -> Self {
        unread.add(bytes);
        Self { bytes, unread: Arc::clone(unread) }
    }

    /// A piece is counted once: out of the whole, where that was counted.
    fn of_piece(bytes: usize, whole: &mut Option<Self>, unread: &Arc<Unread>) -> Self {
        match whole {
            Some(whole) if whole.bytes >= bytes => {
                whole.bytes -= bytes;
                Self { bytes, unread: Arc::clone(unread) }
            }
            _ => Self::new(bytes, unread),
        }
    }

    fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.unread.take(bytes);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.unread.take(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    const MOST: usize = 1000;

    fn answer(bytes: usize, unread: &Arc<Unread>) -> Counted<Full<Bytes>> {
        Counted::new(Full::new(Bytes::from(vec![0; bytes])), unread)
    }

    #[tokio::test]
    async fn answer_is_counted_from_its_making_to_its_last_byte() {
        let unread = Arc::new(Unread::new(MOST));
        let mut body = answer(MOST, &unread);
        assert!(!unread.has_room());
        let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        drop(body);
        assert!(!unread.has_room(), "taken by HTTP, and not written");
        piece.advance(1);
        assert!(unread.has_room());
        drop(piece.copy_to_bytes(MOST - 1));
        assert_eq!(unread.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn answer_that_nobody_wants_any_more_gives_its_room_back() {
        let unread = Arc::new(Unread::new(MOST));
        let body = answer(2 * MOST, &unread);
        let waiting = tokio::spawn({
            let unread = Arc::clone(&unread);
            async move { unread.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(body);
        waiting.await.unwrap();
    }

    /// A request that waits, polled by hand.
    struct Asked {
        room: Pin<Box<dyn Future<Output = ()> + Send>>,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Asked {
        fn of(unread: &Arc<Unread>) -> Self {
            let waiting = Arc::clone(unread);
            let room = Box::pin(async move { waiting.room().await });
            let mut asked = Self { room, woken: Arc::default() };
            assert!(asked.poll().is_pending());
            asked
        }

        fn poll(&mut self) -> Poll<()> {
            let waker = Arc::clone(&self.woken).into();
            self.room.as_mut().poll(&mut Context::from_waker(&waker))
        }
    }

    fn woken(asked: &[Asked]) -> Vec<bool> {
        asked.iter().map(|asked| asked.woken.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn requests_that_wait_go_on_one_after_the_other_while_there_is_room() {
        let unread = Arc::new(Unread::new(MOST));
        let first = answer(2 * MOST, &unread);
        let mut asked: Vec<_> = (0..4).map(|_| Asked::of(&unread)).collect();
        drop(first);
        assert_eq!(woken(&asked), [true, false, false, false]);
        assert!(asked[0].poll().is_ready());
        let small = answer(MOST - 1, &unread);
        unread.next();
        assert_eq!(woken(&asked), [true, true, false, false], "it left room");
        assert!(asked[1].poll().is_ready());
        let large = answer(MOST, &unread);
        unread.next();
        drop(small);
        assert_eq!(woken(&asked), [true, true, false, false], "it left none");
        drop(large);
        assert_eq!(woken(&asked), [true, true, true, false]);
        // One that its peer has taken back meanwhile keeps nobody from going on.
        asked.remove(2);
        assert_eq!(woken(&asked), [true, true, true]);
        assert!(asked[2].poll().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_waits_and_does_not_move_is_stuck() {
        let unread = Arc::new(Unread::new(MOST));
        let patience = Duration::from_secs(30);
        let stuck = |unread: &Arc<Unread>| {
            let unread = Arc::clone(unread);
            let long = patience * 10;
            async move { tokio::time::timeout(long, unread.stuck(patience)).await.is_ok() }
        };
        assert!(!stuck(&unread).await, "nothing waits");
        let mut body = answer(100, &unread);
        let mut piece = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        let slow = async {
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                piece.advance(1);
            }
        };
        tokio::select! {
            biased;
            () = slow => {}
            () = unread.stuck(patience) => panic!("it moved all the time"),
        }
        assert!(stuck(&unread).await);
    }
}
