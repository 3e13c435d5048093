//! What a folder holds that is not ours: a key pair of another program, a bundle that somebody put
//! together, a CA's own files. A set takes the place of what countersign wrote, and of nothing else:
//! a key that is gone comes from nowhere again.

use identity::{SerialNumber, SpiffeId, TrustPin, pem_blocks, unmarked, utf8_text};
use tlog::{Checkpoint, SignedNote};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::error::FolderError;
use super::folder::Entry;
use super::{
    CHAIN, CRL, CURRENT, Contents, NAMES, RECORD, SvidFolder, TRUST_NOTE, is_generation, set_of,
};

impl SvidFolder {
    /// Whether countersign wrote what stands here: by the form that it gives a set, by its record, or,
    /// where a copy or an earlier version has neither, by a certificate that a log has countersigned.
    pub fn is_ours(&self) -> Result<bool, FolderError> {
        if self.has_our_form()? {
            return Ok(true);
        }
        let has_record = self.read(RECORD)?.is_some_and(|json| is_record(&json));
        Ok(has_record || self.read(CHAIN)?.is_some_and(|pem| is_countersigned(&pem)))
    }

    /// Whether anything here has the form that only a set has.
    pub fn has_our_form(&self) -> Result<bool, FolderError> {
        for name in NAMES {
            if matches!(self.look(name)?, Some(Entry::Link(to)) if set_of(&to, name).is_some()) {
                return Ok(true);
            }
        }
        self.leads_to_set()
    }

    /// Refuses where a set would take the place of somebody else's file. `written` is what is known of
    /// the set by now: a file that says the same already is not lost.
    pub(super) fn require_no_strangers(&self, written: &Contents) -> Result<(), FolderError> {
        if self.is_ours()? {
            return Ok(());
        }
        let mut strangers = Vec::new();
        for name in NAMES.into_iter().chain([CRL]) {
            let Some(bytes) = self.read(name)?.map(Zeroizing::new) else { continue };
            // A trust state may be there before the first SVID: it is what the CA is asked by.
            let is_trust_state = || name == TRUST_NOTE && is_trust_note(&bytes);
            let may_go = bytes.trim_ascii().is_empty() || is_trust_state();
            if !may_go && written.get(name) != Some(&bytes) {
                strangers.push(name);
            }
        }
        if self.has(CURRENT)? && !self.leads_to_set()? {
            strangers.push(CURRENT);
        }
        match strangers.is_empty() {
            true => Ok(()),
            false => Err(FolderError::Strangers { folder: self.path().to_owned(), strangers }),
        }
    }

    fn leads_to_set(&self) -> Result<bool, FolderError> {
        let current = self.look(CURRENT)?;
        Ok(matches!(current, Some(Entry::Link(to)) if to.to_str().is_some_and(is_generation)))
    }
}

/// Whether these bytes say where an SVID came from.
fn is_record(json: &[u8]) -> bool {
    let text = utf8_text(json).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let text = |name: &str| json.get(name).and_then(|value| value.as_str());
    text("serial_number").is_some_and(|number| number.parse::<SerialNumber>().is_ok())
        && text("trust_pin").is_some_and(|pin| pin.parse::<TrustPin>().is_ok())
}

/// A signed note, and no checkpoint of a log.
fn is_trust_note(bytes: &[u8]) -> bool {
    let text = utf8_text(bytes).unwrap_or_default().replace("\r\n", "\n");
    let note = SignedNote::parse(text.as_bytes());
    note.is_ok_and(|note| Checkpoint::parse(note.text()).is_err())
}

/// Whether the first certificate names one SPIFFE ID, and bears the SCT of a log, whichever that is.
fn is_countersigned(pem: &[u8]) -> bool {
    let blocks = unmarked(pem).ok().and_then(|text| pem_blocks(text).ok()).unwrap_or_default();
    let leaf = blocks.iter().find(|block| block.label == "CERTIFICATE");
    leaf.is_some_and(|leaf| names_svid(&leaf.contents) && has_sct(&leaf.contents))
}

fn names_svid(der: &[u8]) -> bool {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let only = uris.next().filter(|_| uris.next().is_none());
    only.is_some_and(|uri| SpiffeId::parse(uri).is_ok())
}

fn has_sct(der: &[u8]) -> bool {
    tlog::split_certificate(der).and_then(|parts| tlog::splice_out(parts.tbs)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{BUNDLE, KEY};
    use super::*;
    use crate::test_authority::{Log, TestAuthority, now};

    type Named<'a> = (&'static str, &'a [u8]);

    fn folder(files: &[Named<'_>]) -> (tempfile::TempDir, SvidFolder) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let opened = SvidFolder::at(folder.path()).unwrap();
        (folder, opened)
    }

    fn chain_of(authority: &TestAuthority, log: Log) -> String {
        let svid = authority.svid_at("/prod/reports", now(), log);
        svid.chain.iter().map(|certificate| identity::pem("CERTIFICATE", certificate)).collect()
    }

    #[test]
    fn what_countersign_wrote_is_known_by_its_record_or_by_a_countersigned_certificate() {
        let authority = TestAuthority::new();
        let asked = chain_of(&authority, Log::Asked);
        let not_asked = chain_of(&authority, Log::NotAsked);
        let pin = authority.pin();
        let record = format!(r#"{{"serial_number": "8f2c", "trust_pin": "{pin}"}}"#);
        let marked = [b"\xef\xbb\xbf", record.as_bytes()].concat();
        let files: [(Named<'_>, bool); 7] = [
            ((RECORD, record.as_bytes()), true),
            ((RECORD, &marked), true),
            ((RECORD, br#"{"serial_number": 7, "trust_pin": null}"#), false),
            ((RECORD, b"{\"another\": \"program's\"}"), false),
            ((CHAIN, asked.as_bytes()), true),
            ((CHAIN, not_asked.as_bytes()), false),
            ((CHAIN, b"somebody's"), false),
        ];
        for (file, is_ours) in files {
            let (_folder, opened) = folder(&[file]);
            assert_eq!(opened.is_ours().unwrap(), is_ours, "{}", String::from_utf8_lossy(file.1));
        }
    }

    #[test]
    fn a_set_takes_nobodys_place_but_that_of_a_trust_state_or_of_what_says_the_same() {
        let authority = TestAuthority::new();
        let (note, checkpoint) = (authority.trust_note(), authority.checkpoint(7));
        let written = Contents::from([(KEY, Zeroizing::new(b"the same key".to_vec()))]);
        let files: [(Named<'_>, bool); 7] = [
            ((TRUST_NOTE, &note), true),
            ((BUNDLE, &note), false),
            ((TRUST_NOTE, checkpoint.as_bytes()), false),
            ((KEY, b" \n"), true),
            ((KEY, b"the same key"), true),
            ((KEY, b"another key"), false),
            ((CRL, b"somebody's"), false),
        ];
        for (file, may_go) in files {
            let (_folder, opened) = folder(&[file]);
            match opened.require_no_strangers(&written) {
                Ok(()) => assert!(may_go, "{file:?}"),
                Err(FolderError::Strangers { strangers, .. }) => {
                    assert_eq!((may_go, strangers), (false, vec![file.0]), "{file:?}");
                }
                Err(error) => panic!("{file:?}: {error}"),
            }
        }
    }
}
