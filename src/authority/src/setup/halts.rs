//! A halt that an operator at the host lifts, and files about the log that are set aside.

use std::path::{Path, PathBuf};

use identity::TrustDomain;

use super::Ceremony;
use crate::beside::EvidenceFile;
use crate::beside::kept_file::KeptBeside;
use crate::clock::Clock;
use crate::error::Error;
use crate::evidence::halt::{Halt, KeptHalt};
use crate::evidence::kept::{self, Kept};
use crate::evidence::{LogKeys, kept_head};
use crate::fold::lift::Lift;
use crate::keys::Keys;
use crate::sequencer::Effect;
use crate::store::Store;
use crate::{checkpoint, event};

/// Refuses while a halt is kept, unless the log is again the one that was seen; and where a file says
/// so that no key of the log has signed.
pub async fn require_no_halt(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
) -> Result<(), Error> {
    let log_keys = LogKeys::load(trust_domain, store, keys).await?;
    let halt = standing_halt(trust_domain, state, store, keys, &log_keys).await?;
    halt.map_or(Ok(()), |halt| Err(Error::Halted(halt.why)))?;
    // What is done on the CA's host is kept, too.
    Ok(store.keep_heads(KeptBeside::of(state)).await?)
}

/// What [`lift_halt`] had to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Files that no key of the log had signed, and what they are called now.
    pub set_aside: Vec<(PathBuf, PathBuf)>,
    /// Why the CA had halted, where that was lifted.
    pub why: Option<String>,
}

/// Lets a CA that has halted issue again, on the log as it is; says why it had halted, if it had.
///
/// Logged before it is done: a crash in between leaves it halted. What was shown halts it no more,
/// a larger checkpoint that the log does not lead to does.
///
/// A file that no key of the log has signed is set aside first, which is logged, and nothing that it
/// says is judged by that. A halt then stands until this is asked for again: whoever put the file there
/// may have wanted the halt to be lifted in passing.
pub async fn lift_halt(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    clock: &dyn Clock,
) -> Result<Lifted, Error> {
    let log_keys = LogKeys::load(trust_domain, store, keys).await?;
    let ceremony = Ceremony { trust_domain, store, clock };
    let set_aside = ceremony.set_aside(state, keys, &log_keys).await?;
    if !set_aside.is_empty() {
        return Ok(Lifted { set_aside, why: None });
    }
    let halt = standing_halt(trust_domain, state, store, keys, &log_keys).await?;
    let Some(halt) = halt else {
        return Ok(Lifted::default());
    };
    let event = ceremony.draft(
        event::HALT_LIFT,
        &halt.checkpoint.origin,
        &Lift::detail(&halt.why, &halt.checkpoint, &halt.seen),
    );
    ceremony.log(event, Effect::None).await?;
    store.keep_heads(KeptBeside::of(state)).await?;
    EvidenceFile::checkpoint(state).remove()?;
    EvidenceFile::halt(state).remove()?;
    Ok(Lifted { set_aside, why: Some(halt.why) })
}

/// The halt by the largest checkpoint that the log does not lead to.
async fn standing_halt(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
    log_keys: &LogKeys,
) -> Result<Option<Halt>, Error> {
    let by_head = compare_head(trust_domain, state, store, keys).await?;
    let kept = kept::halt(state, store, log_keys).await?;
    let halt = match KeptHalt::read(state, log_keys)? {
        Some(halt) => halt.standing(store).await?,
        None => None,
    };
    let by_head = match by_head {
        Kept::Contradicts(halt) => Some(halt),
        Kept::Fits | Kept::Nowhere => None,
    };
    // Of the same size, one that the log's key has signed.
    let halts = by_head.into_iter().chain(halt).chain(kept);
    Ok(halts.max_by_key(|halt| halt.checkpoint.size))
}

async fn compare_head(
    trust_domain: &TrustDomain,
    state: &Path,
    store: &dyn Store,
    keys: &Keys,
) -> Result<Kept, Error> {
    let origin = checkpoint::origin(trust_domain);
    kept_head::compare(state, store, &keys.require_head_key()?, origin).await
}

/// A halt of before halts, but nothing that it says is judged by lifting it.
fn require_proven(state: &Path, log_keys: &LogKeys) -> Result<(), Error> {
    match KeptHalt::read(state, log_keys)? {
        Some(KeptHalt::OfBefore(_)) => Err(EvidenceFile::halt(state).unproven(OF_BEFORE)),
        Some(KeptHalt::Proven(_)) | None => Ok(()),
    }
}

const OF_BEFORE: &str = "an earlier version kept it, without a signature";

impl Ceremony<'_> {
    /// Sets aside what speaks about the log and is signed by no key of it. Logged before it is done.
    async fn set_aside(
        &self,
        state: &Path,
        keys: &Keys,
        log_keys: &LogKeys,
    ) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
        let head = compare_head(self.trust_domain, state, self.store, keys).await;
        let checked = [
            (
                EvidenceFile::checkpoint(state),
                kept::halt(state, self.store, log_keys).await.map(drop),
            ),
            (EvidenceFile::halt(state), require_proven(state, log_keys)),
            (EvidenceFile::head(state), head.map(drop)),
        ];
        let mut set_aside = Vec::new();
        for (file, checked) in checked {
            let why = match checked {
                Ok(_) => continue,
                Err(Error::Unproven { why, .. }) => why,
                Err(error) => return Err(error),
            };
            let event = self.draft(event::EVIDENCE_DISCARD, &file.name(), &file.detail(&why));
            let log_index = self.log(event, Effect::None).await?;
            set_aside.push((file.path().to_owned(), file.set_aside(log_index)?));
        }
        Ok(set_aside)
    }
}
