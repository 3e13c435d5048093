//! What stands in an SVID's folder, each part by itself: one that is missing or broken hides no other.

use std::path::Path;

use countersign::svid_folder::{BUNDLE, CHAIN, FolderError, KEY, RECORD, SvidFolder};
use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tlog::{Checkpoint, SignedNote};
use zeroize::Zeroizing;

use crate::chain;
use crate::crl_file::{self, CrlSummary};
use crate::description::Description;
use crate::error::Error;
use crate::private_key;
use crate::seen_log::CHECKPOINT;
use crate::svid_folder;
use crate::table;

/// What `inspect DIR` shows. Nothing of the key but whose it is.
#[derive(Debug, Serialize)]
pub(crate) struct FolderContents {
    /// The certificate, then its issuer's.
    #[serde(serialize_with = "part")]
    certificates: Result<Vec<Description>, String>,
    key: KeyState,
    /// When to renew it, as the CA said when it issued it.
    #[serde(with = "time::serde::rfc3339::option")]
    renew_from: Option<OffsetDateTime>,
    /// The anchors in `bundle.pem`.
    #[serde(serialize_with = "part")]
    bundle: Result<Vec<Description>, String>,
    #[serde(serialize_with = "part")]
    crls: Result<Vec<CrlSummary>, String>,
    #[serde(serialize_with = "part")]
    checkpoint: Result<Seen, String>,
}

/// Whether the key is the certificate's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyState {
    /// The SVID was issued for a request.
    Elsewhere,
    /// It is.
    Matches,
    /// It is another's.
    Other,
    /// It is not known, and why.
    Unknown(String),
}

/// The newest checkpoint that was verified.
#[derive(Debug, Serialize)]
struct Seen {
    origin: String,
    entries: u64,
}

impl FolderContents {
    /// Reads what there is; an error only where nothing of an SVID is.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let directory = SvidFolder::at(path)?;
        let mut is_there = false;
        for name in [CHAIN, KEY, RECORD] {
            is_there |= directory.has(name)?;
        }
        if !is_there {
            svid_folder::require_no_other_use(&directory)?;
            return Err(Error::NoSvid {
                directory: path.to_owned(),
                missing: CHAIN,
                repair: svid_folder::again(&directory, None),
            });
        }
        let crls = match crl_file::read(&directory) {
            Ok(crls) => crls.ok_or_else(|| ABSENT.to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let record = svid_folder::record(&directory).ok().flatten();
        Ok(Self {
            certificates: describe(&directory, CHAIN),
            key: KeyState::read(&directory),
            renew_from: record.map(|record| record.renewal.start),
            bundle: describe(&directory, BUNDLE),
            crls,
            checkpoint: checkpoint(&directory),
        })
    }

    /// The certificate whole, and the rest in a line each.
    pub(crate) fn to_text(&self, now: OffsetDateTime) -> String {
        let certificate = match &self.certificates {
            Ok(all) => all[0].to_text(now),
            Err(why) => table::fields(&[("svid.pem", why.clone())]),
        };
        let mut fields = Vec::new();
        let issuers = self.certificates.iter().flatten().skip(1);
        fields.extend(issuers.map(|issuer| ("issuer", issuer.to_line(now))));
        fields.push(("svid.key", self.key.to_string()));
        if let Some(start) = self.renew_from {
            fields.push(("renew from", at(start, now)));
        }
        match &self.bundle {
            Ok(all) => fields.extend(all.iter().map(|one| ("bundle.pem", one.to_line(now)))),
            Err(why) => fields.push(("bundle.pem", why.clone())),
        }
        match &self.crls {
            Ok(all) => fields.extend(all.iter().map(|crl| ("crl.pem", crl.to_line(now)))),
            Err(why) => fields.push(("crl.pem", why.clone())),
        }
        fields.push((
            "checkpoint",
            match &self.checkpoint {
                Ok(Seen { origin, entries }) => format!("{entries} entries of {origin}"),
                Err(why) => why.clone(),
            },
        ));
        format!("{certificate}\n{}", table::fields(&fields))
    }
}

impl KeyState {
    /// Compares public halves.
    pub(crate) fn read(directory: &SvidFolder) -> Self {
        let own = match directory.read(KEY) {
            Ok(Some(pem)) => private_key::public_key(&Zeroizing::new(pem)),
            Ok(None) => {
                let record = svid_folder::record(directory).ok().flatten();
                if record.is_some_and(|record| record.key_elsewhere) {
                    return Self::Elsewhere;
                }
                Err(ABSENT.to_owned())
            }
            Err(error) => Err(told(error)),
        };
        let certified = certificates(directory, CHAIN).and_then(|all| {
            let leaf = chain::read(&all[0])?;
            Ok(leaf.public_key().raw.to_vec())
        });
        match (own, certified) {
            (Ok(own), Ok(certified)) if own == certified => Self::Matches,
            (Ok(_), Ok(_)) => Self::Other,
            (Err(why), _) => Self::Unknown(why),
            (Ok(_), Err(_)) => Self::Unknown("there is no certificate to compare".to_owned()),
        }
    }
}

impl std::fmt::Display for KeyState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elsewhere => "not here: the SVID was issued for a request (--csr)",
            Self::Matches => "is the certificate's",
            Self::Other => "is ANOTHER key than the certificate's",
            Self::Unknown(why) => why,
        })
    }
}

impl CrlSummary {
    fn to_line(&self, now: OffsetDateTime) -> String {
        let ends = self.next_update.map(|end| match end < now {
            true => format!("; ENDED {}", table::distance(end, now)),
            false => format!("; ends {}", table::distance(end, now)),
        });
        let made = table::distance(self.this_update, now);
        format!("{} revoked; made {made}{}", self.entries, ends.unwrap_or_default())
    }
}

fn describe(directory: &SvidFolder, name: &'static str) -> Result<Vec<Description>, String> {
    let describe = |der: &CertificateDer<'static>| Ok(Description::new(&chain::read(der)?, der));
    certificates(directory, name)?.iter().map(describe).collect()
}

fn certificates(
    directory: &SvidFolder,
    name: &'static str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = directory.read(name).map_err(told)?.ok_or_else(|| ABSENT.to_owned())?;
    chain::parse(&pem)
}

fn checkpoint(directory: &SvidFolder) -> Result<Seen, String> {
    let note = directory.read(CHECKPOINT).map_err(told)?;
    let note = note.ok_or_else(|| "none yet: `renew` keeps the newest".to_owned())?;
    let parsed = SignedNote::parse(&note).and_then(|note| Checkpoint::parse(note.text()));
    let Checkpoint { origin, size, .. } = parsed.map_err(|error| error.to_string())?;
    Ok(Seen { origin, entries: size })
}

/// What there is, or `problem` and why there is none.
fn part<T: Serialize, S: Serializer>(
    part: &Result<T, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match part {
        Ok(part) => part.serialize(serializer),
        Err(problem) => serializer.collect_map([("problem", problem)]),
    }
}

/// An error in one line, with its cause.
fn told(error: FolderError) -> String {
    match error {
        FolderError::Read { source, .. } => format!("cannot be read: {source}"),
        error => error.to_string(),
    }
}

fn at(time: OffsetDateTime, now: OffsetDateTime) -> String {
    format!("{} ({})", table::time(time), table::distance(time, now))
}

const ABSENT: &str = "is not there";
