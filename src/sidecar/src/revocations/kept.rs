//! What was heard of revocations, kept beside the files of an SVID for the next start.
//!
//! Two files, for their owner alone. `revocations.trust` has the notes that lead from the pin to the
//! newest trust state, in base64, a line each. `revocations.feed` has lines of the feed as they came:
//! a snapshot (its head and chunks), deltas, and at its end the newest heartbeat, which says of when
//! all that is. Nothing in them is believed that is not verified again, as if it came over the
//! network: whoever can write there can take the files away or put older ones back, whose age is
//! seen, and nothing else. What is older than any certificate's life and a day says nothing of one
//! that is in force: it counts as nothing at all.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use identity::feed::{Assembly, FeedState, FeedUpdate, Line, MAX_LINE};
use identity::{Revocations, TrustPin, TrustState};
use rustix::fs::OFlags;
use tlog::Hash;

use crate::error::Error;
use crate::revocations::lines::{Accepted, Kind, accept};

/// What a start finds.
pub(crate) struct Loaded {
    /// The notes that lead to the newest trust state, and that.
    pub(crate) notes: Vec<Vec<u8>>,
    pub(crate) trust: TrustState,
    /// Where the feed stood, and what is revoked there.
    pub(crate) feed: FeedState,
    pub(crate) revocations: Revocations,
    pub(super) journal: Extent,
    /// Which keys signed its lines.
    pub(super) keys: HashSet<Hash>,
}

/// How much of the file is snapshot, and how much of it counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) snapshot: u64,
    pub(super) end: u64,
}

/// Reads what is kept in a folder, at a time in milliseconds since 1970; none where nothing is.
pub(crate) fn load(folder: &Path, pin: &TrustPin, now: u64) -> Result<Option<Loaded>, Error> {
    let (Some(notes), Some(feed)) = (open(&folder.join(TRUST))?, open(&folder.join(FEED))?) else {
        return Ok(None);
    };
    let path = folder.join(TRUST);
    let refused = |path: &Path, why: String| Error::Kept { path: path.to_owned(), why };
    let (notes, trust) = read_trust(notes, pin).map_err(|why| refused(&path, why))?;
    let path = folder.join(FEED);
    read_feed(feed, notes, trust, now).map(Some).map_err(|why| refused(&path, why))
}

/// No link is followed, and nobody waits for a pipe that stands in the file's place.
fn open(path: &Path) -> Result<Option<File>, Error> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

fn read_trust(file: File, pin: &TrustPin) -> Result<(Vec<Vec<u8>>, TrustState), String> {
    let mut text = String::new();
    file.take(MAX_NOTES).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let mut newest: Option<TrustState> = None;
    let mut notes = Vec::new();
    for line in text.lines() {
        let note = BASE64.decode(line.as_bytes()).map_err(|error| error.to_string())?;
        let verified = match &newest {
            None => TrustState::verify_pinned(&note, &pin.of_any_sequence()),
            Some(held) => held.verify_successor(&note),
        };
        newest = Some(verified.map_err(|error| error.to_string())?);
        notes.push(note);
    }
    let newest = newest.ok_or("it is empty")?;
    pin.require_sequence(&newest).map_err(|error| error.to_string())?;
    Ok((notes, newest))
}

fn read_feed(
    file: File,
    notes: Vec<Vec<u8>>,
    trust: TrustState,
    now: u64,
) -> Result<Loaded, String> {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is no file".to_owned());
    }
    let mut feed = FeedState::new(trust.trust_domain.clone());
    let mut revocations = Revocations::default();
    let mut assembly: Option<Assembly> = None;
    let mut keys = HashSet::new();
    let (mut journal, mut read) = (Extent::default(), 0);
    let mut reader = BufReader::new(file);
    while let Some(bytes) = next_line(&mut reader).map_err(|error| error.to_string())? {
        read += bytes.len() as u64 + 1;
        let line = Line::parse(&bytes).map_err(|error| error.to_string())?;
        let key = key_of(&line);
        let accepted = accept(feed.clone(), assembly.take(), line, &trust, now);
        let accepted = accepted.map_err(|error| error.to_string())?;
        let Accepted { state, update, kind, .. } = accepted;
        keys.extend(key);
        match update {
            FeedUpdate::Assemble(begun) => {
                assembly = Some(begun);
                continue;
            }
            // It names deltas that are lost: of when the rest is, the last of that says.
            FeedUpdate::Gap => continue,
            update => update.apply(&mut revocations),
        }
        feed = state;
        if journal.snapshot == 0 {
            journal.snapshot = read;
        }
        if kind != Kind::Heartbeat {
            journal.end = read;
        }
    }
    if let Some(assembly) = assembly {
        return Err(format!("{} chunks of its snapshot are missing", assembly.missing()));
    }
    if journal.end == 0 {
        return Err("it has no snapshot".to_owned());
    }
    let age = Duration::from_millis(now.saturating_sub(feed.newest_at().unwrap_or_default()));
    if age > OLDEST {
        let (days, most) = (age.as_secs() / DAY, OLDEST.as_secs() / DAY);
        return Err(format!("they are of {days} days ago, and after {most} they say nothing"));
    }
    Ok(Loaded { notes, trust, feed, revocations, journal, keys })
}

/// The next line, without its end; none where there is no end.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    let is_whole = line.pop_if(|last| *last == b'\n').is_some();
    if line.len() > MAX_LINE && !is_whole {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
    }
    Ok(is_whole.then_some(line))
}

pub(super) fn key_of(line: &Line) -> Option<Hash> {
    match line {
        Line::Chunk(_) => None,
        Line::Message(envelope) => Some(envelope.key_id()),
    }
}

/// A certificate lives for 7 days at most, and what revokes it leaves the feed a day after its end:
/// all that the kept could say of certificates has ended.
const OLDEST: Duration = Duration::from_secs(8 * DAY);
const DAY: u64 = 24 * 3600;
pub(super) const TRUST: &str = "revocations.trust";
pub(super) const FEED: &str = "revocations.feed";
/// A trust state has some kilobytes; a thousand rotations are none.
const MAX_NOTES: u64 = 16 * 1024 * 1024;
