//! `denial`: who is denied now.

use api::Denial;
use clap::Subcommand;
use time::OffsetDateTime;

use crate::clock;
use crate::context;
use crate::exit::Exit;
use crate::session::Session;
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
    let rows: Vec<[String; 6]> = denials
        .iter()
        .map(|denial| {
            let Denial { id, spiffe_id, reason, by, at, since, .. } = denial;
            let again = since.map_or_else(|| "-".to_owned(), |_| table::distance(*at, now));
            let since = table::distance(since.unwrap_or(*at), now);
            [id.clone(), since, again, table::who(by), reason.clone(), spiffe_id.to_string()]
        })
        .collect();
    table::table(["LOG INDEX", "SINCE", "AGAIN", "BY", "REASON", "SPIFFE ID"], &rows)
}
