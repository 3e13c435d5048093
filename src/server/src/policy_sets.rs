//! Policy sets over HTTP: bodies that are larger than any other, of a few callers at once, and one
//! answer for all who read the same set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{ActivePolicy, MAX_POLICY_BYTES, ProblemType};
use authority::policy::PolicyError;
use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::caller::{BodyLimit, SMALL};
use crate::problem::Refused;

/// What all requests about policy sets share.
#[derive(Debug)]
pub(crate) struct PolicySets {
    places: Arc<Semaphore>,
    shown: Mutex<Option<(String, Bytes)>>,
}

impl Default for PolicySets {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), shown: Mutex::default() }
    }
}

impl PolicySets {
    /// Waits until a body may be read that is larger than others: each is held several times over
    /// until its set is in force. One that announces itself as small waits for nobody.
    pub(crate) async fn place(
        &self,
        announced: Option<u64>,
        request_id: &str,
    ) -> Result<Option<OwnedSemaphorePermit>, Refused> {
        if announced.is_some_and(|bytes| bytes <= SMALL.bytes as u64) {
            return Ok(None);
        }
        let place = Arc::clone(&self.places).acquire_owned();
        if let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, place).await {
            return Ok(Some(place));
        }
        metrics::counter!("countersign_bodies_refused_total", "reason" => "busy").increment(1);
        let detail = "other policy sets are being applied";
        let next = "wait until they are, read the set in force again, and apply again";
        Err(Refused::request(ProblemType::RateLimited, detail, Some(next), request_id)
            .retry_after(PATIENCE.as_secs()))
    }

    /// The answer that shows a set: megabytes, made once for whoever reads it.
    pub(crate) fn answer(&self, hash: &str, files: &BTreeMap<String, String>) -> Bytes {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answer)) = shown.as_ref().filter(|(held, _)| held == hash) {
            return answer.clone();
        }
        let active = ActivePolicy { hash: hash.to_owned(), files: files.clone() };
        let answer = Bytes::from(serde_json::to_vec(&active).expect("files are plain text"));
        *shown = Some((active.hash, answer.clone()));
        answer
    }
}

/// What is read of a policy set: as much as one may have.
pub(crate) const LIMIT: BodyLimit = BodyLimit {
    bytes: MAX_POLICY_BYTES,
    time: Duration::from_secs(30),
    too_large: |bytes| {
        let error = PolicyError::TooLarge { bytes };
        (error.to_string(), error.next_step().unwrap_or_default())
    },
};
pub(crate) const AT_ONCE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(5);
