//! Keeping what is heard of revocations: see [`kept`](super::kept) for the files.
//!
//! # Crash story
//!
//! A snapshot is written under another name, synced, and renamed when it is whole. Deltas are
//! appended; a heartbeat stands after them and is overwritten by what comes next. A crash leaves a
//! last line without its end, which is not read: then less is known, or of an earlier time. Deltas
//! that a power failure takes are missed by the heartbeat that names them, which then counts as
//! nothing.
//!
//! Where deltas have outgrown their snapshot, or a feed key is retired that signed a line of it, the
//! CA is asked for another snapshot. Files that cannot be written are said once, and are no reason to
//! stop: the folder may well be read-only.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use identity::TrustState;
use identity::feed::Line;
use rustix::fs::OFlags;
use tlog::Hash;

use crate::error::Error;
use crate::revocations::kept::{Extent, FEED, Loaded, TRUST, key_of};
use crate::revocations::lines::Kind;
use crate::svid_folder::folder::sync_opened;

/// Writes what is heard.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    notes: Vec<Vec<u8>>,
    /// What is kept now, open and locked; none where nothing is.
    kept: Option<Journal>,
    /// A snapshot that is not whole yet.
    next: Option<Journal>,
    /// When keeping failed, and why.
    failed: Option<(Instant, String)>,
    /// Whoever starts next may write.
    is_over: bool,
}

#[derive(Debug)]
struct Journal {
    file: File,
    extent: Extent,
    /// Which keys signed its lines.
    keys: HashSet<Hash>,
    beat: Option<Instant>,
}

impl Keeper {
    /// Goes on with what was loaded, or begins with the notes that lead to a trust state, where there
    /// may be a reason why nothing was.
    pub(crate) fn new(
        folder: PathBuf,
        notes: Vec<Vec<u8>>,
        loaded: Option<&Loaded>,
        unused: Option<&Error>,
    ) -> Self {
        let failed = unused.map(|error| (Instant::now(), error.to_string()));
        let mut keeper = Self { folder, notes, kept: None, next: None, failed, is_over: false };
        if let Some(Loaded { journal, keys, .. }) = loaded {
            let opened = keeper.reopen();
            let journal = |file| Journal { file, extent: *journal, keys: keys.clone(), beat: None };
            keeper.kept = keeper.or_say(opened).map(journal);
        }
        let written = keeper.write_notes();
        let _ = keeper.or_say(written);
        keeper
    }

    /// Why nothing is kept.
    pub(crate) fn error(&self) -> Option<String> {
        self.failed.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether the CA is to be asked for a snapshot, although nothing is missing here.
    pub(crate) fn wants_snapshot(&mut self) -> bool {
        if self.next.is_some() {
            return false;
        }
        match (&self.kept, &self.failed) {
            (Some(Journal { extent, .. }), _) => {
                extent.end - extent.snapshot > extent.snapshot.max(ROOM)
            }
            (None, Some((at, _))) => at.elapsed() > TRY_AGAIN && self.can_write(),
            (None, None) => true,
        }
    }

    /// Keeps a line that was verified and taken; `is_last` where its snapshot is whole with it.
    pub(crate) fn keep(&mut self, line: &Line, kind: Kind, is_last: bool) {
        if self.is_over {
            return;
        }
        let (bytes, key) = (line.encode(), key_of(line));
        let kept = match kind {
            Kind::Chunk => self.append_chunk(&bytes, is_last),
            Kind::Delta => self.append_delta(&bytes, key),
            Kind::Head => self.begin(&bytes, key, is_last),
            Kind::Heartbeat => self.overwrite_beat(&bytes, key),
        };
        if let Err(error) = kept {
            // What is on the disk is right, as far as it goes; it goes no further.
            (self.kept, self.next) = (None, None);
            let _ = self.or_say::<()>(Err(error));
        }
    }

    /// Writes nothing more, and gives the folder to whoever starts next.
    pub(crate) fn end(&mut self) {
        (self.kept, self.next, self.is_over) = (None, None, true);
    }

    /// Keeps the notes that lead on to this trust state, and nothing that its feed keys did not sign.
    pub(crate) fn follow_trust(
        &mut self,
        notes: impl IntoIterator<Item = Vec<u8>>,
        to: &TrustState,
    ) {
        if self.is_over {
            return;
        }
        self.notes.extend(notes);
        let written = self.write_notes();
        let _ = self.or_say(written);
        let known: HashSet<_> = to.feed_keys.iter().map(|key| Hash::of(key.as_bytes())).collect();
        self.kept.take_if(|journal| !journal.keys.is_subset(&known));
    }

    fn begin(&mut self, line: &[u8], key: Option<Hash>, is_last: bool) -> io::Result<()> {
        let path = self.unfinished();
        drop(fs::remove_file(&path));
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        lock(&new)?;
        let (extent, keys) = (Extent::default(), key.into_iter().collect());
        let mut journal = Journal { file: new, extent, keys, beat: None };
        journal.append(line)?;
        self.next = Some(journal);
        if is_last { self.finish() } else { Ok(()) }
    }

    fn append_chunk(&mut self, line: &[u8], is_last: bool) -> io::Result<()> {
        let Some(next) = &mut self.next else { return Ok(()) };
        next.append(line)?;
        if is_last { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(mut next) = self.next.take() else { return Ok(()) };
        next.file.sync_all()?;
        next.extent.snapshot = next.extent.end;
        fs::rename(self.unfinished(), self.folder.join(FEED))?;
        sync_folder(&self.folder)?;
        self.kept = Some(next);
        if self.failed.take().is_some() {
            tracing::info!(folder = %self.folder.display(), "revocations are kept again");
        }
        Ok(())
    }

    fn append_delta(&mut self, line: &[u8], key: Option<Hash>) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        // The heartbeat that stands there is older.
        kept.file.set_len(kept.extent.end)?;
        kept.append(line)?;
        kept.keys.extend(key);
        kept.beat = None;
        Ok(())
    }

    fn overwrite_beat(&mut self, line: &[u8], key: Option<Hash>) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        if kept.beat.is_some_and(|beat| beat.elapsed() < BEAT_EVERY) {
            return Ok(());
        }
        kept.file.set_len(kept.extent.end)?;
        kept.file.write_all_at(&with_end(line), kept.extent.end)?;
        kept.keys.extend(key);
        kept.beat = Some(Instant::now());
        Ok(())
    }

    fn write_notes(&self) -> io::Result<()> {
        let lines: Vec<String> = self.notes.iter().map(|note| BASE64.encode(note)).collect();
        let path = self.folder.join(format!("{TRUST}.{}.new", std::process::id()));
        drop(fs::remove_file(&path));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&with_end(lines.join("\n").as_bytes()))?;
        file.sync_all()?;
        fs::rename(&path, self.folder.join(TRUST))
    }

    fn reopen(&self) -> io::Result<File> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let path = self.folder.join(FEED);
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        lock(&file)?;
        Ok(file)
    }

    fn can_write(&self) -> bool {
        let path = self.unfinished();
        drop(fs::remove_file(&path));
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        new.is_ok() && fs::remove_file(&path).is_ok()
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("{FEED}.{}.new", std::process::id()))
    }

    /// Says what failed, unless it has been said.
    fn or_say<T>(&mut self, result: io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        let why = format!(
            "revocations are not kept in {} ({error}): a start without the CA will know of none",
            self.folder.display()
        );
        if self.error().as_ref() != Some(&why) {
            tracing::warn!("{why}");
        }
        self.failed = Some((Instant::now(), why));
        None
    }
}

impl Journal {
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let line = with_end(line);
        self.file.write_all_at(&line, self.extent.end)?;
        self.extent.end += line.len() as u64;
        Ok(())
    }
}

fn with_end(line: &[u8]) -> Vec<u8> {
    [line, b"\n"].concat()
}

/// Makes a rename survive a crash, where the file system can say so.
fn sync_folder(folder: &Path) -> io::Result<()> {
    sync_opened(&File::open(folder)?)
}

/// Two who write would write into each other's lines.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process keeps its own there")
        }
    })
}

/// Deltas in bytes that a small snapshot may have after it.
const ROOM: u64 = 1024 * 1024;
/// Of when all is, is known to so much.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// After a failure.
const TRY_AGAIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use identity::feed::Envelope;

    use super::*;
    use crate::test_authority::TestAuthority;

    fn line(key: &[u8], bytes: usize) -> Line {
        Line::Message(Envelope::new(key, vec![7; 64], vec![b'x'; bytes]))
    }

    fn keeper() -> (tempfile::TempDir, Keeper) {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(folder.path().to_owned(), vec![], None, None);
        assert!(keeper.wants_snapshot(), "nothing is kept yet");
        keeper.keep(&line(b"key", 100), Kind::Head, true);
        assert!(!keeper.wants_snapshot());
        (folder, keeper)
    }

    #[test]
    fn deltas_that_outgrow_their_snapshot_ask_for_another() {
        let (folder, mut keeper) = keeper();
        for _ in 0..10 {
            keeper.keep(&line(b"key", 100_000), Kind::Delta, true);
            keeper.keep(&line(b"key", 100_000), Kind::Heartbeat, true);
        }
        assert!(!keeper.wants_snapshot());
        keeper.keep(&line(b"key", 100_000), Kind::Delta, true);
        assert!(keeper.wants_snapshot());
        keeper.keep(&line(b"key", 100), Kind::Head, true);
        assert!(!keeper.wants_snapshot());
        assert!(
            fs::metadata(folder.path().join(FEED)).unwrap().len() < 1000,
            "it is in their place"
        );
    }

    #[test]
    fn a_snapshot_takes_the_place_of_another_when_it_is_whole() {
        let (folder, mut keeper) = keeper();
        let before = fs::read(folder.path().join(FEED)).unwrap();
        keeper.keep(&line(b"key", 200), Kind::Head, false);
        keeper.keep(&Line::Chunk(b"{}".to_vec()), Kind::Chunk, false);
        assert_eq!(fs::read(folder.path().join(FEED)).unwrap(), before);
        assert!(!keeper.wants_snapshot(), "one is coming");
        keeper.keep(&Line::Chunk(b"{}".to_vec()), Kind::Chunk, true);
        assert!(fs::read(folder.path().join(FEED)).unwrap().ends_with(b"\n{}\n{}\n"));
    }

    #[test]
    fn a_file_system_that_cannot_sync_its_folders_is_no_failure() {
        // Linux has one at hand: EINVAL.
        File::open("/proc").unwrap().sync_all().unwrap_err();
        sync_folder(Path::new("/proc")).unwrap();
        sync_folder(Path::new("/nowhere")).unwrap_err();
    }

    #[test]
    fn one_that_has_ended_holds_nothing_and_writes_nothing() {
        let (folder, mut keeper) = keeper();
        let feed = folder.path().join(FEED);
        assert!(lock(&File::open(&feed).unwrap()).is_err());
        keeper.keep(&line(b"key", 200), Kind::Head, false);
        keeper.end();
        lock(&File::open(&feed).unwrap()).unwrap();
        let before = fs::read(&feed).unwrap();
        keeper.keep(&line(b"key", 300), Kind::Head, true);
        keeper.keep(&line(b"key", 300), Kind::Delta, true);
        assert_eq!(fs::read(&feed).unwrap(), before);
    }

    #[test]
    fn what_a_retired_feed_key_signed_is_asked_for_anew() {
        let (_folder, mut keeper) = keeper();
        let authority = TestAuthority::new();
        let trust = authority.trust();
        let of_trust = trust.state().feed_keys[0].as_bytes();
        keeper.keep(&line(of_trust, 100), Kind::Head, true);
        keeper.follow_trust([authority.trust_note()], trust.state());
        assert!(!keeper.wants_snapshot());
        keeper.keep(&line(b"another", 100), Kind::Delta, true);
        keeper.follow_trust([], trust.state());
        assert!(keeper.wants_snapshot());
    }
}
