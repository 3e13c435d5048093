//! How the process ends.

use std::process::ExitCode;

use api::{Problem, ProblemType};
use countersign::Error as LibraryError;

use crate::error::Error;

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
    /// The exit code of an error: that of the innermost cause which has one.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error.chain().filter_map(Self::of_cause).last().unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return Some(error.exit());
        }
        cause.downcast_ref::<LibraryError>().map(Self::of_library)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(problem_type: ProblemType) -> anyhow::Error {
        LibraryError::Authority(Box::new(Problem {
            problem_type,
            title: "title".into(),
            status: problem_type.status(),
            detail: "detail".into(),
            request_id: "1".into(),
            next_step: None,
            policies: vec![],
            rule: None,
        }))
        .into()
    }

    #[test]
    fn each_problem_of_the_ca_has_its_exit_code() {
        for &(kind, name, status) in ProblemType::ALL {
            let expected = match status {
                401 | 403 => Exit::Refused,
                429 | 503 => Exit::Unreachable,
                _ => Exit::Failed,
            };
            assert_eq!(Exit::of(&problem(kind)), expected, "{name}");
        }
    }

    #[test]
    fn our_own_errors_keep_their_exit_code_below_context() {
        let error = anyhow::Error::new(Error::NoContext).context("while listing");
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }

    #[test]
    fn what_does_not_verify_exits_5() {
        let expired = identity::Refusal::NoCertificate;
        assert_eq!(Exit::of(&Error::Unacceptable(expired).into()), Exit::Unverified);
        let trust = LibraryError::from(identity::Error::PinSyntax);
        assert_eq!(Exit::of(&trust.into()), Exit::Unverified);
    }
}
