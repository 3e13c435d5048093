//! A folder that is open: whatever its name leads to later, what is read and written is in this one.
//!
//! Root works in folders of others: a timer renews a service's SVID. Whose folder it is may exchange it,
//! and everything in it, between any two steps: names are therefore looked up in the open folder, one
//! part at a time, the last one never through a link, and whose a file is, and who may use it, is asked
//! of the open file that is read or written.
//!
//! The path that somebody gave is followed once, when it is opened, as the system follows it. A link in
//! the folder's own place leads root only where its owner works anyway: it is root's, or the folder that
//! it leads to is the same user's.
//!
//! The CA has its own: the library links nothing of it, and what both link does no I/O.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

/// An open folder. Names are those of its own files: one part, without a slash.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    opened: Arc<File>,
    owner: u32,
    group: u32,
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, and its text.
    Link(PathBuf),
    /// A pipe, a socket or a device.
    Other,
}

/// Owner, group and mode. What is left out stays as the system makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Access {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
}

/// A file that has no name of its own yet, and is gone if it is given none.
#[derive(Debug)]
pub(super) struct NewFile {
    folder: Folder,
    file: File,
    temporary: Option<String>,
}

impl Folder {
    /// Opens the folder at a path.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = Self::opened(rustix::fs::open(path, FOLDER, Mode::empty())?.into())?;
        if geteuid().is_root() {
            folder.require_led_by_owner(path)?;
        }
        Ok(folder)
    }

    fn opened(opened: File) -> io::Result<Self> {
        let is = opened.metadata()?;
        Ok(Self { opened: Arc::new(opened), owner: is.uid(), group: is.gid() })
    }

    fn require_led_by_owner(&self, path: &Path) -> io::Result<()> {
        // Without a slash at its end, behind which the link itself is not seen.
        let named = fs::symlink_metadata(path.components().collect::<PathBuf>())?;
        let is = self.opened.metadata()?;
        let may = match named.is_symlink() {
            true => [0, self.owner].contains(&named.uid()),
            false => (named.dev(), named.ino()) == (is.dev(), is.ino()),
        };
        if may { Ok(()) } else { Err(foreign("it is somebody else's link to this folder")) }
    }

    /// A folder in this one, which is no link.
    pub(super) fn within(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        Self::opened(self.open_file(name, FOLDER)?)
    }

    /// Makes a folder in this one, for this user alone. What somebody puts in its place meanwhile is
    /// not it: that is another's, or has something in it.
    pub(super) fn make_within(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        rustix::fs::mkdirat(&*self.opened, name.as_ref(), Mode::RWXU)?;
        let made = self.within(name)?;
        if !made.is_own() || !made.names()?.is_empty() {
            return Err(foreign("somebody exchanged the folder that was made for another"));
        }
        Ok(made)
    }

    /// Whether it is this user's: links in it are his to make.
    pub(super) fn is_own(&self) -> bool {
        self.owner == geteuid().as_raw()
    }

    /// The names of what is in it.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = Dir::read_from(&*self.opened)?;
        let names =
            entries.map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).into()));
        let is_other = |name: &io::Result<OsString>| {
            name.as_ref().map_or(true, |name| *name != OsStr::new(".") && *name != OsStr::new(".."))
        };
        names.filter(is_other).collect()
    }

    /// What stands under a name; none where nothing does.
    pub(super) fn look(&self, name: impl AsRef<Path>) -> io::Result<Option<Entry>> {
        let name = name.as_ref();
        let stat = match rustix::fs::statat(&*self.opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Entry::Folder,
            FileType::RegularFile => Entry::File,
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(&*self.opened, name, Vec::new())?;
                Entry::Link(OsStr::from_bytes(to.to_bytes()).into())
            }
            _ => Entry::Other,
        }))
    }

    /// Opens what stands under a name, and makes a file (0600) where the flags say so; no link is
    /// followed.
    pub(super) fn open_file(&self, name: impl AsRef<Path>, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(&*self.opened, name.as_ref(), flags, mode)?.into())
    }

    /// Opens a plain file to read it; nobody waits for who writes into a pipe in its place.
    pub(super) fn open_plain(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let file = self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(ErrorKind::InvalidData, "it is no plain file")),
        }
    }

    /// Opens a file to read it, wherever links lead: in a folder of one's own.
    pub(super) fn open_followed(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&*self.opened, name.as_ref(), flags, Mode::empty())?.into())
    }

    /// Refuses an open file that is neither the folder's owner's nor root's or this user's: the owner
    /// could not read it himself. What may be a second name of a file elsewhere is only ever his own.
    pub(super) fn require_of_owner(&self, file: &File) -> io::Result<()> {
        let is = file.metadata()?;
        let is_ours = [0, geteuid().as_raw()].contains(&is.uid()) && is.nlink() == 1;
        match self.is_own() || is.uid() == self.owner || is_ours {
            true => Ok(()),
            false => Err(foreign("it is not of the user whose folder it stands in")),
        }
    }

    /// Whose a file is that is new here: root makes it for whom the folder belongs to, who could not go
    /// on with it otherwise.
    pub(super) fn access_of_new(&self) -> Access {
        match geteuid().is_root() {
            true => Access { owner: Some(self.owner), group: Some(self.group), mode: None },
            false => Access::default(),
        }
    }

    /// The same of this folder itself, with its mode.
    pub(super) fn access(&self) -> io::Result<Access> {
        Ok(Access::of(&self.opened.metadata()?))
    }

    /// Makes the folder itself that of somebody.
    pub(super) fn give(&self, access: Access) -> io::Result<()> {
        access.give(&self.opened)
    }

    /// A new file (0600), synced, in place of what stands under the name, all in one step.
    pub(super) fn write(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        access: Access,
    ) -> io::Result<()> {
        let mut new = self.begin()?;
        new.file.write_all(bytes)?;
        access.give(&new.file)?;
        new.put(name)
    }

    /// A new file (0600), to be written before it has a name.
    pub(super) fn begin(&self) -> io::Result<NewFile> {
        // Only to differ from those of others who write here now.
        let temporary = format!(".tmp{:016x}", RandomState::new().hash_one(0));
        let file = self.open_file(&temporary, NEW)?;
        Ok(NewFile { folder: self.clone(), file, temporary: Some(temporary) })
    }

    /// A new file (0600) under a name that nothing has, complete and synced when this returns.
    pub(super) fn create(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        access: Access,
    ) -> io::Result<()> {
        let mut file = self.open_file(name, NEW)?;
        file.write_all(bytes)?;
        access.give(&file)?;
        file.sync_all()
    }

    /// Makes a name a symbolic link; it leads where it led until it leads there. Two must not do this
    /// at once.
    pub(super) fn link(&self, name: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.remove(NEW_LINK)?;
        rustix::fs::symlinkat(to.as_ref(), &*self.opened, NEW_LINK)?;
        self.rename(NEW_LINK, name)?;
        self.sync()
    }

    /// Gives what stands under a name another.
    pub(super) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        Ok(rustix::fs::renameat(&*self.opened, from.as_ref(), &*self.opened, to.as_ref())?)
    }

    /// Removes a file or a link, if it is there.
    pub(super) fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        absent(rustix::fs::unlinkat(&*self.opened, name.as_ref(), AtFlags::empty()))
    }

    /// Removes a folder of files, if it is there; what is in a folder of that again stays.
    pub(super) fn remove_folder(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = name.as_ref();
        match self.within(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotADirectory => return self.remove(name),
            folder => {
                let folder = folder?;
                folder.names()?.iter().try_for_each(|file| folder.remove(file))?;
            }
        }
        absent(rustix::fs::unlinkat(&*self.opened, name, AtFlags::REMOVEDIR))
    }

    /// Makes what was named and renamed in it survive a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync_opened(&self.opened)
    }
}

impl Access {
    /// As a file has it.
    pub(super) fn of(file: &Metadata) -> Self {
        let mode = file.mode() & 0o777;
        Self { owner: Some(file.uid()), group: Some(file.gid()), mode: Some(mode) }
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

impl NewFile {
    /// Gives it its name, in place of what has that: readers see the old file or the new one, after a
    /// crash, too.
    pub(super) fn put(mut self, name: impl AsRef<Path>) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(temporary) = &self.temporary {
            self.folder.rename(temporary, name)?;
            self.temporary = None;
        }
        self.folder.sync()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            drop(self.folder.remove(temporary));
        }
    }
}

/// Makes what was named and renamed in a folder survive a crash, where the file system can say so: SMB
/// and some of FUSE cannot.
pub(crate) fn sync_opened(folder: &File) -> io::Result<()> {
    let synced = folder.sync_all();
    match synced.as_ref().err().and_then(Errno::from_io_error) {
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        _ => synced,
    }
}

/// Reads what an open file holds, as far as it is a plain file of a size that makes sense.
pub(super) fn read_opened(file: File) -> io::Result<Vec<u8>> {
    let refuse = |why| io::Error::new(ErrorKind::InvalidData, why);
    if !file.metadata()?.is_file() {
        return Err(refuse("it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse("it is larger than any that belongs here"));
    }
    Ok(bytes)
}

/// Whatever somebody else put there to have it read or written.
pub(super) fn foreign(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn absent(removed: rustix::io::Result<()>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::RDWR);
const NEW_LINK: &str = ".link.new";
/// Of the files beside an SVID, the largest is the trust state: some kilobytes.
const MAX_FILE: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    fn is_root() -> bool {
        let is_root = geteuid().is_root();
        if !is_root {
            eprintln!("skipped: only root works in folders of others");
        }
        is_root
    }

    /// A folder of another user's, open, and the same name pointed elsewhere since.
    fn exchanged() -> (tempfile::TempDir, Folder, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let (his, victim) = (parent.path().join("his"), parent.path().join("victim"));
        for folder in [&his, &victim] {
            fs::create_dir(folder).unwrap();
        }
        chown(&his, Some(HIM), Some(HIM)).unwrap();
        let folder = Folder::open(&his).unwrap();
        fs::rename(&his, parent.path().join("moved")).unwrap();
        symlink(&victim, &his).unwrap();
        (parent, folder, victim)
    }

    #[test]
    fn nothing_is_done_in_a_folder_that_the_name_leads_to_since() {
        if !is_root() {
            return;
        }
        let (parent, folder, victim) = exchanged();
        fs::write(victim.join("old"), "the victim's").unwrap();
        folder.write("new", b"ours", folder.access_of_new()).unwrap();
        folder.make_within("set").unwrap().create("file", b"ours", Access::default()).unwrap();
        folder.link("link", "set/file").unwrap();
        folder.remove("old").unwrap();
        folder.remove_folder("old").unwrap();
        drop(folder.begin().unwrap());
        let left: Vec<_> =
            fs::read_dir(&victim).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["old"]);
        let mut names = folder.names().unwrap();
        names.sort();
        assert_eq!(names, ["link", "new", "set"]);
        let new = fs::metadata(parent.path().join("moved/new")).unwrap();
        assert_eq!((new.uid(), new.gid(), new.mode() & 0o777), (HIM, HIM, 0o600));
    }

    #[test]
    fn a_link_of_his_leads_root_to_his_own_folders_alone() {
        if !is_root() {
            return;
        }
        let (_parent, _, victim) = exchanged();
        let his = victim.with_file_name("his");
        Folder::open(&his).unwrap();
        std::os::unix::fs::lchown(&his, Some(HIM), Some(HIM)).unwrap();
        for named in [his.clone(), his.join(""), his.join(".")] {
            let refused = Folder::open(&named).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{}", named.display());
        }
        chown(&victim, Some(HIM), Some(HIM)).unwrap();
        Folder::open(&his).unwrap();
    }

    #[test]
    fn what_stands_in_the_place_of_a_folder_that_was_made_is_not_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        fs::create_dir(parent.path().join("elsewhere")).unwrap();
        symlink("elsewhere", parent.path().join("set")).unwrap();
        folder.make_within("set").unwrap_err();
        folder.within("set").unwrap_err();
        // Only the link goes.
        folder.remove_folder("set").unwrap();
        assert!(parent.path().join("elsewhere").is_dir());
    }

    #[test]
    fn what_is_not_the_owners_is_told_by_the_open_file() {
        if !is_root() {
            return;
        }
        let (parent, folder, _) = exchanged();
        let at = |name: &str| parent.path().join("moved").join(name);
        let judged = |name: &str| folder.require_of_owner(&folder.open_plain(name).unwrap());
        for (name, owner, may) in
            [("his", HIM, true), ("root's", 0, true), ("another's", 4712, false)]
        {
            fs::write(at(name), "").unwrap();
            chown(at(name), Some(owner), None).unwrap();
            assert_eq!(judged(name).is_ok(), may, "{name}");
        }
        // A second name of root's, which he may make where the system lets him.
        fs::write(parent.path().join("secret"), "").unwrap();
        fs::hard_link(parent.path().join("secret"), at("linked")).unwrap();
        judged("linked").unwrap_err();
        // Opened before he exchanges it, and judged as it was opened.
        let opened = folder.open_plain("another's").unwrap();
        fs::rename(at("his"), at("another's")).unwrap();
        folder.require_of_owner(&opened).unwrap_err();
    }

    #[test]
    fn what_is_given_no_name_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let mut new = folder.begin().unwrap();
        new.file.write_all(b"some").unwrap();
        drop(new);
        assert!(folder.names().unwrap().is_empty());
        fs::create_dir(parent.path().join("name")).unwrap();
        folder.write("name", b"some", Access::default()).unwrap_err();
        assert_eq!(folder.names().unwrap(), ["name"]);
    }

    const HIM: u32 = 4711;
}
