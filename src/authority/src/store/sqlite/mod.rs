//! The store on SQLite: one file, one writing connection, a few reading ones.
//!
//! WAL with `synchronous=FULL`: a commit is on the disk before it is answered. A commit runs on the
//! thread that asks for it: that is the queue's own, and to hand it to another costs more than
//! SQLite's share of it. One process serves from a file at a time; a lock beside it says so.

mod head;
mod migration;
mod place;
mod probe;
mod read;
mod records;
mod renewals;
mod requests;
mod schema;
mod tiles;
mod unreached;
mod upgrade;
mod write;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use identity::TrustDomain;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tlog::{Hash, Tile};
use tokio::sync::Semaphore;

pub use self::migration::Migrated;
use self::place::Place;
use self::schema::Schema;
use self::tiles::{NewestTile, Roots};
use self::unreached::Unreached;
use super::heads::Heads;
use super::{
    Answer, Hindrance, Probe, Record, RecordKey, RecordQuery, RevocationRow, Store, StoreError,
    StoredCheckpoint, TokenPage, TokenQuery,
};
use crate::files::open_lock;
use crate::kept_file::KeptBeside;
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
        let version = read::version(&connection).map_err(|error| error.of_file(&path))?;
        Ok(version != write::UNSEALED)
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
        let readers = Readers { path: path.clone(), schema: of_readers, idle: Mutex::default() };
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
        blocking(move || {
            let read = || {
                let connection = readers.take()?;
                readers.schema.require(&connection)?;
                let answer = job(&connection);
                readers.give_back(connection);
                answer
            };
            read().map_err(|error| error.of_file(&readers.path))
        })
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
        self.read(move |connection| tiles::tile(connection, &key, &heads, &roots, tile))
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

/// The one connection that writes.
struct Writer {
    connection: Connection,
    newest_tile: NewestTile,
    key: HeadKey,
    schema: Arc<Schema>,
    place: Place,
    heads: Arc<Heads>,
    unreached: Unreached,
}

/// A panic inside a transaction rolls it back: the connection is good for the next.
fn lock_writer(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blocking<'a, T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Answer<'a, T> {
    let waits = Waits::begin();
    let begin = move |turn| {
        let job = move || {
            drop(waits);
            let done = job();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(job).map(|done| done.unwrap_or_else(|_| Err(gone())))
    };
    match TURNS.try_acquire() {
        Ok(turn) => begin(turn).boxed(),
        // Whoever goes away before their turn leaves nothing behind.
        Err(_) => async move {
            let turn = TURNS.acquire().await.map_err(|_| gone())?;
            begin(turn).await
        }
        .boxed(),
    }
}

/// A job that no thread has begun.
struct Waits;

impl Waits {
    fn begin() -> Self {
        metrics::gauge!(WAITING).increment(1.0);
        Self
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        metrics::gauge!(WAITING).decrement(1.0);
    }
}

/// Of jobs that threads do or are about to: while a disk hangs, no more wait for one.
static TURNS: Semaphore = Semaphore::const_new(1024);

/// Reading connections, opened as needed and kept.
struct Readers {
    path: PathBuf,
    schema: Arc<Schema>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle().pop();
        idle.map_or_else(|| connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY), Ok)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE_READERS {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    connect_as(path, flags).map_err(|error| unavailable(error).of_file(path))
}

/// What is looked at before anything is read from a file.
fn verify(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    key: &HeadKey,
) -> Result<(), StoreError> {
    upgrade::bring_up_to_date(connection, trust_domain, key)?;
    read::require_trust_domain(connection, trust_domain)?;
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

fn connect_as(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let (access, cache) = if flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) {
        (OpenFlags::empty(), READERS_CACHE)
    } else {
        (OpenFlags::SQLITE_OPEN_READ_WRITE, WRITERS_CACHE)
    };
    let no_mutex = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags | access | no_mutex)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(PRAGMAS)?;
    connection.pragma_update(None, "cache_size", -cache)?;
    connection.set_prepared_statement_cache_capacity(64);
    // There are no statistics: a plan does not depend on values, and is not made anew for each.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Opens the file of a folder that is held.
fn open_connection(folder: &Path) -> Result<(PathBuf, Connection), StoreError> {
    let path = require_file(folder)?;
    let connection = connect(&path, OpenFlags::empty())?;
    schema::require_inert(&connection)?;
    Ok((path, connection))
}

fn require_file(folder: &Path) -> Result<PathBuf, StoreError> {
    let path = folder.join(FILE);
    if let Ok(file) = path.metadata() {
        let is_empty = file.is_file() && file.len() == 0;
        let what = match () {
            () if is_empty => "it is empty",
            () if !file.is_file() => "it is no file",
            () => return Ok(path),
        };
        return Err(damaged(what.to_owned()).of_file(&path));
    }
    Err(StoreError::Unavailable(format!(
        "there is no {}: restore a backup of the whole folder; where there is none, it is another \
         CA that `countersign init` makes, once {} was moved away",
        path.display(),
        folder.display()
    )))
}

/// One process serves from a folder: the lock goes with the process, however it ends.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = open_lock(&path)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.display().to_string())),
        Err(TryLockError::Error(error)) => Err(StoreError::Unavailable(error.to_string())),
    }
}

/// An empty file for the owner alone; SQLite gives those beside it (WAL, shared memory) its mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

/// What SQLite says of its own file, and of rows of another form than the schema's, is no passing
/// trouble.
fn unavailable(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{ConstraintViolation, DatabaseCorrupt, NotADatabase};
    let is_damage = match &error {
        rusqlite::Error::QueryReturnedNoRows => {
            return damaged("a row is gone that has to be there".to_owned());
        }
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        error => match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => true,
            _ => {
                let text = error.to_string();
                ["no such table", "no such column"].iter().any(|gone| text.starts_with(gone))
            }
        },
    };
    match (is_damage, error.sqlite_error_code()) {
        (true, _) => damaged(error.to_string()),
        // A constraint that does not hold is a row that the plan knows nothing of.
        (false, Some(ConstraintViolation)) => StoreError::Inconsistent(format!(
            "{error}: a row stands there that this CA did not write"
        )),
        (false, code) => {
            let why = error.to_string();
            match code.and_then(hindrance) {
                Some(by) => StoreError::Hindered { by, file: FILE.to_owned(), why },
                None => StoreError::Unavailable(why),
            }
        }
    }
}

fn hindrance(code: rusqlite::ErrorCode) -> Option<Hindrance> {
    use rusqlite::ErrorCode as Code;
    match code {
        Code::DatabaseBusy | Code::DatabaseLocked => Some(Hindrance::Locked),
        Code::DiskFull => Some(Hindrance::DiskFull),
        Code::ReadOnly => Some(Hindrance::ReadOnly),
        Code::SystemIoFailure => Some(Hindrance::DiskFailed),
        _ => None,
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged { file: FILE.to_owned(), what }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the thread that asked it has ended".to_owned())
}

/// The one log of this trust domain; other ledgers will have other numbers.
const LOG: i64 = 1;
/// Its name in the state folder.
pub(crate) const FILE: &str = "countersign.db";
const LOCK: &str = "lock";
/// Who waits for a thread.
const WAITING: &str = "countersign_store_waiting";
const MAX_IDLE_READERS: usize = 4;
/// While a file is opened, and for readers.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a write waits for another process, which has no business there: no longer than it takes to
/// tell that the CA is not ready.
const WRITER_WAITS: Duration = Duration::from_secs(1);
/// The same where nobody waits for the write.
const PROBE_WAITS: Duration = Duration::from_millis(250);
/// FULL: WAL is synced at every commit. Checkpoints of the WAL are rare (64 MiB) because commits wait
/// for each; caches are small because memory is promised.
const PRAGMAS: &str = "
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = FULL;
  PRAGMA foreign_keys = OFF;
  PRAGMA wal_autocheckpoint = 16000;
  PRAGMA temp_store = MEMORY;
";
/// KiB. What readers share is the system's cache of the file.
const WRITERS_CACHE: i64 = 4000;
const READERS_CACHE: i64 = 500;
