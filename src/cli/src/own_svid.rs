//! The SVID by which an operator acts, as it lies in a context's folder.

use std::path::Path;

use api::Ttl;
use countersign::svid_folder::{CHAIN, SvidFolder};
use identity::{SerialNumber, SpiffeId};
use time::OffsetDateTime;

use crate::chain;
use crate::error::Error;
use crate::refused_svid::{another, another_for_lost};
use crate::renewal::Due;
use crate::svid_folder::Remains;
use crate::svid_record::Wish;

/// Whom the SVID in a context's folder names, and until when.
pub(crate) fn own_svid(directory: &Path) -> Result<(SpiffeId, OffsetDateTime), Error> {
    let svid = OwnSvid::read(&SvidFolder::at(directory)?)?;
    Ok((svid.spiffe_id, svid.not_after))
}

/// What `svid.pem` says of the operator.
pub(crate) struct OwnSvid {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) serial_number: Option<SerialNumber>,
    not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl OwnSvid {
    pub(crate) fn read(directory: &SvidFolder) -> Result<Self, Error> {
        let pem = directory.read(CHAIN)?.ok_or_else(|| Error::NoSvid {
            directory: directory.path().to_owned(),
            missing: CHAIN,
            repair: after_loss(directory),
        })?;
        let malformed = |why| Error::Malformed { path: directory.join(CHAIN), why };
        let certificates = chain::parse(&pem).map_err(malformed)?;
        let leaf = chain::read(&certificates[0]).map_err(malformed)?;
        let spiffe_id =
            chain::spiffe_id(&leaf).ok_or_else(|| malformed("it names no SPIFFE ID".to_owned()))?;
        Ok(Self {
            spiffe_id,
            serial_number: chain::serial_number(&leaf),
            not_before: leaf.validity().not_before.to_datetime(),
            not_after: leaf.validity().not_after.to_datetime(),
        })
    }

    pub(crate) fn due(&self, now: OffsetDateTime) -> Due {
        Due::at_half_life(self.not_before, self.not_after, now)
    }

    /// The same again: `init` wrote no `svid.json` that says what was asked for.
    pub(crate) fn wish(&self) -> Wish {
        let life = self.not_after - self.not_before - BACKDATED;
        let ttl = std::time::Duration::try_from(life).ok().map(Ttl);
        Wish { ttl, ..Wish::only(self.spiffe_id.clone()) }
    }

    pub(crate) fn expired(&self, directory: &Path) -> Error {
        let name = self.spiffe_id.operator_name().unwrap_or("NAME");
        Error::Expired {
            directory: directory.to_owned(),
            not_after: self.not_after,
            repair: another(name),
        }
    }
}

/// How the operator of a folder gets another SVID, where it is lost or its key is.
pub(crate) fn after_loss(directory: &SvidFolder) -> String {
    let named = Remains::of(directory).spiffe_id;
    let named = named.as_ref().and_then(|id| Some((id.as_str(), id.operator_name()?)));
    match named {
        Some((spiffe_id, name)) => another_for_lost(spiffe_id, name),
        None => format!(
            "`countersign operator list`, by another operator, shows your NAME and SPIFFE_ID; then: {}",
            another_for_lost("SPIFFE_ID", "NAME")
        ),
    }
}

/// Certificates begin this long before they are issued.
pub(crate) const BACKDATED: time::Duration = time::Duration::MINUTE;
