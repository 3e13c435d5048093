//! The newest checkpoint of the CA's log that was verified, kept beside an SVID as `svid.checkpoint`.
//!
//! It is shown to the CA with every request: a CA whose database was rolled back then knows, and
//! halts. And it is compared here with the newest that the CA shows: a log with fewer entries has lost
//! some, revocations perhaps. The larger one is kept until the log has outgrown it, whatever the CA
//! says meanwhile; after a loss that operators accepted, too.

use std::path::{Path, PathBuf};

use authority::HALTED_NEXT_STEP;
use countersign::svid_folder::SvidFolder;
use countersign::{AuthorityClient, Error as LibraryError};
use identity::TrustState;
use tlog::{Checkpoint, SignedNote, VerifierKey};

use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::shell;
use crate::trust::saved_note;

/// What was seen of a log, and where it is kept.
pub(crate) struct SeenLog {
    directory: SvidFolder,
    kept: Option<Seen>,
}

/// A checkpoint whose signature was verified.
struct Seen {
    checkpoint: Checkpoint,
    note: String,
}

/// The log has fewer entries than were seen, or others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WentBack {
    seen: u64,
    shown: u64,
    path: PathBuf,
}

impl SeenLog {
    /// What is kept in a directory of the log that a trust state names. What cannot be read is warned
    /// of, and kept anew.
    pub(crate) fn load(
        directory: &SvidFolder,
        trust: &TrustState,
        output: Output,
    ) -> Result<Self, Error> {
        let bytes = directory.read(CHECKPOINT)?;
        let is_there = bytes.is_some();
        let kept = bytes.and_then(|bytes| Seen::kept(bytes, trust));
        if is_there && kept.is_none() {
            output.warn(format!(
                "{} is no checkpoint of {}: whether the log has gone back is not known",
                directory.join(CHECKPOINT).display(),
                trust.log.origin
            ));
        }
        Ok(Self { directory: directory.clone(), kept })
    }

    /// Shows the CA from now on what was seen.
    pub(crate) fn show(&self, client: &AuthorityClient) {
        if let Some(kept) = &self.kept {
            client.set_checkpoint(&kept.note);
        }
    }

    /// Asks the CA for its newest checkpoint, and warns where the log has gone back. A CA that is away
    /// says nothing; what else it has against being asked is an error.
    pub(crate) async fn compare(
        &mut self,
        client: &AuthorityClient,
        trust: &TrustState,
        output: Output,
    ) -> Result<Option<WentBack>, LibraryError> {
        let note = match client.checkpoint().await {
            Ok(note) => note,
            // An operator may not read the log, and a new log has none.
            Err(error @ LibraryError::Authority(_))
                if Exit::of_library(&error) != Exit::Unreachable =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(shown) = Seen::verified(note, trust) else {
            output
                .warn("the CA's newest checkpoint is not signed by its log's key: it is not kept");
            return Ok(None);
        };
        let went_back = self.kept.as_ref().and_then(|kept| self.went_back(kept, &shown));
        match &went_back {
            Some(went_back) => output.warn(went_back.told()),
            None => self.kept = Some(shown),
        }
        Ok(went_back)
    }

    /// Keeps it. Two at once keep one of both, each of which was seen.
    pub(crate) fn keep(&self, output: Output) {
        let Some(kept) = &self.kept else { return };
        let bytes = kept.note.as_bytes();
        if self.directory.read(CHECKPOINT).is_ok_and(|there| there.as_deref() == Some(bytes)) {
            return;
        }
        if let Err(error) = self.directory.write(CHECKPOINT, bytes) {
            let why = Error::from(error).with_causes();
            output.warn(format!("the CA's newest checkpoint is not kept: {why}"));
        }
    }

    fn went_back(&self, kept: &Seen, shown: &Seen) -> Option<WentBack> {
        let (kept, shown) = (&kept.checkpoint, &shown.checkpoint);
        let is_other = kept.size == shown.size && kept.root != shown.root;
        (kept.size > shown.size || is_other).then(|| WentBack {
            seen: kept.size,
            shown: shown.size,
            path: self.directory.join(CHECKPOINT),
        })
    }
}

impl Seen {
    fn verified(note: Vec<u8>, trust: &TrustState) -> Option<Self> {
        let key = VerifierKey::parse(&trust.log.key).ok()?;
        let checkpoint = Checkpoint::verify(&note, &trust.log.origin, &key).ok()?;
        Some(Self { checkpoint, note: String::from_utf8(note).ok()? })
    }

    /// It was verified before it was kept, by a key that may have been replaced since.
    fn kept(note: Vec<u8>, trust: &TrustState) -> Option<Self> {
        let note = saved_note(&note).ok()?.into_bytes();
        let checkpoint = Checkpoint::parse(SignedNote::parse(&note).ok()?.text()).ok()?;
        let is_of_log = checkpoint.origin == trust.log.origin;
        is_of_log.then_some(())?;
        Some(Self { checkpoint, note: String::from_utf8(note).ok()? })
    }
}

impl WentBack {
    /// What happened.
    pub(crate) fn what(&self) -> String {
        let Self { seen, shown, .. } = self;
        match shown == seen {
            true => format!("the CA's log has {shown} entries as was seen, but others"),
            false => format!("the CA's log has {shown} entries, and {seen} were seen"),
        }
    }

    fn told(&self) -> String {
        format!(
            "{}: an older database was put back. What was issued and revoked since may be missing\n  \
             next, on the CA's host: {HALTED_NEXT_STEP}\n  and once its operators accepted the loss, here: rm {}",
            self.what(),
            shell::quoted(Path::new(&self.path))
        )
    }
}

/// The newest checkpoint that was verified, a signed note.
pub(crate) const CHECKPOINT: &str = "svid.checkpoint";
