//! What the engine keeps: records, tokens, policies, the log and its head.
//!
//! A [`Store`] has one way to write: [`Store::commit`] takes a group, plans it with
//! [`crate::sequencer::plan`] under the head lock and writes all of it in one durable transaction,
//! or nothing. When it fails, what happened is unknown: a caller repeats the request, and the
//! rules of the plan make that safe.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use identity::{SerialNumber, SpiffeId};
use time::format_description::well_known::Rfc3339;
use tlog::{Hash, Tile};

use crate::clock::{ClockLeapt, from_milliseconds};
use crate::kept_file::KeptBeside;
use crate::sequencer::{CrlRow, Head, KeptRequest, Member, Outcome, Plan, TokenRow};
use crate::shell::word;

#[cfg(any(test, feature = "test-seams"))]
pub mod faulty;
mod heads;
pub mod sqlite;

pub use self::heads::WentBack;

/// Where the engine keeps things. One implementation a database, and one that fails on purpose.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Plans and writes a group in one durable transaction. `now` is in milliseconds since 1970.
    /// While the head is not [kept](Self::keep_heads) it fails, and does of the group what only
    /// restricts. May hold up the thread that calls it: that is a thread for nothing else.
    fn commit(&self, group: Vec<Member>, now: u64) -> Answer<'_, Vec<Outcome>>;

    /// The head of the log. Fails for good once it is older or another than this process has known,
    /// and so does every commit; and, with the head, while that is not [kept](Self::keep_heads).
    fn head(&self) -> Answer<'_, Head>;

    /// Keeps the newest head in the database's state folder from now on, whatever was kept there: before
    /// anybody hears of a commit, which fails where that cannot be written. Fails where the log went back
    /// since it was opened, and leaves what was kept.
    fn keep_heads(&self, beside: KeptBeside) -> Answer<'_, ()>;

    /// Begins anew to know the log, and keeps nothing, as another process would.
    #[cfg(any(test, feature = "test-seams"))]
    fn forget_heads(&self);

    /// Entries from an index on, at most `limit`.
    fn entries(&self, from: u64, limit: u64) -> Answer<'_, Vec<Vec<u8>>>;

    /// Entries that the fold of the revocation state reads, from an index on, with their indexes.
    fn folding_entries(&self, from: u64) -> Answer<'_, Vec<(u64, Vec<u8>)>>;

    /// What the tables say of the revocation state: log index, kind and target of each event.
    fn revocation_rows(&self) -> Answer<'_, Vec<RevocationRow>>;

    /// The bytes of a full or partial tile within the log; none beyond its end.
    fn tile(&self, tile: Tile) -> Answer<'_, Option<Vec<u8>>>;

    /// The newest signed checkpoint.
    fn checkpoint(&self) -> Answer<'_, Option<StoredCheckpoint>>;

    /// Keeps a newer signed checkpoint.
    fn put_checkpoint(&self, checkpoint: StoredCheckpoint) -> Answer<'_, ()>;

    /// Finds out whether a commit would be taken.
    fn probe(&self, depth: Probe) -> Answer<'_, ()>;

    /// The records of some, in their order; none where it is gone or not as this CA wrote it.
    fn records_of(&self, keys: Vec<RecordKey>) -> Answer<'_, Vec<Option<Record>>>;

    /// A page of records, newest first, without those that are not as this CA wrote them: it is short
    /// only where there are no more.
    fn records(&self, query: RecordQuery) -> Answer<'_, Vec<Record>>;

    /// A bootstrap token by the hash of its secret.
    fn token(&self, hash: Hash) -> Answer<'_, Option<TokenRow>>;

    /// What is kept of a request that its caller has named, unless it is older than `since`, in
    /// milliseconds since 1970.
    fn kept_request(
        &self,
        principal: String,
        key: String,
        since: u64,
    ) -> Answer<'_, Option<KeptRequest>>;

    /// A page of the bootstrap tokens, newest first.
    fn tokens(&self, query: TokenQuery) -> Answer<'_, TokenPage>;

    /// A bootstrap token by its id.
    fn token_by_id(&self, id: String) -> Answer<'_, Option<TokenRow>>;

    /// The files of a policy set, as JSON, and the event that put it into force.
    fn policy(&self, hash: Hash) -> Answer<'_, Option<(String, u64)>>;

    /// Operators made by `init`, with the event that made each.
    fn operators(&self) -> Answer<'_, Vec<(String, u64)>>;

    /// Every trust state there was, oldest first, as signed notes.
    fn trust_states(&self) -> Answer<'_, Vec<Vec<u8>>>;

    /// Issuers' certificates, newest last.
    fn issuers(&self) -> Answer<'_, Vec<Vec<u8>>>;

    /// The newest CRL of an issuer.
    fn crl(&self, issuer_key_hash: Hash) -> Answer<'_, Option<CrlRow>>;
}

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

/// A store's answer, awaited.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The newest head, kept or not: for whoever looks what stands in the log, and gives nobody anything by
/// it. Whatever is given is committed first, or asked of [`Store::head`].
pub(crate) async fn newest_head(store: &dyn Store) -> Result<Head, StoreError> {
    newest(store.head().await)
}

/// The same, of what was read.
fn newest(read: Result<Head, StoreError>) -> Result<Head, StoreError> {
    match read {
        Err(StoreError::Unkept { head, .. }) => Ok(Head::clone(&head)),
        read => read,
    }
}

fn has_not_ended(since: u64) -> String {
    let since = from_milliseconds(since).truncate_to_second().format(&Rfc3339).unwrap_or_default();
    format!("the store cannot be used: a write to it of {since} has not ended")
}

/// It goes on by itself once the disk answers.
const LOOK_AT_DISK: &str =
    "look at the disk of the CA's `state`: kernel messages, and the mount where it is a network's";

/// A duration as people compare it: in its largest unit.
fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..120 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How thoroughly a store is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether anybody else has locked it: costs no write.
    Lock,
    /// Writes what is there already, as a commit would, and syncs it: whether there is room, too.
    Write,
}

/// What keeps a database from taking what is written, and passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hindrance {
    /// The disk, or a limit of this process, refuses.
    DiskFailed,
    /// There is no room.
    DiskFull,
    /// Another process has locked it.
    Locked,
    /// It may only be read.
    ReadOnly,
}

impl Hindrance {
    /// What ends it, of this file; then the CA goes on by itself.
    pub fn next_step(self, file: &str) -> String {
        match self {
            Self::DiskFailed => {
                "look at the file system of the CA's `state`: kernel messages, quota, ulimit -f"
                    .to_owned()
            }
            Self::DiskFull => {
                "free space on the file system of the CA's `state`: df shows it".to_owned()
            }
            Self::Locked => {
                format!(
                    "end the other process that has locked it, whom `fuser {}` names",
                    word(file)
                )
            }
            Self::ReadOnly => {
                "make the CA's `state` writable again: mount, and the files' owner".to_owned()
            }
        }
    }
}

/// Why the store does not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The clock is behind the newest entry of the log.
    #[error(
        "the clock is {} behind the log's newest entry; set it right, or where it is right and the \
         log went ahead: stop the CA, countersign init --recover --accept-clock",
        span(*.milliseconds)
    )]
    ClockBehind {
        /// By how much.
        milliseconds: u64,
    },
    /// The clock went ahead by itself.
    #[error(transparent)]
    ClockLeapt(#[from] ClockLeapt),
    /// The file is not the database that was written, or lacks a part of it.
    #[error(
        "{file} is damaged: {what}; restore a backup of the whole state folder; without one it is \
         a new CA (README: what to back up)"
    )]
    Damaged {
        /// Which.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The disk is full or fails, the database is read-only or locked.
    #[error("the store cannot be used: {file}: {why}; {}", .by.next_step(.file))]
    Hindered {
        /// What it is.
        by: Hindrance,
        /// Which file.
        file: String,
        /// What the database says.
        why: String,
    },
    /// A write neither fails nor returns, and nothing is committed before it does: nothing was done.
    #[error("{}; nothing is committed before it has; {LOOK_AT_DISK}", has_not_ended(*.since))]
    Hangs {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// The tables contradict each other, or the log.
    #[error("the store contradicts itself: {0}; restore a backup, nothing is issued from it")]
    Inconsistent(String),
    /// Its version and its tables are of two times.
    #[error(
        "its version is {version}, and its tables are those of another ({what}): somebody has changed \
         one of the two; restore a backup of the whole state folder"
    )]
    Versions {
        /// What `meta` says.
        version: i64,
        /// How that shows.
        what: String,
    },
    /// Another process holds the store.
    #[error(
        "another process serves from {0}, or makes or repairs a CA there; stop it first, or wait"
    )]
    InUse(String),
    /// The database is gone, or cannot be opened.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// The newest commit is not kept beside the database: nothing follows from it but what only
    /// restricts, and nothing else is committed.
    #[error("the store cannot be used: {why}")]
    Unkept {
        /// The head that it led to: the log has it.
        head: Arc<Head>,
        /// What keeps it from being kept.
        why: String,
        /// Those of the group, by their places in it, that were allowed under another state than this:
        /// they are decided anew. Of the others, what only restricts is done.
        moved: Vec<usize>,
    },
    /// The same as [`Hangs`](Self::Hangs), of what may be committed when it ends.
    #[error("{}: whether this is done is not known; {LOOK_AT_DISK}", has_not_ended(*.since))]
    Unsure {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// An older database was put back below this process.
    #[error(transparent)]
    WentBack(Arc<WentBack>),
}

impl StoreError {
    /// The same, of members at these places of a group that were planned so: of one whose head is not kept.
    pub(crate) fn with_outcomes(self, plan: &Plan, places: &[usize]) -> Self {
        let Self::Unkept { why, .. } = self else { return self };
        let planned = places.iter().zip(&plan.outcomes);
        let moved = planned.filter(|(_, outcome)| **outcome == Outcome::Moved);
        let moved = moved.map(|(place, _)| *place).collect();
        Self::Unkept { head: Arc::new(plan.head.clone()), why, moved }
    }

    /// The same, of a file whose place is known.
    pub(crate) fn of_file(self, path: &std::path::Path) -> Self {
        let file = path.display().to_string();
        match self {
            Self::Damaged { what, .. } => Self::Damaged { file, what },
            Self::Hindered { by, why, .. } => Self::Hindered { by, file, why },
            error => error,
        }
    }
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

/// What is kept of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub leaf_index: u64,
    /// When it was logged, in milliseconds since 1970.
    pub issued_at: u64,
    /// SHA-256 of the issuer's public key.
    pub issuer_key_hash: Hash,
    /// Its serial number.
    pub serial_number: SerialNumber,
    /// Who it names.
    pub spiffe_id: SpiffeId,
    /// The profile.
    pub profile: String,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// SHA-256 of the request.
    pub request_hash: Hash,
    /// Facts and policies, as JSON.
    pub facts: String,
    /// The certificate, where signing was completed.
    pub certificate: Option<Vec<u8>>,
}
