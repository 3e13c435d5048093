//! Files beside the database that speak about the log: how they are written. What they prove is looked at
//! in [`evidence`](crate::evidence).

pub(crate) mod kept_file;
pub(crate) mod kept_head;

use std::path::{Path, PathBuf};

/// One of these files.
#[derive(Debug, Clone)]
pub(crate) struct EvidenceFile {
    pub(crate) path: PathBuf,
    pub(crate) what: &'static str,
}

impl EvidenceFile {
    pub(crate) fn all(state: &Path) -> [Self; 3] {
        [Self::head(state), Self::checkpoint(state), Self::halt(state)]
    }

    pub(crate) fn checkpoint(state: &Path) -> Self {
        Self { path: state.join("checkpoint"), what: "the newest checkpoint" }
    }

    pub(crate) fn head(state: &Path) -> Self {
        Self { path: state.join("head"), what: "the newest head of the log" }
    }

    pub(crate) fn halt(state: &Path) -> Self {
        Self { path: state.join("halted"), what: "why the CA has halted" }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What an event calls it.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Tells that it was removed or replaced under this process, which writes it anew: whoever did it
    /// may be about to put back an older database.
    pub(crate) fn tell_rewritten(&self) {
        let file = self.name();
        tracing::error!(
            path = %self.path.display(),
            "what is kept of the log beside its database was removed or replaced while this process \
             ran, and is written anew: find out who did it, and compare the log with a checkpoint held \
             elsewhere before the CA is started again"
        );
        metrics::counter!(REWRITTEN, "file" => file).increment(1);
    }
}

const REWRITTEN: &str = "countersign_kept_files_rewritten_total";
