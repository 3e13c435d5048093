//! Words as a shell takes them: what is told names paths in commands that are typed again.

use std::path::Path;

/// A path as one word of a command line.
pub fn quoted(path: &Path) -> String {
    word(&path.display().to_string())
}

/// Text as one word of a command line: in quotes, unless no character of it means anything to a
/// shell.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=~".contains(c);
    if text.chars().any(char::is_control) {
        return escaped(text);
    }
    // A tilde at the beginning is somebody's home.
    if !text.is_empty() && !text.starts_with('~') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line's end would be indented with the hint, and control characters be replaced: both are spelt
/// out (POSIX.1-2024 §2.2.4, dollar-single-quotes).
fn escaped(text: &str) -> String {
    let escaped = text.chars().fold(String::new(), |escaped, c| match c {
        '\n' => escaped + r"\n",
        '\t' => escaped + r"\t",
        '\r' => escaped + r"\r",
        '\\' | '\'' => format!(r"{escaped}\{c}"),
        c if c.is_ascii_control() => format!(r"{escaped}\{:03o}", u32::from(c)),
        c => escaped + c.encode_utf8(&mut [0; 4]),
    });
    format!("$'{escaped}'")
}
