//! `policy`: the active policy set.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api::{ExplainRequest, Explanation, PolicyFiles, RevocationExtent};
use authority::policy::SHIPPED_POLICIES;
use clap::{Args, Subcommand};
use identity::SpiffeId;
use issuance::DnsName;
use serde::Serialize;

use super::policy_check;
use super::policy_losses::{self, Loss};
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::policy_folder;
use crate::session::Session;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check whether a CA would take the files of a folder; asks nobody
    Check(policy_check::Arguments),
    /// Make the files of a folder the CA's policy set
    Apply(Apply),
    /// Say which policy decides, and why: exits 0 if allowed, 3 if denied
    Explain(Explain),
    /// Print the policies that ship, those of a folder that has no *.cedar; asks nobody
    #[command(after_help = "\
A folder with a *.cedar of its own has no others. To narrow or add to those that
ship, put them beside it: countersign policy shipped > DIR/countersign.cedar")]
    Shipped,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Takes schema.cedarschema, *.cedar, workloads.json and profiles.json; what is
left out is as shipped. Says who loses what, and asks on a terminal; without
one, what takes something from somebody needs --yes. Refused if somebody else
changed the active set meanwhile.")]
pub(crate) struct Apply {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Where neither --dns nor --ip is given, `issue` and `renew` are explained with
the names that the identity's row lists, as a certificate would have them.")]
pub(crate) struct Explain {
    /// Who asks
    #[arg(long = "as", value_name = "SPIFFE_ID")]
    principal: SpiffeId,
    /// What: issue, renew, revoke, ...
    action: String,
    /// On whom, a SPIFFE ID
    resource: SpiffeId,
    /// A DNS name asked for; may be repeated
    #[arg(long, value_name = "NAME", value_parser = DnsName::parse)]
    dns: Vec<DnsName>,
    /// An IP address asked for; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// No DNS name and no IP address, whatever the identity's row lists
    #[arg(long, conflicts_with_all = ["dns", "ip"])]
    no_names: bool,
    /// The profile; else the CA's default
    #[arg(long)]
    profile: Option<String>,
    /// What `revoke` takes away: own, certificate or identity; else all of the identity
    #[arg(long, value_name = "EXTENT")]
    extent: Option<RevocationExtent>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    Ok(match command {
        Command::Check(arguments) => policy_check::run(&arguments, session)?,
        Command::Apply(arguments) => apply(&arguments.folder, session).await?,
        Command::Explain(arguments) => explain(arguments, session).await?,
        Command::Shipped => {
            session.output.bytes(SHIPPED_POLICIES.as_bytes())?;
            Exit::Done
        }
    })
}

async fn apply(folder: &Path, session: &Session) -> Result<Exit, Error> {
    let files = policy_folder::read(folder)?;
    policy_folder::warn_of_others(folder, session.output)?;
    let client = context::open(session).await?.client;
    let active = client.policies().await?;
    let losses = policy_losses::losses(&client, &active.files, &files).await?;
    if !policy_losses::accepts(&losses, session)? {
        session.output.note("nothing was changed");
        return Ok(Exit::Failed);
    }
    // What the folder leaves out is as shipped with the CA: only it can say what that changes.
    let applied = client.replace_policies(&PolicyFiles { files }, &active.hash).await?;
    let changes = Change::between(&active.files, &applied.files);
    session.output.show(&Applied { hash: applied.hash, changes, losses }, Applied::to_text)?;
    Ok(Exit::Done)
}

/// What `--json` shows.
#[derive(Debug, Serialize)]
struct Applied {
    hash: String,
    changes: Vec<Change>,
    losses: Vec<Loss>,
}

impl Applied {
    fn to_text(&self) -> String {
        if self.changes.is_empty() {
            return format!("nothing to do: policy set {} is active", self.hash);
        }
        let changes: String =
            self.changes.iter().map(|c| format!("{:<8}  {}\n", c.change, c.file)).collect();
        format!("{changes}active    {}", self.hash)
    }
}

/// What happens to a file of the set.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    file: String,
    change: &'static str,
}

impl Change {
    fn between(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Self> {
        let change = |file: &String, change| Self { file: file.clone(), change };
        let added_or_changed = new.iter().filter_map(|(file, text)| match old.get(file) {
            None => Some(change(file, "added")),
            Some(before) if before != text => Some(change(file, "changed")),
            Some(_) => None,
        });
        let removed = old.keys().filter(|file| !new.contains_key(*file));
        added_or_changed.chain(removed.map(|file| change(file, "removed"))).collect()
    }
}

async fn explain(arguments: Explain, session: &Session) -> Result<Exit, Error> {
    let client = context::open(session).await?.client;
    let Explain { principal, action, resource, dns, ip, no_names, profile, extent } = arguments;
    let dns: Vec<String> = dns.iter().map(ToString::to_string).collect();
    let is_silent = dns.is_empty() && ip.is_empty() && !no_names;
    let (dns, ip) = if is_silent { (None, None) } else { (Some(dns), Some(ip)) };
    let request = ExplainRequest { principal, action, resource, dns, ip, profile, extent };
    let explanation = client.explain(&request).await?;
    session.output.show(&explanation, to_text)?;
    Ok(if explanation.allowed { Exit::Done } else { Exit::Refused })
}

fn to_text(explanation: &Explanation) -> String {
    let decision = if explanation.allowed { "allowed" } else { "denied" };
    let mut fields = vec![("decision", decision.to_owned()), ("why", explanation.reason.clone())];
    fields.extend(explanation.assumed.iter().map(|assumed| ("assumed", assumed.clone())));
    fields.extend(explanation.policies.iter().map(|policy| ("policies", policy.clone())));
    fields.extend(explanation.row.iter().map(|row| ("row", row.clone())));
    fields.extend(explanation.next_step.iter().map(|step| ("next", step.clone())));
    table::fields(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_by_file() {
        let set = |files: &[(&str, &str)]| {
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let old = set(&[("a.cedar", "1"), ("b.cedar", "1"), ("c.cedar", "1")]);
        let new = set(&[("b.cedar", "2"), ("c.cedar", "1"), ("d.cedar", "1")]);
        let changes: Vec<_> =
            Change::between(&old, &new).into_iter().map(|c| (c.file, c.change)).collect();
        let expected = [("b.cedar", "changed"), ("d.cedar", "added"), ("a.cedar", "removed")];
        assert_eq!(changes, expected.map(|(file, change)| (file.to_owned(), change)));
        assert!(Change::between(&old, &old).is_empty());
    }
}
