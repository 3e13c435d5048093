//! What a linter finds.

use std::fmt;

/// A rule that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule and where it stands: `RFC 5280 §4.1.2.2`.
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.rule)
    }
}
