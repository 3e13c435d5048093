//! `denial`: who is denied now.

use api::Denial;
use clap::Subcommand;
use time::OffsetDateTime;

use super::Session;
use crate::clock;
use crate::context;
use crate::exit::Exit;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the identities that are denied, the newest first
    List,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let Command::List = command;
    let mut denials = context::open(session).await?.client.denials().await?.items;
    denials.sort_by_key(|denial| std::cmp::Reverse(denial.at));
    if denials.is_empty() {
        session.output.note("nobody is denied");
    }
    let now = clock::now();
    session.output.list(&denials, |denials| to_table(denials, now))?;
    Ok(Exit::Done)
}

fn to_table(denials: &[Denial], now: OffsetDateTime) -> String {
    let rows: Vec<[String; 5]> = denials
        .iter()
        .map(|denial| {
            let since = table::distance(denial.at, now);
            let by = table::who(&denial.by);
            [denial.id.clone(), since, by, denial.reason.clone(), denial.spiffe_id.to_string()]
        })
        .collect();
    table::table(["LOG INDEX", "SINCE", "BY", "REASON", "SPIFFE ID"], &rows)
}
