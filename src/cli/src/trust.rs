//! The trust state that this side holds.

use std::path::Path;

use countersign::FetchedTrust;
use countersign::svid_folder::{BUNDLE, Contents, SvidFolder, TRUST_NOTE};
use identity::{TextFault, Trust, TrustPin, TrustState};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::shell;

/// A verified trust state with the note that it came in.
#[derive(Debug, Clone)]
pub(crate) struct HeldTrust {
    /// Ready for verifying.
    pub(crate) trust: Trust,
    /// As it was signed.
    pub(crate) note: Vec<u8>,
}

impl HeldTrust {
    /// Reads `trust.note` of a directory and verifies it by the pin; `url` is the CA's, where the
    /// note is to be had again.
    pub(crate) fn load(directory: &SvidFolder, pin: &TrustPin, url: &str) -> Result<Self, Error> {
        let note = directory.read(TRUST_NOTE)?.ok_or_else(|| Error::NoSvid {
            directory: directory.path().to_owned(),
            missing: TRUST_NOTE,
            repair: fetch_again(directory, pin, url),
        })?;
        let path = directory.join(TRUST_NOTE);
        let unusable = |why: String| {
            // A file of that name is replaced; a folder or a link of somebody's is not.
            let repair = match directory.require_replaceable(TRUST_NOTE) {
                Ok(()) => fetch_again(directory, pin, url),
                Err(_) => {
                    format!("rm {}; {}", shell::quoted(&path), fetch_again(directory, pin, url))
                }
            };
            Error::UnusableTrust { path: path.clone(), why, repair }
        };
        if note.is_empty() {
            return Err(unusable("it is empty".to_owned()));
        }
        let text = saved_note(&note).map_err(|fault| unusable(fault.to_string()))?;
        Self::from_note(text.into_bytes(), &pin.of_any_sequence())
            .map_err(|error| unusable(error.to_string()))?
            .require(directory, pin, url)
    }

    /// Refuses a state older than the pin demands: an old `trust.note`, put back by hand or from a
    /// backup, may name keys that were replaced for good reason.
    pub(crate) fn require(
        self,
        directory: &SvidFolder,
        pin: &TrustPin,
        url: &str,
    ) -> Result<Self, Error> {
        match pin.require_sequence(self.state()) {
            Ok(()) => Ok(self),
            Err(source) => Err(Error::OldTrust {
                path: directory.join(TRUST_NOTE),
                source,
                repair: fetch_again(directory, pin, url),
            }),
        }
    }

    /// Verifies a note that somebody saved or copied.
    pub(crate) fn from_file(bytes: &[u8], path: &Path, pin: &TrustPin) -> Result<Self, Error> {
        let text = saved_note(bytes)
            .map_err(|fault| Error::Malformed { path: path.to_owned(), why: fault.to_string() })?;
        Self::from_note(text.into_bytes(), pin)
            .map_err(|source| Error::TrustFile { path: path.to_owned(), source: source.into() })
    }

    /// Verifies a note by a pin.
    pub(crate) fn from_note(note: Vec<u8>, pin: &TrustPin) -> Result<Self, Error> {
        let trust = countersign::load_trust(&note, pin)?;
        Ok(Self { trust, note })
    }

    /// Names the keys that the state's successor is signed with, and demands no older state.
    pub(crate) fn pin(&self) -> TrustPin {
        self.state().pin().at_least(self.state().sequence)
    }

    /// Asks a CA for its trust state, with nothing but the pin to believe it by.
    pub(crate) async fn fetch(url: &str, pin: &TrustPin) -> Result<Self, Error> {
        Self::of(countersign::fetch_trust(url, pin).await?)
    }

    /// The newest state, asked of whoever answers at the URL: it is believed by what is held. Where
    /// it cannot be had, this one stays; what needs a newer one then says so.
    ///
    /// An answer that does not verify is told: somebody else may answer there, or the CA replaced
    /// its keys in a way that cannot be followed. To go on is right even so. The CA is verified by
    /// what is held before it is sent anything, and whoever can forge this answer can withhold it.
    pub(crate) async fn newest(self, url: &str, output: Output) -> Self {
        match self.try_newest(url).await {
            Ok(newest) => newest,
            Err(error) => {
                if error.exit() == Exit::Unverified {
                    output.warn(self.unverified(url, &error));
                }
                self
            }
        }
    }

    fn unverified(&self, url: &str, error: &Error) -> String {
        let held = self.state().sequence;
        format!(
            "the newest trust state of {url} does not verify, so number {held} is used on: {error}; \
             the CA's operator names its pin\n  next: countersign trust fetch {url} --pin PIN"
        )
    }

    /// The state that the CA says goes with what it issued, or a newer one: certificates that are
    /// installed beside an older one might refuse their peers.
    pub(crate) async fn follow(self, sequence: u64, url: &str) -> Result<Self, Error> {
        if sequence <= self.state().sequence {
            return Ok(self);
        }
        let newest = self.try_newest(url).await?;
        if newest.state().sequence < sequence {
            return Err(Error::Answer("it names a newer trust state than it shows"));
        }
        Ok(newest)
    }

    async fn try_newest(&self, url: &str) -> Result<Self, Error> {
        match countersign::follow_trust(url, self.state()).await? {
            Some(newest) => Self::of(newest),
            None => Ok(self.clone()),
        }
    }

    /// The state.
    pub(crate) fn state(&self) -> &TrustState {
        self.trust.state()
    }

    /// The files that hold it.
    pub(crate) fn contents(&self) -> Contents {
        [
            (TRUST_NOTE, Zeroizing::new(self.note.clone())),
            (BUNDLE, Zeroizing::new(self.state().to_pem().into_bytes())),
        ]
        .into()
    }

    fn of(fetched: FetchedTrust) -> Result<Self, Error> {
        let FetchedTrust { state, note } = fetched;
        Ok(Self { trust: Trust::new(state)?, note })
    }
}

/// A note as an editor saved it: without the mark before it, and the other line ends, which no signed
/// note has.
pub(crate) fn saved_note(bytes: &[u8]) -> Result<String, TextFault> {
    Ok(identity::utf8_text(bytes)?.replace("\r\n", "\n"))
}

fn fetch_again(directory: &SvidFolder, pin: &TrustPin, url: &str) -> String {
    let path = directory.join(TRUST_NOTE);
    format!("countersign trust fetch {url} --pin {pin} --out {}", shell::quoted(&path))
}
