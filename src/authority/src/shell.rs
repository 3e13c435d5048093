//! Words as a shell takes them: what is told names paths in commands that are typed again.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as one word of a command line, also where it is no text.
pub fn quoted(path: &Path) -> String {
    if let Some(text) = path.to_str() {
        return word(text);
    }
    let chunks = path.as_os_str().as_bytes().utf8_chunks();
    let spelt = chunks.fold(String::new(), |spelt, chunk| {
        let text = spelt + &spelt_out(chunk.valid());
        chunk.invalid().iter().fold(text, |spelt, byte| format!(r"{spelt}\{byte:03o}"))
    });
    format!("$'{spelt}'")
}

/// Text as one word of a command line: in quotes, unless no character of it means anything to a
/// shell.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=~".contains(c);
    if text.chars().any(char::is_control) {
        return format!("$'{}'", spelt_out(text));
    }
    // A tilde at the beginning is somebody's home.
    if !text.is_empty() && !text.starts_with('~') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line's end would be indented with the hint, and control characters be replaced: both are spelt
/// out (POSIX.1-2024 §2.2.4, dollar-single-quotes).
fn spelt_out(text: &str) -> String {
    text.chars().fold(String::new(), |spelt, c| match c {
        '\n' => spelt + r"\n",
        '\t' => spelt + r"\t",
        '\r' => spelt + r"\r",
        '\\' | '\'' => format!(r"{spelt}\{c}"),
        c if c.is_ascii_control() => format!(r"{spelt}\{:03o}", u32::from(c)),
        c => spelt + c.encode_utf8(&mut [0; 4]),
    })
}
