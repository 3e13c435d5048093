//! The whole folded state, told in chunks that its signed head names.
//!
//! The feed key signs the head: a position, and SHA-256 of each chunk in order. A chunk is JSON of
//! at most [`MAX_CHUNK`] bytes, read only once it has the hash whose turn it is: one that is
//! missing, changed, out of place, sent twice or too many is no chunk of this snapshot. So whoever
//! hears it holds one chunk's bytes at a time, however large the snapshot is.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use tlog::Hash;

use super::bounds::{MAX_CHUNK, MAX_CHUNKS};
use super::error::FeedError;
use super::hex;
use super::item::Position;
use crate::revocations::Revocations;
use crate::serial_number::SerialNumber;
use crate::spiffe_id::SpiffeId;

/// What a snapshot's signed message says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotHead {
    /// SHA-256 of each chunk, lower-case hex, in the order in which they follow; none where
    /// nothing is revoked.
    #[serde(with = "hex::list")]
    pub chunks: Vec<Hash>,
}

/// The folded state, or a chunk's part of it, in no particular order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Serial numbers revoked one by one, by the second since 1970 until which they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serials: BTreeMap<u64, Vec<SerialNumber>>,
    /// Identities revoked as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<RevokedIdentity>,
    /// Identities denied now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<SpiffeId>,
}

/// An identity whose certificates before a place in the log are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedIdentity {
    /// Who.
    pub spiffe_id: SpiffeId,
    /// The place: leaves before it are revoked.
    pub before: u64,
}

impl SnapshotHead {
    /// Names these chunks.
    pub fn of(chunks: &[Vec<u8>]) -> Self {
        Self { chunks: chunks.iter().map(|chunk| Hash::of(chunk)).collect() }
    }

    /// A head that names more than anybody can hold is refused before the first chunk comes.
    pub(super) fn require_bound(&self) -> Result<(), FeedError> {
        let count = self.chunks.len();
        if count > MAX_CHUNKS { Err(FeedError::ChunkCount { count }) } else { Ok(()) }
    }
}

impl Snapshot {
    /// What is folded so far.
    pub fn of(held: &Revocations) -> Self {
        let mut serials: BTreeMap<u64, Vec<SerialNumber>> = BTreeMap::new();
        for (serial_number, until) in held.serials_until() {
            serials.entry(until).or_default().push(*serial_number);
        }
        let identities = held.identities();
        Self {
            serials,
            identities: identities
                .map(|(id, before)| RevokedIdentity { spiffe_id: id.clone(), before })
                .collect(),
            denied: held.denied().cloned().collect(),
        }
    }

    /// Brings a verifier up to this state.
    ///
    /// Revocations are added and never taken away: what a CA leaves out because it has expired
    /// stays with whoever heard of it, until that is forgotten there too. Only denials are replaced,
    /// since a denial can be lifted.
    pub fn apply(self, held: &mut Revocations) {
        for (until, serials) in self.serials {
            held.reserve_serials(serials.len());
            for serial_number in serials {
                held.revoke_serial_until(serial_number, until);
            }
        }
        for revoked in self.identities {
            held.revoke_identity(revoked.spiffe_id, revoked.before);
        }
        held.replace_denied(HashSet::from_iter(self.denied));
    }

    /// Its chunks, each of at most [`MAX_CHUNK`] bytes.
    pub fn chunks(self) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::default();
        for (until, serials) in self.serials {
            for serial_number in serials {
                let known = cutter.part.serials.contains_key(&until);
                let key = if known { 0 } else { KEY };
                cutter.make_room(key + 2 * serial_number.as_octets().len() + QUOTED, KEY);
                cutter.part.serials.entry(until).or_default().push(serial_number);
            }
        }
        for revoked in self.identities {
            cutter.make_room(revoked.spiffe_id.as_str().len() + PLACE, 0);
            cutter.part.identities.push(revoked);
        }
        for spiffe_id in self.denied {
            cutter.make_room(spiffe_id.as_str().len() + QUOTED, 0);
            cutter.part.denied.push(spiffe_id);
        }
        cutter.finish()
    }

    fn extend(&mut self, part: Self) {
        for (until, mut serials) in part.serials {
            self.serials.entry(until).or_default().append(&mut serials);
        }
        self.identities.extend(part.identities);
        self.denied.extend(part.denied);
    }
}

/// Fills one chunk after the other.
#[derive(Default)]
struct Cutter {
    part: Snapshot,
    bytes: usize,
    chunks: Vec<Vec<u8>>,
}

impl Cutter {
    /// Begins the next chunk where so many bytes do not fit; there it takes `more` of them.
    fn make_room(&mut self, bytes: usize, more: usize) {
        if self.bytes > 0 && FRAME + self.bytes + bytes > MAX_CHUNK {
            self.cut();
            self.bytes = more;
        }
        self.bytes += bytes;
    }

    fn cut(&mut self) {
        let part = std::mem::take(&mut self.part);
        self.chunks.push(serde_json::to_vec(&part).expect("a chunk is plain data"));
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if self.bytes > 0 {
            self.cut();
        }
        self.chunks
    }
}

/// A snapshot of which chunks are still to come: see [`FeedState::accept`](super::FeedState::accept).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    pub(super) position: Position,
    /// When the head was signed.
    pub(super) at: u64,
    chunks: Vec<Hash>,
    taken: usize,
    snapshot: Snapshot,
}

impl Assembly {
    pub(super) fn new(position: Position, at: u64, head: SnapshotHead) -> Self {
        let SnapshotHead { chunks } = head;
        Self { position, at, chunks, taken: 0, snapshot: Snapshot::default() }
    }

    /// Takes the next chunk, if it is the one that the head names there.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), FeedError> {
        let (number, of) = (self.taken + 1, self.chunks.len());
        let named = self.chunks.get(self.taken);
        if named.is_none_or(|named| *named != Hash::of(chunk)) {
            return Err(FeedError::Chunk { number, of });
        }
        let part = serde_json::from_slice(chunk);
        self.snapshot.extend(part.map_err(|error| FeedError::Message(error.to_string()))?);
        self.taken += 1;
        Ok(())
    }

    /// When its head was signed, in milliseconds since 1970.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// How many chunks are still to come.
    pub fn missing(&self) -> usize {
        self.chunks.len() - self.taken
    }

    /// The snapshot, once nothing is missing.
    pub(super) fn complete(self) -> Result<Snapshot, FeedError> {
        match self.missing() {
            0 => Ok(self.snapshot),
            missing => Err(FeedError::Incomplete { missing }),
        }
    }
}

/// Braces, brackets and names of a chunk: `{"serials":{},"identities":[],"denied":[]}`.
const FRAME: usize = 64;
/// `"18446744073709551615":[],`
const KEY: usize = 26;
/// Two quotes and a comma.
const QUOTED: usize = 3;
/// `{"spiffe_id":"","before":18446744073709551615},`
const PLACE: usize = 48;
