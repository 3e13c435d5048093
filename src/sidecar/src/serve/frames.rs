//! Counts the frames of HTTP/2 that ask for nothing (RFC 9113 §10.5: "a denial of service").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;

/// What one peer sends, frame by frame, beside what it may send.
///
/// Requests that are answered are free here, since they are counted elsewhere, and so is the data of
/// their bodies; everything else is paid for: from a credit that grows with time, with requests answered
/// and with what the peer is sent, so that whoever downloads or calls much may acknowledge much. So a
/// request that is taken back at once, too large or one too many costs what any other chatter does. One
/// that is given up later costs nothing, either: see [`Asked`].
pub(crate) struct Frames {
    /// Of the preface, then of a frame: bytes still to come before the next header.
    skip: usize,
    header: [u8; HEADER],
    has: usize,
    credit: u64,
    credited: Instant,
    /// Bytes written that have made no whole frame's credit yet.
    written: usize,
    /// Bytes of the largest frame: HTTP has a buffer for it, and keeps that.
    largest: u32,
    /// Requests, answered or waited for, that have made no credit yet.
    settled: Arc<AtomicU64>,
}

impl Frames {
    /// At the start of a connection, where the client's preface comes first.
    pub(crate) fn new(largest: u32, settled: Arc<AtomicU64>) -> Self {
        let (header, credited) = ([0; HEADER], Instant::now());
        let (skip, credit) = (PREFACE, BURST);
        Self { skip, header, has: 0, credit, credited, written: 0, largest, settled }
    }

    /// Looks at what came in; false when it is too much.
    pub(crate) fn may_send(&mut self, mut bytes: &[u8]) -> bool {
        let mut may = true;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.has).min(bytes.len());
            self.header[self.has..self.has + taken].copy_from_slice(&bytes[..taken]);
            self.has += taken;
            bytes = &bytes[taken..];
            if self.has == HEADER {
                self.has = 0;
                may &= self.frame();
            }
        }
        may
    }

    /// Something was sent to the peer.
    pub(crate) fn credit(&mut self, bytes: usize) {
        self.written += bytes;
        let frames = self.written / BYTES_A_FRAME;
        self.written %= BYTES_A_FRAME;
        self.credit = BURST.min(self.credit + frames as u64);
    }

    /// One header is complete.
    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skip = length as usize;
        match kind {
            // Of a body, its window decides, which a peer does not know before it has our settings.
            _ if length > self.largest && kind != DATA => false,
            // A body in crumbs costs as much as any other chatter.
            DATA if length >= CRUMB || flags & END_STREAM != 0 => true,
            _ => self.pay(),
        }
    }

    fn pay(&mut self) -> bool {
        let settled = self.settled.swap(0, Ordering::Relaxed);
        let earned = settled.saturating_mul(FRAMES_A_REQUEST);
        self.credit = BURST.min(self.credit.saturating_add(earned));
        if self.credit == 0 {
            let elapsed = self.credited.elapsed();
            let earned = elapsed.as_millis() * u128::from(A_SECOND) / SECOND.as_millis();
            self.credit = u64::try_from(earned).unwrap_or(BURST).min(BURST);
            self.credited += if self.credit == 0 { Duration::ZERO } else { elapsed };
        }
        let may = self.credit > 0;
        self.credit = self.credit.saturating_sub(1);
        may
    }
}

/// A request that has begun. It settles what its frames cost when it ends, if it was answered or had
/// lasted a while: who gives up a service that stalls is no flood, and the limit of requests in flight
/// bounds how many of those a second has.
pub(crate) struct Asked {
    since: Instant,
    answered: bool,
    settled: Arc<AtomicU64>,
}

impl Asked {
    pub(crate) fn now(settled: &Arc<AtomicU64>) -> Self {
        Self { since: Instant::now(), answered: false, settled: Arc::clone(settled) }
    }

    pub(crate) fn is_answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.answered || self.since.elapsed() >= A_WHILE {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// RFC 9113 §3.4.
const PREFACE: usize = 24;
/// RFC 9113 §4.1: length (3), type, flags, stream (4).
const HEADER: usize = 9;
/// RFC 9113 §6.
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
/// A frame costs some microseconds, its TLS record and its answer included: this many a second are
/// below one per cent of a core.
const A_SECOND: u64 = Limits::FRAMES_A_SECOND;
pub(crate) const BURST: u64 = 4000;
const SECOND: Duration = Duration::from_secs(1);
/// What is taken back earlier than any service's deadline is a rapid reset (CVE-2023-44487).
const A_WHILE: Duration = Duration::from_millis(10);
/// HTTP/2's own flow control acknowledges twice, for stream and connection, and rarely below this.
const BYTES_A_FRAME: usize = 1024;
/// HEADERS, and PRIORITY, CONTINUATION, RST_STREAM and WINDOW_UPDATE that may come with a request.
const FRAMES_A_REQUEST: u64 = 5;
/// As much as the frame's own header and the record around it.
const CRUMB: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u32 = 200;
    const HEADERS: u8 = 1;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + usize::from(length), 0);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(LARGEST, Arc::default());
        assert!(frames.may_send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames
    }

    fn sent(frames: &mut Frames, frame: &[u8], most: u64) -> u64 {
        (0..most).take_while(|_| frames.may_send(frame)).count() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_chatter_ends_and_comes_back_with_time() {
        for (kind, length) in
            [(1, 30), (2, 5), (3, 4), (4, 0), (6, 8), (7, 8), (8, 4), (9, 1), (0, 0), (99, 7)]
        {
            let mut frames = begun();
            assert_eq!(sent(&mut frames, &frame(kind, 0, length), 2 * BURST), BURST, "{kind}");
            tokio::time::advance(SECOND / 2).await;
            assert_eq!(sent(&mut frames, &frame(kind, 0, length), BURST), A_SECOND / 2, "{kind}");
        }
    }

    #[test]
    fn frame_of_any_kind_but_a_bodys_has_a_largest_size() {
        for kind in 0..=u8::MAX {
            assert!(begun().may_send(&frame(kind, 0, 200)), "{kind}");
            assert_eq!(begun().may_send(&frame(kind, 0, 201)), kind == DATA, "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_answered_and_their_bodies_are_free() {
        let mut frames = begun();
        for _ in 0..10 * BURST {
            assert!(frames.may_send(&frame(HEADERS, 4, 30)));
            assert!(frames.may_send(&frame(DATA, 0, 100)));
            assert!(frames.may_send(&frame(DATA, END_STREAM, 0)));
            assert!(frames.may_send(&frame(6, 0, 8)), "a ping with each");
            frames.settled.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_taken_back_at_once_are_chatter() {
        let mut frames = begun();
        let both = [frame(HEADERS, 5, 30), frame(3, 0, 4)].concat();
        assert_eq!(sent(&mut frames, &both, BURST), BURST / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn many_answers_make_no_more_credit_than_a_burst() {
        let mut frames = begun();
        frames.settled.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(sent(&mut frames, &frame(6, 0, 8), 2 * BURST), BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_told_apart_however_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        (0..BURST).for_each(|_| bytes.extend(frame(6, 0, 8)));
        for size in [1, 2, 7, 9, 10, 4096] {
            let mut frames = Frames::new(LARGEST, Arc::default());
            assert!(bytes.chunks(size).all(|chunk| frames.may_send(chunk)), "{size}");
            assert!(!frames.may_send(&frame(6, 0, 8)), "{size}");
        }
    }
}
