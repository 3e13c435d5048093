//! Words as a shell takes them, for hints that are typed again.

use std::path::Path;

/// A path as one word of a command line.
pub(crate) fn quoted(path: &Path) -> String {
    word(&path.display().to_string())
}

/// Text as one word of a command line: in quotes, unless no character of it means anything to a
/// shell.
pub(crate) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=~".contains(c);
    // A tilde at the beginning is somebody's home.
    if !text.is_empty() && !text.starts_with('~') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_one_word() {
        for (text, expected) in [
            ("/var/lib/svid", "/var/lib/svid"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("~me", "'~me'"),
            ("", "''"),
        ] {
            assert_eq!(word(text), expected);
        }
    }
}
