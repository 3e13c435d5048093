//! Whether a CA has ever heard of an identity: one that was mistyped bears nobody's name.

use api::{CertificateFilter, ExplainRequest};
use authority::workloads::Workloads;
use countersign::AuthorityClient;
use identity::SpiffeId;

use crate::error::Error;

/// Says that nobody is called so, where that is sure: who may not look has nothing said to him.
pub(crate) async fn warning(client: &AuthorityClient, id: &SpiffeId) -> Option<String> {
    let is_unknown = matches!(is_known(client, id).await, Ok(false));
    is_unknown
        .then(|| format!("no row, no certificate and no operator is called {id}: is it mistyped?"))
}

/// Whether one of those bears its name. Nothing is asked for that grows with the fleet.
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
    match id.operator_name() {
        Some(_) => is_operator(client, id).await,
        None => has_row(client, id).await,
    }
}

/// A decision about it names its row; what is decided is nothing to us.
async fn has_row(client: &AuthorityClient, id: &SpiffeId) -> Result<bool, Error> {
    let question = ExplainRequest {
        principal: id.clone(),
        action: "issue".to_owned(),
        resource: id.clone(),
        dns: None,
        ip: None,
        profile: None,
        extent: None,
    };
    Ok(client.explain(&question).await?.row.is_some())
}

/// Operators are those that were added, and those that the table lists.
async fn is_operator(client: &AuthorityClient, id: &SpiffeId) -> Result<bool, Error> {
    if client.operators().await?.items.iter().any(|it| it.spiffe_id == *id) {
        return Ok(true);
    }
    let table = client.policies().await?.files.remove("workloads.json");
    let table = table.and_then(|text| Workloads::parse(&text).ok());
    Ok(table.is_none_or(|table| table.lists_operator(id)))
}
