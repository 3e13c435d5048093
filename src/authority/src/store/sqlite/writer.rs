//! The one connection that writes, and what goes with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::place::Place;
use super::schema::Schema;
use super::tiles::NewestTile;
use super::unreached::Unreached;
use crate::seal::HeadKey;
use crate::store::heads::Heads;

/// The one connection that writes.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) newest_tile: NewestTile,
    pub(super) key: HeadKey,
    pub(super) schema: Arc<Schema>,
    pub(super) place: Place,
    pub(super) heads: Arc<Heads>,
    pub(super) unreached: Unreached,
}

/// A panic inside a transaction rolls it back: the connection is good for the next.
pub(super) fn lock_writer(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a write waits for another process, which has no business there: no longer than it takes to
/// tell that the CA is not ready.
pub(super) const WRITER_WAITS: Duration = Duration::from_secs(1);
/// The same where nobody waits for the write.
pub(super) const PROBE_WAITS: Duration = Duration::from_millis(250);
