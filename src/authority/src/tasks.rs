//! What was begun is completed by the engine, whatever becomes of the connection on which it was asked
//! for: from the commit on, a certificate is signed and stored, and tokens and budgets are settled, by
//! a task of its own. A request only waits for it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::limits::{self, MAX_WAITING, RESERVED};
use crate::store::StoreError;

/// So many at once; those beyond are told to come again, as by the queue before the log.
#[derive(Debug)]
pub(crate) struct Tasks {
    places: Arc<Semaphore>,
}

impl Default for Tasks {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_TASKS));
        Self { places }
    }
}

/// Room for one, to be had before anything is taken for it.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Tasks {
    pub(crate) fn open(&self) -> usize {
        MAX_TASKS - self.places.available_permits()
    }

    /// Waits until none is open, for so long at most.
    pub(crate) async fn ended(&self, within: Duration) {
        let all = self.places.acquire_many(MAX_TASKS as u32);
        drop(tokio::time::timeout(within, all).await);
    }

    /// For what is not urgent: some places are left for what takes away.
    pub(crate) fn place_for_others(&self) -> Result<Place, Error> {
        if self.places.available_permits() <= RESERVED {
            limits::COMPLETIONS.reached();
            return Err(Error::Overloaded);
        }
        self.place()
    }

    pub(crate) fn place(&self) -> Result<Place, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(|_permit| Place { _permit }).map_err(|_| {
            limits::COMPLETIONS.reached();
            Error::Overloaded
        })
    }
}

impl Place {
    /// Does it to its end, and returns what came of it. Fails where the process ends first.
    pub(crate) async fn finish<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        finish(async move {
            let done = work.await;
            drop(self);
            done
        })
        .await
    }
}

/// The same, for what is done one at a time.
pub(crate) async fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Error> {
    let ended = |_| StoreError::Unavailable("the task that was to do it has ended".to_owned());
    Ok(tokio::spawn(work).await.map_err(ended)?)
}

/// As many as may wait for the log.
pub(crate) const MAX_TASKS: usize = MAX_WAITING;
