//! The chunks of a snapshot: made once, shared by everybody who hears it.
//!
//! A snapshot of millions takes a while to make and to send, and the feed goes on meanwhile. So the
//! chunks stay what they are for some minutes: each newcomer is told them under a head signed anew,
//! and then what came since. Whoever reads slowly holds no chunk: those are the feed's, which keeps
//! the newest few snapshots and no other, and ends the subscription of whoever is slower than that.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use identity::feed::{MAX_CHUNKS, Position, Snapshot, SnapshotHead};

use crate::error::Error;

/// A snapshot, ready to be sent.
#[derive(Debug)]
pub(crate) struct Chunks {
    pub(crate) position: Position,
    /// When it was made, in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) head: SnapshotHead,
    pub(crate) chunks: Vec<Bytes>,
}

impl Chunks {
    /// Takes a while: milliseconds for each ten thousand revocations.
    pub(crate) fn new(position: Position, at: u64, snapshot: Snapshot) -> Result<Self, Error> {
        let chunks = snapshot.chunks();
        if chunks.len() > MAX_CHUNKS {
            return Err(Error::Snapshot { chunks: chunks.len() });
        }
        let head = SnapshotHead::of(&chunks);
        let chunks: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
        metrics::gauge!(SNAPSHOT_BYTES).set(chunks.iter().map(Bytes::len).sum::<usize>() as f64);
        metrics::gauge!(SNAPSHOT_CHUNKS).set(chunks.len() as f64);
        if chunks.len() > ALARM_FROM {
            tracing::error!(
                chunks = chunks.len(),
                most = MAX_CHUNKS,
                "the snapshot of revocations is large: who revokes so much? It is told to newcomers \
                 up to its limit, and to none beyond it"
            );
        }
        Ok(Self { position, at, head, chunks })
    }
}

/// The newest snapshots, oldest first.
#[derive(Debug, Default)]
pub(super) struct KeptChunks(VecDeque<Arc<Chunks>>);

impl KeptChunks {
    /// The newest one.
    pub(super) fn newest(&self) -> Option<&Arc<Chunks>> {
        self.0.back()
    }

    pub(super) fn keep(&mut self, chunks: Chunks) -> Arc<Chunks> {
        let chunks = Arc::new(chunks);
        self.0.push_back(Arc::clone(&chunks));
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
        chunks
    }

    /// Those that nobody is told any more.
    pub(super) fn forget(&mut self, now: u64) {
        self.0.retain(|chunks| now.saturating_sub(chunks.at) < KEPT_FOR);
    }
}

/// How far one subscriber has come with one.
#[derive(Debug)]
pub(super) struct Reading {
    chunks: Weak<Chunks>,
    next: usize,
}

/// What follows.
pub(super) enum Next {
    Chunk(Bytes),
    /// It was told whole.
    End,
    /// The feed keeps it no more.
    Gone,
}

impl Reading {
    pub(super) fn new(chunks: &Weak<Chunks>) -> Self {
        Self { chunks: Weak::clone(chunks), next: 0 }
    }

    pub(super) fn next(&mut self) -> Next {
        let Some(chunks) = self.chunks.upgrade() else { return Next::Gone };
        match chunks.chunks.get(self.next) {
            Some(chunk) => {
                self.next += 1;
                Next::Chunk(chunk.clone())
            }
            None => Next::End,
        }
    }
}

/// A new one is made for newcomers while older ones are still read.
const KEPT: usize = 3;
/// In milliseconds: as long as anybody may take to read one.
const KEPT_FOR: u64 = 20 * 60 * 1000;
/// A sixteenth of what can be told: some 1.5 million certificates.
const ALARM_FROM: usize = MAX_CHUNKS / 16;
const SNAPSHOT_BYTES: &str = "countersign_feed_snapshot_bytes";
const SNAPSHOT_CHUNKS: &str = "countersign_feed_snapshot_chunks";
