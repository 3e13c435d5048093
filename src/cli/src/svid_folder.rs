//! An SVID's folder as the command line sees it: its record, what it still tells without one, and what
//! else a folder may be for.

use std::path::{Path, PathBuf};

use countersign::svid_folder::{CHAIN, KEY, RECORD, SvidFolder};
use identity::SpiffeId;

use crate::chain;
use crate::dev_folder;
use crate::error::Error;
use crate::policy_folder;
use crate::refused_svid;
use crate::shell;
use crate::svid_record::SvidRecord;

/// The folder at a path, made (0700) if it does not exist. Refuses one that has another use.
pub(crate) fn create(path: impl Into<PathBuf>) -> Result<SvidFolder, Error> {
    let directory = SvidFolder::create(path)?;
    require_no_other_use(&directory)?;
    Ok(directory)
}

/// What `svid.json` says; `None` if it is not there.
pub(crate) fn record(directory: &SvidFolder) -> Result<Option<SvidRecord>, Error> {
    let Some(json) = directory.read(RECORD)? else { return Ok(None) };
    SvidRecord::parse(&json).map(Some).map_err(|why| Error::UnusableRecord {
        path: directory.join(RECORD),
        why,
        repair: again(directory, None),
    })
}

/// What is known without `svid.json`: enough to say what makes another SVID, and with a token to do it.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Whom the certificate names.
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// The CA's URL.
    pub(crate) url: Option<String>,
}

impl Remains {
    /// Looks into the certificate, and into the newest set where `.current` does not lead to it any
    /// more. Nothing of it is believed: it names whom to ask for, and the CA looks who asks.
    pub(crate) fn of(directory: &SvidFolder) -> Self {
        let record = directory.read_newest(RECORD);
        let record = record.and_then(|json| SvidRecord::parse(&json).ok());
        let chain = directory.read(CHAIN).ok().flatten().or_else(|| directory.read_newest(CHAIN));
        let certified = chain.and_then(|pem| named(&pem));
        Self {
            spiffe_id: certified
                .or_else(|| record.as_ref().map(|record| record.wish.spiffe_id.clone())),
            url: record.map(|record| record.url),
        }
    }
}

/// What to type for another SVID, as far as that can be said without `svid.json`.
pub(crate) fn again(directory: &SvidFolder, url: Option<&str>) -> String {
    let Remains { spiffe_id, url: recorded } = Remains::of(directory);
    let Some(spiffe_id) = spiffe_id else {
        // Whoever names a folder of other things has mistaken it.
        let is_empty = directory.names().map_or(true, |names| names.is_empty());
        if !is_empty && !directory.has_our_form().unwrap_or(true) {
            return "name the folder that an SVID was put into: svid.json is in it".to_owned();
        }
        let path = shell::quoted(directory.path());
        return format!("countersign issue SPIFFE_ID --out {path}");
    };
    let url = url.or(recorded.as_deref()).unwrap_or("https://CA:8443");
    refused_svid::again(&spiffe_id, directory, url)
}

fn named(pem: &[u8]) -> Option<SpiffeId> {
    let certificates = chain::parse(pem).ok()?;
    let leaf = chain::read(certificates.first()?).ok()?;
    chain::spiffe_id(&leaf)
}

/// Refuses a folder that has another use, before anything is written there: whoever names it has
/// mistaken it for another.
pub(crate) fn require_no_other_use(directory: &SvidFolder) -> Result<(), Error> {
    let names = directory.names()?;
    let names = names.iter().filter_map(|name| name.to_str());
    let Some(used) = names.filter_map(use_by).next().or_else(|| use_of_part(directory)) else {
        return Ok(());
    };
    match directory.is_ours()? {
        true => Ok(()),
        false => Err(Error::OtherUse { directory: directory.path().to_owned(), used }),
    }
}

/// Refuses a folder in which no `dev` begins, before anything is written there: its own has its lock, and
/// nothing of anybody else's.
pub(crate) fn require_for_dev(path: &Path) -> Result<(), Error> {
    let directory = SvidFolder::at(path)?;
    let names = directory.names()?;
    let names: Vec<_> = names.iter().filter_map(|name| name.to_str()).collect();
    let is_svids = names.iter().any(|name| [CHAIN, KEY, RECORD].contains(name));
    let is_anothers =
        !names.contains(&dev_folder::LOCK) && path.join("state").join(DATABASE).exists();
    let others = names.iter().filter(|name| **name != dev_folder::LOCK);
    let used = match others.filter_map(|name| use_by(name)).next() {
        Some(used) => Some(used),
        None if is_svids => Some("the folder of an SVID"),
        None if is_anothers => Some("where another CA has its state"),
        None => use_of_part(&directory),
    };
    match used {
        None => Ok(()),
        Some(used) => Err(Error::NotForDev { directory: path.to_owned(), used }),
    }
}

/// Of a folder within a CA's own.
fn use_of_part(directory: &SvidFolder) -> Option<&'static str> {
    let path = directory.path().canonicalize().ok()?;
    let is_part = PARTS.iter().any(|part| path.ends_with(part));
    (is_part && path.parent()?.join(DATABASE).exists()).then_some("a folder of a CA's keys")
}

/// What a folder is for that has a file of this name.
fn use_by(name: &str) -> Option<&'static str> {
    match name {
        DATABASE => Some("the state folder of a CA"),
        "contexts.toml" => Some("the folder of all contexts"),
        "countersign.toml" => Some("the folder of a CA's configuration"),
        dev_folder::LOCK => Some("the folder of a `countersign dev`"),
        name if policy_folder::belongs(name) => Some("a folder of policies"),
        _ => None,
    }
}

const DATABASE: &str = "countersign.db";
/// Of a CA's state folder.
const PARTS: [&str; 2] = ["keys", "offline"];
