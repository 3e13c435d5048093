//! What a store is asked, and what it answers.

use identity::{SerialNumber, SpiffeId};

use crate::sequencer::{Record, TokenRow};

/// A bootstrap token, and the entry that its row says made it.
pub type MadeToken = (TokenRow, Option<Vec<u8>>);

/// Which bootstrap tokens, newest first.
#[derive(Debug, Clone, Default)]
pub struct TokenQuery {
    /// Only those that were made before this place of the log.
    pub before: Option<u64>,
    /// Rows read at most.
    pub limit: u32,
}

/// A page of bootstrap tokens.
#[derive(Debug, Clone)]
pub struct TokenPage {
    /// Each with the entry that its row says made it. Rows that this CA did not write are left out.
    pub tokens: Vec<MadeToken>,
    /// The [`before`](TokenQuery::before) of the next page; none on the last.
    pub next: Option<u64>,
}

/// How thoroughly a store is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether anybody else has locked it: costs no write.
    Lock,
    /// Writes what is there already, as a commit would, and syncs it: whether there is room, too.
    Write,
}

/// The newest signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The tree's size.
    pub size: u64,
    /// The signed note.
    pub note: Vec<u8>,
}

/// A revoking event as the tables keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationRow {
    /// The event's place in the log.
    pub log_index: u64,
    /// `revoke`, `deny` or `allow`.
    pub kind: String,
    /// A serial number or a SPIFFE ID.
    pub target: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// How a record is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKey {
    /// By its place in the log.
    LeafIndex(u64),
    /// By its serial number.
    SerialNumber(SerialNumber),
}

/// Which records a page shows, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordQuery {
    /// Only this identity's.
    pub spiffe_id: Option<SpiffeId>,
    /// Only before this leaf; none for the newest.
    pub before: Option<u64>,
    /// Only those that end after this second since 1970.
    pub ends_after: Option<i64>,
    /// Only those issued at or after this, in milliseconds since 1970.
    pub issued_since: Option<u64>,
    /// At most this many.
    pub limit: u32,
}

impl RecordQuery {
    /// Whether a record belongs to what is asked for, whatever its page.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        self.spiffe_id.as_ref().is_none_or(|id| *id == record.spiffe_id)
            && self.ends_after.is_none_or(|after| record.not_after > after)
            && self.issued_since.is_none_or(|since| record.issued_at >= since)
    }
}
