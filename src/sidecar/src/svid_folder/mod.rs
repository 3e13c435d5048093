//! The folder that holds an SVID: `svid.pem svid.key bundle.pem trust.note svid.json`.
//!
//! # Crash story
//!
//! Certificate and key are two files, and two renames are not one: between them, a reader (or a
//! crash) would find a key that does not belong to the certificate. So the five names are symbolic
//! links to `.current/NAME`, `.current` is a symbolic link to a folder `.svid-N` that is
//! complete and synced before it is pointed at, and one rename of `.current` replaces all five.
//!
//! [`SvidFolder::replace`] is a list of steps, each of them atomic. A crash after any of them leaves the
//! old set or the new one, always a matching pair:
//!
//! 1. Where a name is no such link (a plain file, written by hand or restored; a link to one `.svid-N`;
//!    `.current` a folder, as a copy has it), what the names show is copied into a `.svid-N` of its
//!    own, the names are replaced one by one by links to the copies, and once none leads through
//!    `.current` any more, that is replaced, too: the same bytes under another roof.
//! 2. Names that are new get a link that leads nowhere yet: readers find nothing, as before.
//! 3. The new `.svid-N` is written and synced, then `.current` is renamed: old set, then new set.
//! 4. Older `.svid-*`, and what a crash left of them, are removed.
//!
//! Each file keeps owner, group and mode of the one that it replaces, and the folder of the set those
//! of the folder before; what is new belongs to whom the folder belongs to. Whatever stands in the way
//! of all this is found out before anything is asked for, and what somebody else wrote is not replaced:
//! see [`SvidFolder::require_room`].
//!
//! The folder may be another user's, and we root: then no link is followed but our own two, and a file
//! is read only if it is its owner's or root's.
//!
//! [`crl.pem`](CRL) stands beside the set, a file of its own. So does what whoever asks for the next
//! certificate keeps until it is answered, such as a key and a request: that is removed after step 4. A
//! crash before that leaves a pending key equal to the key in use.
//!
//! What `svid.json` says, and what to ask for by it, is for whoever keeps the SVID.

mod error;
pub(crate) mod folder;
mod lock;
mod obstacles;
mod steps;
mod strangers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use self::error::FolderError;
use self::folder::{Access, Entry, Folder, foreign, read_opened};
pub use self::lock::Lock;
use self::steps::{Change, Step};

/// Contents of the files of a set, by name: [`CHAIN`], [`KEY`], [`BUNDLE`], [`TRUST_NOTE`], [`RECORD`].
pub type Contents = BTreeMap<&'static str, Zeroizing<Vec<u8>>>;

/// A folder that holds an SVID, or will. It is opened once: whatever its path leads to later, this
/// one is read and written.
#[derive(Debug, Clone)]
pub struct SvidFolder {
    path: PathBuf,
    folder: Option<Folder>,
}

impl SvidFolder {
    /// The folder at a path, which need not exist: then it holds nothing.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        match Folder::open(&path) {
            Ok(folder) => Ok(Self { path, folder: Some(folder) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, folder: None })
            }
            Err(source) => Err(FolderError::Read { path, source }),
        }
    }

    /// The same, made (0700) if it does not exist.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        create_private(&path)?;
        Self::at(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.folder.is_some()
    }

    /// The path of one of its files, to name it: what is done with a file is done by its name.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Holds it against other processes; whoever reads in order to replace needs this.
    pub fn lock(&self) -> Result<Lock, FolderError> {
        Lock::within(self.folder()?, &self.path)
    }

    fn folder(&self) -> Result<&Folder, FolderError> {
        let missing = || FolderError::Write {
            path: self.path.clone(),
            source: io::ErrorKind::NotFound.into(),
        };
        self.folder.as_ref().ok_or_else(missing)
    }

    /// Whether something stands under a name, be it nothing that can be read.
    pub fn has(&self, name: &str) -> Result<bool, FolderError> {
        Ok(self.look(name)?.is_some())
    }

    fn look(&self, name: &str) -> Result<Option<Entry>, FolderError> {
        let looked = self.folder.as_ref().map_or(Ok(None), |folder| folder.look(name));
        looked.map_err(|source| FolderError::Read { path: self.join(name), source })
    }

    /// One of its files; `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
        // Nobody waits for whoever writes into a pipe that stands there.
        require_plain(&self.join(name))?;
        let read = self.open(name).and_then(|file| file.map(read_opened).transpose());
        read.map_err(|source| FolderError::Read { path: self.join(name), source })
    }

    /// Writes a file that belongs to no set (0600), in one step.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        self.require_name(name)?;
        let folder = self.folder()?;
        folder
            .write(name, bytes, folder.access_of_new())
            .map_err(|source| FolderError::Write { path: self.join(name), source })
    }

    /// Removes a file that belongs to no set, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), FolderError> {
        self.require_name(name)?;
        let removed = self.folder.as_ref().map_or(Ok(()), |folder| folder.remove(name));
        removed.map_err(|source| FolderError::Write { path: self.join(name), source })
    }

    /// Refuses what leads to another folder.
    fn require_name(&self, name: &str) -> Result<(), FolderError> {
        if !name.contains('/') {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no name of one file");
        Err(FolderError::Write { path: self.join(name), source })
    }

    fn open(&self, name: &str) -> io::Result<Option<File>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let opened = match folder.is_own() {
            true => folder.open_followed(name),
            false => open_in_place(folder, name),
        };
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) if LOST.contains(&error.kind()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One of its files as the newest set has it, wherever `.current` leads: what is left of a set that
    /// was lost, for whoever makes another. None of it is believed.
    pub fn read_newest(&self, name: &str) -> Option<Vec<u8>> {
        let (newest, _) = self.generations().ok()?;
        let folder = self.folder.as_ref()?;
        let file = folder.within(generation_name(newest)).ok()?.open_plain(name).ok()?;
        folder.require_of_owner(&file).ok()?;
        read_opened(file).ok()
    }

    /// The names of all that stands there.
    pub fn names(&self) -> Result<Vec<OsString>, FolderError> {
        let names = self.folder.as_ref().map_or(Ok(Vec::new()), Folder::names);
        names.map_err(|source| FolderError::Read { path: self.path.clone(), source })
    }

    /// Replaces files in one step, all or none; the others stay. The caller holds the lock.
    ///
    /// What the names then show is looked at again: whatever somebody did to the folder
    /// meanwhile, nobody is told that a set is in place which is not.
    pub fn replace(&self, changes: Contents, _held: &Lock) -> Result<(), FolderError> {
        NAMES.iter().try_for_each(|name| self.require_replaceable(name))?;
        let (folder, expected) = (self.folder()?, changes.clone());
        let steps = self.plan(changes)?;
        steps.iter().try_for_each(|step| self.take(step, folder))?;
        for (name, bytes) in expected {
            let shown = self.read(name)?.map(Zeroizing::new);
            if shown.as_ref() != Some(&bytes) {
                return Err(FolderError::NotInPlace { path: self.join(name) });
            }
        }
        Ok(())
    }

    fn take(&self, step: &Step, folder: &Folder) -> Result<(), FolderError> {
        step.take(folder).map_err(|(change, source)| self.obstacle(source, change))
    }

    /// Replaces a file that belongs to no set, in one step. Owner, group and mode are those of the one
    /// before, or else of another of the files here.
    pub fn replace_beside(
        &self,
        name: &'static str,
        like: &'static str,
        bytes: &[u8],
    ) -> Result<(), FolderError> {
        self.require_replaceable(name)?;
        let folder = self.folder()?;
        let access = self.access(if self.has(name)? { name } else { like })?;
        folder.write(name, bytes, access).map_err(|source| self.obstacle(source, Change::Write))
    }

    fn plan(&self, changes: Contents) -> Result<Vec<Step>, FolderError> {
        let held = self.held()?;
        let (newest, old) = self.generations()?;
        let mut free = free_numbers(newest, &old);
        let mut next = || free.next().expect("a folder has no 2^63 others");
        let mut steps = Vec::new();
        let mut outdated = old.clone();
        if !self.is_in_order()? {
            let number = next();
            let adopted = generation_name(number);
            steps.push(self.write_generation(number, held.clone())?);
            // Past `.current`, which may be what is out of order.
            steps.extend(held.keys().map(|name| link_to(name, &adopted)));
            if self.look(CURRENT)? == Some(Entry::Folder) {
                let aside = generation_name(next());
                steps.push(Step::MoveAside { from: CURRENT, to: aside.clone() });
                outdated.push(aside);
            }
            steps.push(current(number));
            steps.extend(held.keys().map(|name| link_to(name, CURRENT)));
            outdated.push(adopted);
        }
        let added = changes.keys().filter(|name| !held.contains_key(*name));
        steps.extend(added.map(|name| link_to(name, CURRENT)));
        let mut all = held;
        for (name, bytes) in changes {
            let access = all.get(name).map(|(_, access)| *access);
            all.insert(name, (bytes, access.unwrap_or(self.folder()?.access_of_new())));
        }
        let number = next();
        steps.push(self.write_generation(number, all)?);
        steps.push(current(number));
        steps.extend(outdated.into_iter().map(Step::Remove));
        Ok(steps)
    }

    /// Writes a complete set, as accessible as the one before.
    fn write_generation(&self, number: u64, files: Files) -> Result<Step, FolderError> {
        Ok(Step::WriteSet { name: generation_name(number), files, access: self.access_of_set()? })
    }

    /// Whose something is, and who may use it: as the file has it that stands in its place, or else as
    /// what is new.
    fn access(&self, name: &str) -> Result<Access, FolderError> {
        let failed = |source| FolderError::Read { path: self.join(name), source };
        let file = self.open(name).map_err(failed)?;
        match file {
            Some(file) => file.metadata().map(|is| Access::of(&is)).map_err(failed),
            None => Ok(self.folder()?.access_of_new()),
        }
    }

    /// The same of the folder of a set: it may be open to others than the folder itself.
    fn access_of_set(&self) -> Result<Access, FolderError> {
        let folder = self.folder()?;
        let before = match self.look(CURRENT)? {
            Some(Entry::Link(set)) if set.to_str().is_some_and(is_generation) => {
                folder.within(set).and_then(|set| set.access()).ok()
            }
            _ => None,
        };
        Ok(before.unwrap_or_else(|| folder.access_of_new()))
    }

    /// All that there is; whose each file is, is that of the very file that was read.
    fn held(&self) -> Result<Files, FolderError> {
        let mut held = Files::new();
        for name in NAMES {
            let failed = |source| FolderError::Read { path: self.join(name), source };
            let Some(file) = self.open(name).map_err(failed)? else { continue };
            let access = Access::of(&file.metadata().map_err(failed)?);
            let bytes = read_opened(file).map_err(failed)?;
            held.insert(name, (Zeroizing::new(bytes), access));
        }
        Ok(held)
    }

    /// The highest number of a `.svid-N`, and all of them.
    fn generations(&self) -> Result<(u64, Vec<String>), FolderError> {
        let names = self.names()?.into_iter().filter_map(|name| name.into_string().ok());
        let all: Vec<String> = names.filter(|name| is_generation(name)).collect();
        let newest = all.iter().filter_map(|name| number_of(name)).max();
        Ok((newest.unwrap_or(0), all))
    }
}

/// Makes a folder (0700) and those above it; one that is there already keeps its mode.
pub fn create_private(path: &Path) -> Result<(), FolderError> {
    let why = match path.metadata() {
        Ok(there) if !there.is_dir() => Some("a folder is wanted here, and it is none"),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Some("it is a link that leads nowhere")
        }
        _ => None,
    };
    if let Some(why) = why {
        return Err(FolderError::InTheWay { path: path.to_owned(), why: why.to_owned() });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FolderError::Write { path: path.to_owned(), source })
}

/// Refuses what stands in a file's place and is none: a pipe, for whose writer nobody waits, a device, a
/// folder. What a link leads to counts.
fn require_plain(path: &Path) -> Result<(), FolderError> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    if metadata.is_file() {
        return Ok(());
    }
    let why = match fs::read_link(path) {
        Ok(to) => format!("it is a link to {}, which is no file", to.display()),
        Err(_) => "it is neither a file nor a link".to_owned(),
    };
    Err(FolderError::InTheWay { path: path.to_owned(), why })
}

/// Files of a set, and whose each of them is.
type Files = BTreeMap<&'static str, (Zeroizing<Vec<u8>>, Access)>;

/// In a folder of somebody else's, no link leads to what he may not read himself, but for our own two:
/// they are walked here, by what is open.
fn open_in_place(folder: &Folder, name: &str) -> io::Result<File> {
    let leads_out =
        || foreign("the folder is somebody else's, and what stands here leads out of it");
    let file = match folder.look(name)? {
        None => return Err(io::ErrorKind::NotFound.into()),
        Some(Entry::Link(to)) => {
            let set = set_of(&to, name).ok_or_else(leads_out)?;
            let set = match folder.look(&set)? {
                Some(Entry::Link(to)) => to.to_str().unwrap_or_default().to_owned(),
                // One of a copy, whose links were followed.
                _ => set,
            };
            // A name with a slash would be opened without following its last part only: these have none.
            if set != CURRENT && !is_generation(&set) {
                return Err(leads_out());
            }
            folder.within(set)?.open_plain(name)?
        }
        Some(_) => folder.open_plain(name)?,
    };
    folder.require_of_owner(&file)?;
    Ok(file)
}

/// Points `.current` at a set.
fn current(number: u64) -> Step {
    Step::Link { at: CURRENT, to: generation_name(number) }
}

fn link_to(name: &'static str, set: &str) -> Step {
    Step::Link { at: name, to: format!("{set}/{name}") }
}

/// Through which set a link of ours leads: `.current`, or `.svid-N` itself while what was out of
/// order is put right.
fn set_of(link: &Path, name: &str) -> Option<String> {
    let set = link.to_str()?.strip_suffix(name)?.strip_suffix('/')?;
    (set == CURRENT || is_generation(set)).then(|| set.to_owned())
}

/// `.svid-N`, and no path that leads elsewhere.
fn is_generation(name: &str) -> bool {
    number_of(name).is_some()
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(GENERATION)?.parse().ok()
}

/// Numbers that no set has: after the newest, or from the first on where that has a number that no
/// counting leads to.
fn free_numbers(newest: u64, taken: &[String]) -> impl Iterator<Item = u64> {
    let first = if newest < COUNTED { newest + 1 } else { 1 };
    (first..).filter(|number| !taken.contains(&generation_name(*number)))
}

fn generation_name(number: u64) -> String {
    format!("{GENERATION}{number}")
}

/// The certificate and its issuer's, PEM.
pub const CHAIN: &str = "svid.pem";
/// The private key, PKCS#8 PEM.
pub const KEY: &str = "svid.key";
/// The anchors, PEM, for software that reads no trust state.
pub const BUNDLE: &str = "bundle.pem";
/// The signed trust state.
pub const TRUST_NOTE: &str = "trust.note";
/// Where it came from, and when and for what to ask again: JSON of whoever keeps it.
pub const RECORD: &str = "svid.json";

/// The CRLs of the CA, PEM: a file of its own beside the set.
pub const CRL: &str = "crl.pem";

const NAMES: [&str; 5] = [BUNDLE, RECORD, KEY, CHAIN, TRUST_NOTE];
const CURRENT: &str = ".current";
const GENERATION: &str = ".svid-";
/// More sets than are ever made.
const COUNTED: u64 = u64::MAX / 2;
/// Where `.current` is no folder any more, its files are as good as lost.
const LOST: [io::ErrorKind; 2] = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
