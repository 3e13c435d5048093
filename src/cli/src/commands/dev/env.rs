//! `dev env`: what a service of the newcomer's own needs to take part in a running `dev`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use api::{PolicyFiles, TokenRequest};
use clap::Args;
use identity::{SpiffeId, TrustDomain};
use serde_json::{Value, json};

use super::{MONOLITH_URL, shown};
use crate::context;
use crate::error::Error;
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
    let spiffe_id = named(&arguments.path, domain)?;
    let path = spiffe_id.path();
    let folder = context::directory(session)?;
    let folder = folder.parent().context("the context's folder has no parent")?;
    let monolith = files::read_text(&folder.join(MONOLITH_URL))
        .context("`countersign dev` has not started its services yet")?;
    let active = open.client.policies().await?;
    if let Some(files) = with_row(active.files, path)? {
        open.client.replace_policies(&PolicyFiles { files }, &active.hash).await?;
    }
    let asked = TokenRequest { spiffe_id: spiffe_id.clone(), ttl: None, key_sha256: None };
    let token = open.client.create_token(&asked).await?;
    let file = folder.join(format!("{}.token", path.replace('/', "-").trim_matches('-')));
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

/// Who is meant: by the path, its first slash or not, or by the whole ID.
fn named(typed: &str, domain: &TrustDomain) -> Result<SpiffeId, Error> {
    let refused = |why: String| Error::ServicePath { typed: typed.to_owned(), why };
    let id = match typed {
        whole if whole.contains("://") => SpiffeId::parse(whole),
        path => SpiffeId::new(domain, &format!("/{}", path.strip_prefix('/').unwrap_or(path))),
    };
    let id = id.map_err(|error| match error {
        identity::Error::SpiffeId { rule, .. } => refused(rule.to_string()),
        error => error.into(),
    })?;
    match () {
        () if !id.is_member_of(domain) => Err(Error::OtherDomain { id, ours: domain.clone() }),
        () if id.path().is_empty() => Err(refused("it has no path".to_owned())),
        () if id.is_reserved() => Err(refused("those under /countersign/ are the CA's".to_owned())),
        () => Ok(id),
    }
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
