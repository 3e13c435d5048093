//! What became of a member: an answer for each kind.

use tlog::CertificateLeaf;

use super::conflict::Conflict;

/// What became of a member, by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of an act.
    Act(Acted),
    /// Of a certificate that was to be logged.
    Certificate(Result<Receipt, Unlogged>),
    /// Of a signed certificate.
    Complete(Completed),
    /// A CRL: it is stored.
    Crl,
    /// Of the question whether this certificate was asked for before: none where it was not.
    Precedent(Option<Unlogged>),
    /// Of the question whether a state stands.
    Unchanged(Standing),
}

/// What became of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done {
        /// Its event's place in the log.
        log_index: u64,
    },
    /// Policy set or revocation state moved since it was allowed: decide anew.
    Moved,
    /// It contradicts what is stored.
    Refused(Conflict),
    /// The same named request was done before: what is kept of it answers.
    Repeated,
}

impl Acted {
    /// The place of its event; none where it is to be decided anew, or was done before.
    pub(crate) fn done(self) -> Result<Option<u64>, Conflict> {
        match self {
            Self::Done { log_index } => Ok(Some(log_index)),
            Self::Moved | Self::Repeated => Ok(None),
            Self::Refused(conflict) => Err(conflict),
        }
    }
}

/// A leaf that stands in the log: only a plan makes one, and a store gives it out once that is committed.
///
/// ```compile_fail,E0423
/// # fn made(leaf: tlog::CertificateLeaf) -> authority::sequencer::Receipt {
/// authority::sequencer::Receipt(leaf)
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt(CertificateLeaf);

impl Receipt {
    pub(super) fn of(leaf: CertificateLeaf) -> Self {
        Self(leaf)
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateLeaf {
        &self.0
    }

    pub(crate) fn into_leaf(self) -> CertificateLeaf {
        self.0
    }
}

/// Why a certificate was not logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlogged {
    /// Policy set or revocation state moved since it was allowed: decide anew.
    Moved,
    /// It contradicts what is stored.
    Refused(Conflict),
    /// The same request was logged before.
    Replay {
        /// Its leaf.
        leaf_index: u64,
    },
}

/// What became of a signed certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// It was logged too long ago to be completed.
    Abandoned,
    /// Another certificate for the leaf was stored first: this one.
    Existing(Vec<u8>),
    /// The revocation state moved since it was signed: look again.
    Moved,
    /// It is stored.
    Stored,
}

/// Whether a state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Holds,
    /// Policy set or revocation state moved.
    Moved,
    /// The name of the request contradicts what is stored.
    Refused(Conflict),
    /// The same named request was done before: what is kept of it answers.
    Repeated,
}

impl Outcome {
    /// Whether it is to be decided anew.
    pub(crate) fn has_moved(&self) -> bool {
        matches!(
            self,
            Self::Act(Acted::Moved)
                | Self::Certificate(Err(Unlogged::Moved))
                | Self::Complete(Completed::Moved)
                | Self::Precedent(Some(Unlogged::Moved))
                | Self::Unchanged(Standing::Moved)
        )
    }

    /// What it contradicts, if that is why it was refused.
    pub(crate) fn conflict(&self) -> Option<Conflict> {
        match self {
            Self::Act(Acted::Refused(conflict))
            | Self::Certificate(Err(Unlogged::Refused(conflict)))
            | Self::Precedent(Some(Unlogged::Refused(conflict)))
            | Self::Unchanged(Standing::Refused(conflict)) => Some(*conflict),
            _ => None,
        }
    }
}
