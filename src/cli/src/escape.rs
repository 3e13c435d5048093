//! What others wrote, before a terminal or a line of diagnostics shows it.
//!
//! Names, paths, reasons and answers are written by strangers, and a terminal obeys what it is shown.
//! There are three ways out of this process: stdout and stderr (`output`), and the diagnostics. Each
//! ends here, so that no place that formats a text can forget it.

use std::fmt::{self, Debug};
use std::io::{self, Write};

use tracing_subscriber::field::{MakeExt, RecordFields};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::carried::carried;

/// The text with everything escaped that moves a cursor, or hides or turns what is read. Lines stay
/// lines, and tabs tabs.
pub(crate) fn printable(text: &str) -> String {
    escape(text, |c| c != '\n' && c != '\t' && is_active(c))
}

/// The same, on one line.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, is_active)
}

/// JSON in which a terminal finds nothing to obey: serde_json escapes C0 alone. The same value; what
/// is replaced stands within strings only.
pub(crate) fn json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if is_active(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// C0, DEL and C1; line and paragraph separators; what turns the direction of a text (Unicode TR9,
/// "Trojan Source"); what has no width; and tags.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// What is printable in ASCII.
fn is_plain(octet: &u8) -> bool {
    matches!(octet, b' '..=b'~')
}

/// Where diagnostics go: an event is one line, whatever stands in it.
pub(crate) fn diagnostics() -> Line<io::Stderr> {
    Line(io::stderr())
}

/// The subscriber writes each event in one piece, which ends with a line break.
pub(crate) struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // Most are plain, and cost nothing more.
        if let Some((b'\n', line)) = event.split_last()
            && line.iter().all(is_plain)
        {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        self.0.write_all(format!("{}\n", one_line(text)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The same, of diagnostics that are an object each.
pub(crate) fn json_diagnostics() -> JsonLine<io::Stderr> {
    JsonLine(io::stderr())
}

/// The subscriber writes each event in one piece.
pub(crate) struct JsonLine<W>(W);

impl<W: Write> Write for JsonLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let object = (carried(text) != text).then(|| serde_json::from_str(text).ok()).flatten();
        let line = object.map(|object| with_options(object).to_string());
        let line = json(line.as_deref().unwrap_or(text));
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Each text of an event with what the commands in it need.
fn with_options(mut event: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    for value in event.as_object_mut().into_iter().flat_map(|event| event.values_mut()) {
        if let Value::String(text) = value {
            *text = carried(text);
        }
    }
    event
}

/// `name=value` for each field; a value in which a field could hide is quoted.
pub(crate) fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    Fields
}

struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        debug_fn(|writer: &mut Writer<'_>, field, value| match field.name() {
            "message" => write!(writer, "{}", carried(&format!("{value:?}"))),
            name => write!(writer, "{name}={}", quoted(value)),
        })
        .delimited(" ")
        .format_fields(writer, fields)
    }
}

fn quoted(value: &dyn Debug) -> String {
    let shown = format!("{value:?}");
    if shown.bytes().all(|octet| is_plain(&octet) && !matches!(octet, b' ' | b'=' | b'"')) {
        return shown;
    }
    let shown = if is_literal(&shown) { shown } else { carried(&shown) };
    let hides = |c: char| c.is_whitespace() || c == '=' || c == '"' || is_active(c);
    if is_literal(&shown) || !shown.contains(hides) {
        return shown;
    }
    let literal = shown.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", one_line(&literal))
}

/// Whether it is quoted already, and nothing stands behind its end.
fn is_literal(shown: &str) -> bool {
    let inner = shown.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return false };
    let mut is_escaped = false;
    for c in inner.chars() {
        match c {
            '"' if !is_escaped => return false,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    !is_escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What stands in the diagnostics after `tell`.
    fn diagnostics_of(tell: impl FnOnce()) -> String {
        let written = Written::default();
        let to = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(fields())
            .with_writer(move || Line(to.clone()))
            .with_ansi(false)
            .without_time();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const FORGED: &str =
        "a\r\n2026-11-29T00:00:00Z  INFO server: all is well\u{1b}[2J\u{9b}1A\u{202e}";

    #[test]
    fn a_terminal_never_sees_an_escape_sequence_of_others() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{9b}"), "a\\u{1b}[2Jb\\r\nc\\u{9b}");
        assert_eq!(
            printable("\u{7f}\u{202e}\u{2066}\u{200b}\tä"),
            "\\u{7f}\\u{202e}\\u{2066}\\u{200b}\tä"
        );
        assert_eq!(one_line("a\nb\u{2028}c"), "a\\nb\\u{2028}c");
    }

    #[test]
    fn json_is_the_same_value_and_shows_nothing_to_obey() {
        let value = serde_json::json!({ "path": "\u{7f}\u{9b}\u{202e}\u{e0041}ä\u{1b}" });
        let line = json(&value.to_string());
        assert!(line.chars().all(|c| !is_active(c)), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn an_event_is_one_line_whichever_field_a_stranger_wrote() {
        let told = [
            diagnostics_of(|| tracing::info!("refused {FORGED}")),
            diagnostics_of(|| tracing::info!(path = FORGED, "refused")),
            diagnostics_of(|| tracing::info!(path = %FORGED, "refused")),
            diagnostics_of(|| tracing::info!(path = ?Some(FORGED), "refused")),
            diagnostics_of(|| {
                tracing::info_span!("call", path = %FORGED).in_scope(|| tracing::info!("refused"));
            }),
        ];
        for line in told {
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let line = line.strip_suffix('\n').unwrap();
            assert!(line.chars().all(|c| !is_active(c)), "{line:?}");
        }
    }

    #[test]
    fn an_event_in_json_is_one_line_that_says_the_same_and_shows_nothing_to_obey() {
        let hostile = format!("{FORGED}\u{85}\u{200b}\u{2028}\u{feff}\u{e0041}ä");
        let written = Written::default();
        let to = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(move || JsonLine(to.clone()));
        let tell = || {
            tracing::info_span!("call", path = %hostile)
                .in_scope(|| tracing::info!(why = hostile, "refused {hostile}"));
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        let line = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line = line.strip_suffix('\n').unwrap();
        assert!(line.chars().all(|c| !is_active(c)), "{line:?}");
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["why"], hostile);
        assert_eq!(event["message"], format!("refused {hostile}"));
        assert_eq!(event["span"]["path"], hostile);
    }

    #[test]
    fn no_value_passes_for_another_field() {
        for forged in
            ["x status=200", "\"x\" status=200 \"y\"", "x\" status=200", "\\\" status=200"]
        {
            let line = diagnostics_of(|| tracing::info!(path = %forged, "refused"));
            let (_, value) = line.trim_end().split_once("path=").unwrap();
            assert!(is_literal(value), "{line}");
        }
        let line = diagnostics_of(|| tracing::info!(size = 7, id = %"a/b", text = "c", "done"));
        assert!(line.trim_end().ends_with("done size=7 id=a/b text=\"c\""), "{line}");
    }
}
