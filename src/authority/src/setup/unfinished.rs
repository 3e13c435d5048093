//! A CA that is being made stands in a folder of its own inside the state folder, until it is whole.
//!
//! Crash story, beside the write order: (1) the state folder is locked; (2) what an earlier attempt
//! left in `init-unfinished` is removed; (3) keys, database, pin or request are made in there, each
//! synced; (4) the database is closed; (5) `whole` is written; (6) each part is moved to its place, the
//! pin last; (7) the folder is removed; (8) head and checkpoint of the log are kept beside the
//! database. Killed before 5, nobody has seen any of it, and the next `init` begins anew. Killed
//! afterwards, it is a CA: the next `init` moves what is left. Killed before 8, its first start keeps
//! them. Nothing is ever removed or replaced outside of the folder, so no CA is that was made, or
//! restored, there: what tells of another's log is refused before 1.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{PIN, REQUEST};
use crate::beside::EvidenceFile;
use crate::error::Error;
use crate::files::{create_private_folder, sync_folder, write_private};
use crate::keys::{offline_folder, online_folder};
use crate::shell::quoted;
use crate::store::sqlite;

/// The place of a CA that is being made.
#[derive(Debug)]
pub(super) struct Unfinished {
    state: PathBuf,
    folder: PathBuf,
}

impl Unfinished {
    pub(super) fn of(state: &Path) -> Self {
        Self { state: state.to_owned(), folder: state.join(FOLDER) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins anew.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.discard().map_err(|error| told(&self.folder, &error))?;
        for folder in [online_folder(&self.folder), offline_folder(&self.folder)] {
            create_private_folder(&folder).map_err(|error| told(&folder, &error))?;
        }
        Ok(())
    }

    /// Removes it, whatever it has: nobody has seen any of it. One that is whole stays.
    pub(super) fn discard(&self) -> io::Result<()> {
        if self.is_whole()? {
            return Ok(());
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What failed is not left behind, and that is said, where it can be removed: a marker that was
    /// written and not synced may have made it a CA.
    pub(super) fn given_up(&self, source: Error) -> Error {
        match (self.discard(), self.folder.try_exists()) {
            (Ok(()), Ok(false)) => {
                Error::Unmade { state: self.state.clone(), source: Box::new(source) }
            }
            _ => source,
        }
    }

    /// From now on it is a CA.
    pub(super) fn complete(&self) -> Result<(), Error> {
        let marker = self.folder.join(WHOLE);
        write_private(&marker, b"")
            .and_then(|()| sync_folder(&self.state))
            .map_err(|error| told(&marker, &error))
    }

    /// Moves what is whole to its place. Returns whether anything was left to move.
    pub(super) fn settle(&self) -> Result<bool, Error> {
        if !self.is_whole().map_err(|error| told(&self.folder, &error))? {
            return Ok(false);
        }
        let mut moved = false;
        for part in PARTS {
            let to = self.state.join(part);
            moved |= move_into(&self.folder.join(part), &to).map_err(|error| told(&to, &error))?;
        }
        sync_folder(&self.state)
            .and_then(|()| fs::remove_dir_all(&self.folder))
            .map_err(|error| told(&self.folder, &error))?;
        Ok(moved)
    }

    /// Whether it is a CA, some of which may have been moved.
    pub(super) fn is_whole(&self) -> io::Result<bool> {
        self.folder.join(WHOLE).try_exists()
    }
}

/// Refuses a folder that has a CA, or a part of one, and says what goes on with it; and what is no
/// folder, or may not be looked into: whatever is in there is nobody's to move away.
pub(super) fn require_vacant(state: &Path) -> Result<(), Error> {
    if !is_folder(state)? {
        return Ok(());
    }
    let has = |part: &str| {
        let path = state.join(part);
        path.try_exists().map_err(|error| unseen(&path, &error))
    };
    let shown = state.display();
    let (has_store, has_pin, has_request) = (has(sqlite::FILE)?, has(PIN)?, has(REQUEST)?);
    let has_keys = holds_keys(&online_folder(state))? || holds_keys(&offline_folder(state))?;
    let why = if has_store && has_pin {
        format!(
            "{shown} has a CA already: `countersign serve` runs it, `countersign init --recover` \
             gives its operator a certificate again"
        )
    } else if has_store && has_request {
        format!(
            "{shown} has a CA already, whose issuer is to be certified: have {shown}/{REQUEST} \
             certified, then: countersign init --certificate FILE"
        )
    } else if has_store || has_keys || has_pin || has_request {
        format!(
            "{shown} has a part of a CA, which is not removed: it holds keys. If services trust it, \
             put the rest back from a backup; if it never ran, move it away: {}; then: countersign init",
            move_away(state)?
        )
    } else if let moves @ [_, ..] = &moves_of_a_log(state)?[..] {
        format!(
            "{shown} has what tells of another CA's log, and is not removed: nothing else would tell of \
             an older database that is put back. If that CA is to run again, put the rest back from a \
             backup; if not, move it away: {}; then: countersign init",
            moves.join("; ")
        )
    } else {
        return Ok(());
    };
    Err(Error::Folder(why))
}

/// What moves away each file beside a database that says what its log was: a new CA's log is another.
fn moves_of_a_log(state: &Path) -> Result<Vec<String>, Error> {
    let mut moves = Vec::new();
    for file in EvidenceFile::all(state) {
        if is_taken(file.path())? {
            moves.push(move_away(file.path())?);
        }
    }
    Ok(moves)
}

/// The command that moves something to a name beside it, which nothing has.
fn move_away(path: &Path) -> Result<String, Error> {
    // Without a slash at its end.
    let path: PathBuf = path.components().collect();
    let shown = path.display();
    let mut aside = format!("{shown}.before");
    let mut further = 2;
    while is_taken(Path::new(&aside))? {
        aside = format!("{shown}.before-{further}");
        further += 1;
    }
    Ok(format!("mv {} {}", quoted(&path), quoted(Path::new(&aside))))
}

/// Whether something has this name, a link to nothing too.
fn is_taken(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unseen(path, &error)),
        Ok(_) => Ok(true),
    }
}

/// What comes next for a CA whose issuer its parent has not certified yet; none for every other.
pub fn next_by_parent(state: &Path) -> Option<String> {
    let is_waiting = state.join(REQUEST).exists() && !state.join(PIN).exists();
    is_waiting.then(|| {
        let shown = state.display();
        format!(
            "the issuer of the CA in {shown} is to be certified: have {shown}/{REQUEST} certified, \
             then: countersign init --certificate FILE"
        )
    })
}

/// Whether something is there; refuses what is no folder.
fn is_folder(path: &Path) -> Result<bool, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(_) => Err(Error::Folder(format!(
            "{} is no folder: name another `state` in the configuration",
            path.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unseen(path, &error)),
    }
}

fn holds_keys(folder: &Path) -> Result<bool, Error> {
    let seen = |error| unseen(folder, &error);
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        files => files.map_err(seen)?,
    };
    for file in files {
        if file.map_err(seen)?.path().extension().is_some_and(|is| is == "key") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is there is not known: it may be a whole CA.
fn unseen(path: &Path, error: &io::Error) -> Error {
    let shown = path.display();
    Error::Folder(match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "{shown}: permission denied: this user may not look into it; a CA is there perhaps, so \
             run it as the owner of that folder, or name another `state` in the configuration"
        ),
        ErrorKind::NotADirectory => format!(
            "{shown}: a part of this path is no folder: name another `state` in the configuration"
        ),
        _ => format!("{shown}: {error}"),
    })
}

/// Moves a file, or a folder of files; one that is moved already is not moved again, and nothing is
/// replaced. A folder that is there may be a link to another disk, as where the offline keys go.
fn move_into(from: &Path, to: &Path) -> io::Result<bool> {
    let is_folder = match fs::symlink_metadata(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        metadata => metadata?.is_dir(),
    };
    if !to.try_exists()? {
        match fs::rename(from, to) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices && !is_folder => {
                write_private(to, &fs::read(from)?)?;
                fs::remove_file(from)?;
            }
            moved => moved?,
        }
    } else if is_folder {
        for file in fs::read_dir(from)? {
            let file = file?;
            move_into(&file.path(), &to.join(file.file_name()))?;
        }
        sync_folder(to)?;
        fs::remove_dir(from)?;
    } else if fs::read(from)? == fs::read(to)? {
        fs::remove_file(from)?;
    } else {
        let why = "another file is there: an `init` was interrupted, and then another CA was put \
                   here; move one of the two away";
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    Ok(true)
}

fn told(path: &Path, error: &io::Error) -> Error {
    Error::Folder(format!("{}: {error}", path.display()))
}

const FOLDER: &str = "init-unfinished";
/// A CA is whole that has this beside it.
const WHOLE: &str = "whole";
/// In the order in which they are moved: `serve` wants the last, and `init --certificate` the request.
const PARTS: [&str; 5] = ["keys", "offline", sqlite::FILE, REQUEST, PIN];
