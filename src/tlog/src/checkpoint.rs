//! What a log commits to at a given size (C2SP tlog-checkpoint).

use crate::{Error, Hash, SignedNote, VerifierKey};

/// The state of a log: its name, size and root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's unique name, a non-empty line.
    pub origin: String,
    /// The number of entries.
    pub size: u64,
    /// The Merkle tree hash of all entries (RFC 6962 §2.1).
    pub root: Hash,
}

impl Checkpoint {
    /// Verifies a signed checkpoint: `key` signed it, it has this form and this origin.
    ///
    /// Fails where [`SignedNote::verify`] or [`parse`](Self::parse) does. That it extends an older
    /// one is for [`verify_consistency`](crate::verify_consistency) to say.
    pub fn verify(note: &[u8], origin: &str, key: &VerifierKey) -> Result<Self, Error> {
        let note = SignedNote::parse(note)?;
        note.verify(key)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin != origin {
            let expected = origin.to_owned();
            return Err(Error::CheckpointOrigin { expected, found: checkpoint.origin });
        }
        Ok(checkpoint)
    }

    /// Reads the text of a checkpoint without its signatures.
    ///
    /// Fails unless it is exactly three lines: a non-empty origin, the size in decimal without
    /// leading zeros, the root in base64. Extension lines are refused: nobody audits them.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.strip_suffix('\n').ok_or(Error::CheckpointLines)?;
        let lines: Vec<_> = text.splitn(4, '\n').collect();
        let [origin, size, root] = lines[..] else {
            return Err(Error::CheckpointLines);
        };
        if origin.is_empty() {
            return Err(Error::CheckpointLines);
        }
        let size = parse_size(size).ok_or(Error::CheckpointSize)?;
        let root = Hash::from_base64(root).ok_or(Error::CheckpointRoot)?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// The text to be signed: `origin`, `size` and `root`, a line each.
    ///
    /// [`parse`](Self::parse) reads it again, unless the origin is not one non-empty line.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    (size.to_string() == text).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "uoW8j4uVjNERgmWhJfE1NHm+71UQrvxPYOZ50QXSs8w=";

    #[test]
    fn text_is_read_and_written() {
        for size in ["0", "4", "18446744073709551615"] {
            let text = format!("pay.example/log\n{size}\n{ROOT}\n");
            let checkpoint = Checkpoint::parse(&text).unwrap();
            assert_eq!(checkpoint.origin, "pay.example/log");
            assert_eq!(checkpoint.text(), text);
        }
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let cases = [
            (String::new(), Error::CheckpointLines),
            ("\n".into(), Error::CheckpointLines),
            ("log\n4\n".into(), Error::CheckpointLines),
            (format!("\n4\n{ROOT}\n"), Error::CheckpointLines),
            (format!("log\n4\n{ROOT}"), Error::CheckpointLines),
            (format!("log\n4\n{ROOT}\nextension\n"), Error::CheckpointLines),
            (format!("log\n4\n{ROOT}\n\n"), Error::CheckpointLines),
            (format!("log\n\n{ROOT}\n"), Error::CheckpointSize),
            (format!("log\n04\n{ROOT}\n"), Error::CheckpointSize),
            (format!("log\n+4\n{ROOT}\n"), Error::CheckpointSize),
            (format!("log\n-4\n{ROOT}\n"), Error::CheckpointSize),
            (format!("log\n18446744073709551616\n{ROOT}\n"), Error::CheckpointSize),
            ("log\n4\n\n".into(), Error::CheckpointRoot),
            (format!("log\n4\n{}\n", &ROOT[1..]), Error::CheckpointRoot),
            (format!("log\n4\nAAAA{ROOT}\n"), Error::CheckpointRoot),
            (format!("log\n4\n{}\n", ROOT.replace("8w=", "8x=")), Error::CheckpointRoot),
            (format!("log\n4\n{}\n", ROOT.replace("=", "")), Error::CheckpointRoot),
        ];
        for (text, refused) in cases {
            assert_eq!(Checkpoint::parse(&text), Err(refused), "{text:?}");
        }
    }
}
