//! `deny`: an identity, until allowed again.

use api::{DenyRequest, Override};
use clap::Args;
use identity::SpiffeId;

use super::Session;
use super::revoke::review;
use super::target::Reason;
use crate::context;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Who; its certificates are revoked, and it gets no new one
    spiffe_id: SpiffeId,
    /// Why
    #[arg(long, value_enum)]
    reason: Reason,
    /// Even where nobody is left to undo it: the CA itself, or the last operator able to act
    #[arg(long)]
    allow_locking_everybody_out: bool,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let Arguments { spiffe_id, reason, allow_locking_everybody_out } = arguments;
    let request = DenyRequest {
        spiffe_id,
        reason: reason.to_string(),
        named_override: allow_locking_everybody_out.then_some(Override::LockOut),
    };
    let denial = client.deny(&request).await?;
    session.output.show(&denial, |denial| {
        format!("denied {} ({}), log index {}", denial.spiffe_id, denial.reason, denial.id)
    })?;
    review(&denial.review, session);
    session.output.note(format!("to lift it: countersign allow {}", denial.spiffe_id));
    Ok(Exit::Done)
}
