//! What a replacement is made of: atomic changes of the directory, and whose their results are.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use authority::files::sync_folder;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use zeroize::Zeroizing;

/// Owner, group and mode. What is left out stays as the system makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Access {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
}

impl Access {
    /// As what is replaced has it. Where nothing is, root makes it for whom the directory belongs to:
    /// a service's folder that root's timer renews stays the service's.
    pub(super) fn like(before: Option<&Metadata>, directory: &Metadata) -> Self {
        match before {
            Some(before) => Self {
                owner: Some(before.uid()),
                group: Some(before.gid()),
                mode: Some(before.mode() & 0o777),
            },
            None if geteuid().is_root() => {
                Self { owner: Some(directory.uid()), group: Some(directory.gid()), mode: None }
            }
            None => Self::default(),
        }
    }

    /// Nothing is changed that is so already: some file systems know one owner and one mode only.
    pub(super) fn give(self, file: &File) -> io::Result<()> {
        let made = file.metadata()?;
        let owner = self.owner.filter(|owner| *owner != made.uid());
        let group = self.group.filter(|group| *group != made.gid());
        if owner.is_some() || group.is_some() {
            fchown(file, owner, group)?;
        }
        match self.mode.filter(|mode| *mode != made.mode() & 0o777) {
            Some(mode) => file.set_permissions(fs::Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

/// One atomic change of the directory.
pub(super) enum Step {
    CreateDirectory(PathBuf),
    /// Makes a complete folder that of its owner.
    Give(PathBuf, Access),
    Link {
        at: PathBuf,
        to: PathBuf,
    },
    MoveAside {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveDirectory(PathBuf),
    Sync(PathBuf),
    WriteFile(PathBuf, Zeroizing<Vec<u8>>, Access),
}

/// What a step does, for whoever has to remove what stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Gives files to their owner and group, with their mode.
    Access,
    /// Makes a symbolic link.
    Link,
    /// Anything else.
    Write,
}

impl Step {
    pub(super) fn take(&self) -> io::Result<()> {
        match self {
            Self::CreateDirectory(path) => DirBuilder::new().mode(0o700).create(path),
            Self::Give(path, access) => access.give(&open_own(path)?),
            Self::Link { at, to } => replace_link(at, to),
            Self::MoveAside { from, to } => fs::rename(from, to),
            Self::RemoveDirectory(path) => {
                // The new set is in place: what is left of an old one ends no run.
                if let Err(error) = fs::remove_dir_all(path) {
                    tracing::warn!(path = %path.display(), %error, "an old set was not removed");
                }
                Ok(())
            }
            Self::Sync(path) => sync_folder(path),
            Self::WriteFile(path, bytes, access) => {
                let mut file = create_in_place(path)?;
                file.write_all(bytes)?;
                access.give(&file)?;
                file.sync_all()
            }
        }
    }

    pub(super) fn what(&self) -> Change {
        match self {
            Self::Give(..) => Change::Access,
            Self::Link { .. } => Change::Link,
            _ => Change::Write,
        }
    }
}

/// A new file in the folder that was just made: not where a link leads that somebody put in its
/// place, and not in a folder of somebody else's, who could exchange what is written.
pub(super) fn create_in_place(path: &Path) -> io::Result<File> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let folder = open_own(folder)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn open_own(folder: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(folder, flags, Mode::empty())?);
    if folder.metadata()?.uid() != geteuid().as_raw() {
        return Err(foreign_link());
    }
    Ok(folder)
}

pub(super) fn foreign_link() -> io::Error {
    let why = "the folder is somebody else's, and what stands here leads out of it";
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// A link is made under another name and renamed, so that `at` always leads somewhere.
pub(super) fn replace_link(at: &Path, to: &Path) -> io::Result<()> {
    let directory = at.parent().expect("links stand in a directory");
    let temporary = directory.join(NEW_LINK);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(to, &temporary)?,
    }
    fs::rename(&temporary, at)?;
    sync_folder(directory)
}

const NEW_LINK: &str = ".link.new";
