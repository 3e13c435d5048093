//! Why the service does not run.

use std::net::SocketAddr;

/// Why the service does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The engine refuses.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The system lets this process open too few files.
    #[error(
        "this process may open {open_files} files at once (`ulimit -Hn`), and the CA needs {least}: with \
         fewer it would start, and let nobody in"
    )]
    FewFiles {
        /// How many it may open.
        open_files: usize,
        /// How many it must.
        least: usize,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}, as `{key}` says: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What names it in the configuration.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A key is missing, and so is a certificate of before.
    #[error(
        "nobody could reach it: it has no certificate of before, and makes none without its {purpose} \
         key"
    )]
    NoCertificate {
        /// Which key.
        purpose: &'static str,
    },
    /// The CA's own key cannot be made.
    #[error("the CA's own key cannot be made: {0}")]
    OwnKey(String),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] countersign::Error),
}
