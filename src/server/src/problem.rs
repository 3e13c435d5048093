//! Errors become problems here, and nowhere else. Internal text stays inside.

use api::{Problem, ProblemType};
use authority::Error;
use authority::policy::PolicyError;
use authority::store::StoreError;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Refused(Box<Problem>);

impl Refused {
    /// The engine's error, as callers see it.
    pub(crate) fn new(error: Error, request_id: &str) -> Self {
        let mut problem = describe(&error, request_id);
        if problem.status >= 500 {
            tracing::error!(request_id, %error, "request failed");
        } else {
            tracing::info!(request_id, %error, "request refused");
        }
        if let Error::Denied(denied) = error {
            problem.policies = denied.policies;
        }
        Self(Box::new(problem))
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
        Self(Box::new(refused))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("a problem is plain data");
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let retry = match self.0.problem_type {
            ProblemType::RateLimited => Some("1"),
            _ if self.0.status == 503 => Some("5"),
            _ => None,
        };
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

fn describe(error: &Error, request_id: &str) -> Problem {
    let make = |kind, detail: String, next_step: Option<String>| {
        let mut made = problem(kind, detail, request_id);
        made.next_step = next_step;
        made
    };
    let text = error.to_string();
    match error {
        Error::Attestation { why, next_step } => {
            make(ProblemType::AttestationRefused, why.clone(), Some(next_step.clone()))
        }
        Error::Conflict(authority::sequencer::Conflict::IdempotencyMismatch) => make(
            ProblemType::IdempotencyMismatch,
            text,
            Some("repeat the same request, or choose another Idempotency-Key".to_owned()),
        ),
        Error::Conflict(authority::sequencer::Conflict::PolicyMoved) => make(
            ProblemType::Conflict,
            "another policy set is in force than the one named by If-Match".to_owned(),
            Some("read it again, compare, and apply again".to_owned()),
        ),
        Error::Conflict(_) | Error::Restless | Error::Abandoned => {
            make(ProblemType::Conflict, text, Some("send the request again".to_owned()))
        }
        Error::Denied(denied) => {
            make(ProblemType::PolicyDenied, denied.reason.clone(), denied.next_step.clone())
        }
        Error::Revoked(_) => make(
            ProblemType::PolicyDenied,
            text,
            Some("an operator lifts a denial: countersign allow SPIFFE_ID".to_owned()),
        ),
        Error::Halted(_) => make(
            ProblemType::LogUnavailable,
            text,
            Some(
                "keep the database as it is, put the newest one back, and restart the CA"
                    .to_owned(),
            ),
        ),
        Error::Invalid { why, next_step } => {
            make(ProblemType::RequestInvalid, why.clone(), next_step.clone())
        }
        Error::Issuance(issuance) => issuance_problem(issuance, request_id),
        Error::NotFound(_) => make(ProblemType::NotFound, text, None),
        Error::Overloaded | Error::Subscriptions(_) => make(ProblemType::RateLimited, text, None),
        Error::Policy(policy) => policy_problem(policy, request_id),
        Error::Store(StoreError::ClockBehind { .. }) => make(
            ProblemType::LogUnavailable,
            "the CA's clock is behind its log: nothing is issued until it is set right".to_owned(),
            Some("see the CA's diagnostics".to_owned()),
        ),
        Error::Store(_) => make(
            ProblemType::StoreUnavailable,
            "the CA's store does not answer: nothing was issued, or it will be found again"
                .to_owned(),
            Some("send the same request again later".to_owned()),
        ),
        Error::Signer(_) => make(
            ProblemType::IssuerUnavailable,
            "the CA's key does not sign now".to_owned(),
            Some("send the same request again later".to_owned()),
        ),
        Error::Waits(next) => make(ProblemType::Conflict, text, Some(what_ends_it(next))),
        _ => make(
            ProblemType::IssuerUnavailable,
            "the CA cannot do this now".to_owned(),
            Some("see the CA's diagnostics".to_owned()),
        ),
    }
}

/// What an operator can do about a step that waits.
fn what_ends_it(next: &api::NextStep) -> String {
    match (&next.first, next.certificates.first()) {
        (Some(_), _) => "countersign rotate replaces it; or: countersign issuer prepare".to_owned(),
        (None, None) => "countersign rotate, later".to_owned(),
        (None, Some(first)) => format!(
            "wait, or see to {} (serial number {}): renew, or countersign revoke",
            first.spiffe_id, first.serial_number
        ),
    }
}

fn issuance_problem(error: &issuance::Error, request_id: &str) -> Problem {
    let text = error.to_string();
    match error {
        issuance::Error::Request(rule) => {
            let mut made = problem(ProblemType::CsrInvalid, text, request_id);
            made.rule = Some(rule.name().to_owned());
            made.next_step = Some("make a new request: openssl req -new -newkey ec …".to_owned());
            made
        }
        issuance::Error::DnsName { .. } => problem(ProblemType::RequestInvalid, text, request_id),
        issuance::Error::Profile { rule, .. } => {
            let kind = match rule {
                issuance::ProfileRule::IssuerEnds => ProblemType::IssuerUnavailable,
                issuance::ProfileRule::KeyType(_) => ProblemType::CsrInvalid,
                _ => ProblemType::RequestInvalid,
            };
            problem(kind, text, request_id)
        }
        _ => problem(
            ProblemType::IssuerUnavailable,
            "what would be signed does not pass the linter".to_owned(),
            request_id,
        ),
    }
}

fn policy_problem(error: &PolicyError, request_id: &str) -> Problem {
    let mut made = problem(ProblemType::RequestInvalid, error.to_string(), request_id);
    made.next_step = Some("countersign policy check DIR finds it before it is sent".to_owned());
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
