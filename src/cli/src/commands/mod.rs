//! The commands, a file each: arguments, then `run`.

pub(crate) mod allow;
pub(crate) mod bundle;
pub(crate) mod completions;
pub(crate) mod config;
mod consent;
pub(crate) mod contexts;
pub(crate) mod denials;
pub(crate) mod deny;
pub(crate) mod dev;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod issue;
pub(crate) mod keys;
mod known;
pub(crate) mod lint;
pub(crate) mod list;
pub(crate) mod operators;
pub(crate) mod policy;
pub(crate) mod policy_check;
mod policy_losses;
pub(crate) mod reach;
pub(crate) mod renew;
mod review;
pub(crate) mod revoke;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod trust;
pub(crate) mod verify;

use crate::args::{self, Command};
use crate::exit::Exit;
use crate::session::Session;

/// Runs one command.
pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Allow(arguments) => allow::run(arguments, session).await,
        Command::Bundle(command) => bundle::run(&command, session),
        Command::Completions(arguments) => completions::run(&arguments, args::command(), session),
        Command::Config(command) => config::run(&command, session),
        Command::Context(command) => contexts::run(&command, session),
        Command::Denial(command) => denials::run(command, session).await,
        Command::Deny(arguments) => deny::run(&arguments, session).await,
        Command::Dev(arguments) => dev::run(arguments, session).await,
        Command::Init(arguments) => init::run(arguments, session).await,
        Command::Inspect(arguments) => inspect::run(&arguments, session).await,
        Command::Issue(arguments) => issue::run(arguments, session).await,
        Command::Issuer(command) => keys::run_issuer(command, session).await,
        Command::Key(command) => keys::run(command, session).await,
        Command::Lint(arguments) => lint::run(&arguments, session).await,
        Command::List(arguments) => list::run(arguments, session).await,
        Command::Operator(command) => operators::run(command, session).await,
        Command::Policy(command) => policy::run(command, session).await,
        Command::Renew(arguments) => renew::run(&arguments, session).await,
        Command::Revoke(arguments) => revoke::run(&arguments, session).await,
        Command::Rotate(arguments) => keys::rotate(arguments, session).await,
        Command::Serve(arguments) => serve::run(arguments, session).await,
        Command::Show(arguments) => show::run(&arguments, session).await,
        Command::Status => status::run(session).await,
        Command::Token(command) => token::run(command, session).await,
        Command::Trust(command) => trust::run(command, session).await,
        Command::Verify(arguments) => verify::run(&arguments, session).await,
    }
}
