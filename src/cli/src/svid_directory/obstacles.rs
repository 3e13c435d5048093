//! What keeps a set from being installed: found out before a token is spent or a renewal used.
//!
//! The steps of a replacement are taken for a try, in the same directory and by the same functions,
//! with bytes that say nothing, and taken back. What could still fail afterwards (a disk that fills in
//! the meantime) leaves the pending request, and the same command goes on with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::steps::{Change, Step, replace_link};
use super::{CURRENT, NAMES, SvidDirectory, is_generation};
use crate::error::Error;
use crate::files::Lock;

impl SvidDirectory {
    /// Refuses unless a set can be installed here. The caller holds the lock.
    pub(crate) fn require_room(&self, _held: &Lock) -> Result<(), Error> {
        NAMES.iter().try_for_each(|name| self.require_replaceable(name))?;
        let (folder, link) = (self.join(TRY), self.join(TRY_LINK));
        self.remove_try()?;
        let mut steps = vec![Step::CreateDirectory(folder.clone())];
        for name in NAMES {
            let (path, bytes) = (folder.join(name), Zeroizing::new(vec![0; ABOUT]));
            steps.push(Step::WriteFile(path, bytes, self.access(name)?));
        }
        steps.push(Step::Sync(folder.clone()));
        steps.push(Step::Give(folder, self.access(CURRENT)?));
        let tried = steps
            .iter()
            .try_for_each(|step| step.take().map_err(|error| self.obstacle(error, step.what())))
            .and_then(|()| {
                replace_link(&link, Path::new(TRY))
                    .map_err(|error| self.obstacle(error, Change::Link))
            });
        let removed = self.remove_try();
        tried.and(removed)
    }

    fn remove_try(&self) -> Result<(), Error> {
        let absent = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        absent(fs::remove_file(self.join(TRY_LINK)))
            .and_then(|()| absent(fs::remove_dir_all(self.join(TRY))))
            .map_err(|error| self.obstacle(error, Change::Write))
    }

    /// A name that somebody made lead out of the directory stays his: what stands there would not be
    /// the pair of what stands here. A folder in a file's place cannot be replaced.
    pub(crate) fn require_replaceable(&self, name: &'static str) -> Result<(), Error> {
        let path = self.join(name);
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        if metadata.is_symlink() && !self.leads_inside(&path) {
            let to = fs::read_link(&path).unwrap_or_default();
            let why = format!("it is a link to {}", to.display());
            return Err(Error::InTheWay { path, why });
        }
        if !metadata.is_symlink() && !metadata.is_file() {
            let why = "it is neither a file nor a link".to_owned();
            return Err(Error::InTheWay { path, why });
        }
        Ok(())
    }

    fn leads_inside(&self, link: &Path) -> bool {
        let Ok(to) = fs::read_link(link) else { return false };
        let inside = |to: PathBuf| {
            let own = self.path().canonicalize();
            own.is_ok_and(|own| to.starts_with(own))
        };
        // One of ours that leads nowhere yet, or where it led before the folder was emptied.
        let is_ours = to
            .parent()
            .and_then(Path::to_str)
            .is_some_and(|set| set == CURRENT || is_generation(set));
        is_ours || link.canonicalize().is_ok_and(inside)
    }

    /// Whether all that there is has the form that [`replace`](Self::replace) gives it.
    pub(super) fn is_in_order(&self) -> bool {
        let leads_to =
            |name: &str, to: &Path| fs::read_link(self.join(name)).is_ok_and(|link| link == to);
        let absent = |name: &str| self.join(name).symlink_metadata().is_err();
        let current = fs::read_link(self.join(CURRENT));
        let is_set = match current {
            Ok(set) => set.to_str().is_some_and(is_generation),
            Err(_) => absent(CURRENT),
        };
        is_set
            && NAMES
                .iter()
                .all(|name| absent(name) || leads_to(name, &Path::new(CURRENT).join(name)))
    }

    /// What the system's word means here, and what to do about it.
    pub(super) fn obstacle(&self, error: io::Error, change: Change) -> Error {
        let path = self.path().to_owned();
        let errno = Errno::from_io_error(&error);
        let why = match (errno, change) {
            // FAT says EPERM, SMB EOPNOTSUPP, some of FUSE ENOSYS.
            (Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS), Change::Link) => {
                "this file system has no symbolic links (FAT, many SMB shares)"
            }
            (Some(Errno::PERM | Errno::ACCESS | Errno::INVAL), Change::Access) => {
                "its files would not stay those of their owner and group, who would lose them"
            }
            (Some(Errno::ROFS), _) => "it is read-only",
            (Some(Errno::NOSPC | Errno::DQUOT), _) => "there is no space left",
            (Some(Errno::PERM | Errno::ACCESS), _) => "this user may not write there",
            _ => return Error::Write { path, source: error },
        };
        Error::NoRoom { path, why, source: error }
    }
}

const TRY: &str = ".svid-try";
const TRY_LINK: &str = ".link.try";
/// More than each file of a set has but for a large trust state.
const ABOUT: usize = 16 * 1024;
