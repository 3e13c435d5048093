//! The files that are open, and those that stand at their names: a database that somebody removed or
//! replaced is written to in vain.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::store::StoreError;

/// The database and its WAL, by device and inode as they were opened.
#[derive(Debug)]
pub(super) struct Place {
    database: PathBuf,
    wal: PathBuf,
    opened: Inode,
    /// SQLite makes it with the first look, and it stays while anybody has the database open.
    opened_wal: OnceLock<Inode>,
}

type Inode = (u64, u64);

impl Place {
    /// To be called once the database was opened and looked at.
    pub(super) fn of(database: &Path) -> Result<Self, StoreError> {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let opened = inode(database)?.ok_or_else(|| gone(database))?;
        let opened_wal = OnceLock::new();
        let place = Self { database: database.to_owned(), wal: wal.into(), opened, opened_wal };
        place.require()?;
        Ok(place)
    }

    /// Refuses once other files stand there, or none.
    pub(super) fn require(&self) -> Result<(), StoreError> {
        if inode(&self.database)? != Some(self.opened) {
            return Err(gone(&self.database));
        }
        let wal = inode(&self.wal)?;
        let opened_wal = match wal {
            Some(wal) => Some(*self.opened_wal.get_or_init(|| wal)),
            None => self.opened_wal.get().copied(),
        };
        if wal == opened_wal { Ok(()) } else { Err(gone(&self.wal)) }
    }
}

fn inode(path: &Path) -> Result<Option<Inode>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", path.display()))),
    }
}

fn gone(path: &Path) -> StoreError {
    StoreError::Unavailable(format!(
        "{} was removed or replaced while this process had it open, and what it writes would be lost: \
         stop the CA, put the newest one back, and start it again",
        path.display()
    ))
}

/// The database's name in the state folder.
pub(crate) const FILE: &str = "countersign.db";
