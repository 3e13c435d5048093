//! Why a message of the feed is refused.

use super::bounds::{MAX_CHUNK, MAX_CHUNKS};

/// Why a message of the feed is not taken.
///
/// Each is a reason to close the connection and ask again elsewhere or later. Those that persist
/// are an alarm: [`Fork`](Self::Fork), [`Rollback`](Self::Rollback),
/// [`CheckpointFork`](Self::CheckpointFork), [`CheckpointRollback`](Self::CheckpointRollback) and
/// [`Replayed`](Self::Replayed) mean that the CA, or whoever has its keys, takes something back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// A delta's items do not lead from the position before to the one after it.
    #[error("the items of the feed's delta to {sequence} do not add up to its hash")]
    Chain {
        /// The sequence claimed.
        sequence: u64,
    },
    /// A heartbeat's checkpoint is not signed by the trust state's log key, or no checkpoint.
    #[error("the feed carries a checkpoint that is not the log's: {0}")]
    Checkpoint(tlog::Error),
    /// Two checkpoints of one size have different roots: the log shows two histories.
    #[error("the log has two histories of {size} entries: keep both checkpoints as evidence")]
    CheckpointFork {
        /// The size of both.
        size: u64,
    },
    /// The newest checkpoint is smaller than one seen before: an older database was put back.
    #[error("the log has shrunk from {held} entries to {offered}: an older database was put back")]
    CheckpointRollback {
        /// The size seen before.
        held: u64,
        /// The size now.
        offered: u64,
    },
    /// A chunk is not the one that the snapshot's head names next: it is missing, changed, out of
    /// place, sent twice, or one too many.
    #[error("chunk {number} of {of} of the feed's snapshot is not the one that its head names")]
    Chunk {
        /// Whose turn it is, from 1.
        number: usize,
        /// How many the head names.
        of: usize,
    },
    /// The snapshot's head names more chunks than anybody takes.
    #[error("the feed's snapshot has {count} chunks, and {MAX_CHUNKS} are taken at most")]
    ChunkCount {
        /// How many it names.
        count: usize,
    },
    /// A chunk is longer than chunks may be.
    #[error("a chunk of the feed's snapshot has {bytes} bytes, and {MAX_CHUNK} are taken at most")]
    ChunkSize {
        /// How long it is.
        bytes: usize,
    },
    /// A chunk came, and no snapshot's head before it.
    #[error("the feed sent a chunk of a snapshot that it does not speak of")]
    ChunkWithoutHead,
    /// A line is no key id, signature and body.
    #[error("this is no message of the feed")]
    Envelope,
    /// Another hash at the same sequence, or a delta that goes on from another past.
    #[error("the feed has two histories up to {sequence}")]
    Fork {
        /// The sequence at which they differ.
        sequence: u64,
    },
    /// Something else came, or nothing, where chunks were to come.
    #[error("{missing} chunks of the feed's snapshot did not come")]
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// The body has another form.
    #[error("the feed's message cannot be read: {0}")]
    Message(String),
    /// A message came after one that was signed later and says more.
    #[error("the feed's message {offered} came after {held}: out of order")]
    Reordered {
        /// The sequence held.
        held: u64,
        /// The sequence offered.
        offered: u64,
    },
    /// A message was signed long before one that was seen.
    #[error("the feed's message is {behind} ms older than the newest one seen: a replay")]
    Replayed {
        /// How much older, in milliseconds.
        behind: u64,
    },
    /// A new message is at a lower sequence than held: revocations were taken back.
    #[error("the feed went back from {held} to {offered}: an older database was put back")]
    Rollback {
        /// The sequence held.
        held: u64,
        /// The sequence offered.
        offered: u64,
    },
    /// The key that is named did not sign this body.
    #[error("the feed's message is not what its key signed")]
    Signature,
    /// The message is for another trust domain.
    #[error("the feed is for trust domain {offered}, not for {held}")]
    TrustDomain {
        /// The trust domain held.
        held: String,
        /// The one offered.
        offered: String,
    },
    /// The trust state names no such feed key.
    #[error("the trust state names no feed key {key}: a newer one may")]
    UnknownKey {
        /// SHA-256 of the key's SubjectPublicKeyInfo, lower-case hex.
        key: String,
    },
    /// The message has a form that this version does not know.
    #[error("the feed's message has version {v}, and this software reads 2: upgrade the older one")]
    Version {
        /// The version.
        v: u32,
    },
}
