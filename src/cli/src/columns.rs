//! What fits on a terminal. Lines are broken where one is read by a person, and nowhere else: a pipe, a
//! file, and JSON have lines as long as they are.
//!
//! A word is never broken or shortened, since serial numbers, IDs and paths are copied from here: one
//! that is wider than the terminal stands alone in its line. Within a command of ours a line ends with a
//! backslash, so that it can be pasted.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

/// How wide the terminal on stdout is; none where it is none.
pub(crate) fn of_stdout() -> Option<usize> {
    of(&io::stdout())
}

/// How wide the terminal on stderr is; none where it is none.
pub(crate) fn of_stderr() -> Option<usize> {
    of(&io::stderr())
}

fn of(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let size = stream.is_terminal().then(|| rustix::termios::tcgetwinsize(stream).ok());
    let columns = size.flatten().map(|size| usize::from(size.ws_col));
    // One that does not know how wide it is says 0.
    columns.filter(|columns| *columns > 0).map(|columns| columns.max(NARROWEST))
}

/// How many columns it takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text with each line that is too wide broken between words. What follows stands further in than
/// any line of ours begins, so that no word of others passes for one.
pub(crate) fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| match width(line) > columns {
            true => broken(line, columns).join("\n"),
            false => line.to_owned(),
        })
        .collect();
    lines.join("\n")
}

/// A line in parts; each after the first begins with spaces.
fn broken(line: &str, columns: usize) -> Vec<String> {
    let words = line.trim_start_matches(' ');
    let indent = line.len() - words.len();
    let hanging = (indent + HANGING).max(INDENTED.min(columns / 4));
    let mut lines = Vec::new();
    let mut current = " ".repeat(indent);
    let (mut is_empty, mut command) = (true, Command::None);
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let room = columns - if command.is_open() { width(CONTINUED) } else { 0 };
        if !is_empty && width(&current) + 1 + width(word) > room {
            if command.is_open() {
                current.push_str(CONTINUED);
            }
            lines.push(std::mem::replace(&mut current, " ".repeat(hanging)));
            is_empty = true;
        }
        if !is_empty {
            current.push(' ');
        }
        current.push_str(word);
        is_empty = false;
        command = command.after(word);
    }
    lines.push(current);
    lines
}

/// Whether the words so far are in a command of ours, to be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    None,
    Open,
}

impl Command {
    fn is_open(self) -> bool {
        self == Self::Open
    }

    fn after(self, word: &str) -> Self {
        let begins = word.trim_start_matches(['`', '(', '"']) == "countersign";
        let ends = word.ends_with(['`', ';', ',', ')', ':', '.']) || word.starts_with('(');
        match self {
            _ if begins => Self::Open,
            Self::Open if !ends => Self::Open,
            _ => Self::None,
        }
    }
}

/// A paragraph as lines of so many columns.
pub(crate) fn paragraph(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Nobody reads on less, and columns of a table need some.
const NARROWEST: usize = 40;
const HANGING: usize = 2;
/// As `output::indented` has it: lines of ours begin before.
const INDENTED: usize = 6;
const CONTINUED: &str = " \\";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_only_where_they_are_too_wide() {
        let text = "short\nwarning: a line that has more words than fit into forty columns";
        assert_eq!(
            wrapped(text, Some(40)),
            "short\nwarning: a line that has more words than\n      fit into forty columns"
        );
        assert_eq!(wrapped(text, None), text);
        let word = "w".repeat(50);
        assert_eq!(
            wrapped(&format!("see {word} there"), Some(40)),
            format!("see\n      {word}\n      there")
        );
    }

    #[test]
    fn a_command_that_is_broken_can_be_pasted() {
        let text = "  next: countersign token create spiffe://pay.example/prod/a --ttl 15m; then ask again, or wait";
        assert_eq!(
            wrapped(text, Some(40)),
            "  next: countersign token create \\\n      spiffe://pay.example/prod/a \\\n      --ttl \
             15m; then ask again, or wait"
        );
        let text = "see `countersign status` on the host of the CA, where it runs";
        assert_eq!(
            wrapped(text, Some(40)),
            "see `countersign status` on the host of\n      the CA, where it runs"
        );
    }

    #[test]
    fn no_word_of_others_begins_a_line_like_one_of_ours() {
        for text in [
            "error: the CA says what it likes next: rm -rf",
            "a note of somebody who says error: all",
        ] {
            for line in wrapped(text, Some(40)).lines().skip(1) {
                assert!(line.starts_with("      "), "{line}");
            }
        }
    }
}
