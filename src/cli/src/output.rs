//! What the user sees: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{self, Write};

use rustix::fs::{FileType, OFlags};
use serde::Serialize;

use crate::carried::carried;
use crate::columns;
use crate::error::Error;
use crate::escape::{self, printable};

/// Where results and notes go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form of results.
    pub(crate) format: Format,
    /// Whether notes are shown.
    pub(crate) notes: Notes,
    /// The form of what goes to stderr.
    pub(crate) lines: Lines,
}

/// The form of what goes to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// A diagnostic of its own for each: whoever reads the stream parses every line.
    Diagnostics,
    /// For people.
    Text,
}

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// One JSON object, or one per line for lists.
    Json,
}

/// Whether notes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notes {
    /// `-q`: warnings and errors only.
    Hidden,
    /// On stderr.
    Shown,
}

impl Output {
    /// Shows one result: as JSON, or as `human` puts it.
    pub(crate) fn show<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Human => self.text(&human(value)),
            Format::Json => self.json(value),
        }
    }

    /// Shows a list: one JSON object per line, or as `human` puts it.
    pub(crate) fn list<T: Serialize>(
        &self,
        items: &[T],
        human: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Human => self.text(&human(items)),
            Format::Json => items.iter().try_for_each(|item| self.json(item)),
        }
    }

    /// Writes text to stdout, with a newline at its end. A terminal finds nothing in it to obey, and
    /// no line wider than it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        self.verbatim(&columns::wrapped(&printable(&carried(text)), columns::of_stdout()))
    }

    /// The same with lines as wide as they are: what a shell or a program reads.
    pub(crate) fn verbatim(&self, text: &str) -> Result<(), Error> {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.bytes(format!("{}{newline}", printable(text)).as_bytes())
    }

    /// Writes bytes to stdout as they are: what is piped into a file, and nothing that others wrote
    /// for people to read.
    ///
    /// A reader that has gone away (`| head`) is no error: the command still does its work and ends
    /// with its own exit code.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(error)),
            _ => Ok(()),
        }
    }

    /// Says what happened, unless `-q` was given.
    pub(crate) fn note(&self, text: impl Display) {
        match (self.notes, self.lines) {
            (Notes::Hidden, _) => {}
            (Notes::Shown, Lines::Diagnostics) => tracing::info!("{text}"),
            (Notes::Shown, Lines::Text) => to_stderr(&text.to_string()),
        }
    }

    /// Warns, `-q` or not.
    pub(crate) fn warn(&self, text: impl Display) {
        match self.lines {
            Lines::Diagnostics => tracing::warn!("{text}"),
            Lines::Text => to_stderr(&format!("warning: {}", indented(&text.to_string()))),
        }
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<(), Error> {
        let line = serde_json::to_string(value).expect("results are plain data");
        self.bytes(format!("{}\n", escape::json(&line)).as_bytes())
    }
}

/// Refuses a stdout that was closed: what is written there is lost, and no write fails. The runtime has
/// put `/dev/null` in its place, for reading and writing; a shell opens it for writing alone, for whoever
/// wants to see nothing.
pub(crate) fn require_stdout() -> Result<(), Error> {
    let null = rustix::fs::stat("/dev/null").map(|null| null.st_rdev);
    let is_null = rustix::fs::fstat(io::stdout()).is_ok_and(|it| {
        FileType::from_raw_mode(it.st_mode).is_char_device()
            && null.is_ok_and(|null| null == it.st_rdev)
    });
    let flags = rustix::fs::fcntl_getfl(io::stdout()).unwrap_or(OFlags::empty());
    match is_null && flags.contains(OFlags::RDWR) {
        true => Err(Error::ClosedStdout),
        false => Ok(()),
    }
}

/// Writes a line to stderr. There is nobody left to tell if that fails.
pub(crate) fn to_stderr(text: &str) {
    let text = printable(&carried(text.trim_end()));
    let text = columns::wrapped(&text, columns::of_stderr());
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The lines after the first stand further in, so that none passes for a line of ours.
pub(crate) fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n      ")
}
