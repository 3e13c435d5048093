//! The newest head of the log, kept beside the database and sealed as the head in it is: an older
//! database that is put back within the second before the next checkpoint does not lead to this one.
//!
//! Crash story, beside the write order: (1) the database has the commit, synced; (2) the head is written
//! here, and synced where the commit revokes, allows or grants; (3) the commit is answered, and whoever
//! reads the head of the database is given it, so that nothing of it was acknowledged, countersigned or
//! told before. Whoever reads it between 1 and 2 does 2 first (`store::heads`). Killed
//! between 1 and 2, or where 2 fails, an older head stands here, which the log leads to. The file has two
//! places of 512 bytes that are written in turn: a write that a crash tears leaves the other one.
//!
//! One thing does not wait for 2: what only restricts is told as soon as it is read, and for as long as 2
//! fails it is committed, too, where it was asked for (it revokes, denies or withdraws a token), though
//! never acknowledged. That a line breaks comes of a renewal, which is refused meanwhile: it is told where
//! it was committed before. Were it taken away again, somebody would be refused for no reason, and whoever
//! was told would say so; were it withheld, a full disk would keep a revoked thief in. Whatever else comes
//! meanwhile is refused and not committed: of a group, only its own members. A commit that grants in a way
//! that the fold reads (an allow, a policy set, a key's step) asks before 1 whether what stands here can be
//! kept, because what restricts after it could not be told before it is.
//!
//! Where 1 or 2 neither fails nor ends, because the disk hangs, the one thread that commits hangs with it:
//! what only restricts is told of the commit that hangs in 2, and nothing more is committed, not even that,
//! before the disk answers (`under_way`).
//!
//! A file that was removed or replaced under this process is written anew at the next commit, or within
//! the seconds until the store is tried: that is told and counted, because who did it may be about to
//! put back an older database. In a folder that was moved the database refuses first (`Place`).
//!
//! A machine that stops between 2 and the next sync may lose certificates' heads of this file (some
//! seconds of them), never the database's commits: then an older head stands here, too.
//!
//! Trust: a head counts by the seal of `keys/head.key`. Whoever can remove the file, or put an older
//! one there, can put back the whole folder.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use tlog::Hash;

use crate::beside::EvidenceFile;
use crate::beside::kept_file::{KeptBeside, KeptFile};
use crate::seal::HeadKey;
use crate::sequencer::Head;

/// Whether what is written must outlive the machine, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// A revocation that was acknowledged is on the disk.
    Yes,
    /// It outlives the process.
    No,
}

/// The file, for whoever commits; nothing is kept before it is [begun](Self::begin).
#[derive(Debug, Default)]
pub(crate) struct KeptHead(Option<Open>);

#[derive(Debug)]
struct Open {
    kept: KeptFile,
    /// What it says.
    said: (u64, Hash),
    /// How far that is written; none where it may not be.
    written: Option<Durable>,
    /// The place of the two that it is written to, if it is written at all: the other one has the head
    /// before it.
    place: u64,
}

/// A head could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}, which has to say what was committed before anybody is told: {error}")]
pub(crate) struct Unkept {
    path: String,
    error: io::Error,
}

impl Unkept {
    fn of(path: &Path, error: io::Error) -> Self {
        Self { path: path.display().to_string(), error }
    }
}

impl KeptHead {
    /// Keeps heads in this folder, beginning with this one, whatever was kept there.
    pub(crate) fn begin(beside: &KeptBeside, key: &HeadKey, head: &Head) -> Result<Self, Unkept> {
        let is = EvidenceFile::head(beside.state());
        let kept = KeptFile::put(is.clone(), beside, &sealed(key, head).repeat(2))
            .map_err(|error| Unkept::of(is.path(), error))?;
        let said = (head.edge.size(), head.edge.root());
        Ok(Self(Some(Open { kept, said, written: Some(Durable::Yes), place: 1 })))
    }

    /// Keeps this head, unless it is kept already, or a later one is; anew where what stood there was
    /// removed or replaced under this process.
    pub(crate) fn write(
        &mut self,
        key: &HeadKey,
        head: &Head,
        durable: Durable,
    ) -> Result<(), Unkept> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        let written = open.write(key, head, durable);
        written.map_err(|error| Unkept::of(open.kept.path(), error))
    }
}

impl Open {
    fn write(&mut self, key: &HeadKey, head: &Head, durable: Durable) -> io::Result<()> {
        if head.edge.size() < self.said.0 {
            return Ok(());
        }
        if !self.kept.stands()? || self.is_overwritten(key, head) {
            self.kept.restore(&sealed(key, head).repeat(2))?;
            self.said = (head.edge.size(), head.edge.root());
            (self.written, self.place) = (Some(Durable::Yes), 1);
            return Ok(());
        }
        self.write_place(key, head)?;
        if durable == Durable::Yes && self.written != Some(Durable::Yes) {
            self.sync()?;
        }
        Ok(())
    }

    /// Whether another wrote where this head stands; a commit overwrites him without looking.
    fn is_overwritten(&self, key: &HeadKey, head: &Head) -> bool {
        let is_looked_at = self.said == (head.edge.size(), head.edge.root());
        let at = self.place * PLACE as u64;
        is_looked_at && self.written.is_some() && !self.kept.says(&sealed(key, head), at)
    }

    fn write_place(&mut self, key: &HeadKey, head: &Head) -> io::Result<()> {
        let says = (head.edge.size(), head.edge.root());
        if self.said == says && self.written.is_some() {
            return Ok(());
        }
        // Where that failed, the same place is written again: the other one is good.
        if self.written.take().is_some() {
            self.place = 1 - self.place;
        }
        self.said = says;
        self.kept.file().write_all_at(&sealed(key, head), self.place * PLACE as u64)?;
        self.written = Some(Durable::No);
        Ok(())
    }

    /// What the system failed to write it may take for written: then it is written once more.
    fn sync(&mut self) -> io::Result<()> {
        self.written = None;
        self.kept.file().sync_data()?;
        self.written = Some(Durable::Yes);
        Ok(())
    }
}

/// A head as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedHead {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    epoch: u64,
    chain: Hash,
}

impl SealedHead {
    /// Entries decide which of them fold; where these are the same, so is what was folded.
    pub(crate) fn forked(&self, head: &Head, who: &str) -> Option<String> {
        let is_same = (self.epoch, self.chain) == (head.revocation_epoch, head.chain);
        let is_lower = head.revocation_epoch < self.epoch;
        (is_lower || head.edge.size() == self.size && !is_same).then(|| {
            format!(
                "{who} of {} events that revoke, allow or grant, and the log has {}, or others",
                self.epoch, head.revocation_epoch
            )
        })
    }
}

/// One place: a text that a person can read, its seal, and spaces.
fn sealed(key: &HeadKey, head: &Head) -> Vec<u8> {
    let mut text = format!(
        "{TITLE}\nsize {}\nroot {:?}\nepoch {}\nchain {:?}\n",
        head.edge.size(),
        head.edge.root(),
        head.revocation_epoch,
        head.chain
    );
    let seal = key.seal_kept_head(text.as_bytes());
    text.push_str(&format!("{SEAL}{seal:?}\n"));
    let mut place = text.into_bytes();
    place.resize(PLACE - 1, b' ');
    place.push(b'\n');
    place
}

/// What a place says, if this CA wrote it.
pub(crate) fn read(key: &HeadKey, place: &[u8]) -> Option<SealedHead> {
    let text = std::str::from_utf8(place).ok()?;
    let (before, seal) = text.split_at(text.find(SEAL)?);
    let seal = seal.strip_prefix(SEAL)?.lines().next()?;
    let seal = HEXLOWER.decode(seal.as_bytes()).ok()?;
    if !key.sealed_kept_head(before.as_bytes(), &seal) {
        return None;
    }
    let field = |name: &str| before.lines().find_map(|line| line.strip_prefix(name));
    let hash = |name| Hash::try_from(&HEXLOWER.decode(field(name)?.as_bytes()).ok()?[..]).ok();
    Some(SealedHead {
        size: field("size ")?.parse().ok()?,
        root: hash("root ")?,
        epoch: field("epoch ")?.parse().ok()?,
        chain: hash("chain ")?,
    })
}

const TITLE: &str = "the newest head of this CA's log, as it was sealed";
const SEAL: &str = "seal ";
/// In bytes: three hashes and two numbers as text, in one sector of a disk.
pub(crate) const PLACE: usize = 512;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn beside(folder: &tempfile::TempDir) -> KeptBeside {
        KeptBeside::of(folder.path())
    }

    #[test]
    fn any_change_of_a_place_breaks_its_seal() {
        let key = HeadKey::of_secret(1);
        let mut head = Head::empty();
        head.edge.push(Hash::new([7; 32]));
        let place = sealed(&key, &head);
        assert_eq!(place.len(), PLACE);
        let read_back = read(&key, &place).unwrap();
        assert_eq!((read_back.size, read_back.root), (1, head.edge.root()));
        assert_eq!(read(&HeadKey::of_secret(2), &place), None);
        let sealed_length = String::from_utf8(place.clone()).unwrap().trim_end().len();
        for at in 0..sealed_length {
            let mut other = place.clone();
            other[at] ^= 1;
            assert_eq!(read(&key, &other), None, "byte {at}");
        }
        assert_eq!(read(&key, &place[..200]), None);
        assert_eq!(read(&key, b""), None);
    }

    #[test]
    fn what_is_not_taken_is_an_error_until_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let key = HeadKey::of_secret(1);
        let mut kept = KeptHead::begin(&beside(&folder), &key, &Head::empty()).unwrap();
        let mut head = Head::empty();
        head.edge.push(Hash::new([7; 32]));
        let path = folder.path().join("head");
        let file = &mut kept.0.as_mut().unwrap().kept;
        let file = file.exchange(File::open(&path).unwrap());
        for durable in [Durable::No, Durable::Yes] {
            let refused = kept.write(&key, &head, durable).unwrap_err().to_string();
            assert!(refused.contains("before anybody is told"), "{refused}");
        }
        drop(kept.0.as_mut().unwrap().kept.exchange(file));
        // Nothing was appended since, and it is written nevertheless.
        kept.write(&key, &head, Durable::No).unwrap();
        assert_eq!(newest(&path, &key), Some(1));
    }

    #[test]
    fn what_failed_to_reach_the_disk_leaves_the_head_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let (key, before) = (HeadKey::of_secret(1), Head::empty());
        let mut kept = KeptHead::begin(&beside(&folder), &key, &before).unwrap();
        let open = kept.0.as_mut().unwrap();
        let mut head = before.clone();
        for entry in [7, 8] {
            head.edge.push(Hash::new([entry; 32]));
            open.write_place(&key, &head).unwrap();
            let syncs_nothing = File::options().write(true).open("/dev/null").unwrap();
            let file = open.kept.exchange(syncs_nothing);
            open.sync().unwrap_err();
            drop(open.kept.exchange(file));
        }
        open.write_place(&key, &head).unwrap();
        let contents = std::fs::read(folder.path().join("head")).unwrap();
        assert!(contents.chunks(PLACE).any(|place| place == sealed(&key, &before)));
        assert_eq!(newest(&folder.path().join("head"), &key), Some(2));
    }

    #[test]
    fn an_older_head_never_takes_the_place_of_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let key = HeadKey::of_secret(1);
        let mut head = Head::empty();
        let before = head.clone();
        head.edge.push(Hash::new([7; 32]));
        let mut kept = KeptHead::begin(&beside(&folder), &key, &head).unwrap();
        for _ in 0..2 {
            kept.write(&key, &before, Durable::Yes).unwrap();
        }
        assert_eq!(
            std::fs::read(folder.path().join("head")).unwrap(),
            sealed(&key, &head).repeat(2)
        );
    }

    #[test]
    fn a_file_that_was_removed_or_replaced_is_written_anew() {
        let key = HeadKey::of_secret(1);
        let replaced: [fn(&Path); 7] = [
            |path| std::fs::remove_file(path).unwrap(),
            |path| {
                std::fs::copy(path, path.with_extension("other")).unwrap();
                std::fs::rename(path.with_extension("other"), path).unwrap();
            },
            |path| {
                std::fs::rename(path, path.with_extension("moved")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("moved"), path).unwrap();
            },
            // In place: the file is still the same.
            |path| std::fs::write(path, sealed(&HeadKey::of_secret(1), &Head::empty())).unwrap(),
            |path| {
                let older = sealed(&HeadKey::of_secret(1), &Head::empty());
                std::fs::write(path, older.repeat(2)).unwrap();
            },
            |path| std::fs::write(path, "").unwrap(),
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::write(path, "another's").unwrap();
            },
        ];
        for replace in replaced {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("head");
            let mut head = Head::empty();
            head.edge.push(Hash::new([7; 32]));
            let mut beside = beside(&folder);
            let mut kept = KeptHead::begin(&beside, &key, &head).unwrap();
            let mut write = |head: &Head, durable| {
                kept.write(&key, head, durable).unwrap();
                beside.take_replaced()
            };
            assert!(write(&head, Durable::No).is_empty(), "nobody has touched it");
            replace(&path);
            // Nothing was committed since.
            assert_eq!(write(&head, Durable::No), ["head"]);
            assert_eq!(newest(&path, &key), Some(1));
            assert!(write(&head, Durable::Yes).is_empty(), "it stands again");
            head.edge.push(Hash::new([8; 32]));
            assert!(write(&head, Durable::Yes).is_empty());
            assert_eq!(newest(&path, &key), Some(2));
        }
    }

    #[test]
    fn what_cannot_be_written_anew_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let key = HeadKey::of_secret(1);
        let path = folder.path().join("head");
        let mut kept = KeptHead::begin(&beside(&folder), &key, &Head::empty()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        for _ in 0..2 {
            kept.write(&key, &Head::empty(), Durable::No).unwrap_err();
        }
        std::fs::remove_dir(&path).unwrap();
        kept.write(&key, &Head::empty(), Durable::No).unwrap();
        assert_eq!(newest(&path, &key), Some(0));
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "nothing else is left there");
    }

    /// The size of the newest head that a file has.
    fn newest(path: &Path, key: &HeadKey) -> Option<u64> {
        let says = std::fs::read(path).unwrap();
        says.chunks(PLACE).filter_map(|place| read(key, place)).map(|it| it.size).max()
    }

    #[test]
    fn the_largest_head_fits_its_place() {
        let key = HeadKey::of_secret(1);
        let head = Head { revocation_epoch: u64::MAX, ..Head::empty() };
        let text = String::from_utf8(sealed(&key, &head)).unwrap();
        assert!(text.trim_end().len() + 20 < PLACE, "{text}");
    }
}
