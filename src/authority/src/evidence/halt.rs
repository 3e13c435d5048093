//! What outlives a restart: why nothing is issued, and the checkpoint that speaks against the log.
//!
//! A halt is a file beside the database and not a row in it, which would be gone with the next older
//! database that is put back. Trust: whoever can remove it can put back databases, too.

use std::path::Path;

use tlog::Checkpoint;

use crate::beside::EvidenceFile;
use crate::checkpoint::contradiction;
use crate::error::Error;
use crate::evidence::LogKeys;
use crate::files::write_private;
use crate::store::Store;

/// A reason to issue nothing; in its file, the reason, an empty line, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halt {
    pub(crate) why: String,
    /// What the log should lead to.
    pub(crate) checkpoint: Checkpoint,
    /// The evidence: the checkpoint as a key of the log signed it, which is verified again when it is
    /// read back.
    pub(crate) seen: Vec<u8>,
}

/// A halt as its file has it.
#[derive(Debug)]
pub(crate) enum KeptHalt {
    /// Earlier versions kept what they remembered bare: it halts as it did, until it is set aside, and
    /// is no evidence of anything else, for anybody may have written it.
    OfBefore(Halt),
    /// A key of the log has signed what was seen.
    Proven(Halt),
}

/// What ends a halt; README has more.
pub const HALTED_NEXT_STEP: &str = "put the newest database back and restart the CA; where that is lost, \
    look first what was revoked and issued in the part that is gone, then stop it: countersign init \
    --recover --lift-halt";

impl KeptHalt {
    /// The one kept, if any; fails for what no key of the log has signed, so that damage lifts nothing,
    /// and nobody else's file halts anything.
    pub(crate) fn read(state: &Path, keys: &LogKeys) -> Result<Option<Self>, Error> {
        let file = EvidenceFile::halt(state);
        let Some(contents) = file.read()? else { return Ok(None) };
        let parts = std::str::from_utf8(&contents).ok().and_then(|text| text.split_once("\n\n"));
        let (why, seen) = parts.ok_or_else(|| file.unproven("it is none that the CA wrote"))?;
        let halt = |checkpoint| {
            let (why, seen) = (why.to_owned(), seen.as_bytes().to_vec());
            Halt { why, checkpoint, seen }
        };
        match Checkpoint::parse(seen) {
            Ok(bare) if keys.are_of(&bare.origin) => Ok(Some(Self::OfBefore(halt(bare)))),
            _ => Ok(Some(Self::Proven(halt(file.verify(seen.as_bytes(), keys)?)))),
        }
    }

    /// The halt, while the log does not lead to what was seen. What is not proven counts for less than
    /// any checkpoint that somebody shows.
    pub(crate) async fn standing(self, store: &dyn Store) -> Result<Option<Halt>, Error> {
        let (Self::OfBefore(halt) | Self::Proven(halt)) = &self;
        if contradiction(store, &halt.checkpoint).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(match self {
            Self::Proven(halt) => halt,
            Self::OfBefore(Halt { why, checkpoint, seen }) => {
                Halt { why, checkpoint: Checkpoint { size: 0, ..checkpoint }, seen }
            }
        }))
    }
}

impl Halt {
    /// Writes it whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        write_private(path, &[self.why.as_bytes(), b"\n\n", &self.seen].concat())
    }
}
