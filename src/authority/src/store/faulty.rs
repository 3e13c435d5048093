//! A store that fails on purpose: before it persists, or after.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tlog::{Hash, Tile};

use super::{
    Answer, Probe, Record, RecordKey, RecordQuery, RevocationRow, Store, StoreError,
    StoredCheckpoint, TokenPage, TokenQuery,
};
use crate::beside::kept_file::KeptBeside;
use crate::sequencer::{Acted, CrlRow, Head, KeptRequest, Member, Outcome, TokenRow};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It neither fails nor returns before the test [lets it go](FaultyStore::hanging), and is persisted.
    Hangs,
    /// The write fails, and nothing is persisted.
    NotPersisted,
    /// The write fails, but was persisted anyway.
    Persisted,
    /// It is never answered, and nothing is persisted: what a disk does that hangs.
    Unanswered,
    /// Acts are answered as if they were done, and nothing is persisted: what a database undoes.
    Undone,
}

/// Decides for each write, given its group (none for a checkpoint), whether it fails.
pub type Plan = dyn FnMut(&[Member]) -> Option<Fault> + Send;

/// A read that a test may count, hold up or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOf {
    /// Entries from this index on.
    Entries(u64),
    /// The log's head.
    Head,
    /// The files of a policy set.
    Policy,
    /// Records by their keys.
    Records,
    /// A page of tokens.
    Tokens,
}

/// Hears of each read as soon as it has begun, and makes it fail where it says so.
pub type Reads = dyn Fn(ReadOf) -> Option<StoreError> + Send + Sync;

/// Returns once a write that hangs is to go on.
pub type Hangs = dyn Fn() + Send + Sync;

/// Wraps a store and fails writes, and some reads, as told.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Box<Plan>>,
    reads: Box<Reads>,
    hangs: Arc<Hangs>,
}

impl FaultyStore {
    /// Wraps a store.
    pub fn new(
        inner: Arc<dyn Store>,
        plan: impl FnMut(&[Member]) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let plan = Mutex::new(Box::new(plan) as Box<Plan>);
        Self { inner, plan, reads: Box::new(|_| None), hangs: Arc::new(|| ()) }
    }

    /// The same, whose writes hang until this returns where the plan says so.
    #[must_use]
    pub fn hanging(self, hangs: impl Fn() + Send + Sync + 'static) -> Self {
        Self { hangs: Arc::new(hangs), ..self }
    }

    /// The same, and tells of reads.
    #[must_use]
    pub fn on_read(
        self,
        reads: impl Fn(ReadOf) -> Option<StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { reads: Box::new(reads), ..self }
    }

    fn begun<'a, T: Send + 'a>(&self, what: ReadOf, read: Answer<'a, T>) -> Answer<'a, T> {
        match (self.reads)(what) {
            Some(error) => std::future::ready(Err(error)).boxed(),
            None => read,
        }
    }

    fn next(&self, group: &[Member]) -> Option<Fault> {
        let mut plan = self.plan.lock().expect("no plan panics");
        plan(group)
    }

    fn failing<'a, T: Send + 'a>(
        &'a self,
        fault: Option<Fault>,
        write: Answer<'a, T>,
    ) -> Answer<'a, T> {
        async move {
            let failed = Err(StoreError::Unavailable("made to fail".to_owned()));
            match fault {
                None | Some(Fault::Undone) => write.await,
                Some(Fault::Hangs) => {
                    let hangs = Arc::clone(&self.hangs);
                    tokio::task::spawn_blocking(move || hangs()).await.expect("it returns");
                    write.await
                }
                Some(Fault::NotPersisted) => failed,
                Some(Fault::Persisted) => write.await.and(failed),
                Some(Fault::Unanswered) => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl Store for FaultyStore {
    fn commit(&self, group: Vec<Member>, now: u64) -> Answer<'_, Vec<Outcome>> {
        let fault = self.next(&group);
        // The inner store starts at the call: a fault that persists nothing must not call it.
        if matches!(fault, Some(Fault::NotPersisted | Fault::Unanswered)) {
            return self.failing(fault, std::future::pending().boxed());
        }
        if fault == Some(Fault::Undone) {
            return async move {
                let log_index = self.inner.head().await?.edge.size();
                Ok(group.iter().map(|_| Outcome::Act(Acted::Done { log_index })).collect())
            }
            .boxed();
        }
        if fault == Some(Fault::Hangs) {
            // On the thread of commits, as a disk does it.
            (self.hangs)();
            return self.inner.commit(group, now);
        }
        self.failing(fault, self.inner.commit(group, now))
    }
    fn put_checkpoint(&self, checkpoint: StoredCheckpoint) -> Answer<'_, ()> {
        let fault = self.next(&[]);
        if matches!(fault, Some(Fault::NotPersisted | Fault::Unanswered)) {
            return self.failing(fault, std::future::pending().boxed());
        }
        self.failing(fault, self.inner.put_checkpoint(checkpoint))
    }
    fn probe(&self, depth: Probe) -> Answer<'_, ()> {
        if depth == Probe::Lock {
            return self.inner.probe(depth);
        }
        let fault = self.next(&[]);
        if matches!(fault, Some(Fault::NotPersisted | Fault::Unanswered)) {
            return self.failing(fault, std::future::pending().boxed());
        }
        self.failing(fault, self.inner.probe(depth))
    }
    fn head(&self) -> Answer<'_, Head> {
        self.begun(ReadOf::Head, self.inner.head())
    }
    fn keep_heads(&self, beside: KeptBeside) -> Answer<'_, ()> {
        self.inner.keep_heads(beside)
    }

    fn forget_heads(&self) {
        self.inner.forget_heads();
    }
    fn entries(&self, from: u64, limit: u64) -> Answer<'_, Vec<Vec<u8>>> {
        self.begun(ReadOf::Entries(from), self.inner.entries(from, limit))
    }
    fn folding_entries(&self, from: u64) -> Answer<'_, Vec<(u64, Vec<u8>)>> {
        self.inner.folding_entries(from)
    }
    fn revocation_rows(&self) -> Answer<'_, Vec<RevocationRow>> {
        self.inner.revocation_rows()
    }
    fn tile(&self, tile: Tile) -> Answer<'_, Option<Vec<u8>>> {
        self.inner.tile(tile)
    }
    fn checkpoint(&self) -> Answer<'_, Option<StoredCheckpoint>> {
        self.inner.checkpoint()
    }
    fn records_of(&self, keys: Vec<RecordKey>) -> Answer<'_, Vec<Option<Record>>> {
        self.begun(ReadOf::Records, self.inner.records_of(keys))
    }
    fn records(&self, query: RecordQuery) -> Answer<'_, Vec<Record>> {
        self.inner.records(query)
    }
    fn token(&self, hash: Hash) -> Answer<'_, Option<TokenRow>> {
        self.inner.token(hash)
    }
    fn kept_request(
        &self,
        principal: String,
        key: String,
        since: u64,
    ) -> Answer<'_, Option<KeptRequest>> {
        self.inner.kept_request(principal, key, since)
    }
    fn tokens(&self, query: TokenQuery) -> Answer<'_, TokenPage> {
        self.begun(ReadOf::Tokens, self.inner.tokens(query))
    }
    fn token_by_id(&self, id: String) -> Answer<'_, Option<TokenRow>> {
        self.inner.token_by_id(id)
    }
    fn policy(&self, hash: Hash) -> Answer<'_, Option<(String, u64)>> {
        self.begun(ReadOf::Policy, self.inner.policy(hash))
    }
    fn operators(&self) -> Answer<'_, Vec<(String, u64)>> {
        self.inner.operators()
    }
    fn trust_states(&self) -> Answer<'_, Vec<Vec<u8>>> {
        self.inner.trust_states()
    }
    fn issuers(&self) -> Answer<'_, Vec<Vec<u8>>> {
        self.inner.issuers()
    }
    fn crl(&self, issuer_key_hash: Hash) -> Answer<'_, Option<CrlRow>> {
        self.inner.crl(issuer_key_hash)
    }
}
