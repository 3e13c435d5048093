//! `crl.pem` beside an SVID: the CRL of each issuer, for software that asks no CA, such as OpenSSL's
//! `-crl_check`. What asks for one of every CA lacks the root's, which signs none.
//!
//! It lives by the hour, and the SVID by the day: it is no part of the set that is replaced as one, and
//! what keeps it from being replaced never costs an SVID.

use countersign::AuthorityClient;
use countersign::svid_folder::{BUNDLE, CRL, SvidFolder};
use identity::pem_blocks;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::error::Error;
use crate::output::Output;
use crate::shell;

/// What a CRL says of itself.
#[derive(Debug, Serialize)]
pub(crate) struct CrlSummary {
    pub(crate) issuer: String,
    pub(crate) entries: usize,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) this_update: OffsetDateTime,
    /// From then on software refuses everybody by it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) next_update: Option<OffsetDateTime>,
}

/// Fetches it for an SVID that is new. What comes in the way is told: the SVID is there.
pub(crate) async fn begin(directory: &SvidFolder, client: &AuthorityClient, output: Output) {
    if let Err(error) = fetch(directory, client).await {
        let renew = || format!("countersign renew {}", shell::quoted(directory.path()));
        let next = error.next_step().unwrap_or_else(renew);
        let why = error.with_causes();
        output.warn(format!("there is no newest crl.pem: {why}\n  next: {next}"));
    }
}

/// Fetches it anew. What comes in the way is told, and an error once the one that is there has ended:
/// whoever reads it accepts nobody any more.
pub(crate) async fn keep(
    directory: &SvidFolder,
    client: &AuthorityClient,
    output: Output,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let Err(error) = fetch(directory, client).await else { return Ok(()) };
    let held = read(directory).ok().flatten();
    let ends = held.iter().flatten().filter_map(|crl| crl.next_update).min();
    match ends.filter(|end| *end < now) {
        Some(ended) => {
            Err(Error::StaleCrl { path: directory.join(CRL), ended, source: Box::new(error) })
        }
        None => {
            let next = error.next_step().map(|step| format!("\n  next: {step}"));
            let next = next.unwrap_or_default();
            output.warn(format!("crl.pem stays as it was: {}{next}", error.with_causes()));
            Ok(())
        }
    }
}

async fn fetch(directory: &SvidFolder, client: &AuthorityClient) -> Result<(), Error> {
    let pem = client.crls().await?;
    parse(&pem).map_err(|_| Error::Answer("its CRLs cannot be read"))?;
    if directory.read(CRL).is_ok_and(|held| held.as_deref() == Some(&*pem)) {
        return Ok(());
    }
    Ok(directory.replace_beside(CRL, BUNDLE, &pem)?)
}

/// What stands beside an SVID; none where there is none.
pub(crate) fn read(directory: &SvidFolder) -> Result<Option<Vec<CrlSummary>>, Error> {
    let Some(pem) = directory.read(CRL)? else { return Ok(None) };
    let malformed = |why| Error::Malformed { path: directory.join(CRL), why };
    parse(&pem).map(Some).map_err(malformed)
}

/// The CRLs of a PEM text, at least one.
fn parse(pem: &[u8]) -> Result<Vec<CrlSummary>, String> {
    let blocks = pem_blocks(pem).map_err(|error| error.to_string())?;
    let summaries: Vec<CrlSummary> = blocks
        .iter()
        .map(|block| match CertificateRevocationList::from_der(&block.contents) {
            Ok(([], crl)) if block.label == LABEL => Ok(summary(&crl)),
            _ => Err(format!("block {}, line {}: it is no CRL", block.number, block.line)),
        })
        .collect::<Result<_, _>>()?;
    if summaries.is_empty() { Err("it has no CRL".to_owned()) } else { Ok(summaries) }
}

fn summary(crl: &CertificateRevocationList<'_>) -> CrlSummary {
    CrlSummary {
        issuer: crl.issuer().to_string(),
        entries: crl.iter_revoked_certificates().count(),
        this_update: crl.last_update().to_datetime(),
        next_update: crl.next_update().map(|end| end.to_datetime()),
    }
}

const LABEL: &str = "X509 CRL";
