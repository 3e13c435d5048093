//! The options that every command takes.

use std::path::PathBuf;

use clap::Args;

use crate::output::{Format, Lines, Notes, Output};

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// The CA's URL, https://HOST:PORT; else the context's
    #[arg(long, global = true, env = "COUNTERSIGN_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Show one JSON object, or one per line for lists
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show results, warnings and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Show diagnostics, on stderr
    #[arg(long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Do not ask for confirmation
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    // The environment is read here and nowhere else.
    #[arg(long, global = true, hide = true, env = "XDG_CONFIG_HOME")]
    pub(crate) config_home: Option<PathBuf>,
    #[arg(long, global = true, hide = true, env = "HOME")]
    pub(crate) home: Option<PathBuf>,
}

impl GlobalOptions {
    /// Where results and notes go.
    pub(crate) fn output(&self) -> Output {
        Output {
            format: if self.json { Format::Json } else { Format::Human },
            notes: if self.quiet { Notes::Hidden } else { Notes::Shown },
            lines: Lines::Text,
        }
    }
}
