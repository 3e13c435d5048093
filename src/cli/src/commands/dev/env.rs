//! `dev env`: what a service of the newcomer's own needs to take part in a running `dev`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use api::{PolicyFiles, TokenRequest};
use clap::Args;
use identity::SpiffeId;
use serde_json::{Value, json};

use super::{MONOLITH_URL, shown};
use crate::context;
use crate::exit::Exit;
use crate::files;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The path of your service's SPIFFE ID
    #[arg(value_name = "/PATH")]
    path: String,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let open = context::open(session).await?;
    let domain = &open.held.trust.state().trust_domain;
    let spiffe_id = SpiffeId::new(domain, &arguments.path)?;
    let folder = context::directory(session)?;
    let folder = folder.parent().context("the context's folder has no parent")?;
    let monolith = files::read_text(&folder.join(MONOLITH_URL))
        .context("`countersign dev` has not started its services yet")?;
    let active = open.client.policies().await?;
    if let Some(files) = with_row(active.files, &arguments.path)? {
        open.client.replace_policies(&PolicyFiles { files }, &active.hash).await?;
    }
    let asked = TokenRequest { spiffe_id: spiffe_id.clone(), ttl: None, key_sha256: None };
    let token = open.client.create_token(&asked).await?;
    let file = folder.join(format!("{}.token", arguments.path.replace('/', "-").trim_matches('-')));
    files::replace(&file, token.token.expose().as_bytes())?;
    let peers = format!("{}/gateway,{}/tools,{}/monolith", domain.id(), domain.id(), domain.id());
    session.output.verbatim(&format!(
        "export COUNTERSIGN_URL={}\nexport COUNTERSIGN_TRUST_PIN={}\n\
         export COUNTERSIGN_SPIFFE_ID={spiffe_id}\nexport COUNTERSIGN_TOKEN_FILE={}\n\
         export COUNTERSIGN_PEERS={peers}\nexport MONOLITH_URL={monolith}",
        open.url,
        token.trust_pin,
        shown(&file),
    ))?;
    Ok(Exit::Done)
}

/// The policy set with a row for this path, which calls the monolith; none if it has one.
fn with_row(
    mut files: BTreeMap<String, String>,
    path: &str,
) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let table = files.get(TABLE).context("the policy set has no workload table")?;
    let mut table: Value = serde_json::from_str(table)?;
    let rows = table["workloads"].as_array_mut().context("the workload table has no rows")?;
    if rows.iter().any(|row| row["id"] == path) {
        return Ok(None);
    }
    rows.push(json!({
        "id": path, "dns": ["localhost"], "ip": ["127.0.0.1"], "calls": ["/monolith"],
    }));
    files.insert(TABLE.to_owned(), serde_json::to_string_pretty(&table)?);
    Ok(Some(files))
}

const TABLE: &str = "workloads.json";
