//! Whether somebody wants what takes something away. At a terminal he is asked; elsewhere nobody is,
//! and what is done there depends on how much the command line has said already.

use std::io::{self, BufRead, IsTerminal};

use api::Override;

use crate::context;
use crate::error::Error;
use crate::output::to_stderr;
use crate::session::Session;
use crate::target::Target;

/// What becomes of an act where nobody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// It is done: whoever it takes something from is named on the command line, and nobody else.
    Done,
    /// It is refused without `--yes`: it takes from whomever a file leaves out, or from whoever acts.
    Refused,
}

/// Whom an act takes something from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Somebody else.
    Other,
    /// Whoever acts: what comes next is refused them.
    Own,
}

impl Whose {
    pub(super) fn of(target: &Target, session: &Session) -> Self {
        if context::is_own(target, session) { Self::Own } else { Self::Other }
    }

    /// An override says as much as `--yes`.
    pub(super) fn elsewhere(self, named_override: Option<Override>) -> Elsewhere {
        match (self, named_override) {
            (Self::Own, None) => Elsewhere::Refused,
            _ => Elsewhere::Done,
        }
    }

    /// Said behind the question.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Other => "",
            Self::Own => " That is you: the CA takes no command of yours after this.",
        }
    }
}

/// Whether there is somebody to be asked, or a yes is wanted.
pub(crate) fn is_wanted(elsewhere: Elsewhere, session: &Session) -> bool {
    !session.options.yes && (elsewhere == Elsewhere::Refused || io::stdin().is_terminal())
}

/// Whether somebody agrees; an error where nobody can be asked and `--yes` is wanted.
pub(crate) fn is_given(what: &str, elsewhere: Elsewhere, session: &Session) -> Result<bool, Error> {
    if !is_wanted(elsewhere, session) {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::NobodyAsked { what: what.to_owned() });
    }
    to_stderr(&format!("{what} Type yes to go on:"));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|source| Error::Read { path: "stdin".into(), source })?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}
