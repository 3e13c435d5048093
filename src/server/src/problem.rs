//! Errors become problems here, and nowhere else. Internal text stays inside.

use std::sync::Arc;
use std::time::Duration;

use api::{ABANDONED, Problem, ProblemType, Ttl, UNSURE};
use authority::policy::PolicyError;
use authority::sequencer::Conflict;
use authority::signer::SignerError;
use authority::store::StoreError;
use authority::{Error, HALTED_NEXT_STEP};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use identity::Refusal;

use crate::diagnostics::Why;
use crate::readiness::AsTyped;

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Refused {
    problem: Box<Problem>,
    /// For the diagnostics: an error's own text stays inside.
    why: String,
    /// When to try again, in seconds, where it is known.
    retry_after: Option<u64>,
    /// What an operator is told in its place: what is wrong inside.
    inside: Option<Box<Problem>>,
    /// Whether it is told that bodies are taken as they are (RFC 9110 §12.5.3).
    takes_no_coding: bool,
}

impl Refused {
    /// The engine's error, as callers see it.
    pub(crate) fn new(error: Error, request_id: &str) -> Self {
        let mut problem = describe(&error, request_id);
        let (why, inside) = (error.to_string(), inside(&error));
        let mut retry_after = None;
        match error {
            Error::Budget { seconds, .. } => retry_after = Some(seconds),
            Error::Denied(denied) => problem.policies = denied.policies,
            Error::Abandoned => problem.rule = Some(ABANDONED.to_owned()),
            Error::Store(StoreError::Unsure { .. }) => problem.rule = Some(UNSURE.to_owned()),
            _ => {}
        }
        let inside = inside.map(|(detail, next_step)| {
            Box::new(Problem { detail, next_step: Some(next_step), ..problem.clone() })
        });
        Self { problem: Box::new(problem), why, retry_after, inside, takes_no_coding: false }
    }

    /// A request that HTTP or JSON already refuses.
    pub(crate) fn request(
        kind: ProblemType,
        detail: impl Into<String>,
        next_step: Option<&str>,
        request_id: &str,
    ) -> Self {
        let mut refused = problem(kind, detail.into(), request_id);
        refused.next_step = next_step.map(ToOwned::to_owned);
        let why = refused.detail.clone();
        let (problem, retry_after, inside) = (Box::new(refused), None, None);
        Self { problem, why, retry_after, inside, takes_no_coding: false }
    }

    /// The same, to be tried again after so many seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same, of a body that was encoded.
    pub(crate) fn takes_no_coding(mut self) -> Self {
        self.takes_no_coding = true;
        self
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).expect("a problem is plain data");
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, body).into_response();
        response.extensions_mut().insert(Why(self.why));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let usual = match self.problem.problem_type {
            ProblemType::RateLimited => Some(1),
            _ if self.problem.status == 503 => Some(5),
            _ => None,
        };
        if let Some(seconds) = self.retry_after.or(usual) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.takes_no_coding {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let step = self.problem.next_step.as_deref();
        let named = step.is_some_and(|step| step.contains("countersign ")).then_some(self.problem);
        if let Some(inside) = self.inside.or(named) {
            response.extensions_mut().insert(Inside(inside.into()));
        }
        response
    }
}

/// What only an operator is told of a refusal.
#[derive(Debug, Clone)]
struct Inside(Arc<Problem>);

/// An answer as an operator hears it: who runs the CA learns why it does not do its work, and how its
/// commands are typed on its host.
pub(crate) fn as_operators_hear(mut response: Response, as_typed: AsTyped) -> Response {
    if let Some(Inside(problem)) = response.extensions_mut().remove() {
        let mut problem = Problem::clone(&problem);
        problem.next_step = problem.next_step.as_deref().map(as_typed);
        let body = serde_json::to_vec(&problem).expect("a problem is plain data");
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = body.into();
    }
    response
}

/// What is wrong inside, and what to do, where others hear only that something is.
fn inside(error: &Error) -> Option<(String, String)> {
    let lasts = "send the same request again; `countersign status` says whether it lasts";
    match error {
        Error::Store(StoreError::Hindered { by, file, why }) => {
            let detail = format!("the CA's store cannot be used: {file}: {why}");
            Some((detail, format!("{}; then send the same request again", by.next_step(file))))
        }
        Error::Store(StoreError::Unsure { .. }) => Some((
            error.to_string(),
            "see to the disk of the CA's `state`; then send the same request again, with the same \
             Idempotency-Key: it is answered by what was done. Without one, look first whether it is"
                .to_owned(),
        )),
        Error::Halted(_) => Some((error.to_string(), HALTED_NEXT_STEP.to_owned())),
        Error::Store(_) | Error::Signer(_) | Error::Folder(_) | Error::Trust(_) => {
            Some((error.to_string(), lasts.to_owned()))
        }
        _ => None,
    }
}

fn describe(error: &Error, request_id: &str) -> Problem {
    match error {
        Error::Issuance(issuance) => return issuance_problem(issuance, request_id),
        Error::Policy(policy) => return policy_problem(policy, request_id),
        _ => {}
    }
    let (kind, detail, next_step) = told(error);
    let mut made = problem(kind, detail, request_id);
    made.next_step = next_step;
    made
}

/// The kind of problem, what is wrong, and what to do.
type Told = (ProblemType, String, Option<String>);

fn told(error: &Error) -> Told {
    let text = error.to_string();
    let next = |step: &str| Some(step.to_owned());
    match error {
        Error::Attestation { why, next_step } => {
            (ProblemType::AttestationRefused, why.clone(), Some(next_step.clone()))
        }
        Error::Budget { budget, seconds, .. } => {
            let step = format!(
                "try again in {seconds} s; `{budget}_per_hour` under [budgets] of the CA's \
                 configuration sets it, and an operator is not limited"
            );
            (ProblemType::RateLimited, text, Some(step))
        }
        Error::Conflict(conflict) => told_conflict(*conflict),
        Error::Restless => (ProblemType::Conflict, text, next("send the request again")),
        Error::Abandoned => {
            let step = "make another request, with a key of its own; where it is by token or has an \
                        Idempotency-Key, with a new one";
            (ProblemType::Conflict, text, next(step))
        }
        Error::Denied(denied) => {
            (ProblemType::PolicyDenied, denied.reason.clone(), denied.next_step.clone())
        }
        Error::Revoked(Refusal::Denied) => {
            let step = "`countersign allow SPIFFE_ID`, by an operator, lifts the denial";
            (ProblemType::PolicyDenied, text, next(step))
        }
        Error::Revoked(_) => {
            let step = "attest again, by a token: `countersign token create SPIFFE_ID`, by an operator; \
                        an operator: `countersign operator add NAME --again`, by another operator";
            (ProblemType::PolicyDenied, text, next(step))
        }
        Error::Halted(_) => {
            let step = "keep the database as it is, put the newest one back, and restart the CA";
            (ProblemType::LogUnavailable, text, next(step))
        }
        Error::Invalid { why, next_step } => {
            (ProblemType::RequestInvalid, why.clone(), next_step.clone())
        }
        Error::LocksOut(_) => {
            let step = "if it is meant, name it: \"override\": \"lock-out\", or \
                        --allow-locking-everybody-out; the way back is then `countersign init \
                        --recover` on the CA's host";
            (ProblemType::Conflict, text, next(step))
        }
        Error::Occupied { next_step, .. } => (ProblemType::Conflict, text, Some(next_step.clone())),
        Error::NotFound(_) => (ProblemType::NotFound, text, None),
        Error::NothingToRevoke(target) => {
            (ProblemType::NotFound, text, Some(what_is_there_to_revoke(target)))
        }
        Error::Overloaded | Error::Subscriptions(_) => (ProblemType::RateLimited, text, None),
        Error::CrlTooLong { .. } => {
            let step = "ask again once some have expired; until then take what is revoked from the \
                        feed: GET /v1/feed";
            (ProblemType::IssuerUnavailable, text, next(step))
        }
        Error::Snapshot { .. } => (ProblemType::LogUnavailable, text, None),
        Error::Store(store) => told_store(store),
        Error::Signer(SignerError::Absent { purpose, without, .. }) => {
            let step = "send the same request again later; the CA's operators find out more by \
                        countersign status";
            let detail = format!("without its {purpose} key {without}");
            (ProblemType::IssuerUnavailable, detail, next(step))
        }
        Error::Signer(_) => {
            let step = "send the same request again later";
            let detail = "the CA's key does not sign now".to_owned();
            (ProblemType::IssuerUnavailable, detail, next(step))
        }
        Error::OutOfTurn { next_step, .. } => (ProblemType::Conflict, text, next(next_step)),
        Error::Waits(waits) => (ProblemType::Conflict, text, Some(what_ends_it(waits))),
        _ => {
            let detail = "the CA cannot do this now".to_owned();
            let step = "send the same request again later; the CA's operators find out why in what \
                        `countersign serve` told, beside this answer's request_id";
            (ProblemType::IssuerUnavailable, detail, next(step))
        }
    }
}

fn told_conflict(conflict: Conflict) -> Told {
    match conflict {
        Conflict::IdempotencyMismatch => {
            let step = "repeat the same request, or choose another Idempotency-Key";
            (ProblemType::IdempotencyMismatch, conflict.to_string(), Some(step.to_owned()))
        }
        Conflict::EntryTooLarge => {
            let step = "ask for less at once: fewer names, or files with shorter ones";
            (ProblemType::Conflict, conflict.to_string(), Some(step.to_owned()))
        }
        Conflict::PolicyMoved => {
            let detail =
                "another policy set is in force than If-Match names, or it names a weak tag";
            let step = "read it again, compare, and apply again";
            (ProblemType::Conflict, detail.to_owned(), Some(step.to_owned()))
        }
        Conflict::TokenUsed => {
            let step = "revoke the certificate that came of it: `countersign list` shows its serial number; \
                 countersign revoke SERIAL --reason key-compromise";
            (ProblemType::Conflict, conflict.to_string(), Some(step.to_owned()))
        }
        _ => {
            let step = "send the request again";
            (ProblemType::Conflict, conflict.to_string(), Some(step.to_owned()))
        }
    }
}

fn told_store(error: &StoreError) -> Told {
    let (kind, detail, step) = match error {
        StoreError::ClockBehind { .. } => (
            ProblemType::LogUnavailable,
            "the CA's clock is behind its log: nothing is issued until it is set right",
            "on the CA's host: `date -u`, and set it right; where it is right, the log was ahead: stop \
             the CA, countersign init --recover --accept-clock; everybody else sends the same request \
             again later",
        ),
        StoreError::ClockLeapt(_) => (
            ProblemType::LogUnavailable,
            "the CA's clock leapt ahead: nothing is issued until it is set right or has stayed so",
            "on the CA's host: `date -u`, and set it right; where it is right, wait ten minutes, or stop \
             the CA, countersign init --recover --accept-clock; everybody else sends the same request \
             again later",
        ),
        StoreError::Hangs { .. } => (
            ProblemType::StoreUnavailable,
            "the CA's disk does not answer: nothing was done, or the same request finds what was",
            "send the same request again later",
        ),
        StoreError::Unsure { .. } => (
            ProblemType::StoreUnavailable,
            "the CA's disk does not answer: whether this is done is not known, and it may be done yet",
            "send the same request again later, with the same Idempotency-Key: it is answered by what \
             was done. Without one, look first whether it is",
        ),
        _ => (
            ProblemType::StoreUnavailable,
            "the CA's store does not answer: nothing was done, or the same request finds what was",
            "send the same request again later",
        ),
    };
    (kind, detail.to_owned(), Some(step.to_owned()))
}

/// Where a revocation found nothing.
fn what_is_there_to_revoke(target: &str) -> String {
    match target.strip_prefix("spiffe://").and_then(|id| id.split_once('/')) {
        Some(_) => format!(
            "`countersign list --id '*'` shows who has one; to keep somebody out who has none yet: \
             countersign deny {target} --reason privilege-withdrawn"
        ),
        None => format!("it is refused as it is; countersign show {target}"),
    }
}

/// What an operator can do about a step that waits.
fn what_ends_it(next: &api::NextStep) -> String {
    match (&next.first, next.certificates.first()) {
        (Some(_), _) => {
            "`countersign rotate` replaces it; or: countersign issuer prepare".to_owned()
        }
        (None, None) => "later: countersign rotate".to_owned(),
        (None, Some(first)) => format!(
            "wait, or see to {}, which renews, or: countersign revoke {} --reason superseded",
            first.spiffe_id, first.serial_number
        ),
    }
}

/// A request that breaks no rule; its key is in the other file.
const NEW_REQUEST: &str = "make a new one: openssl req -new -newkey ec -pkeyopt \
    ec_paramgen_curve:P-256 -nodes -subj / -keyout request.key -out request.csr";

fn issuance_problem(error: &issuance::Error, request_id: &str) -> Problem {
    let text = error.to_string();
    match error {
        issuance::Error::Request(rule) => {
            let mut made = problem(ProblemType::CsrInvalid, text, request_id);
            made.rule = Some(rule.name().to_owned());
            made.next_step = Some(NEW_REQUEST.to_owned());
            made
        }
        issuance::Error::IssuerBegins { .. } => {
            problem(ProblemType::IssuerUnavailable, text, request_id)
        }
        issuance::Error::DnsName { .. } => problem(ProblemType::RequestInvalid, text, request_id),
        issuance::Error::Profile { rule, .. } => {
            let kind = match rule {
                issuance::ProfileRule::IssuerEnds => ProblemType::IssuerUnavailable,
                issuance::ProfileRule::KeyType(_) => ProblemType::CsrInvalid,
                _ => ProblemType::RequestInvalid,
            };
            let mut made = problem(kind, text, request_id);
            if let issuance::ProfileRule::Validity { asked, shortest, longest } = rule {
                let nearest = Ttl(Duration::from_secs(*asked.clamp(shortest, longest)));
                made.next_step = Some(format!("ask for {nearest}: --ttl {nearest}"));
            }
            made
        }
        _ => problem(
            ProblemType::IssuerUnavailable,
            "what would be signed does not pass the linter".to_owned(),
            request_id,
        ),
    }
}

fn policy_problem(error: &PolicyError, request_id: &str) -> Problem {
    let kind = match error {
        // Nothing is known of the set.
        PolicyError::Thread(_) => return not_parsed_now(request_id),
        PolicyError::TooLarge { .. } => ProblemType::TooLarge,
        _ => ProblemType::RequestInvalid,
    };
    let mut made = problem(kind, error.to_string(), request_id);
    let usual = "`countersign policy check DIR` finds it before it is sent";
    made.next_step = Some(match error {
        PolicyError::OwnName { row, .. } => format!(
            "take it out of row {row}; `countersign policy check DIR --config FILE`, with the \
             CA's configuration, finds it before it is sent"
        ),
        PolicyError::NotPermitted { row, found } => found.next_step(row),
        _ => error.next_step().unwrap_or(usual).to_owned(),
    });
    made
}

fn not_parsed_now(request_id: &str) -> Problem {
    let detail = "the CA has no thread to parse policies on now: nothing was changed".to_owned();
    let mut made = problem(ProblemType::IssuerUnavailable, detail, request_id);
    made.next_step = Some("send the same request again later".to_owned());
    made
}

fn problem(kind: ProblemType, detail: String, request_id: &str) -> Problem {
    Problem {
        problem_type: kind,
        title: kind.name().replace('-', " "),
        status: kind.status(),
        detail,
        request_id: request_id.to_owned(),
        next_step: None,
        policies: Vec::new(),
        rule: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use authority::clock::ClockLeapt;

    use super::*;

    #[test]
    fn that_there_is_no_thread_to_parse_on_is_no_fault_of_the_policy_set() {
        let error = Error::Policy(PolicyError::Thread("EAGAIN".to_owned()));
        let answer = Refused::new(error, "0").into_response();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "5");
        let error = Error::Policy(PolicyError::Cedar("it does not parse".to_owned()));
        assert_eq!(Refused::new(error, "0").into_response().status(), StatusCode::BAD_REQUEST);
    }

    /// Whoever sends the same again hears the same for as long as it is kept.
    #[test]
    fn what_was_abandoned_is_told_by_its_rule_and_another_request_is_asked_for() {
        let told = Refused::new(Error::Abandoned, "0").problem;
        assert_eq!((told.status, told.rule.as_deref()), (409, Some(ABANDONED)));
        assert!(told.next_step.unwrap().contains("another request"));
        assert_eq!(Refused::new(Error::Restless, "0").problem.rule, None);
    }

    #[tokio::test]
    async fn operators_are_told_commands_as_they_are_typed_on_the_cas_host() {
        let as_typed = |text: &str| text.replace("--lift-halt", "--lift-halt --config here.toml");
        let told = async |response: Response| {
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            serde_json::from_slice::<Problem>(&body).unwrap().next_step.unwrap()
        };
        let halted = || Refused::new(Error::Halted("it went back".to_owned()), "1").into_response();
        let heard = told(as_operators_hear(halted(), as_typed)).await;
        assert!(heard.ends_with("countersign init --recover --lift-halt --config here.toml"));
        let others = told(halted()).await;
        assert!(!others.contains("countersign init"), "{others}");
        let is_locked = StoreError::Hindered {
            by: authority::store::Hindrance::Locked,
            file: "/var/lib/the CA/countersign.db".to_owned(),
            why: "database is locked".to_owned(),
        };
        let is_locked = Refused::new(is_locked.into(), "1").into_response();
        let heard = told(as_operators_hear(is_locked, str::to_owned)).await;
        assert!(heard.contains("`fuser '/var/lib/the CA/countersign.db'`"), "{heard}");
    }

    /// Whoever is told reads no diagnostics: they are on the CA's host.
    #[test]
    fn a_ca_that_cannot_says_what_its_operators_do_and_what_everybody_else() {
        let leapt = ClockLeapt { milliseconds: 60_000, settles_in: 600_000 };
        let unproven =
            Error::Unproven { path: PathBuf::from("checkpoint"), what: "", why: String::new() };
        for (error, step) in [
            (StoreError::ClockBehind { milliseconds: 60_000 }.into(), "--accept-clock"),
            (StoreError::ClockLeapt(leapt).into(), "wait ten minutes"),
            (StoreError::Unavailable(String::new()).into(), "later"),
            (Error::Folder(String::new()), "request_id"),
            (unproven, "request_id"),
        ] {
            let told = Refused::new(error, "1").problem;
            let next = told.next_step.unwrap();
            assert!(next.contains(step) && next.contains("later"), "{}: {next}", told.detail);
            assert!(!next.contains("diagnostics"), "{next}");
        }
    }
}
