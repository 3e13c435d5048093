//! `policy check`: whether the CA would take the files of a folder. Asks nobody.

use std::path::PathBuf;

use authority::policy::PolicySet;
use clap::Args;
use serde_json::json;

use super::Session;
use crate::exit::Exit;
use crate::policy_folder;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let files = policy_folder::read(&arguments.folder)?;
    if let Err(error) = PolicySet::parse(&files) {
        let (why, next) = (error.to_string(), error.next_step());
        let found = json!({ "accepted": false, "why": why, "next_step": next });
        let next = next.map(|next| format!("\n{next}")).unwrap_or_default();
        session.output.show(&found, |_| format!("{why}{next}"))?;
        return Ok(Exit::Usage);
    }
    let accepted = json!({ "accepted": true, "files": files.keys().collect::<Vec<_>>() });
    session.output.show(&accepted, |_| format!("{} files, no findings", files.len()))?;
    Ok(Exit::Done)
}
