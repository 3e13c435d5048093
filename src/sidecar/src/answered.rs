//! Whether a connection over HTTP/1 is between two requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the last request has been answered to its end, and nothing of it can still come: it had no
/// body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered(Arc<AtomicBool>);

impl Answered {
    /// That all of the last answer was handed to HTTP.
    pub(crate) fn is_last_word(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Another request begins, or may.
    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// To be kept until all of an answer is handed to HTTP.
    pub(crate) fn answering(&self) -> Answering {
        Answering(self.clone())
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answering(Answered);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}
