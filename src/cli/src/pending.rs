//! A key and its request, persisted before the request is sent.
//!
//! If the answer is lost, the next try sends the very same request: the CA answers it with the
//! certificate that it issued already, a one-time token is not burnt twice, and no second key
//! renews the same SVID. A request for other names is another request, with a new key; and so is one
//! that begins a new line: whoever was revoked may have lost the key that waited for a renewal, too.

use std::collections::BTreeSet;

use countersign::svid_folder::{KEY, SvidFolder};
use issuance::CertificateRequest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use zeroize::{Zeroize, Zeroizing};

use crate::error::Error;
use crate::svid_record::Wish;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// A certificate that does not follow from another.
    First,
    /// One in place of another.
    Next,
}

/// A certificate request, and the new key that it proves.
pub(crate) struct PendingRequest {
    /// PKCS#8 PEM.
    pub(crate) key: Zeroizing<String>,
    /// PKCS#10 PEM.
    pub(crate) csr: String,
    /// The request, parsed.
    pub(crate) request: CertificateRequest,
    /// Nobody was asked with it before: no answer to it can be lost.
    pub(crate) is_new: bool,
}

impl PendingRequest {
    /// Takes up the request that is pending in the directory, or makes one and persists it. The
    /// caller holds the directory's lock.
    pub(crate) fn resume_or_create(
        directory: &SvidFolder,
        wish: &Wish,
        line: Line,
    ) -> Result<Self, Error> {
        if let Some(pending) = Self::resume(directory, wish, line)? {
            return Ok(pending);
        }
        let pending = Self::generate(wish)?;
        // The request is the last to appear and the first to go: where it is, its key is too.
        directory.remove(NEXT_CSR)?;
        directory.write(NEXT_KEY, pending.key.as_bytes())?;
        let csr = [&heading(wish, line), &*pending.csr].concat();
        directory.write(NEXT_CSR, csr.as_bytes())?;
        Ok(pending)
    }

    /// Forgets what was pending: it was answered, or never will be.
    pub(crate) fn forget(directory: &SvidFolder) -> Result<(), Error> {
        directory.remove(NEXT_CSR)?;
        Ok(directory.remove(NEXT_KEY)?)
    }

    /// A new P-256 key and a request for the wish, in memory only.
    pub(crate) fn generate(wish: &Wish) -> Result<Self, Error> {
        let mut key = KeyPair::generate().map_err(Error::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = subject_alt_names(wish)?;
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(Error::Key)?;
        let request = CertificateRequest::parse_pem(&csr)?;
        let pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        Ok(Self { key: pem, csr, request, is_new: true })
    }

    /// Anything that is not a whole pending request for just this wish counts as none.
    fn resume(directory: &SvidFolder, wish: &Wish, line: Line) -> Result<Option<Self>, Error> {
        let (Some(key), Some(csr)) = (directory.read(NEXT_KEY)?, directory.read(NEXT_CSR)?) else {
            return Ok(None);
        };
        let (key, in_use) = (Zeroizing::new(key), directory.read(KEY)?.map(Zeroizing::new));
        let was_answered = in_use.is_some_and(|in_use| in_use == key);
        let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
        let csr = String::from_utf8_lossy(&csr).into_owned();
        let headed = csr.strip_prefix(&heading(wish, line)).map(str::to_owned);
        // What a version before headings wrote is for any line, and named as the row says.
        let Some(csr) =
            headed.or_else(|| Some(csr).filter(|csr| csr.starts_with("--") && !wish.nameless))
        else {
            return Ok(None);
        };
        let Ok(request) = CertificateRequest::parse_pem(&csr) else { return Ok(None) };
        let whole = public_key_of(&key).is_some_and(|public| public == request.public_key());
        let usable = whole && !was_answered && asks_for(&request, wish);
        Ok(usable.then_some(Self { key, csr, request, is_new: false }))
    }
}

/// What a request for one cannot say itself stands before it: explanatory text, RFC 7468 §2.
fn heading(wish: &Wish, line: Line) -> String {
    let line = match line {
        Line::First => "first",
        Line::Next => "next",
    };
    format!("{line}{}\n", if wish.nameless { ", nameless" } else { "" })
}

/// The SubjectPublicKeyInfo of a private key, DER; `None` if it is no private key.
pub(crate) fn public_key_of(key_pem: &str) -> Option<Vec<u8>> {
    KeyPair::from_pem(key_pem).ok().map(|key| key.subject_public_key_info())
}

fn subject_alt_names(wish: &Wish) -> Result<Vec<SanType>, Error> {
    let uri = wish.spiffe_id.as_str().try_into().map(SanType::URI).map_err(Error::Key)?;
    let mut names = vec![uri];
    for dns in &wish.dns {
        names.push(SanType::DnsName(dns.as_str().try_into().map_err(Error::Key)?));
    }
    names.extend(wish.ip.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

fn asks_for(request: &CertificateRequest, wish: &Wish) -> bool {
    let names = request.names();
    names.spiffe_id.as_ref() == Some(&wish.spiffe_id)
        && set(&names.dns) == set(&wish.dns)
        && set(&names.ip) == set(&wish.ip)
}

fn set<T: Ord>(items: &[T]) -> BTreeSet<&T> {
    items.iter().collect()
}

const NEXT_KEY: &str = "svid.key.next";
const NEXT_CSR: &str = "svid.csr.next";

#[cfg(test)]
mod tests {
    use super::*;
    use identity::SpiffeId;

    struct Environment {
        directory: SvidFolder,
        _folder: tempfile::TempDir,
    }

    fn environment() -> Environment {
        let folder = tempfile::tempdir().unwrap();
        Environment { directory: SvidFolder::at(folder.path()).unwrap(), _folder: folder }
    }

    impl Environment {
        fn ask(&self, path: &str) -> PendingRequest {
            self.ask_for(&wish(path), Line::First)
        }

        fn ask_for(&self, wish: &Wish, line: Line) -> PendingRequest {
            PendingRequest::resume_or_create(&self.directory, wish, line).unwrap()
        }
    }

    fn wish(path: &str) -> Wish {
        let id = SpiffeId::parse(&format!("spiffe://pay.example{path}")).unwrap();
        let dns = vec![issuance::DnsName::parse("reports.internal").unwrap()];
        Wish { dns, ip: vec!["10.0.0.1".parse().unwrap()], ..Wish::only(id) }
    }

    #[test]
    fn a_lost_answer_is_asked_for_with_the_same_request() {
        let environment = environment();
        let first = environment.ask("/reports");
        let again = environment.ask("/reports");
        assert_eq!((&first.csr, &first.key), (&again.csr, &again.key));
        assert_eq!(public_key_of(&first.key).unwrap(), first.request.public_key());
    }

    #[test]
    fn other_names_are_another_request_with_another_key() {
        let environment = environment();
        let first = environment.ask("/reports");
        assert_ne!(first.key, environment.ask("/batch").key);
    }

    #[test]
    fn what_the_request_itself_does_not_say_makes_it_another_too() {
        let environment = environment();
        let id = wish("/reports").spiffe_id;
        let (silent, none) = (Wish::only(id.clone()), Wish { nameless: true, ..Wish::only(id) });
        let keys = [(&silent, Line::First), (&none, Line::First), (&silent, Line::Next)]
            .map(|(wish, line)| environment.ask_for(wish, line).key);
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
        assert_eq!(environment.ask_for(&silent, Line::Next).key, keys[2]);

        // Without a heading, as an earlier version wrote it.
        let pending = environment.ask_for(&silent, Line::Next);
        environment.directory.write(NEXT_CSR, pending.csr.as_bytes()).unwrap();
        assert_eq!(environment.ask_for(&silent, Line::First).key, keys[2]);
        assert_ne!(environment.ask_for(&none, Line::First).key, keys[2]);
    }

    #[test]
    fn a_request_without_its_key_is_no_request() {
        let environment = environment();
        let first = environment.ask("/reports");
        let other = PendingRequest::generate(&wish("/reports")).unwrap();
        environment.directory.write(NEXT_KEY, other.key.as_bytes()).unwrap();
        assert_ne!(first.csr, environment.ask("/reports").csr);
        environment.directory.remove(NEXT_KEY).unwrap();
        assert_ne!(other.key, environment.ask("/reports").key);
    }

    #[test]
    fn a_request_whose_key_is_in_use_was_answered() {
        let environment = environment();
        let first = environment.ask("/reports");
        environment.directory.write(KEY, first.key.as_bytes()).unwrap();
        assert_ne!(first.key, environment.ask("/reports").key);
        PendingRequest::forget(&environment.directory).unwrap();
        assert!(environment.directory.read(NEXT_CSR).unwrap().is_none());
    }
}
