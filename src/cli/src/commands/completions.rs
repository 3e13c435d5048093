//! `completions`: for shells.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::exit::Exit;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(
    arguments: &Arguments,
    mut all: clap::Command,
    session: &Session,
) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut all, "countersign", &mut script);
    session.output.bytes(&script)?;
    Ok(Exit::Done)
}
