//! The file in a state folder: held for one process, made, and opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::errors::{damaged, unavailable};
use super::place::FILE;
use super::schema;
use crate::files::open_lock;
use crate::store::StoreError;

pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    connect_as(path, flags).map_err(|error| unavailable(error).of_file(path))
}

pub(super) fn connect_as(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
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
pub(super) fn open_connection(folder: &Path) -> Result<(PathBuf, Connection), StoreError> {
    let path = require_file(folder)?;
    let connection = connect(&path, OpenFlags::empty())?;
    schema::require_inert(&connection)?;
    Ok((path, connection))
}

pub(super) fn require_file(folder: &Path) -> Result<PathBuf, StoreError> {
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
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
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
pub(super) fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

const LOCK: &str = "lock";
/// While a file is opened, and for readers.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
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
