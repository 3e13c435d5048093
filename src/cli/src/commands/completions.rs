//! `completions`: for shells.

use clap::Args;
use clap_complete::{Shell, generate};

use super::Session;
use crate::args;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut args::command(), "countersign", &mut script);
    session.output.bytes(&script)?;
    Ok(Exit::Done)
}
