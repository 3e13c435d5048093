//! The store on SQLite: one file, one writing connection, a few reading ones.
//!
//! WAL with `synchronous=FULL`: a commit is on the disk before it is answered. A commit runs on the
//! thread that asks for it: that is the queue's own, and to hand it to another costs more than
//! SQLite's share of it. One process serves from a file at a time; a lock beside it says so.

mod columns;
mod errors;
mod file;
mod find;
mod given_tiles;
mod head;
mod jobs;
mod meta;
mod migration;
mod place;
mod probe;
mod read;
mod readers;
mod records;
mod renewals;
mod requests;
mod rows;
mod schema;
mod tiles;
mod transaction;
mod unreached;
mod upgrade;
mod write;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use identity::TrustDomain;
use rusqlite::{Connection, OpenFlags};
use tlog::{Hash, Tile};

use self::errors::{damaged, gone, unavailable};
use self::file::{connect, create_private, lock, open_connection, require_file};
use self::given_tiles::Roots;
use self::jobs::blocking;
pub use self::migration::Migrated;
pub(crate) use self::place::FILE;
use self::place::Place;
use self::readers::Readers;
use self::schema::Schema;
use self::tiles::NewestTile;
use self::unreached::Unreached;
use self::writer::{WRITER_WAITS, Writer, lock_writer};
use super::heads::Heads;
use super::{
    Answer, Probe, Record, RecordKey, RecordQuery, RevocationRow, Store, StoreError,
    StoredCheckpoint, TokenPage, TokenQuery,
};
use crate::beside::kept_file::KeptBeside;
use crate::seal::HeadKey;
use crate::sequencer::{CrlRow, Head, KeptRequest, Member, Outcome, TokenRow};

/// The store in a state folder.
pub struct SqliteStore {
    path: PathBuf,
    writer: Arc<Mutex<Writer>>,
    readers: Arc<Readers>,
    key: HeadKey,
    heads: Arc<Heads>,
    roots: Arc<Roots>,
    _lock: Arc<File>,
}

/// A state folder, held for one process. Clones hold it together.
#[derive(Debug, Clone)]
pub struct Held {
    folder: PathBuf,
    lock: Arc<File>,
}

impl Held {
    /// Creates the file for a trust domain, in a folder inside the held one.
    pub fn create(
        self,
        folder: &Path,
        trust_domain: &TrustDomain,
        key: &HeadKey,
    ) -> Result<SqliteStore, StoreError> {
        let path = folder.join(FILE);
        create_private(&path)?;
        let connection = connect(&path, OpenFlags::empty())?;
        connection
            .execute_batch(&format!("BEGIN; {} {}; COMMIT;", schema::TABLES, schema::DENIALS))
            .and_then(|()| write::initialise(&connection, trust_domain, key))
            .map_err(unavailable)?;
        SqliteStore::new(path, connection, self.lock, key.clone())
    }

    /// Opens the folder's file, as [`SqliteStore::open`] does.
    pub fn open(
        self,
        trust_domain: &TrustDomain,
        key: &HeadKey,
    ) -> Result<SqliteStore, StoreError> {
        let (path, mut connection) = open_connection(&self.folder)?;
        verify(&mut connection, trust_domain, key).map_err(|error| error.of_file(&path))?;
        let store = SqliteStore::new(path.clone(), connection, self.lock, key.clone());
        let store = store.map_err(|error| error.of_file(&path))?;
        head::verify_log(&lock_writer(&store.writer).connection, key)
            .map_err(|error| error.of_file(&path))?;
        Ok(store)
    }
}

impl SqliteStore {
    /// Holds a folder, with or without a file in it, as long as what is returned lives.
    pub fn hold(folder: &Path) -> Result<Held, StoreError> {
        Ok(Held { folder: folder.to_owned(), lock: Arc::new(lock(folder)?) })
    }

    /// Closes the file, so that it can be moved: all that was committed stands in it alone.
    pub fn close(self) -> Result<(), StoreError> {
        let Self { path, writer, readers, .. } = self;
        // Whoever closes last writes the WAL back: it has to be the one that may write.
        drop(readers);
        let writer = Arc::into_inner(writer).ok_or_else(gone)?;
        let writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.connection.close().map_err(|(_, error)| unavailable(error))?;
        let mut wal = path.into_os_string();
        wal.push("-wal");
        if Path::new(&wal).exists() {
            return Err(StoreError::Unavailable("its WAL could not be written back".to_owned()));
        }
        Ok(())
    }

    /// Opens the file of a trust domain, verifies its head's seal, and compares the tree's right
    /// edge with it.
    pub fn open(
        folder: &Path,
        trust_domain: &TrustDomain,
        key: &HeadKey,
    ) -> Result<Self, StoreError> {
        Self::hold_file(folder)?.open(trust_domain, key)
    }

    /// Whether the file's head is sealed, or is one of before, to be [migrated](Self::migrate).
    pub fn is_sealed(folder: &Path) -> Result<bool, StoreError> {
        let _held = Self::hold_file(folder)?;
        let (path, connection) = open_connection(folder)?;
        let version = meta::version(&connection).map_err(|error| error.of_file(&path))?;
        Ok(version != meta::UNSEALED)
    }

    /// Opens a file of before heads were sealed: verifies all of it once, and seals it.
    pub fn migrate(
        folder: &Path,
        trust_domain: &TrustDomain,
        key: &HeadKey,
    ) -> Result<(Self, Migrated), StoreError> {
        let held = Self::hold_file(folder)?;
        let (path, mut connection) = open_connection(folder)?;
        let migrated = migration::migrate(&mut connection, trust_domain, key);
        let migrated = migrated.map_err(|error| error.of_file(&path))?;
        connection.execute_batch(schema::DENIALS).map_err(unavailable)?;
        Ok((Self::new(path, connection, held.lock, key.clone())?, migrated))
    }

    /// Makes of a folder's file what a version of before had left, 5 or 6.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn take_back(folder: &Path, key: &HeadKey, version: i64) -> Result<(), StoreError> {
        upgrade::take_back(&open_connection(folder)?.1, key, version)
    }

    /// Holds a folder that has a file; leaves nothing in one that has none.
    fn hold_file(folder: &Path) -> Result<Held, StoreError> {
        require_file(folder)?;
        Self::hold(folder)
    }

    fn new(
        path: PathBuf,
        connection: Connection,
        lock: Arc<File>,
        key: HeadKey,
    ) -> Result<Self, StoreError> {
        connection.busy_timeout(WRITER_WAITS).map_err(unavailable)?;
        let schema = Arc::new(Schema::of(&connection)?);
        let place = Place::of(&path)?;
        let of_readers = Arc::clone(&schema);
        let readers = Readers::new(path.clone(), of_readers);
        let key_of_readers = key.clone();
        let newest_tile = NewestTile::default();
        let heads = Arc::<Heads>::default();
        let of_writer = Arc::clone(&heads);
        let unreached = Unreached::default();
        let writer =
            Writer { connection, newest_tile, key, schema, place, heads: of_writer, unreached };
        let (writer, readers) = (Arc::new(Mutex::new(writer)), Arc::new(readers));
        let (key, roots) = (key_of_readers, Arc::default());
        Ok(Self { path, writer, readers, key, heads, roots, _lock: lock })
    }

    fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let readers = Arc::clone(&self.readers);
        blocking(move || readers.read(job))
    }

    fn write(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<(), StoreError> + Send + 'static,
    ) -> Answer<'_, ()> {
        let (writer, path) = (Arc::clone(&self.writer), self.path.clone());
        blocking(move || job(&mut lock_writer(&writer)).map_err(|error| error.of_file(&path)))
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    fn commit(&self, group: Vec<Member>, now: u64) -> Answer<'_, Vec<Outcome>> {
        let outcomes = write::commit(&mut lock_writer(&self.writer), group, now);
        std::future::ready(outcomes.map_err(|error| error.of_file(&self.path))).boxed()
    }

    fn head(&self) -> Answer<'_, Head> {
        let (key, heads) = (self.key.clone(), Arc::clone(&self.heads));
        self.read(move |connection| head::read_known(connection, &key, &heads))
    }

    fn keep_heads(&self, beside: KeptBeside) -> Answer<'_, ()> {
        self.write(move |Writer { connection, key, heads, .. }| {
            let head = head::read_known(connection, key, heads)?;
            heads.begin(&beside, key, &head)
        })
    }

    #[cfg(any(test, feature = "test-seams"))]
    fn forget_heads(&self) {
        self.heads.forget();
    }

    fn entries(&self, from: u64, limit: u64) -> Answer<'_, Vec<Vec<u8>>> {
        self.read(move |connection| read::entries(connection, from, limit))
    }

    fn folding_entries(&self, from: u64) -> Answer<'_, Vec<(u64, Vec<u8>)>> {
        self.read(move |connection| read::folding_entries(connection, from))
    }

    fn revocation_rows(&self) -> Answer<'_, Vec<RevocationRow>> {
        self.read(read::revocation_rows)
    }

    fn tile(&self, tile: Tile) -> Answer<'_, Option<Vec<u8>>> {
        let (key, heads) = (self.key.clone(), Arc::clone(&self.heads));
        let roots = Arc::clone(&self.roots);
        self.read(move |connection| given_tiles::tile(connection, &key, &heads, &roots, tile))
    }

    fn checkpoint(&self) -> Answer<'_, Option<StoredCheckpoint>> {
        self.read(read::checkpoint)
    }

    fn put_checkpoint(&self, checkpoint: StoredCheckpoint) -> Answer<'_, ()> {
        self.write(move |writer| write::put_checkpoint(&writer.connection, &checkpoint))
    }

    fn probe(&self, depth: Probe) -> Answer<'_, ()> {
        let roots = Arc::clone(&self.roots);
        self.write(move |writer| match depth {
            Probe::Lock => probe::lock(writer),
            Probe::Write => probe::write(writer, &roots),
        })
    }

    fn records_of(&self, keys: Vec<RecordKey>) -> Answer<'_, Vec<Option<Record>>> {
        let seal = self.key.clone();
        self.read(move |connection| {
            keys.iter().map(|key| read::record(connection, &seal, key)).collect()
        })
    }

    fn records(&self, query: RecordQuery) -> Answer<'_, Vec<Record>> {
        let seal = self.key.clone();
        self.read(move |connection| read::records(connection, &seal, &query))
    }

    fn token(&self, hash: Hash) -> Answer<'_, Option<TokenRow>> {
        let key = self.key.clone();
        self.read(move |connection| read::token(connection, &key, &hash))
    }

    fn kept_request(
        &self,
        principal: String,
        key: String,
        since: u64,
    ) -> Answer<'_, Option<KeptRequest>> {
        let (seal, heads) = (self.key.clone(), Arc::clone(&self.heads));
        self.read(move |connection| {
            let kept = requests::find(connection, &seal, &principal, &key, since);
            let kept = kept.map_err(unavailable)?;
            // Whoever is answered by it hears of the commit that it was written in.
            if kept.is_some() {
                head::read_known(connection, &seal, &heads)?;
            }
            Ok(kept)
        })
    }

    fn tokens(&self, query: TokenQuery) -> Answer<'_, TokenPage> {
        let key = self.key.clone();
        self.read(move |connection| read::tokens(connection, &key, &query))
    }

    fn token_by_id(&self, id: String) -> Answer<'_, Option<TokenRow>> {
        let key = self.key.clone();
        self.read(move |connection| read::token_by_id(connection, &key, &id))
    }

    fn policy(&self, hash: Hash) -> Answer<'_, Option<(String, u64)>> {
        self.read(move |connection| read::policy(connection, &hash))
    }

    fn operators(&self) -> Answer<'_, Vec<(String, u64)>> {
        self.read(read::operators)
    }

    fn trust_states(&self) -> Answer<'_, Vec<Vec<u8>>> {
        self.read(read::trust_states)
    }

    fn issuers(&self) -> Answer<'_, Vec<Vec<u8>>> {
        self.read(read::issuers)
    }

    fn crl(&self, issuer_key_hash: Hash) -> Answer<'_, Option<CrlRow>> {
        self.read(move |connection| read::crl(connection, &issuer_key_hash))
    }
}

/// What is looked at before anything is read from a file.
fn verify(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    key: &HeadKey,
) -> Result<(), StoreError> {
    upgrade::bring_up_to_date(connection, trust_domain, key)?;
    meta::require_trust_domain(connection, trust_domain)?;
    require_tables(connection)?;
    // Of a store that was made before there was this one.
    connection.execute_batch(schema::DENIALS).map_err(unavailable)
}

/// A table that is gone would be missed only by whoever asks for what is in it.
fn require_tables(connection: &Connection) -> Result<(), StoreError> {
    let tables = schema::TABLES.lines().filter_map(|line| line.strip_prefix("CREATE TABLE "));
    for table in tables.filter_map(|rest| rest.split([' ', '(']).next()) {
        if !connection.table_exists(None, table).map_err(unavailable)? {
            return Err(damaged(format!("the table `{table}` is gone")));
        }
    }
    Ok(())
}
