//! What stands in files beside the database and speaks about the log: its newest head (`head`), its
//! newest checkpoint (`checkpoint`), and why the CA has halted (`halted`). Whoever can write in the
//! folder can put anything there, so it counts only where this CA has sealed it (the head) or a key of
//! the log has signed it: what is neither halts nothing, lifts nothing, and is not passed over either,
//! or damaging the file would be the way around it. An operator at the host sets it aside.
//!
//! The head is the newer one, and counts for this CA alone; the checkpoint convinces everybody, and a
//! machine that stops loses none of those that it has kept. Both are one rule: the log leads to each of
//! them, or nothing is issued.
//!
//! | beside the database stands | at the next start, and before a command on the host writes |
//! |---|---|
//! | what the log leads to, or an older one (a crash before it was written) | it goes on, and writes the newest anew |
//! | what the log does not lead to (an older database, or another past, was put back) | it halts; the files stay as they are; `init --recover --lift-halt`, or the newest database |
//! | nothing | it goes on, warns, and writes the newest anew |
//! | what this CA has neither sealed nor signed (damage, another CA's) | an error that names the file; `init --recover --lift-halt` sets it aside, and lifts nothing in passing |
//! | a halt that an earlier version kept bare | it halts, until that is set aside likewise or the log leads there |
//! | any of them, and no CA | `init` makes none before they are moved away |
//!
//! Two processes never write them: the lock of the folder is the database's. A folder that is put back
//! whole goes on until somebody shows it more. Under a running CA head and checkpoint are looked at
//! within seconds, and written anew where somebody has removed or replaced them, which is told and
//! counted. A halt that has lost its file lasts as long as the process; afterwards head and checkpoint
//! demand it again, or whoever has seen more.

pub(crate) mod halt;
pub(crate) mod kept;
pub(crate) mod kept_head;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use api::KeyPurpose;
use identity::TrustDomain;
use tlog::{Checkpoint, Hash, VerifierKey};

use crate::beside::EvidenceFile;
use crate::checkpoint::{verifier_key, verify};
use crate::error::Error;
use crate::files::{MAX_STATE, read_state, sync_folder};
use crate::fold::ledger::KeyLedger;
use crate::fold::load_keys;
use crate::keys::Keys;
use crate::store::Store;

/// Every key that may have signed a checkpoint of this log.
///
/// Those that its events name, retired ones too, and those whose sealed files open with the passphrase
/// of the others: an older log, put back, names no later one.
#[derive(Debug)]
pub(crate) struct LogKeys(Vec<VerifierKey>);

impl LogKeys {
    pub(crate) fn of(
        trust_domain: &TrustDomain,
        ledger: &KeyLedger,
        keys: &Keys,
    ) -> Result<Self, Error> {
        let named = ledger.keys().filter(|key| key.purpose == KeyPurpose::Log);
        let named = named.map(|key| key.public_key.clone());
        let all = named.chain(keys.public_keys(KeyPurpose::Log));
        let all = all.map(|key| verifier_key(trust_domain, &key));
        Ok(Self(all.collect::<Result<_, _>>()?))
    }

    /// Whether they sign the log of this origin.
    pub(crate) fn are_of(&self, origin: &str) -> bool {
        self.0.iter().any(|key| key.name() == origin)
    }

    pub(crate) fn all(&self) -> &[VerifierKey] {
        &self.0
    }

    /// The same, of a store that nobody has loaded.
    pub(crate) async fn load(
        trust_domain: &TrustDomain,
        store: &dyn Store,
        keys: &Keys,
    ) -> Result<Self, Error> {
        Self::of(trust_domain, &load_keys(store, trust_domain).await?, keys)
    }
}

impl EvidenceFile {
    /// What it holds; none where it is not there. Fails for what the CA did not write, such as a link.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        match read_state(&self.path, MAX_STATE) {
            Ok(contents) if contents.is_empty() => Err(self.unproven("it is empty")),
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unproven(&error.to_string())),
        }
    }

    /// The checkpoint that it holds, which one of these keys must have signed.
    pub(crate) fn verify(&self, note: &[u8], keys: &LogKeys) -> Result<Checkpoint, Error> {
        verify(note, keys.all())
            .ok_or_else(|| self.unproven("no key of this CA's log has signed it"))
    }

    pub(crate) fn unproven(&self, why: &str) -> Error {
        Error::Unproven { path: self.path.clone(), what: self.what, why: why.to_owned() }
    }

    /// Removes it. It is no error if it is gone already.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.stays(&error)),
            _ => Ok(()),
        }
    }

    /// What an event says of a file that is to be set aside. Never its contents, which are anybody's.
    pub(crate) fn detail(&self, why: &str) -> serde_json::Value {
        let sha256 = read_state(&self.path, MAX_STATE).ok();
        let sha256 = sha256.map(|contents| format!("{:?}", Hash::of(&contents)));
        serde_json::json!({ "sha256": sha256, "why": why })
    }

    /// Puts it out of the way, whatever it is, under a name of its own; returns that.
    pub(crate) fn set_aside(&self, log_index: u64) -> Result<PathBuf, Error> {
        let aside = self.path.with_extension(format!("aside-{log_index}"));
        fs::rename(&self.path, &aside)
            .and_then(|()| self.path.parent().map_or(Ok(()), sync_folder))
            .map_err(|error| self.stays(&error))?;
        Ok(aside)
    }

    fn stays(&self, error: &std::io::Error) -> Error {
        let path = self.path.display();
        Error::Folder(format!("{path} cannot be moved away: {error}; do that by hand"))
    }
}
