//! What keeps a set from being installed: found out before a token is spent or a renewal used.
//!
//! The steps of a replacement are taken for a try, in the same folder and by the same functions,
//! with bytes that say nothing, and taken back. What could still fail afterwards (a disk that fills in
//! the meantime) leaves the pending request, and the same command goes on with it.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::FolderError;
use super::folder::{Entry, Folder};
use super::lock::Lock;
use super::steps::{Change, Step};
use super::{CURRENT, Contents, Files, NAMES, SvidFolder, is_generation, set_of};

impl SvidFolder {
    /// Refuses unless a set can be installed here, in nobody else's place; `written` is what is known
    /// of it. The caller holds the lock.
    pub fn require_room(&self, _held: &Lock, written: &Contents) -> Result<(), FolderError> {
        NAMES.iter().try_for_each(|name| self.require_replaceable(name))?;
        self.require_no_strangers(written)?;
        let mut files = Files::new();
        for name in NAMES {
            files.insert(name, (Zeroizing::new(vec![0; ABOUT]), self.access(name)?));
        }
        let folder = self.folder()?;
        self.remove_try(folder)?;
        let steps = [
            Step::WriteSet { name: TRY.to_owned(), files, access: self.access_of_set()? },
            Step::Link { at: TRY_LINK, to: TRY.to_owned() },
        ];
        let tried = steps.iter().try_for_each(|step| self.take(step, folder));
        let removed = self.remove_try(folder);
        tried.and(removed)
    }

    fn remove_try(&self, folder: &Folder) -> Result<(), FolderError> {
        folder
            .remove(TRY_LINK)
            .and_then(|()| folder.remove_folder(TRY))
            .map_err(|error| self.obstacle(error, Change::Write))
    }

    /// A name that somebody made lead out of the folder stays his: what stands there would not be
    /// the pair of what stands here. A folder in a file's place cannot be replaced.
    pub fn require_replaceable(&self, name: &'static str) -> Result<(), FolderError> {
        let why = match self.look(name)? {
            None | Some(Entry::File) => return Ok(()),
            Some(Entry::Link(to)) if self.leads_inside(name, &to) => return Ok(()),
            Some(Entry::Link(to)) => format!("it is a link to {}", to.display()),
            Some(Entry::Folder | Entry::Other) => "it is neither a file nor a link".to_owned(),
        };
        Err(FolderError::InTheWay { path: self.join(name), why })
    }

    /// One of ours may lead nowhere yet, or where it led before the folder was emptied. In a folder of
    /// our own, others may lead to its files, too.
    fn leads_inside(&self, name: &str, to: &Path) -> bool {
        let inside = || {
            let (own, to) = (self.path().canonicalize(), self.join(name).canonicalize());
            own.and_then(|own| Ok(to?.starts_with(own))).unwrap_or(false)
        };
        let is_own = self.folder.as_ref().is_some_and(Folder::is_own);
        set_of(to, name).is_some() || is_own && inside()
    }

    /// Whether all that there is has the form that [`replace`](Self::replace) gives it.
    pub(super) fn is_in_order(&self) -> Result<bool, FolderError> {
        let is_set = match self.look(CURRENT)? {
            None => true,
            Some(Entry::Link(set)) => set.to_str().is_some_and(is_generation),
            Some(_) => false,
        };
        for name in NAMES {
            let is_ours = match self.look(name)? {
                None => true,
                Some(Entry::Link(to)) => to == Path::new(CURRENT).join(name),
                Some(_) => false,
            };
            if !is_ours {
                return Ok(false);
            }
        }
        Ok(is_set)
    }

    /// What the system's word means here, and what to do about it.
    pub(super) fn obstacle(&self, error: io::Error, change: Change) -> FolderError {
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
            _ => return FolderError::Write { path, source: error },
        };
        FolderError::NoRoom { path, why, source: error }
    }
}

const TRY: &str = ".svid-try";
const TRY_LINK: &str = ".link.try";
/// More than each file of a set has but for a large trust state.
const ABOUT: usize = 16 * 1024;
