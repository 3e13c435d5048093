//! `revoke`: certificates issued so far.

use std::io::{self, BufRead, IsTerminal};

use api::{Revocation, RevokeRequest};
use clap::Args;
use countersign::AuthorityClient;

use super::Session;
use super::target::{Reason, Target};
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::to_stderr;

#[derive(Debug, Args)]
#[command(after_help = "\
An identity may get a new certificate at once: `countersign deny` keeps it out.")]
pub(crate) struct Arguments {
    /// One certificate, or every one that an identity has
    #[arg(value_name = "SERIAL|SPIFFE_ID")]
    target: Target,
    /// Why
    #[arg(long, value_enum)]
    reason: Reason,
    /// Only say what would be revoked
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let request = RevokeRequest {
        target: arguments.target.to_string(),
        reason: arguments.reason.to_string(),
        dry_run: arguments.dry_run,
    };
    let must_confirm = matches!(arguments.target, Target::Identity(_))
        && !arguments.dry_run
        && !session.options.yes
        && io::stdin().is_terminal();
    if must_confirm && !confirm(&client, &request).await? {
        session.output.note("nothing was revoked");
        return Ok(Exit::Failed);
    }
    let revocation = client.revoke(&request).await?;
    session.output.show(&revocation, |revocation| to_text(revocation, arguments.dry_run))?;
    if matches!(arguments.target, Target::Identity(_)) && !arguments.dry_run {
        session.output.note(format!(
            "it may get new certificates; to keep it out: countersign deny {} --reason {}",
            revocation.spiffe_id, revocation.reason
        ));
    }
    Ok(Exit::Done)
}

/// Says how many certificates it is about before it asks.
async fn confirm(client: &AuthorityClient, request: &RevokeRequest) -> Result<bool, Error> {
    let dry_run = RevokeRequest { dry_run: true, ..request.clone() };
    let covered = client.revoke(&dry_run).await?;
    to_stderr(&format!(
        "This revokes {} of {}. Type yes to go on:",
        count(&covered),
        covered.spiffe_id
    ));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|source| Error::Read { path: "stdin".into(), source })?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

fn to_text(revocation: &Revocation, dry_run: bool) -> String {
    let what = format!("{} of {}", count(revocation), revocation.spiffe_id);
    match (dry_run, revocation.log_index) {
        (true, _) => format!("would revoke {what}"),
        (false, Some(index)) => format!("revoked {what}, log index {index}"),
        (false, None) => format!("nothing was left to revoke: {what}"),
    }
}

fn count(revocation: &Revocation) -> String {
    match revocation.certificates {
        1 => "1 certificate".to_owned(),
        count => format!("{count} certificates"),
    }
}
