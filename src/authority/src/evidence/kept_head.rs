//! The newest head, as it is kept beside the database, compared with the log.

use std::path::Path;

use tlog::Checkpoint;

use super::halt::Halt;
use super::kept::Kept;
use crate::beside::EvidenceFile;
use crate::beside::kept_head::{PLACE, read};
use crate::checkpoint::disagreement;
use crate::error::Error;
use crate::seal::HeadKey;
use crate::store::Store;

/// What the kept head says about the log; the halt's evidence is what stands there. Fails where this CA
/// has sealed none of it.
pub(crate) async fn compare(
    state: &Path,
    store: &dyn Store,
    key: &HeadKey,
    origin: String,
) -> Result<Kept, Error> {
    let file = EvidenceFile::head(state);
    let Some(contents) = file.read()? else { return Ok(Kept::Nowhere) };
    let newest = contents.chunks(PLACE).filter_map(|place| Some((read(key, place)?, place)));
    let newest = newest.max_by_key(|(head, _)| head.size);
    let (kept, seen) =
        newest.ok_or_else(|| file.unproven("this CA has sealed none of what it says"))?;
    let checkpoint = Checkpoint { origin, size: kept.size, root: kept.root };
    let by = "this CA kept, beside its database, a sealed head";
    let why = match disagreement(store, &checkpoint, by).await? {
        Some(why) => Some(why),
        None => kept.forked(&store.head().await?, by),
    };
    let seen = seen.to_vec();
    Ok(why.map_or(Kept::Fits, |why| Kept::Contradicts(Halt { why, checkpoint, seen })))
}
