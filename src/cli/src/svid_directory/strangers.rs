//! What a directory holds that is not ours: a key pair of another program, a bundle that somebody put
//! together, a CA's own files. A set takes the place of what countersign wrote, and of nothing else:
//! a key that is gone comes from nowhere again.

use authority::folder::Entry;
use zeroize::Zeroizing;

use super::{CHAIN, CURRENT, Contents, NAMES, SvidDirectory, TRUST_NOTE, is_generation, set_of};
use crate::chain;
use crate::crl_file::CRL;
use crate::description;
use crate::error::Error;
use crate::other_file::OtherFile;
use crate::policy_folder;

impl SvidDirectory {
    /// Whether countersign wrote what stands here: by the form that it gives a set, by its record, or,
    /// where a copy or an earlier version has neither, by a certificate that a log has countersigned.
    pub(crate) fn is_ours(&self) -> Result<bool, Error> {
        if self.has_our_form()? {
            return Ok(true);
        }
        match self.record() {
            Ok(Some(_)) => return Ok(true),
            Ok(None) | Err(Error::UnusableRecord { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(self.read(CHAIN)?.is_some_and(|pem| is_countersigned(&pem)))
    }

    /// Whether anything here has the form that only a set has.
    pub(super) fn has_our_form(&self) -> Result<bool, Error> {
        for name in NAMES {
            if matches!(self.look(name)?, Some(Entry::Link(to)) if set_of(&to, name).is_some()) {
                return Ok(true);
            }
        }
        self.leads_to_set()
    }

    /// Refuses where a set would take the place of somebody else's file. `written` is what is known of
    /// the set by now: a file that says the same already is not lost.
    pub(super) fn require_no_strangers(&self, written: &Contents) -> Result<(), Error> {
        if self.is_ours()? {
            return Ok(());
        }
        let mut strangers = Vec::new();
        for name in NAMES.into_iter().chain([CRL]) {
            let Some(bytes) = self.read(name)?.map(Zeroizing::new) else { continue };
            let may_go = match OtherFile::of(&bytes) {
                Some(OtherFile::Empty) => true,
                // As `trust fetch` puts it there before the first SVID.
                Some(OtherFile::TrustState) => name == TRUST_NOTE,
                _ => false,
            };
            if !may_go && written.get(name) != Some(&bytes) {
                strangers.push(name);
            }
        }
        if self.has(CURRENT)? && !self.leads_to_set()? {
            strangers.push(CURRENT);
        }
        match strangers.is_empty() {
            true => Ok(()),
            false => Err(Error::Strangers { directory: self.path().to_owned(), strangers }),
        }
    }

    /// Refuses a folder that has another use, before anything is written there: whoever names it has
    /// mistaken it for another.
    pub(crate) fn require_no_other_use(&self) -> Result<(), Error> {
        let names = self.folder.as_ref().map_or(Ok(Vec::new()), |folder| folder.names());
        let names = names.map_err(|source| Error::Read { path: self.path().to_owned(), source })?;
        let names = names.iter().filter_map(|name| name.to_str());
        let Some(used) = names.filter_map(use_by).next().or_else(|| self.use_of_part()) else {
            return Ok(());
        };
        match self.is_ours()? {
            true => Ok(()),
            false => Err(Error::OtherUse { directory: self.path().to_owned(), used }),
        }
    }

    /// Of a folder within a CA's own.
    fn use_of_part(&self) -> Option<&'static str> {
        let path = self.path().canonicalize().ok()?;
        let is_part = PARTS.iter().any(|part| path.ends_with(part));
        (is_part && path.parent()?.join(DATABASE).exists()).then_some("a folder of a CA's keys")
    }

    fn leads_to_set(&self) -> Result<bool, Error> {
        let current = self.look(CURRENT)?;
        Ok(matches!(current, Some(Entry::Link(to)) if to.to_str().is_some_and(is_generation)))
    }
}

fn is_countersigned(pem: &[u8]) -> bool {
    let certificates = chain::parse(pem).unwrap_or_default();
    let Some(leaf) = certificates.first() else { return false };
    let names_svid = chain::read(leaf).is_ok_and(|leaf| chain::spiffe_id(&leaf).is_some());
    names_svid && description::is_countersigned(leaf)
}

/// What a folder is for that has a file of this name.
fn use_by(name: &str) -> Option<&'static str> {
    match name {
        DATABASE => Some("the state folder of a CA"),
        "contexts.toml" => Some("the folder of all contexts"),
        "countersign.toml" => Some("the folder of a CA's configuration"),
        "dev.lock" => Some("the folder of a `countersign dev`"),
        name if policy_folder::belongs(name) => Some("a folder of policies"),
        _ => None,
    }
}

const DATABASE: &str = "countersign.db";
/// Of a CA's state folder.
const PARTS: [&str; 2] = ["keys", "offline"];
