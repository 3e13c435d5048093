//! What every command gets.

use crate::options::GlobalOptions;
use crate::output::{Lines, Output};

/// Options, and the way out.
#[derive(Debug)]
pub(crate) struct Session {
    /// The global options.
    pub(crate) options: GlobalOptions,
    /// Where results and notes go.
    pub(crate) output: Output,
}

impl Session {
    /// Takes the global options.
    pub(crate) fn new(options: GlobalOptions) -> Self {
        Self { output: options.output(), options }
    }

    /// The same, with notes and warnings in another form.
    pub(crate) fn with_lines(mut self, lines: Lines) -> Self {
        self.output.lines = lines;
        self
    }
}
