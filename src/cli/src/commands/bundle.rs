//! `bundle`: the anchors in plain form.

use clap::{Subcommand, ValueEnum};

use crate::context;
use crate::exit::Exit;
use crate::output::Format as OutputFormat;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the context's anchors
    #[command(after_help = "\
A bundle knows nothing of countersignatures: software that trusts it takes what
the CA key alone has signed.")]
    Show {
        /// The form; with --json, jwks
        #[arg(long, value_enum, default_value_t = Format::Pem)]
        format: Format,
    },
}

/// The form of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// SPIFFE bundle
    Jwks,
    /// Certificates
    Pem,
}

pub(crate) fn run(command: &Command, session: &Session) -> anyhow::Result<Exit> {
    let Command::Show { format } = *command;
    let held = context::trust(session)?;
    if format == Format::Pem && session.output.format == OutputFormat::Human {
        session.output.verbatim(&held.state().to_pem())?;
    } else {
        let jwks = held.state().to_jwks()?;
        session.output.show(&jwks, |jwks| format!("{jwks:#}"))?;
    }
    Ok(Exit::Done)
}
