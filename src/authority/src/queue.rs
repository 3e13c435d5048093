//! The way into the transaction: concurrent requests share commits.
//!
//! Whatever waits is taken together, at most 256 members; one request on an idle machine waits for
//! no company. While a commit is on its way to the disk, the next group gathers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::error::Error;
use crate::sequencer::{Member, Outcome};
use crate::store::{Store, StoreError};

/// A handle on the queue; the task ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Waiting>,
}

struct Waiting {
    member: Member,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

impl Queue {
    /// Starts the queue before a store.
    pub(crate) fn start(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(receiver, store, clock));
        Self { sender }
    }

    /// Takes part in the next commit, and returns what became of it.
    pub(crate) async fn submit(&self, member: Member) -> Result<Outcome, Error> {
        let (answer, outcome) = oneshot::channel();
        self.sender.try_send(Waiting { member, answer }).map_err(|_| Error::Overloaded)?;
        let lost = || StoreError::Unavailable("the queue before it has ended".to_owned());
        Ok(outcome.await.map_err(|_| lost())??)
    }
}

async fn run(mut receiver: mpsc::Receiver<Waiting>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    while let Some(first) = receiver.recv().await {
        let mut waiting = vec![first];
        // Requests that are about to ask may join; on an idle machine there are none to wait for.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        while waiting.len() < MAX_GROUP
            && let Ok(next) = receiver.try_recv()
        {
            waiting.push(next);
        }
        let (members, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.member, waiting.answer)).unzip();
        metrics::histogram!("countersign_commit_members").record(members.len() as f64);
        match store.commit(members, clock.unix_milliseconds()).await {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that went away will ask again, and find what was written.
                    drop(answer.send(Ok(outcome)));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store does not commit");
                for answer in answers {
                    drop(answer.send(Err(error.clone())));
                }
            }
        }
    }
}

/// Requests of one transaction at most.
const MAX_GROUP: usize = 256;
/// Requests that may wait; beyond it callers are told to come again.
const MAX_WAITING: usize = 4096;
