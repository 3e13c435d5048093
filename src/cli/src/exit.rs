//! How the process ends.

use std::process::ExitCode;

use api::{Problem, ProblemType};
use countersign::Error as LibraryError;
use countersign::svid_folder::FolderError;

/// What the exit code says; scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Policy or attestation refused.
    Refused = 3,
    /// The CA cannot be reached, or is busy: the same command may work later.
    Unreachable = 4,
    /// A certificate or a trust state did not verify.
    Unverified = 5,
}

impl Exit {
    /// The exit code of an error of the library.
    pub(crate) fn of_library(error: &LibraryError) -> Self {
        match error {
            LibraryError::Authority(problem) => Self::of_problem(problem),
            LibraryError::Configuration(..) => Self::Usage,
            LibraryError::Peer { .. }
            | LibraryError::Trust(..)
            | LibraryError::UnexpectedServer { .. } => Self::Unverified,
            LibraryError::Refused { .. } => Self::Refused,
            // What stands before the CA says that it cannot reach it, or cannot go on now.
            LibraryError::UnexpectedAnswer { status: 500.., .. }
            | LibraryError::Unreachable { .. } => Self::Unreachable,
            _ => Self::Failed,
        }
    }

    /// That of an error about the folder of an SVID.
    pub(crate) fn of_folder(error: &FolderError) -> Self {
        match error {
            FolderError::Strangers { .. } => Self::Usage,
            FolderError::Taken { .. } => Self::Unreachable,
            _ => Self::Failed,
        }
    }

    fn of_problem(problem: &Problem) -> Self {
        match problem.problem_type {
            ProblemType::AttestationRefused | ProblemType::PolicyDenied => Self::Refused,
            ProblemType::IssuerUnavailable
            | ProblemType::LogUnavailable
            | ProblemType::RateLimited
            | ProblemType::StoreUnavailable => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
