//! `allow`: lifts a deny.

use clap::Args;
use identity::SpiffeId;
use serde::Serialize;

use crate::context::{self, OpenContext};
use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;

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
    let OpenContext { client, held, .. } = context::open(session).await?;
    let (spiffe_id, ours) = (arguments.spiffe_id, &held.state().trust_domain);
    if !spiffe_id.is_member_of(ours) {
        return Err(Error::OtherDomain { id: spiffe_id, ours: ours.clone() }.into());
    }
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
    if !allowed.was_denied {
        session.output.note("`countersign denial list` shows who is");
    }
    Ok(Exit::Done)
}
