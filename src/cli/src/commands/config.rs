//! `config check`: every effective value, and where it comes from.

use clap::{Args, Subcommand};
use serde::Serialize;
use server::Capacity;

use crate::ca_host::{self, ConfigFile};
use crate::exit::Exit;
use crate::files;
use crate::policy_folder;
use crate::session::Session;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every effective value with its origin
    Check(Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
}

/// One value.
#[derive(Debug, Serialize)]
struct Value {
    key: String,
    value: String,
    origin: &'static str,
}

pub(crate) fn run(command: &Command, session: &Session) -> anyhow::Result<Exit> {
    let Command::Check(arguments) = command;
    let config = arguments.config.load()?;
    arguments.config.require_files(&config)?;
    arguments.config.warn_of_one_passphrase(&config, &session.output);
    if let Some(folder) = &config.policies {
        policy_folder::warn_of_others(folder, session.output)?;
    }
    ca_host::warn_of_writers(&config, session.output);
    ca_host::warn_of_haste(&config, session.output);
    if let Some(next) = authority::setup::next_by_parent(&config.state) {
        session.output.note(next);
    }
    let written: toml::Table = files::read_text(&arguments.config.config)?.parse()?;
    let effective = toml::Table::try_from(&config)?;
    let mut values: Vec<Value> = effective
        .into_iter()
        .map(|(key, value)| Value {
            origin: if written.contains_key(&key) { "file" } else { "default" },
            value: value.to_string(),
            key,
        })
        .collect();
    // Of this shell; `serve` tells its own when it starts, by metrics, and in `status`.
    let derived = Capacity::raise();
    if let Err(few) = derived.require_enough() {
        session.output.warn(format!("{few}; `countersign serve` refuses to start so"));
    }
    values.extend(derived.limits().into_iter().map(|(key, value)| Value {
        key,
        value,
        origin: "derived",
    }));
    session.output.list(&values, |values| {
        let rows: Vec<_> = values
            .iter()
            .map(|value| [value.key.clone(), value.value.clone(), value.origin.to_owned()])
            .collect();
        table::table(["KEY", "VALUE", "ORIGIN"], &rows)
    })?;
    Ok(Exit::Done)
}
