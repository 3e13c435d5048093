//! The directory that holds an SVID: `svid.pem svid.key bundle.pem trust.note svid.json`.
//!
//! # Crash story
//!
//! Certificate and key are two files, and two renames are not one: between them, a reader (or a
//! crash) would find a key that does not belong to the certificate. So the five names are symbolic
//! links to `.current/NAME`, `.current` is a symbolic link to a directory `.svid-N` that is
//! complete and synced before it is pointed at, and one rename of `.current` replaces all five.
//!
//! [`SvidDirectory::replace`] is a list of [`Step`]s, each of them atomic. A crash after any of
//! them leaves the old set or the new one, always a matching pair:
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
//! of the folder before; what is new belongs to whom the directory belongs to (see `steps`). Whatever
//! stands in the way of all this is found out before anything is asked for: see `obstacles`.
//!
//! `crl.pem` stands beside them, a file of its own: see `crl_file`.
//!
//! The key and the request of a certificate that has been asked for stand beside them as
//! `svid.key.next` and `svid.csr.next` (see `pending`); they are removed after step 4. A crash before
//! that leaves a pending key equal to the key in use, which `pending` recognises.

mod obstacles;
mod remains;
mod steps;

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use authority::files::sync_folder;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use self::steps::{Access, Change, Step};
use crate::error::Error;
use crate::files::{self, Lock};
use crate::svid_record::SvidRecord;

/// Contents by file name.
pub(crate) type Contents = BTreeMap<&'static str, Zeroizing<Vec<u8>>>;

/// A directory that holds an SVID, or will.
#[derive(Debug, Clone)]
pub(crate) struct SvidDirectory {
    path: PathBuf,
}

impl SvidDirectory {
    /// The directory at a path, which need not exist.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The same, made (0700) if it does not exist.
    pub(crate) fn create(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let directory = Self::at(path);
        files::create_private_directory(&directory.path)?;
        Ok(directory)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of its files.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Holds it against other processes; whoever reads in order to replace needs this.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        Lock::of(&self.path)
    }

    /// One of its files; `None` if it is not there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read_opened(name).map_err(|source| {
            let path = self.join(name);
            match files::require_plain(&path) {
                Err(in_the_way) => in_the_way,
                Ok(()) => Error::Read { path, source },
            }
        })
    }

    fn read_opened(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.open(name)?.map(files::read_opened).transpose()
    }

    /// In a folder of somebody else's, no link leads to what he may not read himself, but for our own
    /// two: they are walked here, by what is open. In our own folder links are ours to make.
    fn open(&self, name: &str) -> io::Result<Option<File>> {
        let opened = match fs::metadata(&self.path) {
            Ok(metadata) if metadata.uid() != geteuid().as_raw() => self.open_in_place(name),
            _ => File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(self.join(name)),
        };
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // `.current` is no folder any more: as good as lost.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && self.path.is_dir() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn open_in_place(&self, name: &str) -> io::Result<File> {
        let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let plain = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let here =
            rustix::fs::open(&self.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let link = |name| rustix::fs::readlinkat(&here, name, Vec::new());
        let set = match link(name) {
            Err(Errno::INVAL) => {
                return Ok(rustix::fs::openat(&here, name, plain, Mode::empty())?.into());
            }
            to => set_of(to?.to_bytes(), name).ok_or_else(steps::foreign_link)?,
        };
        let set = match link(&set) {
            // One of a copy, whose links were followed.
            Err(Errno::INVAL) => set,
            to => String::from_utf8_lossy(to?.to_bytes()).into_owned(),
        };
        // A name with a slash would be opened without following its last part only: these have none.
        if set != CURRENT && !is_generation(&set) {
            return Err(steps::foreign_link());
        }
        let generation = rustix::fs::openat(&here, &set, folder, Mode::empty())?;
        Ok(rustix::fs::openat(&generation, name, plain, Mode::empty())?.into())
    }

    /// What `svid.json` says; `None` if it is not there.
    pub(crate) fn record(&self) -> Result<Option<SvidRecord>, Error> {
        let Some(json) = self.read(RECORD)? else { return Ok(None) };
        serde_json::from_slice(&json).map(Some).map_err(|error| Error::UnusableRecord {
            path: self.join(RECORD),
            why: match json.is_empty() {
                true => "it is empty".to_owned(),
                // Its own words repeat what it read.
                false => format!("line {}, column {}", error.line(), error.column()),
            },
            repair: self.again(None),
        })
    }

    /// Replaces files in one step, all or none; the others stay. The caller holds the lock.
    ///
    /// What the names then show is looked at again: whatever somebody did to the directory
    /// meanwhile, nobody is told that a set is in place which is not.
    pub(crate) fn replace(&self, changes: Contents, _held: &Lock) -> Result<(), Error> {
        let expected = changes.clone();
        let steps = self.plan(changes)?;
        steps.iter().try_for_each(|step| {
            step.take().map_err(|source| self.obstacle(source, step.what()))
        })?;
        for (name, bytes) in expected {
            let shown = self.read(name)?.map(Zeroizing::new);
            if shown.as_ref() != Some(&bytes) {
                return Err(Error::NotInPlace { path: self.join(name) });
            }
        }
        Ok(())
    }

    /// Replaces a file that belongs to no set, in one step. Owner, group and mode are those of the one
    /// before, or else of another of the files here.
    pub(crate) fn replace_beside(
        &self,
        name: &'static str,
        like: &'static str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.require_replaceable(name)?;
        let is_there = self.join(name).symlink_metadata().is_ok();
        let access = self.access(if is_there { name } else { like })?;
        let write = || {
            // 0600 until it is complete.
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(bytes)?;
            access.give(file.as_file())?;
            file.as_file().sync_all()?;
            file.persist(self.join(name))?;
            sync_folder(&self.path)
        };
        write().map_err(|source| self.obstacle(source, Change::Write))
    }

    fn plan(&self, changes: Contents) -> Result<Vec<Step>, Error> {
        let held = self.held()?;
        let (newest, old) = self.generations()?;
        let mut steps = Vec::new();
        let mut next = newest + 1;
        let mut outdated = old;
        if !self.is_in_order() {
            let adopted = generation_name(next);
            steps.extend(self.write_generation(next, &held)?);
            // Past `.current`, which may be what is out of order.
            steps.extend(held.keys().map(|name| self.link_to(name, Path::new(&adopted))));
            if self.join(CURRENT).symlink_metadata().is_ok_and(|it| it.is_dir()) {
                let aside = self.generation_path(next + 1);
                steps.push(Step::MoveAside { from: self.join(CURRENT), to: aside.clone() });
                outdated.push(aside);
            }
            steps.push(self.current(next));
            steps.extend(held.keys().map(|name| self.link(name)));
            outdated.push(self.generation_path(next));
            next += 2;
        }
        let added = changes.keys().filter(|name| !held.contains_key(*name));
        steps.extend(added.map(|name| self.link(name)));
        let mut all = held;
        all.extend(changes);
        steps.extend(self.write_generation(next, &all)?);
        steps.push(self.current(next));
        steps.extend(outdated.into_iter().map(Step::RemoveDirectory));
        Ok(steps)
    }

    /// Writes a complete set, as accessible as the one before.
    fn write_generation(&self, number: u64, contents: &Contents) -> Result<Vec<Step>, Error> {
        let directory = self.generation_path(number);
        let mut steps = vec![Step::CreateDirectory(directory.clone())];
        for (name, bytes) in contents {
            let access = self.access(name)?;
            steps.push(Step::WriteFile(directory.join(name), bytes.clone(), access));
        }
        steps.push(Step::Sync(directory.clone()));
        steps.push(Step::Give(directory, self.access(CURRENT)?));
        Ok(steps)
    }

    /// Points `.current` at a set.
    fn current(&self, number: u64) -> Step {
        Step::Link { at: self.join(CURRENT), to: generation_name(number).into() }
    }

    fn link(&self, name: &str) -> Step {
        self.link_to(name, Path::new(CURRENT))
    }

    fn link_to(&self, name: &str, set: &Path) -> Step {
        Step::Link { at: self.join(name), to: set.join(name) }
    }

    /// Whose something is, and who may use it: as what stands in its place, or else as the directory.
    fn access(&self, name: &str) -> Result<Access, Error> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let directory = fs::metadata(&self.path).map_err(failed)?;
        let open = |name| self.open(name).and_then(|file| file.map(|it| it.metadata()).transpose());
        let before: Option<Metadata> = match name {
            // Beside any of its files: it may not be read itself in somebody else's folder.
            CURRENT => self.current_metadata(),
            _ => open(name).map_err(failed)?,
        };
        Ok(Access::like(before.as_ref(), &directory))
    }

    fn current_metadata(&self) -> Option<Metadata> {
        let set = fs::read_link(self.join(CURRENT)).ok()?;
        let is_ours = set.to_str().is_some_and(is_generation);
        is_ours.then(|| self.join(CURRENT).metadata().ok()).flatten()
    }

    fn held(&self) -> Result<Contents, Error> {
        let mut held = Contents::new();
        for name in NAMES {
            if let Some(bytes) = self.read(name)? {
                held.insert(name, Zeroizing::new(bytes));
            }
        }
        Ok(held)
    }

    /// The highest number of a `.svid-N`, and all of them.
    fn generations(&self) -> Result<(u64, Vec<PathBuf>), Error> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let mut newest = 0;
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(GENERATION)?.parse().ok());
            if let Some(number) = number {
                newest = newest.max(number);
                all.push(entry.path());
            }
        }
        Ok((newest, all))
    }

    fn generation_path(&self, number: u64) -> PathBuf {
        self.path.join(generation_name(number))
    }
}

/// Through which set a link of ours leads: `.current`, or `.svid-N` itself while what was out of
/// order is put right.
fn set_of(link: &[u8], name: &str) -> Option<String> {
    let set = str::from_utf8(link).ok()?.strip_suffix(name)?.strip_suffix('/')?;
    (set == CURRENT || is_generation(set)).then(|| set.to_owned())
}

/// `.svid-N`, and no path that leads elsewhere.
fn is_generation(name: &str) -> bool {
    name.strip_prefix(GENERATION).is_some_and(|number| number.parse::<u64>().is_ok())
}

fn generation_name(number: u64) -> String {
    format!("{GENERATION}{number}")
}

/// The certificate and its issuer's, PEM.
pub(crate) const CHAIN: &str = "svid.pem";
/// The private key, PKCS#8 PEM.
pub(crate) const KEY: &str = "svid.key";
/// The anchors, PEM, for software that reads no trust state.
pub(crate) const BUNDLE: &str = "bundle.pem";
/// The signed trust state.
pub(crate) const TRUST_NOTE: &str = "trust.note";
/// [`SvidRecord`].
pub(crate) const RECORD: &str = "svid.json";

const NAMES: [&str; 5] = [BUNDLE, RECORD, KEY, CHAIN, TRUST_NOTE];
const CURRENT: &str = ".current";
const GENERATION: &str = ".svid-";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A pair that matches says the same in both files.
    fn set(text: &str) -> Contents {
        [KEY, CHAIN, BUNDLE].map(|name| (name, Zeroizing::new(text.into()))).into()
    }

    fn pair(directory: &SvidDirectory) -> Option<String> {
        let key = directory.read(KEY).unwrap();
        assert_eq!(key, directory.read(CHAIN).unwrap(), "key and certificate do not match");
        key.map(|key| String::from_utf8(key).unwrap())
    }

    fn replace(directory: &SvidDirectory, contents: Contents) {
        directory.replace(contents, &directory.lock().unwrap()).unwrap();
    }

    /// Crashes after each step of a replacement in a directory that `prepare` filled.
    fn crash_everywhere(prepare: impl Fn(&SvidDirectory), before: Option<&str>) {
        for crash_after in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let directory = SvidDirectory::at(folder.path());
            prepare(&directory);
            let plan = directory.plan(set("new")).unwrap();
            let mut seen = vec![pair(&directory)];
            for step in plan.iter().take(crash_after) {
                step.take().unwrap();
                seen.push(pair(&directory));
            }
            seen.dedup();
            let both = [before.map(str::to_owned), Some("new".to_owned())];
            assert!(both.starts_with(&seen), "after {crash_after} steps: {seen:?}");
            replace(&directory, set("repaired"));
            assert_eq!(pair(&directory).as_deref(), Some("repaired"));
            assert_eq!(directory.generations().unwrap().1.len(), 1);
            if crash_after > plan.len() {
                assert_eq!(seen, both);
                return;
            }
        }
    }

    #[test]
    fn a_crash_during_the_first_issue_leaves_nothing_or_a_pair() {
        crash_everywhere(|_| (), None);
    }

    #[test]
    fn a_crash_during_a_renewal_leaves_the_old_pair_or_the_new_one() {
        crash_everywhere(|directory| replace(directory, set("old")), Some("old"));
    }

    #[test]
    fn a_crash_while_plain_files_are_adopted_leaves_a_pair() {
        let plain = |directory: &SvidDirectory| {
            for (name, bytes) in set("old") {
                fs::write(directory.join(name), &bytes).unwrap();
            }
        };
        crash_everywhere(plain, Some("old"));
    }

    #[test]
    fn in_a_folder_of_somebody_elses_no_link_of_his_is_followed() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let directory = SvidDirectory::at(folder.path().join("his"));
        fs::create_dir(directory.path()).unwrap();
        std::os::unix::fs::chown(directory.path(), Some(4711), None).unwrap();
        replace(&directory, set("first"));
        assert_eq!(pair(&directory).as_deref(), Some("first"), "our own links are");
        let secret = folder.path().join("secret");
        fs::write(&secret, "of root").unwrap();
        for name in [KEY, TRUST_NOTE] {
            drop(fs::remove_file(directory.join(name)));
            symlink(&secret, directory.join(name)).unwrap();
            assert!(matches!(directory.read(name), Err(Error::Read { .. })));
        }
        let plan = directory.plan(set("second"));
        assert!(plan.is_err(), "nothing of it is carried into the next set");
        fs::remove_file(directory.join(TRUST_NOTE)).unwrap();
        fs::remove_file(directory.join(KEY)).unwrap();
        fs::remove_file(directory.join(CURRENT)).unwrap();
        symlink(folder.path(), directory.join(CURRENT)).unwrap();
        assert!(directory.read(CHAIN).is_err());
    }

    #[test]
    fn nothing_is_written_where_a_link_in_the_sets_place_leads() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SvidDirectory::create(folder.path().join("svid")).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let plan = directory.plan(set("new")).unwrap();
        for step in &plan {
            let made = step.take();
            if let Step::CreateDirectory(path) = step {
                fs::remove_dir(path).unwrap();
                symlink(&elsewhere, path).unwrap();
            } else if let Step::WriteFile(..) = step {
                assert!(made.is_err());
            }
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_replaced_stays_and_everything_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SvidDirectory::create(folder.path().join("svid")).unwrap();
        replace(&directory, set("first"));
        replace(&directory, [(TRUST_NOTE, Zeroizing::new(b"note".to_vec()))].into());
        assert_eq!(pair(&directory).as_deref(), Some("first"));
        assert_eq!(directory.read(TRUST_NOTE).unwrap().unwrap(), b"note");
        let mode = |name| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(KEY), mode(CHAIN), mode("")), (0o600, 0o600, 0o700));
    }
}
