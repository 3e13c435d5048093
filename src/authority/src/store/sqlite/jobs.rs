//! Jobs on threads that may wait for a disk.

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::errors::gone;
use crate::store::{Answer, StoreError};

pub(super) fn blocking<'a, T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Answer<'a, T> {
    let waits = Waits::begin();
    let begin = move |turn| {
        let job = move || {
            drop(waits);
            let done = job();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(job).map(|done| done.unwrap_or_else(|_| Err(gone())))
    };
    match TURNS.try_acquire() {
        Ok(turn) => begin(turn).boxed(),
        // Whoever goes away before their turn leaves nothing behind.
        Err(_) => async move {
            let turn = TURNS.acquire().await.map_err(|_| gone())?;
            begin(turn).await
        }
        .boxed(),
    }
}

/// A job that no thread has begun.
struct Waits;

impl Waits {
    fn begin() -> Self {
        metrics::gauge!(WAITING).increment(1.0);
        Self
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        metrics::gauge!(WAITING).decrement(1.0);
    }
}

/// Of jobs that threads do or are about to: while a disk hangs, no more wait for one.
static TURNS: Semaphore = Semaphore::const_new(1024);
/// Who waits for a thread.
const WAITING: &str = "countersign_store_waiting";
