//! Requests that their callers have named (`Idempotency-Key`): done once, and answered alike for a
//! day.
//!
//! The name is written in the act's own transaction. A crash before it: nothing happened, and the
//! same request does it. After it, before the answer: the same request finds what was done. Of
//! requests at once, one is done, and the others find it. What failed is not kept, and what only
//! reads has nothing to keep. The answer's secrets are not kept either: a token's is made anew, by
//! a key that is not in the database.

use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::sequencer::KeptRequest;
use crate::store::StoreError;

/// What an answer is made of again.
pub(crate) fn read_answer<T: DeserializeOwned>(kept: &KeptRequest) -> Result<T, Error> {
    let gone = |error: serde_json::Error| {
        StoreError::Inconsistent(format!("what was kept of a request: {error}"))
    };
    Ok(serde_json::from_str(&kept.answer).map_err(gone)?)
}
