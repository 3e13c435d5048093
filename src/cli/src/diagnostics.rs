//! Diagnostics: tracing events, on stderr.

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::escape;

/// The form of diagnostics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One object a line
    Json,
    /// For people
    Text,
}

/// Sends diagnostics to stderr. One filter before everything: what it leaves out costs nothing.
///
/// Where stderr is a file on a disk that is full, what cannot be written is lost, and nothing else:
/// an event about that would be written there too, and end the task that has something to say.
pub(crate) fn start(filter: &str, format: LogFormat) {
    if format == LogFormat::Json {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(escape::json_diagnostics)
            .log_internal_errors(false)
            .with_env_filter(EnvFilter::new(filter))
            .init();
        // A bug is told in the stream's form, too.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        return;
    }
    tracing_subscriber::fmt()
        .fmt_fields(escape::fields())
        .with_writer(escape::diagnostics)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(filter))
        .init();
}

/// The same for `dev`: of its services, which run in front of somebody, only errors are shown; that
/// one of them is cut off stands among what `dev` tells itself.
pub(crate) fn start_of_dev(listener: impl Layer<Registry> + Send + Sync, verbose: bool) {
    let errors = format!("error,{CUT_OFF}=off");
    let filter = if verbose { EVERYTHING } else { &errors };
    let shown = tracing_subscriber::fmt::layer()
        .fmt_fields(escape::fields())
        .with_writer(escape::diagnostics)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_filter(EnvFilter::new(filter));
    tracing_subscriber::registry().with(listener).with(shown).init();
}

/// What is shown with `--verbose`.
pub(crate) const EVERYTHING: &str = "debug,hyper=info,rustls=info,h2=info";

/// Where the library says that a workload is cut off.
const CUT_OFF: &str = "countersign::workload::upkeep::own";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_dev_tells_itself_is_said_where_the_library_says_it() {
        let module = CUT_OFF.strip_prefix("countersign::").unwrap().replace("::", "/");
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/src");
        let source = std::fs::read_to_string(library.join(module).with_extension("rs")).unwrap();
        assert!(source.contains("tracing::error!(rule"), "{CUT_OFF}");
    }
}
