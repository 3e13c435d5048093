//! PEM as it is found in files (RFC 7468 §2): with text around the blocks, in whatever encoding.

use std::fmt;

use data_encoding::BASE64;

use crate::text::{MARK, TextFault, lines, unmarked};

/// One block of a PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct PemBlock {
    /// What it says that it is: `CERTIFICATE`.
    pub label: String,
    /// What it encloses.
    pub contents: Vec<u8>,
    /// Which block of the text it is, from 1.
    pub number: usize,
    /// The line that it begins on, from 1.
    pub line: usize,
}

/// It may be a private key.
impl fmt::Debug for PemBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, number, line, .. } = self;
        write!(f, "PemBlock({label}, block {number}, line {line})")
    }
}

/// Why a text is no PEM. A block that is broken is never passed over: what stands behind it is
/// another one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemError {
    /// A block is broken.
    Block {
        /// Which, from 1.
        number: usize,
        /// The line on which it is, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It is text in an encoding that PEM is not written in.
    Text(TextFault),
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { number, line, why } => {
                write!(f, "its PEM is broken: block {number}, line {line}: {why}")
            }
            Self::Text(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for PemError {}

/// All blocks of a text, in order; none if it has none. Text before, between and behind them may be
/// in any encoding; a byte order mark and white space around lines are passed over.
pub fn pem_blocks(text: &[u8]) -> Result<Vec<PemBlock>, PemError> {
    let mut blocks = Vec::new();
    let mut open: Option<Open> = None;
    for (line, number) in lines(unmarked(text).map_err(PemError::Text)?).zip(1..) {
        let line = line.strip_prefix(MARK).unwrap_or(line).trim_ascii();
        let block = match open {
            None => blocks.len() + 1,
            Some(Open { number, .. }) => number,
        };
        let fail = |why: &str| PemError::Block { number: block, line: number, why: why.to_owned() };
        open = match (open.take(), Boundary::of(line).map_err(fail)?) {
            (None, None) => None,
            (None, Some(Boundary::Begin(label))) => Some(Open {
                label: label.to_owned(),
                base64: Vec::new(),
                number: block,
                line: number,
            }),
            (None, Some(Boundary::End(label))) => {
                return Err(fail(&format!("END {label} without a BEGIN before it")));
            }
            (Some(_), Some(Boundary::Begin(label))) => {
                return Err(fail(&format!("BEGIN {label} before the END of the block above")));
            }
            (Some(block), Some(Boundary::End(label))) if label != block.label => {
                return Err(fail(&format!("END {label} ends a block of {}", block.label)));
            }
            (Some(block), Some(Boundary::End(_))) => {
                blocks.push(block.close()?);
                None
            }
            (Some(_), None) if line.contains(&b':') => {
                return Err(fail("it has headers, as encrypted keys have: decrypt it first"));
            }
            (Some(_), None) if line.starts_with(b"-") => {
                return Err(fail("its END is not whole: is the file cut off?"));
            }
            (Some(mut block), None) => {
                if let Some(odd) = line.iter().find(|octet| !is_base64(**octet)) {
                    return Err(fail(&format!("{:?} is not of Base64", char::from(*odd))));
                }
                for part in line.split(u8::is_ascii_whitespace) {
                    block.base64.extend_from_slice(part);
                }
                Some(block)
            }
        };
    }
    match open {
        Some(Open { number, line, label, .. }) => {
            let why = format!("BEGIN {label} has no END: is the file cut off?");
            Err(PemError::Block { number, line, why })
        }
        None => Ok(blocks),
    }
}

/// Whether a text has a block, or the beginning of one.
pub fn is_pem(text: &[u8]) -> bool {
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// Whether a file is PKCS #7: certificates in one box (RFC 5652 §5), as Windows exports a chain. In PEM
/// by its label, in DER by the type that it begins with.
pub fn is_pkcs7(bytes: &[u8]) -> bool {
    let is_labelled = |label: &str| matches!(label, "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA");
    if is_pem(bytes) {
        return pem_blocks(bytes)
            .is_ok_and(|blocks| blocks.iter().any(|block| is_labelled(&block.label)));
    }
    let length = match bytes {
        [SEQUENCE, long, ..] if long & 0x80 != 0 => 2 + usize::from(long & 0x7f),
        [SEQUENCE, ..] => 2,
        _ => return false,
    };
    bytes.get(length..).is_some_and(|rest| rest.starts_with(SIGNED_DATA))
}

/// A block whose END was not seen yet.
struct Open {
    label: String,
    base64: Vec<u8>,
    number: usize,
    line: usize,
}

impl Open {
    fn close(self) -> Result<PemBlock, PemError> {
        let Self { label, base64, number, line } = self;
        let contents = BASE64.decode(&base64).map_err(|_| PemError::Block {
            number,
            line,
            why: "its Base64 is not whole: characters are missing".to_owned(),
        })?;
        Ok(PemBlock { label, contents, number, line })
    }
}

enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
}

impl<'a> Boundary<'a> {
    /// A line with five hyphens that is no boundary was meant to be one.
    fn of(line: &'a [u8]) -> Result<Option<Self>, &'static str> {
        // Most lines are Base64.
        if !line.contains(&b'-') {
            return Ok(None);
        }
        let label = |mark: &[u8]| {
            let label = line.strip_prefix(mark)?.strip_suffix(HYPHENS)?;
            str::from_utf8(label).ok().filter(|label| !label.contains('-'))
        };
        if let Some(label) = label(BEGIN) {
            return Ok(Some(Self::Begin(label)));
        }
        if let Some(label) = label(END) {
            return Ok(Some(Self::End(label)));
        }
        let has = |mark: &[u8]| line.windows(mark.len()).any(|window| window == mark);
        if has(BEGIN) || has(END) {
            return Err("a BEGIN or END does not have its line for itself");
        }
        Ok(None)
    }
}

fn is_base64(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"+/=".contains(&octet) || octet.is_ascii_whitespace()
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const HYPHENS: &[u8] = b"-----";

const SEQUENCE: u8 = 0x30;
/// RFC 5652 §5.1: the object identifier 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pem;

    fn contents(text: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        pem_blocks(text.as_ref()).unwrap().into_iter().map(|block| block.contents).collect()
    }

    #[track_caller]
    fn broken(text: impl AsRef<[u8]>) -> (usize, usize, String) {
        match pem_blocks(text.as_ref()) {
            Err(PemError::Block { number, line, why }) => (number, line, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blocks_are_read_whatever_stands_around_them() {
        let (one, two) = (pem("A", &[7; 100]), pem("B", b"b"));
        let expected = [vec![7; 100], b"b".to_vec()];
        assert_eq!(contents(format!("{one}{two}")), expected);
        assert_eq!(
            contents([b"\xef\xbb\xbf", one.as_bytes(), b"\xef\xbb\xbf", two.as_bytes()].concat()),
            expected
        );
        let latin =
            [b"M\xfcller:\n", one.as_bytes(), b"\xff\x00 between\n", two.as_bytes(), b"\xe9"];
        assert_eq!(contents(latin.concat()), expected);
        for end in ["\r\n", "\r", "  \t\n"] {
            assert_eq!(contents(format!("{one}{two}").replace('\n', end)), expected, "{end:?}");
        }
        assert_eq!(contents(format!("{one}{two}").trim_end()), expected);
        assert_eq!(contents("no block\n"), [[0; 0]; 0]);
        let second = &pem_blocks(format!("text\n{one}{two}").as_bytes()).unwrap()[1];
        assert_eq!((&*second.label, second.number, second.line), ("B", 2, 7));
    }

    #[test]
    fn a_broken_block_is_named_by_number_and_line_and_nothing_is_skipped() {
        let good = pem("A", &[7; 100]);
        let cases = [
            (good.replace("-----END A-----", ""), 1, 6, "before the END"),
            (good.replace("BwcHBwcHBw", "BwcHBwc\u{e9}Bw"), 1, 2, "not of Base64"),
            (good.replace("Bw==", "B"), 1, 1, "not whole"),
            (good.replace("END A", "END B"), 1, 5, "ends a block of A"),
            (good.replace("A-----\n", "A----\n"), 1, 1, "its line for itself"),
            (format!("# {good}"), 1, 1, "its line for itself"),
            (good.replace("-----BEGIN A-----\n", ""), 1, 4, "without a BEGIN"),
            (good.replace("A-----\nB", "A-----\nProc-Type: 4,ENCRYPTED\nB"), 1, 2, "decrypt"),
        ];
        for (first, number, line, why) in cases.into_iter() {
            let found = broken(format!("{first}{good}"));
            assert_eq!((found.0, found.1), (number, line), "{first}: {}", found.2);
            assert!(found.2.contains(why), "{first}: {}", found.2);
        }
        for missing in [3, 8, 12, 40] {
            let (number, _, why) = broken(format!("{good}{}", &good[..good.len() - missing]));
            assert_eq!(number, 2);
            assert!(why.contains("cut off") || why.contains("its line for itself"), "{why}");
        }
    }

    #[test]
    fn utf_16_is_named() {
        let utf16: Vec<u8> = pem("A", b"a").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(matches!(pem_blocks(&utf16), Err(PemError::Text(TextFault::Utf16 { .. }))));
    }

    #[test]
    fn what_a_block_encloses_is_not_shown() {
        let block = &pem_blocks(pem("PRIVATE KEY", b"secret").as_bytes()).unwrap()[0];
        assert!(!format!("{block:?}").contains("115"), "{block:?}");
    }
}
