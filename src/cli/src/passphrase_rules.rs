//! What a new passphrase of the CA's keys must be, and what is said of one.

use std::path::PathBuf;

use api::Secret;

/// Why a passphrase is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it has a line break or another control character inside, which nobody could type")]
    Control,
    #[error("the two that were typed differ")]
    Differs,
    #[error("it is that of the keys of `serve`: who learns one has the root, too")]
    Same,
    #[error("it has fewer than {MIN_CHARACTERS} characters")]
    TooShort,
}

/// Where a passphrase came from that opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum From {
    #[error("this passphrase, that of {} (check `{setting}`)", path.display())]
    File { setting: &'static str, path: PathBuf },
    #[error("the passphrase that you typed")]
    Typed,
}

/// Takes one that keeps the rules; it is not the other.
pub(crate) fn accept(passphrase: &str, other: Option<&Secret>) -> Result<Secret, Fault> {
    if passphrase.trim().chars().count() < MIN_CHARACTERS {
        return Err(Fault::TooShort);
    }
    if passphrase.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Fault::Control);
    }
    if other.is_some_and(|other| other.expose() == passphrase) {
        return Err(Fault::Same);
    }
    Ok(Secret::new(passphrase))
}

/// Of a passphrase, at least.
pub(crate) const MIN_CHARACTERS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_could_type_is_not_taken() {
        for odd in ["two lines,\nof which one", "a NUL\0 inside of it", "behind it a NUL\0"] {
            assert!(matches!(accept(odd, None), Err(Fault::Control)), "{odd:?}");
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert!(accept("zwölf Zeich", None).is_err());
        assert!(accept("zwölf Zeiche", None).is_ok());
    }
}
