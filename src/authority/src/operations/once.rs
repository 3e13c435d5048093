//! Requests that their callers have named (`Idempotency-Key`): done once, and answered alike for a
//! day.
//!
//! The name is written in the act's own transaction. A crash before it: nothing happened, and the
//! same request does it. After it, before the answer: the same request finds what was done. Of
//! requests at once, one is done, and the others find it. What failed is not kept, and what only
//! reads has nothing to keep. The answer's secrets are not kept either: a token's is made anew, by
//! a key that is not in the database.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tlog::Hash;

use crate::authority::{Authority, Caller};
use crate::error::Error;
use crate::limits;
use crate::sequencer::{
    Conflict, IdempotencyKey, KEPT_MILLISECONDS, KeptRequest, Member, OnceMember,
};
use crate::store::StoreError;

impl Authority {
    /// The caller's own name for this request, where it has one. `what` tells routes apart.
    pub(crate) fn named(
        &self,
        caller: &Caller,
        what: &str,
        request: &impl Serialize,
    ) -> Result<Option<IdempotencyKey>, Error> {
        let Some(key) = &caller.idempotency_key else { return Ok(None) };
        require_name(key)?;
        let request = serde_json::to_string(request).expect("requests are plain data");
        let request_hash = Hash::of(format!("{what}\n{request}").as_bytes());
        let principal = caller.name().to_owned();
        Ok(Some(IdempotencyKey { principal, key: key.clone(), request_hash }))
    }

    /// What was done of the same request before. To be asked after the state was read under which
    /// it is allowed: what is done later either moves that, or the commit finds it.
    pub(crate) async fn kept(
        &self,
        named: Option<&IdempotencyKey>,
    ) -> Result<Option<KeptRequest>, Error> {
        let Some(IdempotencyKey { principal, key, request_hash }) = named else {
            return Ok(None);
        };
        let since = self.clock().unix_milliseconds().saturating_sub(KEPT_MILLISECONDS);
        let kept = self.store().kept_request(principal.clone(), key.clone(), since).await?;
        match kept {
            Some(kept) if kept.request_hash == *request_hash => {
                metrics::counter!("countersign_requests_repeated_total").increment(1);
                Ok(Some(kept))
            }
            Some(_) => Err(Error::Conflict(Conflict::IdempotencyMismatch)),
            None => Ok(None),
        }
    }
}

/// A member that is done once where its request was named. An answer is kept with it.
pub(crate) fn once(named: Option<&IdempotencyKey>, answer: String, member: Member) -> Member {
    match named {
        None => member,
        Some(named) => Member::Once(Box::new(OnceMember { named: named.clone(), answer, member })),
    }
}

/// What an answer is made of again.
pub(crate) fn read_answer<T: DeserializeOwned>(kept: &KeptRequest) -> Result<T, Error> {
    let gone = |error: serde_json::Error| {
        StoreError::Inconsistent(format!("what was kept of a request: {error}"))
    };
    Ok(serde_json::from_str(&kept.answer).map_err(gone)?)
}

/// Refuses a name that no header should carry.
pub(crate) fn require_name(key: &str) -> Result<(), Error> {
    let is_good =
        (1..=MAX_NAME).contains(&key.len()) && key.bytes().all(|it| it.is_ascii_graphic());
    if is_good {
        return Ok(());
    }
    if key.len() > MAX_NAME {
        limits::IDEMPOTENCY_KEY.reached();
    }
    Err(Error::Invalid {
        why: format!("Idempotency-Key is not one of 1 to {MAX_NAME} visible ASCII characters"),
        next_step: Some("take a random one for each request, such as a UUID".to_owned()),
    })
}

/// In bytes; a UUID has 36.
pub(crate) const MAX_NAME: usize = 255;
