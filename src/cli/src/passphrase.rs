//! The passphrases of a CA's keys: read from files, or asked for on the terminal.
//!
//! A new one keeps two rules, which are told before anybody types: it is long enough, and the one of the
//! keys that `serve` opens is not that of the offline keys, or whoever learns the first has the root. Two
//! settings that name one file are no slip: a CA for development or a test is made so, and warned of.

use std::path::{Path, PathBuf};

use api::Secret;
use authority::files::{Readers, SecretError, read_secret};
use zeroize::Zeroizing;

use crate::error::{ConfiguredFault, Error};
use crate::output::to_stderr;
use crate::passphrase_rules::{Fault, From, MIN_CHARACTERS, accept};

/// Where one comes from.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its file; without one it is asked for.
    pub(crate) file: Option<PathBuf>,
    /// The setting that names the file.
    pub(crate) setting: &'static str,
    /// What it opens.
    pub(crate) what: &'static str,
}

impl Source {
    /// One that keys were sealed by.
    pub(crate) fn known(&self) -> Result<Secret, Error> {
        let text = match &self.file {
            Some(path) => read(path, self.setting)?,
            None => ask(&format!("{}: ", self.what)).map_err(|why| self.unasked(&why))?,
        };
        let passphrase = line(&text);
        // In bytes, as long as there have been any.
        if passphrase.len() >= MIN_CHARACTERS {
            return Ok(Secret::new(passphrase));
        }
        Err(match &self.file {
            Some(path) => Error::KnownPassphrase {
                setting: self.setting,
                path: path.clone(),
                fault: Fault::TooShort,
            },
            None => Error::Passphrase(format!("{}: {}", self.what, Fault::TooShort)),
        })
    }

    /// A new one, that is not the other.
    fn chosen(
        &self,
        other: Option<&Secret>,
        ask: &mut dyn FnMut(&str) -> Result<Zeroizing<String>, String>,
    ) -> Result<Secret, Error> {
        if let Some(path) = &self.file {
            let text = read(path, self.setting)?;
            return accept(line(&text), other).map_err(|fault| self.refused(path, fault));
        }
        let rules = match other {
            None => format!("{RULES}\n"),
            Some(_) => String::new(),
        };
        let mut prompt = format!("{rules}{}, new: ", self.what);
        let mut fault = Fault::TooShort;
        for _ in 0..TRIES {
            let first = ask(&prompt).map_err(|why| self.unasked(&why))?;
            let accepted = match accept(line(&first), other) {
                Ok(accepted) => {
                    ask(&format!("{}, again: ", self.what)).map_err(|why| self.unasked(&why)).map(
                        |second| if first == second { Ok(accepted) } else { Err(Fault::Differs) },
                    )?
                }
                Err(fault) => Err(fault),
            };
            match accepted {
                Ok(accepted) => return Ok(accepted),
                Err(why) => fault = why,
            }
            prompt = format!("Not taken: {fault}.\n{}, new: ", self.what);
        }
        Err(Error::Passphrase(format!("{}: {fault}", self.what)))
    }

    /// Says where the one came from that does not open a key's file.
    pub(crate) fn blamed(&self, key: String) -> Error {
        let from = match &self.file {
            Some(path) => From::File { setting: self.setting, path: path.clone() },
            None => From::Typed,
        };
        Error::WrongPassphrase { key, from }
    }

    fn refused(&self, path: &Path, fault: Fault) -> Error {
        Error::NewPassphrase { setting: self.setting, path: path.to_owned(), fault }
    }

    fn unasked(&self, why: &str) -> Error {
        Error::Passphrase(format!("{}: {why}", self.what))
    }
}

/// Those of a new CA: of the keys that `serve` opens, and of the offline keys.
pub(crate) fn new_pair(online: &Source, offline: &Source) -> Result<(Secret, Secret), Error> {
    new_pair_by(online, offline, &mut ask)
}

/// What is wrong with the files of such a pair, each by itself.
pub(crate) fn faults_of_new_pair(online: &Source, offline: &Source) -> Vec<Result<(), Error>> {
    let first = online.chosen(None, &mut ask);
    let other = first.as_ref().ok().filter(|_| !is_one_file(online, offline));
    let second = offline.chosen(other, &mut ask).map(drop);
    vec![first.map(drop), second]
}

fn new_pair_by(
    online: &Source,
    offline: &Source,
    ask: &mut dyn FnMut(&str) -> Result<Zeroizing<String>, String>,
) -> Result<(Secret, Secret), Error> {
    let first = online.chosen(None, ask)?;
    let other = (!is_one_file(online, offline)).then_some(&first);
    let second = offline.chosen(other, ask)?;
    Ok((first, second))
}

/// Whether the configuration says itself that one passphrase opens everything.
pub(crate) fn is_one_file(online: &Source, offline: &Source) -> bool {
    online.file.is_some() && online.file == offline.file
}

fn line(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

fn read(path: &Path, key: &'static str) -> Result<Zeroizing<String>, Error> {
    let refuse = |fault| Error::ConfiguredFile { key, path: path.to_owned(), fault };
    read_secret(path, Readers::Group).map_err(|error| match error {
        SecretError::Io(source) => refuse(ConfiguredFault::Read(source)),
        SecretError::Text(fault) => refuse(ConfiguredFault::Text(fault)),
        SecretError::Shape => refuse(ConfiguredFault::Kind(error.to_string())),
        error => Error::Exposed { setting: key, path: path.to_owned(), why: error.to_string() },
    })
}

/// Asks for a secret on the terminal. Whoever types none (Ctrl-D) is on the prompt's line still.
pub(crate) fn ask(prompt: &str) -> Result<Zeroizing<String>, String> {
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            to_stderr("");
            "nothing was typed".to_owned()
        }
        _ => format!("no terminal to ask on ({error})"),
    })
}

const TRIES: usize = 3;
const RULES: &str = "\
Two new passphrases: each has 12 characters or more, and they differ. The first
opens the keys of `serve`, at each start; the second those of root and trust,
for `rotate` alone. Keep both apart from the CA: nobody can find them again.";

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked, and what is taken, where this is typed.
    fn typed(answers: &[&str]) -> (Vec<String>, Result<(String, String), String>) {
        let source = |what| Source { file: None, setting: "a_file", what };
        let (mut asked, mut answers) = (Vec::new(), answers.iter());
        let mut ask = |prompt: &str| {
            asked.push(prompt.to_owned());
            let answer = answers.next().ok_or("nobody types")?;
            Ok(Zeroizing::new((*answer).to_owned()))
        };
        let pair = new_pair_by(&source("Online"), &source("Offline"), &mut ask);
        let pair = pair.map(|(one, two)| (one.expose().to_owned(), two.expose().to_owned()));
        (asked, pair.map_err(|error| error.to_string()))
    }

    const ONE: &str = "a passphrase of one";
    const TWO: &str = "a passphrase of two";

    #[test]
    fn the_rules_are_told_before_anybody_types_and_each_is_typed_twice() {
        let (asked, taken) = typed(&[ONE, ONE, TWO, TWO]);
        assert_eq!(taken.unwrap(), (ONE.to_owned(), TWO.to_owned()));
        assert!(asked[0].contains("12 characters") && asked[0].contains("differ"), "{asked:?}");
        assert_eq!(asked[1..], ["Online, again: ", "Offline, new: ", "Offline, again: "]);
        assert!(RULES.lines().all(|line| line.len() <= 80));
        assert!(RULES.contains(&MIN_CHARACTERS.to_string()));
    }

    #[test]
    fn what_breaks_a_rule_is_asked_for_again_and_the_rule_is_named() {
        let (asked, taken) = typed(&["short", ONE, TWO, ONE, ONE, ONE, TWO, TWO]);
        assert_eq!(taken.unwrap(), (ONE.to_owned(), TWO.to_owned()));
        assert!(asked[1].contains("fewer than 12"), "{asked:?}");
        assert!(asked[3].contains("typed differ"), "{asked:?}");
        assert!(asked[6].contains("that of the keys of `serve`"), "{asked:?}");
        for (answers, expected) in [
            (&["short", "            ", "ä"][..], "Online: it has fewer than 12"),
            (&[ONE, ONE, ONE, ONE, ONE], "Offline: it is that of the keys"),
            (&[ONE, TWO, ONE, TWO, ONE, TWO], "Online: the two that were typed differ"),
            (&[], "nobody types"),
        ] {
            let refused = typed(answers).1.unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
