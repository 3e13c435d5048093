//! `revoke`: certificates issued so far.

use std::io::{self, BufRead, IsTerminal};
use std::time::{Duration, Instant};

use api::{ActOnRecord, Override, Revocation, RevocationReach, RevokeRequest, Ttl};
use clap::Args;
use countersign::AuthorityClient;
use serde::Serialize;

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
    /// Wait so long for every workload to have it, and say who has not answered
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
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
    let client = context::open(session).await?.client;
    let request = RevokeRequest {
        target: arguments.target.to_string(),
        reason: arguments.reason.to_string(),
        dry_run: arguments.dry_run,
        named_override: arguments.allow_locking_everybody_out.then_some(Override::LockOut),
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
    let reach = match (arguments.wait, revocation.log_index) {
        (Some(wait), Some(log_index)) => {
            let followed = follow(&client, log_index, wait.0).await;
            // It is revoked whatever comes of asking: that must be said first of all.
            followed.map(Some).unwrap_or_else(|error| {
                session.output.warn(format!("it is revoked, but who was told is unknown: {error}"));
                None
            })
        }
        _ => None,
    };
    let revoked = Revoked { revocation, reach };
    session.output.show(&revoked, |revoked| to_text(revoked, arguments.dry_run))?;
    let Revoked { revocation, reach } = revoked;
    review(&revocation.review, session);
    if matches!(arguments.target, Target::Identity(_)) && !arguments.dry_run {
        session.output.note(format!(
            "it may get new certificates; to keep it out: countersign deny {} --reason {}",
            revocation.spiffe_id, revocation.reason
        ));
    }
    let waited = arguments.wait.is_some() && revocation.log_index.is_some();
    match reach {
        Some(reach) if reach.live > 0 && reach.reached >= reach.live && reach.silent == 0 => {
            Ok(Exit::Done)
        }
        None if !waited => Ok(Exit::Done),
        _ => Ok(Exit::Failed),
    }
}

/// Names what somebody did that stays: a person has to look at it.
pub(crate) fn review(acts: &[ActOnRecord], session: &Session) {
    for act in acts {
        let ActOnRecord { log_index, kind, subject } = act;
        session
            .output
            .warn(format!("review what they did: {kind} {subject:?}, log index {log_index}"));
    }
}

/// Asks until every live workload has it, or the time is over.
async fn follow(
    client: &AuthorityClient,
    log_index: u64,
    wait: Duration,
) -> Result<RevocationReach, Error> {
    let begun = Instant::now();
    loop {
        let reach = client.revocation_reach(log_index).await?;
        let left = wait.saturating_sub(begun.elapsed());
        if reach.reached >= reach.live || left.is_zero() {
            return Ok(reach);
        }
        tokio::time::sleep(left.min(ASK_AGAIN)).await;
    }
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

fn to_text(Revoked { revocation, reach }: &Revoked, dry_run: bool) -> String {
    let what = format!("{} of {}", count(revocation), revocation.spiffe_id);
    let done = match (dry_run, revocation.log_index) {
        (true, _) => format!("would revoke {what}"),
        (false, Some(index)) => format!("revoked {what}, log index {index}"),
        (false, None) => format!("nothing was left to revoke: {what}"),
    };
    match reach {
        Some(reach) => format!("{done}\n{}", reach_to_text(reach)),
        None => done,
    }
}

fn reach_to_text(reach: &RevocationReach) -> String {
    if reach.live == 0 {
        return "no workload reports to the CA: nobody was told".to_owned();
    }
    let RevocationReach { live, reached, silent, connections_closed, waiting, .. } = reach;
    let mut text =
        format!("{reached} of {live} workloads have it, connections closed: {connections_closed}");
    if *silent > 0 {
        text.push_str(&format!(
            "\n{silent} more were not heard of for over a minute: they have ended, or are cut off"
        ));
    }
    for instance in waiting {
        text.push_str(&format!(
            "\nno answer from {} (certificate {})",
            instance.spiffe_id, instance.serial_number
        ));
    }
    text
}

fn count(revocation: &Revocation) -> String {
    match revocation.certificates {
        1 => "1 certificate".to_owned(),
        count => format!("{count} certificates"),
    }
}

/// Workloads answer within a second.
const ASK_AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use api::WaitingInstance;

    use super::*;

    #[test]
    fn the_reach_names_who_has_not_answered() {
        let mut reach = RevocationReach {
            silent: 0,
            log_index: 7,
            live: 2,
            reached: 1,
            connections_closed: 3,
            waiting: vec![WaitingInstance {
                spiffe_id: identity::SpiffeId::parse("spiffe://pay.example/reports").unwrap(),
                serial_number: "8f2c".parse().unwrap(),
            }],
        };
        assert_eq!(
            reach_to_text(&reach),
            "1 of 2 workloads have it, connections closed: 3\n\
             no answer from spiffe://pay.example/reports (certificate 8f2c)"
        );
        reach.live = 0;
        assert!(reach_to_text(&reach).contains("nobody was told"));
    }
}
