//! What the engine keeps: records, tokens, policies, the log and its head.
//!
//! A [`Store`] has one way to write: [`Store::commit`] takes a group, plans it with
//! [`crate::sequencer::plan`] under the head lock and writes all of it in one durable transaction,
//! or nothing. When it fails, what happened is unknown: a caller repeats the request, and the
//! rules of the plan make that safe.

mod asked;
mod error;
#[cfg(any(test, feature = "test-seams"))]
pub mod faulty;
mod heads;
pub mod sqlite;

use std::fmt;

use futures_util::future::BoxFuture;
use tlog::{Hash, Tile};

pub use self::asked::{
    MadeToken, Probe, RecordKey, RecordQuery, RevocationRow, StoredCheckpoint, TokenPage,
    TokenQuery,
};
use self::error::newest;
pub use self::error::{Hindrance, StoreError, WentBack};
use crate::beside::kept_file::KeptBeside;
pub use crate::sequencer::Record;
use crate::sequencer::{CrlRow, Head, KeptRequest, Member, Outcome, TokenRow};

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

/// A store's answer, awaited.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The newest head, kept or not: for whoever looks what stands in the log, and gives nobody anything by
/// it. Whatever is given is committed first, or asked of [`Store::head`].
pub(crate) async fn newest_head(store: &dyn Store) -> Result<Head, StoreError> {
    newest(store.head().await)
}
