//! The metrics as text. To write it takes milliseconds, and anybody on the host may ask: it is written
//! once at a time, for all who asked before, and for a tenth of the time at most. It is written where it is
//! asked for, and not by the threads that wait for disks: it is told while those hang, too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// What is told to scrapers.
#[derive(Clone)]
pub(crate) struct Exposition {
    write: Arc<dyn Fn() -> String + Send + Sync>,
    last: Arc<Mutex<Option<Written>>>,
}

/// The newest text.
#[derive(Clone)]
struct Written {
    text: Bytes,
    begun: Instant,
    /// Not before then another is begun.
    next: Instant,
}

impl Exposition {
    /// Of this recorder; of none nothing is told.
    pub(crate) fn of(recorder: Option<PrometheusHandle>) -> Self {
        Self::by(move || recorder.as_ref().map(PrometheusHandle::render).unwrap_or_default())
    }

    fn by(write: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { write: Arc::new(write), last: Arc::default() }
    }

    /// The metrics as they are now, or later.
    pub(crate) async fn now(&self) -> Bytes {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(written) = last.as_ref() {
            if written.begun >= asked {
                return written.text.clone();
            }
            sleep_until(written.next).await;
        }
        let begun = Instant::now();
        let text = Bytes::from((self.write)());
        let next = begun + (begun.elapsed() * SHARE).min(LONGEST);
        *last = Some(Written { text: text.clone(), begun, next });
        text
    }
}

/// Of the time one part goes to writing.
const SHARE: u32 = 10;
/// However long it took: scrapers wait for seconds.
const LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Each text is its number, and takes so long.
    fn counting(takes: Duration) -> (Exposition, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let write = move || {
            std::thread::sleep(takes);
            counted.fetch_add(1, Ordering::SeqCst).to_string()
        };
        (Exposition::by(write), count)
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_what_is_written_for_the_first_that_waits() {
        let (exposition, count) = counting(Duration::from_millis(20));
        let asked: Vec<_> = (0..50)
            .map(|_| exposition.clone())
            .map(|exposition| tokio::spawn(async move { exposition.now().await }))
            .collect();
        for told in asked {
            told.await.unwrap();
        }
        let count = count.load(Ordering::SeqCst);
        assert!((1..=3).contains(&count), "{count} texts for fifty");
    }

    #[tokio::test]
    async fn what_is_told_is_never_older_than_the_question() {
        let (exposition, count) = counting(Duration::ZERO);
        for asked in 0..5 {
            count.store(asked * 100, Ordering::SeqCst);
            assert_eq!(exposition.now().await, (asked * 100).to_string());
        }
    }
}
