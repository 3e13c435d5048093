//! `context`: which CA, and as whom.

use clap::Subcommand;
use serde::Serialize;

use crate::clock;
use crate::contexts::{self, Contexts};
use crate::exit::Exit;
use crate::own_svid::own_svid;
use crate::session::Session;
use crate::shell;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the contexts; * marks the current one
    List,
    /// Make a context the current one; one that was removed is there again
    Use {
        /// As `context list` shows it
        name: String,
    },
    /// Forget a context; its folder with key and SVID stays
    Remove {
        /// As `context list` shows it
        name: String,
    },
}

/// A context as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    is_current: bool,
    url: String,
    directory: String,
    /// None where the folder holds no SVID that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    not_after: Option<time::OffsetDateTime>,
}

pub(crate) fn run(command: &Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::List => list(session)?,
        Command::Use { name } => {
            contexts::make_current(name, &session.options)?;
            session.output.note(format!("{name} is the current context"));
            shown(name, "current", session)?;
        }
        Command::Remove { name } => {
            let removed = contexts::forget(name, &session.options)?;
            let folder = shell::quoted(&removed.directory);
            let back = match contexts::forgotten(name, &session.options) {
                Some(_) => format!("\nto have it back: countersign context use {name}"),
                None => String::new(),
            };
            let still = format!("forgot {name}; key and SVID are still in {folder}");
            session.output.note(format!("{still}{back}"));
            shown(name, "forgotten", session)?;
        }
    }
    Ok(Exit::Done)
}

/// For programs; people are told by a note.
fn shown(name: &str, state: &str, session: &Session) -> anyhow::Result<()> {
    let act = serde_json::json!({ "name": name, "state": state });
    Ok(session.output.show(&act, |_| String::new())?)
}

fn list(session: &Session) -> anyhow::Result<()> {
    let contexts = Contexts::load(&session.options)?;
    let shown: Vec<Shown> = contexts
        .all()
        .map(|(name, context, is_current)| {
            let svid = own_svid(&context.directory).ok();
            Shown {
                name: name.to_owned(),
                is_current,
                url: context.url.clone(),
                directory: context.directory.display().to_string(),
                spiffe_id: svid.as_ref().map(|(id, _)| id.to_string()),
                not_after: svid.map(|(_, not_after)| not_after),
            }
        })
        .collect();
    if shown.is_empty() {
        let next = contexts.select(None).err().and_then(|error| error.next_step());
        session.output.note(format!("there is none; {}", next.unwrap_or_default()));
    }
    let now = clock::now();
    session.output.list(&shown, |shown| {
        let rows: Vec<_> = shown
            .iter()
            .map(|one| {
                [
                    if one.is_current { "*" } else { "" }.to_owned(),
                    one.name.clone(),
                    one.url.clone(),
                    one.not_after
                        .map_or_else(|| "no SVID".to_owned(), |at| table::distance(at, now)),
                    one.spiffe_id.clone().unwrap_or_default(),
                ]
            })
            .collect();
        table::table(["", "NAME", "URL", "EXPIRES", "AS"], &rows)
    })?;
    Ok(())
}
