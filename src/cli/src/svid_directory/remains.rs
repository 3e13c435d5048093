//! What a directory still tells that has lost its `svid.json`, or the whole set behind `.current`: enough
//! to say what makes another SVID, and with a token to do it.

use identity::SpiffeId;

use super::{CHAIN, RECORD, SvidDirectory, generation_name};
use crate::chain;
use crate::files;
use crate::refused_svid::again_by_token;
use crate::shell;
use crate::svid_record::SvidRecord;

/// What is known without `svid.json`.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Whom the certificate names.
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// The CA's URL.
    pub(crate) url: Option<String>,
}

impl SvidDirectory {
    /// Looks into the certificate, and into the newest set where `.current` does not lead to it any
    /// more. Nothing of it is believed: it names whom to ask for, and the CA looks who asks.
    pub(crate) fn remains(&self) -> Remains {
        let record = self.read_newest_set(RECORD);
        let record = record.and_then(|json| SvidRecord::parse(&json).ok());
        let chain = self.read(CHAIN).ok().flatten().or_else(|| self.read_newest_set(CHAIN));
        let certified = chain.and_then(|pem| named(&pem));
        Remains {
            spiffe_id: certified
                .or_else(|| record.as_ref().map(|record| record.wish.spiffe_id.clone())),
            url: record.map(|record| record.url),
        }
    }

    /// What to type for another SVID, as far as that can be said without `svid.json`.
    pub(crate) fn again(&self, url: Option<&str>) -> String {
        let Remains { spiffe_id, url: recorded } = self.remains();
        let Some(spiffe_id) = spiffe_id else {
            // Whoever names a folder of other things has mistaken it.
            let names = self.folder.as_ref().and_then(|folder| folder.names().ok());
            let is_empty = names.is_none_or(|names| names.is_empty());
            if !is_empty && !self.has_our_form().unwrap_or(true) {
                return "name the folder that an SVID was put into: svid.json is in it".to_owned();
            }
            let path = shell::quoted(self.path());
            return format!("countersign issue SPIFFE_ID --out {path}");
        };
        let url = url.or(recorded.as_deref()).unwrap_or("https://CA:8443");
        again_by_token(&spiffe_id, self, url)
    }

    /// A file of the newest set, whose folder is no link.
    fn read_newest_set(&self, name: &str) -> Option<Vec<u8>> {
        let (newest, _) = self.generations().ok()?;
        let folder = self.folder.as_ref()?;
        let file = folder.within(generation_name(newest)).ok()?.open_plain(name).ok()?;
        folder.require_of_owner(&file).ok()?;
        files::read_opened(file).ok()
    }
}

fn named(pem: &[u8]) -> Option<SpiffeId> {
    let certificates = chain::parse(pem).ok()?;
    let leaf = chain::read(certificates.first()?).ok()?;
    chain::spiffe_id(&leaf)
}
