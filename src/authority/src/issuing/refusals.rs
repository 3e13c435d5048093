//! What of refusals stands in the log: each attested one, up to a cap for each principal, and for
//! strangers one sum a minute. Nobody fills the log by being refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::caller::Caller;
use crate::error::Error;
use crate::event::{Act, EventDraft, ISSUE_REFUSED};
use crate::sequencer::{ActMember, Effect};
use crate::writer::Writer;

/// Counts refusals between sums.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    strangers: AtomicU64,
    attested: Mutex<HashMap<String, u32>>,
}

impl Refusals {
    /// A caller that proved nothing.
    pub(crate) fn note_stranger(&self) {
        metrics::counter!("countersign_refused_total", "who" => "stranger").increment(1);
        self.strangers.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller that proved who it is, and may not have what it asks for.
    pub(crate) async fn note_attested(
        &self,
        writer: &Writer,
        principal: &str,
        caller: &Caller,
        error: &Error,
    ) {
        metrics::counter!("countersign_refused_total", "who" => "attested").increment(1);
        let (reason, policies) = match error {
            Error::Denied(denied) => (denied.reason.clone(), denied.policies.clone()),
            Error::Issuance(_) | Error::Invalid { .. } | Error::Revoked(_) => {
                (error.to_string(), Vec::new())
            }
            _ => return,
        };
        if !self.below_cap(principal) {
            return;
        }
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let detail = serde_json::json!({ "policies": policies, "reason": reason });
        let by = Act { actor: principal, request_id: &caller.request_id };
        if let Err(error) = log(writer, &by, principal, &detail).await {
            tracing::warn!(%error, "a refusal could not be logged");
        }
    }

    /// Logs the sum of strangers refused, and lets principals be logged anew.
    pub(crate) async fn summarise(&self, writer: &Writer) -> Result<(), Error> {
        self.attested.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let count = self.strangers.swap(0, Ordering::Relaxed);
        if count == 0 {
            return Ok(());
        }
        let by = Act { actor: "authority", request_id: "" };
        log(writer, &by, "strangers", &serde_json::json!({ "count": count })).await
    }

    fn below_cap(&self, principal: &str) -> bool {
        let mut attested = self.attested.lock().unwrap_or_else(PoisonError::into_inner);
        let count = attested.entry(principal.to_owned()).or_default();
        *count += 1;
        *count <= CAP
    }
}

async fn log(
    writer: &Writer,
    by: &Act<'_>,
    subject: &str,
    detail: &serde_json::Value,
) -> Result<(), Error> {
    let event = EventDraft::new(ISSUE_REFUSED, by, subject, detail);
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    writer.ask(act).await.map(drop)
}

/// Of a reason that repeats a long input, the beginning is enough.
const MAX_REASON: usize = 500;
/// Refusals of one principal that are logged between two sums.
const CAP: u32 = 10;
