//! Whether a connection over HTTP/1 is between two requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the last request has been answered to its end, and nothing of it can still come: it had no
/// body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// How many have begun.
    begun: AtomicU64,
    /// The last of those without a body that was answered; 0 before there is one.
    answered: AtomicU64,
}

impl Answered {
    /// That all of the last request's answer was handed to HTTP.
    pub(crate) fn is_last_word(&self) -> bool {
        let begun = self.0.begun.load(Ordering::Acquire);
        begun > 0 && self.0.answered.load(Ordering::Acquire) == begun
    }

    /// Another request begins, or may.
    pub(crate) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// Of the request that has just begun: to be kept until all of its answer is handed to HTTP, which
    /// may let go of it only after another has begun.
    pub(crate) fn answering(&self) -> Answering {
        Answering { request: self.0.begun.load(Ordering::Acquire), requests: Arc::clone(&self.0) }
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answering {
    request: u64,
    requests: Arc<Requests>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.requests.answered.store(self.request, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_end_of_one_answer_says_nothing_of_the_next() {
        let answered = Answered::default();
        assert!(!answered.is_last_word());
        answered.begin();
        let first = answered.answering();
        answered.begin();
        drop(first);
        assert!(!answered.is_last_word());
        drop(answered.answering());
        assert!(answered.is_last_word());
        answered.begin();
        assert!(!answered.is_last_word());
    }
}
