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
//! 1. Plain files (written by hand, or by another tool) are copied into a `.svid-N` of their own
//!    and replaced one by one by links to their copies: the same bytes under another roof.
//! 2. Names that are new get a link that leads nowhere yet: readers find nothing, as before.
//! 3. The new `.svid-N` is written and synced, then `.current` is renamed: old set, then new set.
//! 4. Older `.svid-*`, and what a crash left of them, are removed.
//!
//! The key and the request of a certificate that has been asked for stand beside them as
//! `svid.key.next` and `svid.csr.next` (see `pending`); they are removed after step 4. A crash before
//! that leaves a pending key equal to the key in use, which `pending` recognises.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

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
        self.read_opened(name).map_err(|source| Error::Read { path: self.join(name), source })
    }

    /// In a folder of somebody else's, no link leads to what he may not read himself, but for our own
    /// two: they are walked here, by what is open. In our own folder links are ours to make.
    fn read_opened(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let opened = match fs::metadata(&self.path) {
            Ok(metadata) if metadata.uid() != geteuid().as_raw() => self.open_in_place(name),
            _ => File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(self.join(name)),
        };
        match opened {
            Ok(file) => files::read_opened(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_in_place(&self, name: &str) -> io::Result<File> {
        let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let plain = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let here =
            rustix::fs::open(&self.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match rustix::fs::readlinkat(&here, name, Vec::new()) {
            Ok(to) if to.as_bytes() == format!("{CURRENT}/{name}").as_bytes() => {
                let current = rustix::fs::readlinkat(&here, CURRENT, Vec::new())?;
                if !current.as_bytes().starts_with(GENERATION.as_bytes()) {
                    return Err(foreign_link());
                }
                // A name with a slash is opened without following its last part only: none has one.
                if current.as_bytes().contains(&b'/') {
                    return Err(foreign_link());
                }
                let generation = rustix::fs::openat(&here, &current, folder, Mode::empty())?;
                Ok(rustix::fs::openat(&generation, name, plain, Mode::empty())?.into())
            }
            Ok(_) => Err(foreign_link()),
            Err(Errno::INVAL) => Ok(rustix::fs::openat(&here, name, plain, Mode::empty())?.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What `svid.json` says; `None` if it is not there.
    pub(crate) fn record(&self) -> Result<Option<SvidRecord>, Error> {
        let path = self.join(RECORD);
        let Some(json) = self.read(RECORD)? else { return Ok(None) };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| Error::Malformed { path, why: error.to_string() })
    }

    /// Replaces files in one step, all or none; the others stay. The caller holds the lock.
    pub(crate) fn replace(&self, changes: Contents, _held: &Lock) -> Result<(), Error> {
        let steps = self.plan(changes)?;
        steps.iter().try_for_each(|step| {
            step.take().map_err(|source| Error::Write { path: self.path.clone(), source })
        })
    }

    fn plan(&self, changes: Contents) -> Result<Vec<Step>, Error> {
        let held = self.held()?;
        let (newest, old) = self.generations()?;
        let mut steps = Vec::new();
        let mut next = newest + 1;
        let mut outdated = old;
        if self.has_plain_files() {
            steps.extend(self.generation(next, &held));
            steps.extend(held.keys().map(|name| self.link(name)));
            outdated.push(self.generation_path(next));
            next += 1;
        }
        let added = changes.keys().filter(|name| !held.contains_key(*name));
        steps.extend(added.map(|name| self.link(name)));
        let mut all = held;
        all.extend(changes);
        steps.extend(self.generation(next, &all));
        steps.extend(outdated.into_iter().map(Step::RemoveDirectory));
        Ok(steps)
    }

    /// Writes a complete set and points `.current` at it.
    fn generation(&self, number: u64, contents: &Contents) -> Vec<Step> {
        let directory = self.generation_path(number);
        let write = |(name, bytes): (&&str, &Zeroizing<Vec<u8>>)| {
            Step::WriteFile(directory.join(name), bytes.clone())
        };
        let mut steps = vec![Step::CreateDirectory(directory.clone())];
        steps.extend(contents.iter().map(write));
        steps.push(Step::Sync(directory));
        steps.push(Step::Link { at: self.join(CURRENT), to: generation_name(number).into() });
        steps
    }

    fn link(&self, name: &str) -> Step {
        Step::Link { at: self.join(name), to: Path::new(CURRENT).join(name) }
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

    fn has_plain_files(&self) -> bool {
        NAMES.iter().any(|name| self.join(name).symlink_metadata().is_ok_and(|file| file.is_file()))
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

fn generation_name(number: u64) -> String {
    format!("{GENERATION}{number}")
}

/// One atomic change of the directory.
enum Step {
    CreateDirectory(PathBuf),
    Link { at: PathBuf, to: PathBuf },
    RemoveDirectory(PathBuf),
    Sync(PathBuf),
    WriteFile(PathBuf, Zeroizing<Vec<u8>>),
}

impl Step {
    fn take(&self) -> io::Result<()> {
        match self {
            Self::CreateDirectory(path) => DirBuilder::new().mode(0o700).create(path),
            Self::Link { at, to } => replace_link(at, to),
            Self::RemoveDirectory(path) => fs::remove_dir_all(path),
            Self::Sync(path) => files::sync_directory(path),
            Self::WriteFile(path, bytes) => {
                let mut file = create_in_place(path)?;
                file.write_all(bytes)?;
                file.sync_all()
            }
        }
    }
}

/// A new file in the folder that was just made: not where a link leads that somebody put in its
/// place, and not in a folder of somebody else's, who could exchange what is written.
fn create_in_place(path: &Path) -> io::Result<File> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(folder, flags, Mode::empty())?);
    if folder.metadata()?.uid() != geteuid().as_raw() {
        return Err(foreign_link());
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn foreign_link() -> io::Error {
    let why = "the folder is somebody else's, and what stands here leads out of it";
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// A link is made under another name and renamed, so that `at` always leads somewhere.
fn replace_link(at: &Path, to: &Path) -> io::Result<()> {
    let directory = at.parent().expect("links stand in a directory");
    let temporary = directory.join(NEW_LINK);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(to, &temporary)?,
    }
    fs::rename(&temporary, at)?;
    files::sync_directory(directory)
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
const NEW_LINK: &str = ".link.new";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
