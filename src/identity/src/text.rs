//! Text files as they are in the world: with the mark that some editors put before UTF-8, or in
//! another encoding, which is named.

use std::fmt;

/// What keeps a file from being read as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextFault {
    /// A line is no UTF-8: Latin-1, most likely.
    NotUtf8 {
        /// Which, from 1.
        line: usize,
    },
    /// It is UTF-16, as Windows' `certreq` and PowerShell's `>` write it.
    Utf16 {
        /// Which octet of a character comes first.
        order: ByteOrder,
        /// Whether it begins with the mark that says so.
        is_marked: bool,
    },
    /// It is UTF-32.
    Utf32,
}

/// Which octet of a character comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// The higher one.
    BigEndian,
    /// The lower one.
    LittleEndian,
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BigEndian => "UTF-16BE",
            Self::LittleEndian => "UTF-16LE",
        })
    }
}

impl TextFault {
    /// The command that makes UTF-8 of such a file, without the file's name.
    pub fn command(&self) -> String {
        let encoding = match self {
            Self::NotUtf8 { .. } => "LATIN1",
            // Told the order, iconv would keep the mark, which OpenSSL takes for a part of the text.
            Self::Utf16 { is_marked: true, .. } => "UTF-16",
            Self::Utf16 { order: ByteOrder::BigEndian, .. } => "UTF-16BE",
            Self::Utf16 { order: ByteOrder::LittleEndian, .. } => "UTF-16LE",
            Self::Utf32 => "UTF-32",
        };
        format!("iconv -f {encoding} -t UTF-8")
    }
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::NotUtf8 { line } => format!("line {line} is not UTF-8"),
            Self::Utf16 { order, .. } => format!("this is {order}"),
            Self::Utf32 => "this is UTF-32".to_owned(),
        };
        write!(f, "{what}; save it as UTF-8 ({})", self.command())
    }
}

impl std::error::Error for TextFault {}

/// A text without the byte order mark that may stand before it.
pub fn utf8_text(bytes: &[u8]) -> Result<&str, TextFault> {
    let bytes = unmarked(bytes)?;
    str::from_utf8(bytes).map_err(|error| {
        let line = lines(&bytes[..error.valid_up_to()]).count().max(1);
        TextFault::NotUtf8 { line }
    })
}

/// The same where only parts of it need be text: a PEM file may have anything around its blocks.
/// Fails for what no part of is.
pub fn unmarked(bytes: &[u8]) -> Result<&[u8], TextFault> {
    let utf16 = |order, is_marked| Err(TextFault::Utf16 { order, is_marked });
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(TextFault::Utf32),
        [0xff, 0xfe, ..] => utf16(ByteOrder::LittleEndian, true),
        [0xfe, 0xff, ..] => utf16(ByteOrder::BigEndian, true),
        // Without a mark: no text of ours begins with two characters whose other octets are zero.
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => utf16(ByteOrder::LittleEndian, false),
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => utf16(ByteOrder::BigEndian, false),
        _ => Ok(bytes.strip_prefix(MARK).unwrap_or(bytes)),
    }
}

/// What a parser says of a file, without what stands in it: that may be a secret, of whoever named the
/// wrong file. Quoted values are left out; names of keys are kept, as far as they look like some.
///
/// ```
/// let said = "invalid type: string \"hunter2\", expected a sequence at line 1 column 9";
/// let shown = "invalid type: string \"…\", expected a sequence at line 1 column 9";
/// assert_eq!(identity::without_values(said), shown);
/// ```
pub fn without_values(said: &str) -> String {
    let (mut shown, mut rest) = (String::new(), said);
    while let Some(start) = rest.find(['"', '`']) {
        let (before, quoted) = rest.split_at(start);
        let quote = quoted.as_bytes()[0];
        let inner = &quoted[1..];
        let end = closing(inner, quote);
        let (inner, behind) = inner.split_at(end);
        let is_kept = quote == b'`' && is_key(inner) && !shows_a_value(before);
        let inner = if is_kept || inner.is_empty() { inner } else { "…" };
        let quote = char::from(quote);
        shown.push_str(before);
        shown.push(quote);
        shown.push_str(inner);
        rest = match behind.strip_prefix(quote) {
            Some(behind) => {
                shown.push(quote);
                behind
            }
            // It is never closed: nothing behind it is known to be no part of it.
            None => "",
        };
    }
    without_types(&(shown + rest))
}

/// serde's word for what is written in braces is the name of our type.
fn without_types(said: &str) -> String {
    let Some((before, behind)) = said.split_once(STRUCT) else { return said.to_owned() };
    let name = |c: char| c.is_ascii_alphanumeric();
    let behind = behind.trim_start_matches(name);
    let counted = behind.strip_prefix(" with ").map(|count| {
        let count = count.trim_start_matches(|c: char| c.is_ascii_digit());
        let count = count.strip_prefix(" element").unwrap_or(count);
        count.strip_prefix('s').unwrap_or(count)
    });
    format!("{before}an object{}", counted.unwrap_or(behind))
}

/// Where a quoted text ends; escaped quotes are a part of it.
fn closing(text: &str, quote: u8) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().position(|octet| {
        let ends = octet == quote && !is_escaped;
        is_escaped = quote == b'"' && octet == b'\\' && !is_escaped;
        ends
    });
    end.unwrap_or(text.len())
}

/// The name of a key, or a sign of the syntax.
fn is_key(text: &str) -> bool {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let is_sign = text.len() <= 2 && !text.contains(|c: char| c.is_ascii_digit());
    is_sign || (text.len() <= LONGEST_KEY && text.chars().all(is_name))
}

/// serde puts numbers and truths between the same quotes as keys.
fn shows_a_value(before: &str) -> bool {
    let kinds = ["boolean ", "character ", "integer ", "floating point ", "unknown variant "];
    kinds.iter().any(|kind| before.ends_with(kind))
}

/// Lines, whatever ends them: LF, CR LF, or CR alone.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut after_return = false;
    bytes
        .split(|octet| matches!(octet, b'\n' | b'\r'))
        .scan(0, move |position, line| {
            // Between CR and LF there is no line.
            let is_gap = after_return && line.is_empty() && bytes.get(*position) == Some(&b'\n');
            *position += line.len();
            after_return = bytes.get(*position) == Some(&b'\r');
            *position += 1;
            Some((!is_gap).then_some(line))
        })
        .flatten()
}

const STRUCT: &str = "struct ";
/// The longest of ours is `offline_passphrase_file`.
const LONGEST_KEY: usize = 32;
/// U+FEFF in UTF-8.
pub(crate) const MARK: &[u8] = &[0xef, 0xbb, 0xbf];

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, mark: bool, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter().chain(text.encode_utf16()).flat_map(order).collect()
    }

    #[test]
    fn a_mark_before_utf_8_is_passed_over_and_nothing_else() {
        assert_eq!(utf8_text(b"\xef\xbb\xbfd\xc3\xa9j\xc3\xa0"), Ok("d\u{e9}j\u{e0}"));
        assert_eq!(utf8_text(b"\xef\xbb\xbf"), Ok(""));
        assert_eq!(utf8_text(b""), Ok(""));
        assert_eq!(utf8_text(b"a\xef\xbb\xbf"), Ok("a\u{feff}"));
    }

    #[test]
    fn utf_16_is_named_with_and_without_a_mark_in_either_order() {
        let octets = |order| match order {
            ByteOrder::BigEndian => u16::to_be_bytes,
            ByteOrder::LittleEndian => u16::to_le_bytes,
        };
        for is_marked in [true, false] {
            for order in [ByteOrder::BigEndian, ByteOrder::LittleEndian] {
                let fault = utf8_text(&utf16("{\r\n}", is_marked, octets(order))).unwrap_err();
                assert_eq!(fault, TextFault::Utf16 { order, is_marked });
                assert!(fault.to_string().starts_with(&format!("this is {order}; ")), "{fault}");
                let named = if is_marked { "UTF-16".to_owned() } else { order.to_string() };
                assert_eq!(fault.command(), format!("iconv -f {named} -t UTF-8"));
            }
        }
        let utf32: Vec<u8> = [0xfeff, 0x7b].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(utf8_text(&utf32), Err(TextFault::Utf32));
    }

    #[test]
    fn the_line_that_is_no_utf_8_is_named() {
        assert_eq!(utf8_text(b"\xfc"), Err(TextFault::NotUtf8 { line: 1 }));
        assert_eq!(utf8_text(b"a\r\nb\rc\nM\xfcller"), Err(TextFault::NotUtf8 { line: 4 }));
    }

    #[test]
    fn no_type_of_ours_is_named() {
        for (said, shown) in [
            (
                "invalid length 2, expected struct File with 3 elements at line 1 column 2",
                "invalid length 2, expected an object at line 1 column 2",
            ),
            (
                "invalid length 0, expected struct A with 1 element",
                "invalid length 0, expected an object",
            ),
            ("invalid type: map, expected struct Row", "invalid type: map, expected an object"),
            ("expected value at line 1", "expected value at line 1"),
        ] {
            assert_eq!(without_values(said), shown);
        }
    }

    #[test]
    fn lines_end_in_each_of_the_three_ways() {
        let lines: Vec<&[u8]> = lines(b"a\r\nb\rc\n\n\r\nd").collect();
        assert_eq!(lines, [&b"a"[..], b"b", b"c", b"", b"", b"d"]);
    }
}
