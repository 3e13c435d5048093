//! `revoke`: certificates issued so far.

use api::{Override, Revocation, RevocationReach, RevokeRequest, RevokedBy, Ttl};
use clap::Args;
use countersign::AuthorityClient;
use serde::Serialize;

use super::consent::{self, Whose};
use super::reach;
use super::review::Review;
use crate::context::{self, OpenContext};
use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;
use crate::table;
use crate::target::{Reason, Target};

#[derive(Debug, Args)]
#[command(after_help = "\
An identity may get a new certificate at once: `deny` keeps it out. Asks on a
terminal before it revokes all of an identity; without one it is done, but for
your own, which needs --yes.")]
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
    /// Wait so long for every workload to have it, and say who has not answered
    #[arg(long, value_name = "TIME")]
    wait: Option<Ttl>,
    /// Even where nobody is left to undo it: the CA itself, or the last operator able to act
    #[arg(long)]
    allow_locking_everybody_out: bool,
}

/// What was revoked, and how far it came.
#[derive(Debug, Serialize)]
struct Revoked {
    #[serde(flatten)]
    revocation: Revocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<RevocationReach>,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let OpenContext { client, held, .. } = context::open(session).await?;
    let request = RevokeRequest {
        target: arguments.target.to_string(),
        reason: arguments.reason.to_string(),
        dry_run: arguments.dry_run,
        named_override: arguments.allow_locking_everybody_out.then_some(Override::LockOut),
    };
    let whose = Whose::of(&arguments.target, session);
    let is_large = whose == Whose::Own || matches!(arguments.target, Target::Identity(_));
    let must_confirm = is_large
        && !arguments.dry_run
        && consent::is_wanted(whose.elsewhere(request.named_override), session);
    if must_confirm && !confirm(&client, &request, whose, session).await? {
        session.output.note("nothing was revoked");
        return Ok(Exit::Failed);
    }
    let revocation = client.revoke(&request).await;
    let revocation = revocation
        .map_err(|error| context::about_serial(error, &arguments.target, &held, session))?;
    let reach = match (arguments.wait, revocation.log_index) {
        (Some(wait), Some(log_index)) => reach::wait(&client, log_index, wait.0, session).await,
        _ => None,
    };
    let revoked = Revoked { revocation, reach };
    session.output.show(&revoked, |revoked| to_text(revoked, arguments.dry_run))?;
    let Revoked { revocation, reach } = revoked;
    Review::of_revocation(&revocation).warn(session);
    if matches!(arguments.target, Target::Identity(_)) && !arguments.dry_run {
        session.output.note(format!(
            "it may get new certificates; to keep it out: countersign deny {} --reason {}",
            revocation.spiffe_id, revocation.reason
        ));
    }
    let waited = arguments.wait.is_some() && revocation.log_index.is_some();
    Ok(if waited { reach::exit(reach.as_ref()) } else { Exit::Done })
}

/// Says how many certificates it is about before it asks.
async fn confirm(
    client: &AuthorityClient,
    request: &RevokeRequest,
    whose: Whose,
    session: &Session,
) -> Result<bool, Error> {
    let dry_run = RevokeRequest { dry_run: true, ..request.clone() };
    let covered = client.revoke(&dry_run).await?;
    if covered.certificates == 0 {
        // All of them are revoked already: there is nothing to be asked about.
        return Ok(true);
    }
    let (count, id) = (count(covered.certificates), covered.spiffe_id);
    let what = format!("This revokes {count} of {id}.{}", whose.told());
    consent::is_given(&what, whose.elsewhere(request.named_override), session)
}

fn to_text(Revoked { revocation, reach }: &Revoked, dry_run: bool) -> String {
    let what = format!("{} of {}", count(revocation.certificates), revocation.spiffe_id);
    let done = match (dry_run, revocation.log_index) {
        (true, _) => format!("would revoke {what}"),
        (false, Some(index)) => format!("revoked {what}, log index {index}"),
        (false, None) => format!("nothing was left to revoke: {what}"),
    };
    let done = match &revocation.earlier {
        Some(earlier) => format!("{done}\n{}", told_earlier(earlier, &revocation.reason)),
        None => done,
    };
    match reach {
        Some(reach) => format!("{done}\n{}", reach::to_text(reach)),
        None => done,
    }
}

fn told_earlier(earlier: &RevokedBy, reason: &str) -> String {
    let RevokedBy { kind, target, by, at, reason: first, log_index } = earlier;
    let done = if kind == "deny" { "was denied" } else { "was revoked" };
    let stays = match first == reason {
        true => String::new(),
        false => format!("; its reason stays {first}"),
    };
    let at = table::time(*at);
    format!("{target} {done} {at} by {by} ({first}), log index {log_index}{stays}")
}

/// How many certificates it is about.
pub(crate) fn count(certificates: u64) -> String {
    match certificates {
        1 => "1 certificate".to_owned(),
        count => format!("{count} certificates"),
    }
}
