//! What is told in the diagnostics, for tests that listen.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

/// Errors and warnings, each with its fields in one line.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// Hears what is told on this thread. Elsewhere it is told, too, and heard nowhere: what another
    /// test tells first, on a thread where nobody listens, would be untold for all threads from then on.
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        static EVERYWHERE: Once = Once::new();
        EVERYWHERE.call_once(|| {
            tracing::subscriber::set_global_default(Self::default()).unwrap();
        });
        let told = Self::default();
        (told.clone(), tracing::subscriber::set_default(told))
    }

    /// Those in which these words are.
    pub(crate) fn with(&self, words: &str) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|line| line.contains(words)).cloned().collect()
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}
