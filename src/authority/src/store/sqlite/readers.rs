//! The connections that read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::file::connect;
use super::schema::Schema;
use crate::store::StoreError;

/// Reading connections, opened as needed and kept.
pub(super) struct Readers {
    path: PathBuf,
    schema: Arc<Schema>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, schema: Arc<Schema>) -> Self {
        Self { path, schema, idle: Mutex::default() }
    }

    pub(super) fn read<T>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let read = || {
            let connection = self.take()?;
            self.schema.require(&connection)?;
            let answer = job(&connection);
            self.give_back(connection);
            answer
        };
        read().map_err(|error| error.of_file(&self.path))
    }

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

const MAX_IDLE_READERS: usize = 4;
