//! Text signed by one or more keys (C2SP signed-note).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::signature::P256Key;
use crate::verifier_key::require_key_name;
use crate::{Error, VerifierKey, ecdsa_key_id};

/// A text of at most 1 MiB and up to 64 signatures on it.
///
/// The text of a parsed note must be ignored until [`verify`](Self::verify) or
/// [`verify_ecdsa`](Self::verify_ecdsa) accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line of a note: who says to have signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key.
    pub name: String,
    /// The ID of the key: together with the name, it stands for key and algorithm.
    pub key_id: u32,
    /// The signature itself, at least 1 byte.
    pub signature: Vec<u8>,
}

impl SignedNote {
    /// A note that nobody has signed yet.
    ///
    /// Fails if the text does not end in a newline, is longer than 1 MiB, or has control characters
    /// other than newline.
    pub fn unsigned(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        require_text(&text)?;
        Ok(Self { text, signatures: Vec::new() })
    }

    /// This note with one more signature, made over the bytes of [`text`](Self::text).
    ///
    /// Fails if the name cannot stand in a note, if the signature is empty, or if there are 64
    /// signatures already. The signature is not verified.
    pub fn with_signature(
        mut self,
        name: &str,
        key_id: u32,
        signature: &[u8],
    ) -> Result<Self, Error> {
        require_key_name(name)?;
        if signature.is_empty() {
            return Err(Error::NoteSignatureLine);
        }
        if self.signatures.len() == MAX_SIGNATURES {
            return Err(Error::NoteTooManySignatures);
        }
        let (name, signature) = (name.to_owned(), signature.to_vec());
        self.signatures.push(NoteSignature { name, key_id, signature });
        Ok(self)
    }

    /// Reads a note with at least one signature; verifies none of them.
    ///
    /// Fails unless it is UTF-8 without control characters other than newline: a text as in
    /// [`unsigned`](Self::unsigned), a blank line, and 1 to 64 signature lines in their only
    /// spelling.
    pub fn parse(note: &[u8]) -> Result<Self, Error> {
        let note = str::from_utf8(note).map_err(|_| Error::NoteNotUtf8)?;
        let blank_line = note.rfind("\n\n").ok_or(Error::NoteUnsigned)?;
        let (text, lines) = note.split_at(blank_line + 1);
        let mut parsed = Self::unsigned(text)?;
        for line in lines[1..].split_inclusive('\n') {
            parsed = parsed.with_line(line)?;
        }
        if parsed.signatures.is_empty() {
            return Err(Error::NoteUnsigned);
        }
        Ok(parsed)
    }

    /// The bytes of the note: text, blank line, signature lines.
    ///
    /// [`parse`](Self::parse) reads them again once there is a signature.
    pub fn encode(&self) -> Vec<u8> {
        let lines: String = self.signatures.iter().map(NoteSignature::line).collect();
        format!("{}\n{lines}", self.text).into_bytes()
    }

    /// What is signed, its final newline included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures in the order of their lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Verifies that `key` signed the text; signatures of other keys are ignored.
    ///
    /// Fails if no line has the key's name and ID, and if any line that has them does not verify.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), Error> {
        let verifies = |signature: &[u8]| key.verifies(&self.text, signature);
        self.verify_with(key.name(), key.key_id(), verifies)
    }

    /// Verifies that the P-256 key `spki` (SubjectPublicKeyInfo in DER) signed the text under
    /// `name`, with ECDSA and SHA-256, the signature in DER (type 0x02 of C2SP signed-note).
    ///
    /// Fails where [`verify`](Self::verify) does, and if `spki` is no P-256 key.
    pub fn verify_ecdsa(&self, name: &str, spki: &[u8]) -> Result<(), Error> {
        let key = P256Key::from_spki(spki)?;
        let verifies = |signature: &[u8]| key.verifies(self.text.as_bytes(), signature);
        self.verify_with(name, ecdsa_key_id(spki), verifies)
    }

    fn verify_with(
        &self,
        name: &str,
        key_id: u32,
        verifies: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let is_known = |line: &&NoteSignature| line.name == name && line.key_id == key_id;
        let mut known = self.signatures.iter().filter(is_known).peekable();
        if known.peek().is_none() {
            return Err(Error::NoteSignatureMissing { name: name.to_owned(), key_id });
        }
        if !known.all(|line| verifies(&line.signature)) {
            return Err(Error::NoteSignatureInvalid { name: name.to_owned(), key_id });
        }
        Ok(())
    }

    fn with_line(self, line: &str) -> Result<Self, Error> {
        let (name, bytes) = split_line(line).ok_or(Error::NoteSignatureLine)?;
        let (key_id, signature) = bytes.split_first_chunk().ok_or(Error::NoteSignatureLine)?;
        self.with_signature(name, u32::from_be_bytes(*key_id), signature)
    }
}

impl NoteSignature {
    fn line(&self) -> String {
        let bytes = [&self.key_id.to_be_bytes(), &self.signature[..]].concat();
        format!("\u{2014} {} {}\n", self.name, BASE64_STANDARD.encode(bytes))
    }
}

/// Em dash, space, key name, space, base64, newline: the name, and what the base64 encodes.
fn split_line(line: &str) -> Option<(&str, Vec<u8>)> {
    let line = line.strip_prefix("\u{2014} ")?.strip_suffix('\n')?;
    let (name, base64) = line.split_once(' ')?;
    Some((name, BASE64_STANDARD.decode(base64).ok()?))
}

fn require_text(text: &str) -> Result<(), Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::NoteTooLong { length: text.len() });
    }
    if text.contains(|c: char| c < ' ' && c != '\n') {
        return Err(Error::NoteControlCharacter);
    }
    if !text.ends_with('\n') {
        return Err(Error::NoteWithoutNewline);
    }
    Ok(())
}

/// More than the 16 that C2SP signed-note demands.
const MAX_SIGNATURES: usize = 64;
/// Far above any trust state, whose text is the largest.
const MAX_TEXT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "text\n\nmore\n\n\u{2014} pay.example/log AAAAAQID\n";

    fn parse(note: &str) -> Result<SignedNote, Error> {
        SignedNote::parse(note.as_bytes())
    }

    #[test]
    fn text_ends_at_the_last_blank_line() {
        let note = parse(NOTE).unwrap();
        assert_eq!(note.text(), "text\n\nmore\n");
        let signature = vec![2, 3];
        let name = "pay.example/log".to_owned();
        assert_eq!(note.signatures(), [NoteSignature { name, key_id: 1, signature }]);
        assert_eq!(note.encode(), NOTE.as_bytes());
    }

    #[test]
    fn notes_of_another_shape_are_refused() {
        let line = Error::NoteSignatureLine;
        let cases = [
            ("", Error::NoteUnsigned),
            ("text\n", Error::NoteUnsigned),
            ("text\n\n", Error::NoteUnsigned),
            ("text\n\u{2014} n AAAAAQID\n", Error::NoteUnsigned),
            ("text\n\n\u{2014} n AAAAAQID", line.clone()),
            ("text\n\n- n AAAAAQID\n", line.clone()),
            ("text\n\n\u{2014} n\n", line.clone()),
            ("text\n\n\u{2014} n AAAAAQ==\n", line.clone()),
            ("text\n\n\u{2014} n AAAA\n", line.clone()),
            ("text\n\n\u{2014} n AAAAAQIE=\n", line.clone()),
            ("text\n\n\u{2014} n AAAAAQJ=\n", line.clone()),
            ("text\n\n\u{2014} n  AAAAAQID\n", line.clone()),
            ("text\n\n\u{2014} n AAAAAQID \n", line),
            ("text\n\n\u{2014}  AAAAAQID\n", Error::KeyName { name: String::new() }),
            ("text\n\n\u{2014} a+b AAAAAQID\n", Error::KeyName { name: "a+b".into() }),
            ("text\n\n\u{2014} a\u{a0} AAAAAQID\n", Error::KeyName { name: "a\u{a0}".into() }),
            ("te\rxt\n\n\u{2014} n AAAAAQID\n", Error::NoteControlCharacter),
        ];
        for (note, refused) in cases {
            assert_eq!(parse(note), Err(refused), "{note:?}");
        }
        assert_eq!(SignedNote::parse(b"\xff\n\n"), Err(Error::NoteNotUtf8));
    }

    #[test]
    fn text_that_cannot_be_signed_is_refused() {
        assert_eq!(SignedNote::unsigned("text"), Err(Error::NoteWithoutNewline));
        assert_eq!(SignedNote::unsigned(""), Err(Error::NoteWithoutNewline));
        assert_eq!(SignedNote::unsigned("a\tb\n"), Err(Error::NoteControlCharacter));
        let long = "\n".repeat(MAX_TEXT + 1);
        assert_eq!(SignedNote::unsigned(long), Err(Error::NoteTooLong { length: MAX_TEXT + 1 }));
    }

    #[test]
    fn note_takes_64_signatures() {
        let line = "\u{2014} n AAAAAQID\n";
        let note = |lines| parse(&format!("text\n\n{}", line.repeat(lines)));
        assert_eq!(note(64).map(|note| note.signatures().len()), Ok(64));
        assert_eq!(note(65), Err(Error::NoteTooManySignatures));
    }

    #[test]
    fn added_signature_must_be_one_that_can_be_read() {
        let note = SignedNote::unsigned("text\n").unwrap();
        let refused = note.clone().with_signature("n", 1, &[]);
        assert_eq!(refused, Err(Error::NoteSignatureLine));
        let refused = note.with_signature("a b", 1, &[2]);
        assert_eq!(refused, Err(Error::KeyName { name: "a b".into() }));
    }
}
