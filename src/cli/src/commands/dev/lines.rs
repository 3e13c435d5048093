//! Lines that fit a terminal of 80 columns, whatever stands in them.

/// A text in lines of at most [`COLUMNS`], broken at spaces; all but the first begin at `indent`.
/// A word that is too long alone stays whole.
pub(super) fn folded(text: &str, indent: usize) -> String {
    fold(text.split(' '), indent, "")
}

/// A command of a shell, to be pasted as it is. Its parts, an option with its value, say, are not
/// broken: one that is too long alone is a path, and stays whole.
pub(super) fn command<S: AsRef<str>>(parts: &[S]) -> String {
    let (first, rest) =
        parts.split_first().map_or(("", parts), |(first, rest)| (first.as_ref(), rest));
    let begin = format!("{:MARGIN$}{first}", "");
    let parts = std::iter::once(begin.as_str()).chain(rest.iter().map(AsRef::as_ref));
    fold(parts, MARGIN + 2, " \\")
}

/// `broken_by` ends every line but the last.
fn fold<'a>(parts: impl Iterator<Item = &'a str>, indent: usize, broken_by: &str) -> String {
    let room = COLUMNS - broken_by.len();
    let (mut lines, mut line) = (Vec::new(), String::new());
    for (index, part) in parts.enumerate() {
        let width = line.chars().count() + 1 + part.chars().count();
        if index > 0 && width > room {
            lines.push(format!("{}{broken_by}", line.trim_end()));
            line = format!("{:indent$}{part}", "");
        } else if index > 0 {
            line.push(' ');
            line.push_str(part);
        } else {
            line.push_str(part);
        }
    }
    lines.push(line);
    lines.join("\n")
}

/// Of the smallest terminal that people use.
const COLUMNS: usize = 80;
/// Before every line.
const MARGIN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_spaces_and_keeps_its_columns() {
        let text = format!("  0.8s  denied   {}", "twelve chars ".repeat(7));
        let folded = folded(text.trim_end(), 17);
        assert!(folded.lines().all(|line| line.chars().count() <= COLUMNS), "{folded}");
        let (first, second) = folded.split_once('\n').unwrap();
        assert_eq!(
            first,
            "  0.8s  denied   twelve chars twelve chars twelve chars twelve chars twelve"
        );
        assert_eq!(second, "                 chars twelve chars twelve chars");
    }

    #[test]
    fn a_command_is_broken_between_its_parts_as_a_shell_reads_it() {
        let option = |name: &str| format!("--{name} /tmp/state of mine/{name}.pem");
        let parts = ["curl".to_owned(), option("cacert"), option("cert"), option("key")];
        assert_eq!(
            command(&parts),
            "  curl --cacert /tmp/state of mine/cacert.pem \\\n    \
             --cert /tmp/state of mine/cert.pem --key /tmp/state of mine/key.pem"
        );
    }

    #[test]
    fn only_a_part_that_is_too_long_alone_is_wider() {
        let path = format!("/{}", "long".repeat(30));
        let command = command(&["openssl verify", &path, "short"]);
        assert_eq!(command, format!("  openssl verify \\\n    {path} \\\n    short"));
    }
}
