//! A file beside the database that says what the log was, as this process has put it there: who writes
//! it finds out whether somebody else has removed, replaced or overwritten it meanwhile.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::beside::EvidenceFile;
use crate::folder::Folder;

/// A state folder, and which of its files that speak about the log were removed or replaced under this
/// process. Clones remember it together.
#[derive(Debug, Clone)]
pub struct KeptBeside {
    state: PathBuf,
    replaced: Arc<Mutex<BTreeSet<String>>>,
}

impl KeptBeside {
    /// None was yet.
    pub fn of(state: &Path) -> Self {
        Self { state: state.to_owned(), replaced: Arc::default() }
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// The names of those that were, which this process has written anew.
    pub(crate) fn replaced(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    /// The same, and forgets them.
    #[cfg(test)]
    pub(crate) fn take_replaced(&mut self) -> Vec<String> {
        std::mem::take(&mut *self.names()).into_iter().collect()
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that this process has put there last.
#[derive(Debug)]
pub(crate) struct KeptFile {
    is: EvidenceFile,
    beside: KeptBeside,
    folder: Folder,
    file: File,
    length: u64,
}

impl KeptFile {
    /// Puts it there, whatever stood there.
    pub(crate) fn put(is: EvidenceFile, beside: &KeptBeside, contents: &[u8]) -> io::Result<Self> {
        let folder = Folder::open(beside.state())?;
        let file = create(&folder, &is, contents)?;
        Ok(Self { is, beside: beside.clone(), folder, file, length: contents.len() as u64 })
    }

    /// Writes to another file from now on, as a descriptor that fails.
    #[cfg(test)]
    pub(crate) fn exchange(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    pub(crate) fn path(&self) -> &Path {
        self.is.path()
    }

    /// The file, to be written in place and synced.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is this file that still has its name.
    pub(crate) fn stands(&self) -> io::Result<bool> {
        self.folder.has(self.is.name(), &self.file)
    }

    /// Whether it has these bytes at this place, and is as long as it was made. What the system cannot
    /// read now says nothing of who wrote it.
    pub(crate) fn says(&self, contents: &[u8], at: u64) -> bool {
        let mut stands = vec![0; contents.len()];
        let has_length = self.file.metadata().map_or(true, |it| it.len() == self.length);
        has_length
            && match self.file.read_exact_at(&mut stands, at) {
                Ok(()) => stands == contents,
                Err(error) => error.kind() != ErrorKind::UnexpectedEof,
            }
    }

    /// Puts it there anew, whole or not at all, since somebody else was at it: he may be about to put
    /// back an older database.
    pub(crate) fn restore(&mut self, contents: &[u8]) -> io::Result<()> {
        self.file = create(&self.folder, &self.is, contents)?;
        self.length = contents.len() as u64;
        self.is.tell_rewritten();
        self.beside.names().insert(self.is.name());
        Ok(())
    }
}

fn create(folder: &Folder, is: &EvidenceFile, contents: &[u8]) -> io::Result<File> {
    let mut new = folder.begin()?;
    new.file().write_all(contents)?;
    // Commands on the CA's host may be root's, and `serve` must read it.
    folder.access_of_new().give(new.file())?;
    let file = new.file().try_clone()?;
    new.put(is.name())?;
    Ok(file)
}
