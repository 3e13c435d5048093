//! `allow`: lifts a deny.

use clap::Args;
use identity::SpiffeId;
use serde::Serialize;

use super::Session;
use crate::context;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Who may have certificates again; those revoked stay revoked
    spiffe_id: SpiffeId,
}

#[derive(Debug, Serialize)]
struct Allowed {
    spiffe_id: SpiffeId,
    was_denied: bool,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let spiffe_id = arguments.spiffe_id;
    let denials = client.denials().await?.items;
    let denial = denials.into_iter().find(|denial| denial.spiffe_id == spiffe_id);
    if let Some(denial) = &denial {
        client.allow(&denial.id).await?;
    }
    let allowed = Allowed { spiffe_id, was_denied: denial.is_some() };
    session.output.show(&allowed, |allowed| match allowed.was_denied {
        true => format!("{} is allowed again", allowed.spiffe_id),
        false => format!("{} was not denied", allowed.spiffe_id),
    })?;
    Ok(Exit::Done)
}
