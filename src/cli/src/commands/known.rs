//! Whether a CA has ever heard of an identity: one that was mistyped bears nobody's name.

use api::CertificateFilter;
use authority::workloads::Workloads;
use countersign::AuthorityClient;
use identity::SpiffeId;

use super::token;
use crate::error::Error;

/// Says that nobody is called so, where that is sure: who may not look has nothing said to him.
pub(crate) async fn warning(client: &AuthorityClient, id: &SpiffeId) -> Option<String> {
    let is_unknown = matches!(is_known(client, id).await, Ok(false));
    is_unknown.then(|| {
        format!("no row, no certificate, no token and no operator is called {id}: is it mistyped?")
    })
}

/// Whether anything that the CA keeps bears its name.
async fn is_known(client: &AuthorityClient, id: &SpiffeId) -> Result<bool, Error> {
    // The CA itself is in no table.
    if *id == SpiffeId::authority(&id.trust_domain()) {
        return Ok(true);
    }
    let filter =
        CertificateFilter { id: Some(id.to_string()), limit: Some(1), ..Default::default() };
    if !client.certificates(&filter).await?.items.is_empty() {
        return Ok(true);
    }
    let table = client.policies().await?.files.remove(WORKLOADS);
    let table = table.and_then(|text| Workloads::parse(&text).ok());
    let has_row = |table: &Workloads| table.row(id).is_some() || table.lists_operator(id);
    if table.as_ref().is_none_or(has_row) {
        return Ok(true);
    }
    let operators = client.operators().await?.items;
    Ok(operators.iter().any(|it| it.spiffe_id == *id)
        || token::all(client).await?.iter().any(|it| it.spiffe_id == *id))
}

const WORKLOADS: &str = "workloads.json";
