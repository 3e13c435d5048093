//! Who calls, and the request's own id; bodies with a limit and a clear refusal.

use api::ProblemType;
use authority::Caller;
use aws_lc_rs::rand;
use axum::extract::{FromRequest, FromRequestParts, Request};
use countersign::Peer;
use data_encoding::HEXLOWER;
use http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::problem::Refused;

/// The caller of a request, from the connection's handshake.
#[derive(Debug, Clone)]
pub(crate) struct From(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(caller(parts)))
    }
}

/// A JSON body with its caller: read whole, at most 64 KiB, unknown fields refused.
#[derive(Debug)]
pub(crate) struct Body<T> {
    pub(crate) caller: Caller,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) if_match: Option<String>,
    pub(crate) value: T,
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        let caller = caller(&parts);
        let id = &caller.request_id;
        let invalid = |why: String, next: &str| {
            Refused::request(ProblemType::RequestInvalid, why, Some(next), id)
        };
        let header = |name: &str| match parts.headers.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Ok(text) if !text.is_empty() && text.len() <= MAX_HEADER => {
                    Ok(Some(text.trim_matches('"').to_owned()))
                }
                _ => Err(invalid(format!("{name} is not 1 to {MAX_HEADER} ASCII characters"), "")),
            },
        };
        let idempotency_key = header("idempotency-key")?;
        let if_match = header("if-match")?;
        let bytes = match tokio::time::timeout(BODY_TIME, read_body(body)).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                return Err(Refused::request(
                    ProblemType::TooLarge,
                    format!("the body is larger than {} KiB", MAX_BODY / 1024),
                    Some("send one certificate request, and nothing else"),
                    id,
                ));
            }
            Ok(Err(_)) => {
                return Err(invalid("the body ended early".to_owned(), "send it again"));
            }
            Err(_) => {
                return Err(invalid("the body took longer than 10 s".to_owned(), "send it again"));
            }
        };
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            invalid(
                format!("the body is not the JSON expected here: {}", explain(&error)),
                "GET /v1/openapi.json describes it",
            )
        })?;
        Ok(Self { caller, idempotency_key, if_match, value })
    }
}

/// What is wrong, without the values: they may be secrets.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Those that repeat a value whatever it is; our own parsers say what they would say anywhere.
    let repeats = ["invalid ", "unknown variant", "data did not match"];
    if !repeats.iter().any(|beginning| text.starts_with(beginning)) {
        return text;
    }
    format!("a value is of the wrong kind at line {} column {}", error.line(), error.column())
}

/// Reads what a client still sends to a path that wants nothing of it.
pub(crate) async fn discard(request: Request) {
    let read = read_body(request.into_body());
    // Whatever comes of it: the answer is a refusal.
    drop(tokio::time::timeout(BODY_TIME, read).await);
}

/// Reads a body whole; none if it is too large. What is too large is read on for a while and
/// dropped: a client that is cut off while it sends does not see why.
async fn read_body(mut body: axum::body::Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut kept, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        if seen <= MAX_BODY {
            kept.extend_from_slice(&data);
        }
        if seen > MAX_DROPPED {
            break;
        }
    }
    Ok((seen <= MAX_BODY).then_some(kept))
}

fn caller(parts: &Parts) -> Caller {
    let svid = parts.extensions.get::<Peer>().map(|peer| peer.svid().clone());
    let request_id =
        parts.extensions.get::<RequestId>().map_or_else(|| RequestId::fresh().0, |id| id.0.clone());
    Caller { svid, request_id }
}

/// What diagnostics, events and problems call a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    pub(crate) fn fresh() -> Self {
        let mut random = [0; 8];
        // Without randomness nothing is issued; an id of zeros is then the least trouble.
        if rand::fill(&mut random).is_err() {
            random = [0; 8];
        }
        Self(HEXLOWER.encode(&random))
    }
}

pub(crate) const MAX_BODY: usize = 64 * 1024;
const MAX_DROPPED: usize = 4 * 1024 * 1024;
const MAX_HEADER: usize = 255;
pub(crate) const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(10);
