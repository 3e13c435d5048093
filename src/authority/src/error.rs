use api::NextStep;
use time::format_description::well_known::Rfc3339;

use crate::policy::PolicyError;
use crate::sequencer::Conflict;
use crate::signer::SignerError;
use crate::store::StoreError;

/// Why the engine does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The evidence does not prove who asks.
    #[error("{why}")]
    Attestation {
        /// What is wrong with it.
        why: String,
        /// What to do.
        next_step: String,
    },
    /// The caller's line of renewals has spent what it may make the log carry.
    #[error(
        "this certificate and those renewed from one another with it may make {per_hour} {budget} \
         an hour: the next in {seconds} s"
    )]
    Budget {
        /// Which: `issues`, `renewals` or `revocations`.
        budget: &'static str,
        /// The limit.
        per_hour: u32,
        /// When it is free again.
        seconds: u64,
    },
    /// It contradicts what is stored.
    #[error("{0}")]
    Conflict(Conflict),
    /// More is revoked than a CRL lists.
    #[error(
        "more than {most} certificates are revoked that have not expired, and no CRL lists so many: \
         verifiers that follow the feed know them all; others must wait until some have expired"
    )]
    CrlTooLong {
        /// How many it lists at most.
        most: u32,
    },
    /// Policy says no.
    #[error("{}", .0.reason)]
    Denied(Box<Denied>),
    /// The state folder cannot be served from.
    #[error("{0}")]
    Folder(String),
    /// The log is not what it was: nothing is issued until an operator has repaired it.
    #[error("{0}; nothing is issued until the newest database is back and the CA restarted")]
    Halted(String),
    /// A request that cannot be understood.
    #[error("{why}")]
    Invalid {
        /// What is wrong.
        why: String,
        /// What to do.
        next_step: Option<String>,
    },
    /// Certificate request, profile or linter refuse.
    #[error(transparent)]
    Issuance(#[from] issuance::Error),
    /// What was logged was not signed in time.
    #[error("the request was logged, but not signed within a minute: it is abandoned")]
    Abandoned,
    /// Nobody would be left to undo it.
    #[error("refused, because nobody could undo it: {0}")]
    LocksOut(String),
    /// A CA could not be made, and no key, database or certificate is left of what was begun.
    #[error("no CA was made in {}, and no part of one is left there", state.display())]
    Unmade {
        /// The state folder.
        state: std::path::PathBuf,
        /// Why.
        source: Box<Self>,
    },
    /// There is no such thing, or not for this caller.
    #[error("there is no {0}")]
    NotFound(String),
    /// Nobody has a certificate like this that has not expired.
    #[error("nothing was revoked: {}", nothing_of(.0))]
    NothingToRevoke(String),
    /// Somebody has that place already.
    #[error("{why}")]
    Occupied {
        /// Who.
        why: String,
        /// What to do.
        next_step: String,
    },
    /// A step of a rotation, where it is another's turn.
    #[error("{why}")]
    OutOfTurn {
        /// Where the key stands.
        why: String,
        /// What to do.
        next_step: &'static str,
    },
    /// Too many requests wait for the log.
    #[error("too many requests wait for the log")]
    Overloaded,
    /// The policy set cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Policy or revocation state moved five times while the request was on its way.
    #[error("policy or revocations changed again and again while the request was on its way")]
    Restless,
    /// The certificate or identity is revoked or denied.
    #[error("{0}")]
    Revoked(identity::Refusal),
    /// A key does not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// More is revoked than newcomers can be told.
    #[error(
        "the snapshot of revocations has {chunks} chunks, and {most} can be told: newcomers hear of \
         none until certificates have expired", most = identity::feed::MAX_CHUNKS
    )]
    Snapshot {
        /// How many it has.
        chunks: usize,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(StoreError),
    /// One line of renewals listens to the feed too often.
    #[error("certificates of this one's line of renewals listen to the feed {0} times already")]
    Subscriptions(usize),
    /// The trust state cannot be used.
    #[error("the trust state cannot be used: {0}")]
    Trust(#[from] identity::Error),
    /// A file beside the database speaks about the log, and this CA has neither sealed nor signed it.
    #[error("{}, {what}: {why}", path.display())]
    Unproven {
        /// The file.
        path: std::path::PathBuf,
        /// What it should say.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A step of a rotation waits.
    #[error("{}", waits(.0))]
    Waits(Box<NextStep>),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::WentBack(lost) => Self::Halted(lost.why.clone()),
            error => Self::Store(error),
        }
    }
}

fn nothing_of(target: &str) -> String {
    match target.contains("://") {
        true => format!("{target} has no certificate, or none that has not expired"),
        false => format!("certificate {target} has expired"),
    }
}

fn waits(next: &NextStep) -> String {
    match (&next.first, next.until) {
        (Some(first), _) => format!("{} waits: {first} is still in use", next.step),
        (None, until) => format!(
            "{} waits for {} certificates that are neither renewed, revoked, expired nor \
             acknowledged{}",
            next.step,
            next.waiting,
            until
                .and_then(|until| until.format(&Rfc3339).ok())
                .map(|until| format!("; the last ends at {until}"))
                .unwrap_or_default()
        ),
    }
}

/// What policy said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Why, in words.
    pub reason: String,
    /// The policies that forbade it; empty where none permitted it.
    pub policies: Vec<String>,
    /// The row of the workload table concerned.
    pub row: Option<String>,
    /// What would allow it.
    pub next_step: Option<String>,
}
