//! Who asks.

use identity::VerifiedSvid;
use serde::Serialize;
use tlog::Hash;

use crate::error::Error;
use crate::event::{Act, EventDraft};
use crate::limits;
use crate::sequencer::IdempotencyKey;

/// Who calls, and in which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The certificate verified in the connection's handshake; none without one.
    pub svid: Option<VerifiedSvid>,
    /// What the server's diagnostics call the request.
    pub request_id: String,
    /// What the caller calls it, `Idempotency-Key`: it is done once.
    /// [`Issuing::issue`](crate::Issuing::issue) takes it as an argument, since some who ask for a
    /// certificate are known by their evidence alone.
    pub idempotency_key: Option<String>,
}

impl Caller {
    /// The caller's SPIFFE ID as actors of events are named.
    pub(crate) fn name(&self) -> &str {
        self.svid.as_ref().map_or("anonymous", |svid| svid.spiffe_id().as_str())
    }

    /// The caller's own name for this request, where it has one. `what` tells routes apart.
    pub(crate) fn named(
        &self,
        what: &str,
        request: &impl Serialize,
    ) -> Result<Option<IdempotencyKey>, Error> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        require_name(key)?;
        let request = serde_json::to_string(request).expect("requests are plain data");
        let request_hash = Hash::of(format!("{what}\n{request}").as_bytes());
        let principal = self.name().to_owned();
        Ok(Some(IdempotencyKey { principal, key: key.clone(), request_hash }))
    }

    /// Whose act an event is.
    pub(crate) fn by(&self) -> Act<'_> {
        Act { actor: self.name(), request_id: &self.request_id }
    }

    /// An event of theirs.
    pub(crate) fn draft(
        &self,
        kind: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> EventDraft {
        EventDraft::new(kind, &self.by(), subject, detail)
    }
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

const MAX_NAME: usize = limits::IDEMPOTENCY_KEY.most();
