//! `deny`: an identity, until allowed again.

use api::{
    Denial, DenyRequest, Override, ProblemType, Revocation, RevocationReach, RevokeRequest, Ttl,
};
use clap::Args;
use countersign::{AuthorityClient, Error as LibraryError};
use identity::SpiffeId;
use serde::Serialize;

use super::consent::{self, Whose};
use super::review::Review;
use super::revoke::count;
use super::{known, reach};
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;
use crate::table;
use crate::target::{Reason, Target};

#[derive(Debug, Args)]
#[command(after_help = "\
Asks on a terminal; without one it is done, but to yourself only with --yes.")]
pub(crate) struct Arguments {
    /// Who; its certificates are revoked, and it gets no new one
    pub(super) spiffe_id: SpiffeId,
    /// Why
    #[arg(long, value_enum)]
    pub(super) reason: Reason,
    /// Only say what would be revoked
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Wait so long for every workload to have it, and say who has not answered
    #[arg(long, value_name = "TIME")]
    pub(super) wait: Option<Ttl>,
    /// Even where nobody is left to undo it: the CA itself, or the last operator able to act
    #[arg(long)]
    pub(super) allow_locking_everybody_out: bool,
}

/// Who was denied, and how far it came.
#[derive(Debug, Serialize)]
struct Denied {
    #[serde(flatten)]
    denial: Denial,
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<RevocationReach>,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let named_override = arguments.allow_locking_everybody_out.then_some(Override::LockOut);
    let request = DenyRequest {
        spiffe_id: arguments.spiffe_id.clone(),
        reason: arguments.reason.to_string(),
        named_override,
    };
    if arguments.dry_run {
        let covered = covered(&client, &request).await?;
        session.output.show(&covered, |covered| {
            format!("would deny {}, and revoke {}", covered.spiffe_id, count(covered.certificates))
        })?;
        warn_if_unknown(&client, &covered, session).await;
        return Ok(Exit::Done);
    }
    let whose = Whose::of(&Target::Identity(request.spiffe_id.clone()), session);
    let elsewhere = whose.elsewhere(named_override);
    if consent::is_wanted(elsewhere, session) {
        let covered = covered(&client, &request).await?;
        warn_if_unknown(&client, &covered, session).await;
        let (id, count) = (&request.spiffe_id, count(covered.certificates));
        let what = format!(
            "This denies {id} until it is allowed again, and revokes {count}.{}",
            whose.told()
        );
        if !consent::is_given(&what, elsewhere, session)? {
            session.output.note("nobody was denied");
            return Ok(Exit::Failed);
        }
        return deny(&client, &request, arguments.wait, session).await;
    }
    // Nobody waits for an answer here: what is to be said about the name is said afterwards.
    let exit = deny(&client, &request, arguments.wait, session).await?;
    if let Some(warning) = known::warning(&client, &request.spiffe_id).await {
        session.output.warn(warning);
    }
    Ok(exit)
}

async fn deny(
    client: &AuthorityClient,
    request: &DenyRequest,
    wait: Option<Ttl>,
    session: &Session,
) -> anyhow::Result<Exit> {
    let denial = client.deny(request).await?;
    let reach = match (wait, denial.id.parse()) {
        (Some(wait), Ok(log_index)) => reach::wait(client, log_index, wait.0, session).await,
        _ => None,
    };
    let denied = Denied { denial, reach };
    session.output.show(&denied, to_text)?;
    let Denied { denial, reach } = denied;
    Review::of_denial(&denial).warn(session);
    session.output.note(format!("to lift it: countersign allow {}", denial.spiffe_id));
    Ok(if wait.is_some() { reach::exit(reach.as_ref()) } else { Exit::Done })
}

/// Whoever has certificates is known.
async fn warn_if_unknown(client: &AuthorityClient, covered: &Covered, session: &Session) {
    if covered.certificates > 0 {
        return;
    }
    if let Some(warning) = known::warning(client, &covered.spiffe_id).await {
        session.output.warn(warning);
    }
}

/// What a denial would do.
#[derive(Debug, Serialize)]
struct Covered {
    spiffe_id: SpiffeId,
    reason: String,
    certificates: u64,
}

/// The certificates that a denial revokes. Where there is none it denies nevertheless.
async fn covered(client: &AuthorityClient, request: &DenyRequest) -> Result<Covered, Error> {
    let revoke = RevokeRequest {
        target: request.spiffe_id.to_string(),
        reason: request.reason.clone(),
        dry_run: true,
        named_override: request.named_override,
    };
    match client.revoke(&revoke).await {
        Err(LibraryError::Authority(problem)) if problem.problem_type == ProblemType::NotFound => {
            Ok(Covered {
                spiffe_id: request.spiffe_id.clone(),
                reason: revoke.reason,
                certificates: 0,
            })
        }
        covered => {
            let Revocation { spiffe_id, reason, certificates, .. } = covered?;
            Ok(Covered { spiffe_id, reason, certificates })
        }
    }
}

fn to_text(Denied { denial, reach }: &Denied) -> String {
    let Denial { spiffe_id, reason, id, since, .. } = denial;
    let again = since.map(|since| format!("\nit is denied since {}", table::time(since)));
    let again = again.unwrap_or_default();
    let done = format!("denied {spiffe_id} ({reason}), log index {id}{again}");
    match reach {
        Some(reach) => format!("{done}\n{}", reach::to_text(reach)),
        None => done,
    }
}
