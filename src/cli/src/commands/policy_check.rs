//! `policy check`: whether the CA would take the files of a folder. Asks nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use authority::OwnNames;
use authority::policy::{PolicyError, PolicySet};
use clap::Args;
use serde_json::json;
use server::Config;

use crate::error::Error;
use crate::exit::Exit;
use crate::policy_folder;
use crate::session::Session;
use crate::shell;

#[derive(Debug, Args)]
#[command(after_help = "\
A CA refuses rows that list one of its own names, and a set under which its
operators could not go on. Names and trust domain stand in its configuration:
without --config the first is not checked, and the second for the trust domain
that the policies name. Below a parent elsewhere, it refuses rows with names
that the constraints of a CA above do not permit, too: `policy apply` tells.")]
pub(crate) struct Arguments {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The configuration of the CA that is to take them: its names, and its trust domain
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let files = policy_folder::read(&arguments.folder)?;
    policy_folder::warn_of_others(&arguments.folder, session.output)?;
    let config = arguments.config.as_deref().map(load).transpose()?;
    if let Err(error) = check(&files, config.as_ref()) {
        let folder = shell::quoted(&arguments.folder);
        let next = error.next_step().map(|next| next.replace("DIR", folder.trim_end_matches('/')));
        let why = error.to_string();
        let found = json!({ "accepted": false, "why": why, "next_step": next });
        let next = next.map(|next| format!("\n{next}")).unwrap_or_default();
        session.output.show(&found, |_| format!("{why}{next}"))?;
        return Ok(Exit::Usage);
    }
    let accepted = json!({
        "accepted": true,
        "files": files.keys().collect::<Vec<_>>(),
        "own_names_compared": config.is_some(),
    });
    session.output.show(&accepted, |_| {
        let plural = if files.len() == 1 { "" } else { "s" };
        format!("{} file{plural}, no findings", files.len())
    })?;
    if config.is_none() {
        session
            .output
            .note("not checked: whether a row lists a name of the CA's own (--config FILE)");
    }
    Ok(Exit::Done)
}

fn load(path: &Path) -> Result<Config, Error> {
    Config::load(path)
        .map_err(|source| Error::Configuration { path: path.to_owned(), source: Box::new(source) })
}

fn check(files: &BTreeMap<String, String>, config: Option<&Config>) -> Result<(), PolicyError> {
    let set = PolicySet::parse(files)?;
    set.require_way_on(config.map(|config| &config.trust_domain), None)?;
    config.map_or(Ok(()), |it| OwnNames::configured(&it.names).refuse_rows(set.workloads()))
}
