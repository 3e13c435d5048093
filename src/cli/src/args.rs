//! The command line.
//!
//! A command is a variant of [`Command`], a row of [`GROUPS`] and a file below `commands`.

use std::ffi::OsStr;
use std::io::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::carried;
use crate::columns;
use crate::commands::{
    allow, bundle, completions, config, contexts, denials, deny, dev, init, inspect, issue, keys,
    lint, list, operators, policy, renew, revoke, serve, show, token, trust, verify,
};
use crate::diagnostics::{self, EVERYTHING, LogFormat};
use crate::error::Error;
use crate::exit::Exit;
use crate::options::GlobalOptions;
use crate::output::{Lines, to_stderr};
use crate::report;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    about = "countersign: a private CA for service-to-service mTLS",
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The form of what the command writes to stderr.
    pub(crate) fn lines(&self) -> Lines {
        match &self.command {
            Command::Serve(serve) if serve.log_format == LogFormat::Json => Lines::Diagnostics,
            _ => Lines::Text,
        }
    }

    /// Starts diagnostics: all of them with `--verbose`; without it, those of the service that an
    /// operator must see, and none of other commands.
    pub(crate) fn start_diagnostics(&self) {
        match (&self.command, self.options.verbose) {
            // It starts them itself, because it listens to them too.
            (Command::Dev(_), _) => {}
            (Command::Serve(serve), verbose) => {
                diagnostics::start(if verbose { EVERYTHING } else { "info" }, serve.log_format);
            }
            (_, true) => diagnostics::start(EVERYTHING, LogFormat::Text),
            _ => {}
        }
    }
}

/// The commands, grouped by [`GROUPS`].
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a CA for development on free ports, and show what it does
    Dev(dev::Arguments),
    /// Make a CA: keys, log, first operator; or repair what expired
    Init(init::Arguments),
    /// Run the CA
    Serve(serve::Arguments),
    /// Get a certificate for a SPIFFE ID
    Issue(issue::Arguments),
    /// Renew the SVID in a directory, if it is due
    Renew(renew::Arguments),
    /// List certificates
    List(list::Arguments),
    /// Show a certificate's record, policy decision and log index
    Show(show::Arguments),
    /// Show what a certificate says
    Inspect(inspect::Arguments),
    /// Verify a chain as a peer would, rule by rule
    Verify(verify::Arguments),
    /// Check a certificate against RFC 5280 and X.509-SVID
    Lint(lint::Arguments),
    /// Revoke certificates issued so far
    Revoke(revoke::Arguments),
    /// Deny an identity, until allowed again
    Deny(deny::Arguments),
    /// Allow a denied identity again
    Allow(allow::Arguments),
    /// List the identities that are denied
    #[command(subcommand)]
    Denial(denials::Command),
    /// Create, list and revoke one-time bootstrap tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Show, pin and fetch the signed trust state
    #[command(subcommand)]
    Trust(trust::Command),
    /// Show the anchors in plain form
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// List issuers, and let one take another's place
    #[command(subcommand)]
    Issuer(keys::IssuerCommand),
    /// List the CA's keys, and let one take another's place
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Take every step of a rotation that is due; for cron
    Rotate(keys::Rotate),
    /// Check, apply and explain policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Add, list and remove operators
    #[command(subcommand)]
    Operator(operators::Command),
    /// How the CA is doing
    Status,
    /// List contexts (which CA, and as whom), choose one, forget one
    #[command(subcommand)]
    Context(contexts::Command),
    /// Check the service's configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Print completions for a shell
    Completions(completions::Arguments),
}

/// Parses the command line; ends the process with 2 where it cannot be understood.
pub(crate) fn parse() -> Cli {
    carried::know(command);
    let mut command = without_empty_variables(command());
    if std::env::args_os().nth(1).is_none() {
        // clap's own way counts HOME among the arguments. There is nobody left to tell if it fails.
        let _ = write!(std::io::stderr(), "{}", command.render_help());
        std::process::exit(i32::from(Exit::Usage as u8));
    }
    let matches = command.try_get_matches().unwrap_or_else(|error| told(&error));
    carried::keep(&matches);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// clap breaks the lines of help, and none of errors.
fn told(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let is_wide = |columns| text.lines().any(|line| columns::width(line) > columns);
    match columns::of_stderr() {
        Some(columns) if error.use_stderr() && is_wide(columns) => to_stderr(&text),
        _ => {
            let printed = error.print().and_then(|()| std::io::stdout().flush());
            if let Err(source) = printed
                && source.kind() != std::io::ErrorKind::BrokenPipe
                && !error.use_stderr()
            {
                let error = Error::Stdout(source);
                let exit = error.exit();
                report::error(&error.into());
                std::process::exit(i32::from(exit as u8));
            }
        }
    }
    std::process::exit(error.exit_code())
}

/// An empty variable is as good as none (XDG Base Directory Specification; containers set what has no
/// value to nothing): clap would take it for a value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(None::<&'static str>),
        _ => argument,
    });
    command.mut_subcommands(without_empty_variables)
}

/// The command line with its help in groups, which clap cannot do itself.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        groups.push_str(&format!("{heading}:\n"));
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(clap::Command::get_about)
                .expect("the groups name commands with a description");
            groups.push_str(&format!("  {name:<13}{about}\n"));
        }
        groups.push('\n');
    }
    command
        // `countersign help` is enough.
        .mut_subcommands(|group| group.disable_help_subcommand(true))
        .help_template(format!(
            "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}"
        ))
        .max_term_width(80)
}

const GROUPS: &[(&str, &[&str])] = &[
    ("Start here", &["dev", "init", "serve"]),
    (
        "Certificates",
        &[
            "issue", "renew", "list", "show", "inspect", "verify", "lint", "revoke", "deny",
            "allow", "denial", "token",
        ],
    ),
    ("Trust and keys", &["trust", "bundle", "issuer", "key", "rotate"]),
    ("Policy", &["policy", "operator"]),
    ("Operate", &["status", "context", "config", "completions"]),
];

const EXIT_CODES: &str = "\
Exit: 0 done or nothing to do · 1 failed · 2 usage, configuration
      3 refused by policy or attestation · 4 unreachable, retry later
      5 verification failed (certificate, trust)
Results go to stdout. Notes, warnings and errors are text on stderr, with --json
too: what went wrong is told by the code.";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_stands_in_one_group() {
        let grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = command();
        let all: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(grouped.len(), all.len());
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
