//! What a line of the feed means to whoever stands here: the same for one that comes in and for one
//! that was kept.

use identity::TrustState;
use identity::feed::{Assembly, Content, FeedError, FeedState, FeedUpdate, Line};

/// A line that was verified: where it leads, and what is to be done.
pub(crate) struct Accepted {
    pub(crate) state: FeedState,
    pub(crate) update: FeedUpdate,
    /// When its message was signed, in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chunk,
    Delta,
    /// Of a snapshot.
    Head,
    Heartbeat,
}

/// Verifies a line by the feed keys of this trust state, at a time in milliseconds since 1970.
pub(crate) fn accept(
    mut state: FeedState,
    assembly: Option<Assembly>,
    line: Line,
    trust: &TrustState,
    now: u64,
) -> Result<Accepted, FeedError> {
    let (at, kind, update) = match (line, assembly) {
        (Line::Message(_), Some(assembly)) => {
            return Err(FeedError::Incomplete { missing: assembly.missing() });
        }
        (Line::Chunk(_), None) => return Err(FeedError::ChunkWithoutHead),
        (Line::Chunk(chunk), Some(mut assembly)) => {
            assembly.take(&chunk)?;
            let at = assembly.at();
            let update = match assembly.missing() {
                0 => state.complete(assembly, now)?,
                _ => FeedUpdate::Assemble(assembly),
            };
            (at, Kind::Chunk, update)
        }
        (Line::Message(envelope), None) => {
            let message = envelope.verify(trust)?;
            let at = message.message().at;
            let kind = match message.message().content {
                Content::Delta(_) => Kind::Delta,
                Content::Heartbeat(_) => Kind::Heartbeat,
                Content::Snapshot(_) => Kind::Head,
            };
            (at, kind, state.accept(message, now)?)
        }
    };
    Ok(Accepted { state, update, at, kind })
}
