//! Words as a shell takes them, for hints that are typed again.

pub(crate) use authority::shell::{quoted, word};

/// The words of the command line that a text begins with, as a shell takes them, and where the last of
/// them ends. The line ends where a shell would end it, or with the backticks that it stands in; none
/// where a quote is not closed.
pub(crate) fn words(text: &str) -> Option<(Vec<String>, usize)> {
    let mut line = Line { rest: text };
    let (mut words, mut end) = (Vec::new(), 0);
    while line.has_word() {
        words.push(line.word()?);
        end = text.len() - line.rest.len();
    }
    Some((words, end))
}

/// A command line that is being read.
struct Line<'a> {
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// Goes to where the next word begins.
    fn has_word(&mut self) -> bool {
        while GAPS.iter().any(|gap| self.take(gap)) {}
        !self.rest.is_empty() && !self.rest.starts_with(ENDS)
    }

    fn word(&mut self) -> Option<String> {
        let mut word = String::new();
        while !self.rest.is_empty() && !self.rest.starts_with(ENDS) {
            if GAPS.iter().any(|gap| self.rest.starts_with(gap)) {
                break;
            } else if self.take("$'") {
                self.escaped(&mut word)?;
            } else if self.take("'") {
                word.push_str(self.up_to('\'')?);
            } else if self.take("\"") {
                word.push_str(self.up_to('"')?);
            } else {
                self.take("\\");
                word.push(self.next()?);
            }
        }
        Some(word)
    }

    /// What `authority::shell` has spelt out.
    fn escaped(&mut self, word: &mut String) -> Option<()> {
        loop {
            let c = match self.next()? {
                '\'' => return Some(()),
                '\\' => match self.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    digit @ '0'..='7' => {
                        let digits = [Some(digit), self.next(), self.next()];
                        let digits: String = digits.into_iter().flatten().collect();
                        char::from(u8::from_str_radix(&digits, 8).ok()?)
                    }
                    c => c,
                },
                c => c,
            };
            word.push(c);
        }
    }

    fn up_to(&mut self, quote: char) -> Option<&'a str> {
        let (quoted, rest) = self.rest.split_once(quote)?;
        self.rest = rest;
        Some(quoted)
    }

    fn take(&mut self, beginning: &str) -> bool {
        let rest = self.rest.strip_prefix(beginning);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let mut rest = self.rest.chars();
        let next = rest.next();
        self.rest = rest.as_str();
        next
    }
}

/// What stands between words.
const GAPS: [&str; 3] = [" ", "\t", "\\\n"];
/// What ends a command (POSIX.1-2024 §2.2), unless it is quoted.
const ENDS: [char; 9] = ['\n', ';', '&', '|', '(', ')', '<', '>', '`'];

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    #[test]
    fn what_a_shell_would_take_apart_is_one_word() {
        for (text, expected) in [
            ("/var/lib/svid", "/var/lib/svid"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("~me", "'~me'"),
            ("", "''"),
            ("a\nb's\\", r"$'a\nb\'s\\'"),
            ("\u{1b}[2J", r"$'\033[2J'"),
        ] {
            assert_eq!(word(text), expected);
            let line = format!("{expected} \\\n  b`, prose");
            assert_eq!(words(&line), Some((vec![text.to_owned(), "b".to_owned()], line.len() - 8)));
        }
    }

    #[test]
    fn a_path_that_is_no_text_is_spelt_byte_by_byte() {
        for (bytes, expected) in [
            (&b"/a/caf\xe9.pem"[..], r"$'/a/caf\351.pem'"),
            (b"it's\xff\xfe", r"$'it\'s\377\376'"),
            (b"\xc3\xbc\n\xff", "$'\u{fc}\\n\\377'"),
        ] {
            assert_eq!(quoted(Path::new(OsStr::from_bytes(bytes))), expected);
        }
    }

    #[test]
    fn a_command_line_ends_where_a_shell_ends_it() {
        for (text, expected) in [
            ("rotate", "rotate"),
            ("rotate; then another", "rotate"),
            ("rotate (here)", "rotate"),
            ("rotate  \nand more", "rotate"),
            ("rotate \\", ""),
            ("rotate it's", ""),
            ("rotate $'it", ""),
            ("rotate $'\\9", ""),
            ("rotate --config 'a;b' x", "rotate --config 'a;b' x"),
            ("", ""),
        ] {
            let end = words(text).map(|(_, end)| end).unwrap_or_default();
            assert_eq!(&text[..end], expected, "{text}");
        }
    }
}
