//! The trust state, and its plain forms for software that knows no trust state.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Service;
use crate::caller::From;
use crate::problem::Refused;

/// The signed trust state.
#[utoipa::path(get, path = api::paths::TRUST,
    responses((status = 200, body = String, content_type = "text/plain"), (status = 304)))]
pub(crate) async fn trust(State(service): State<Service>, headers: HeaderMap) -> Response {
    let etag = format!("\"{}\"", service.authority.trust().state().sequence);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag);
    let mut answer = HeaderMap::new();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.insert(header::ETAG, etag);
    }
    if known {
        return (StatusCode::NOT_MODIFIED, answer).into_response();
    }
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    (answer, service.authority.trust_note().to_vec()).into_response()
}

/// The trust anchors: a SPIFFE bundle (JWKS), or PEM where `Accept` asks for it.
#[utoipa::path(get, path = api::paths::BUNDLE,
    responses((status = 200, content((serde_json::Value = "application/json"), (String = "application/pem-certificate-chain")))))]
pub(crate) async fn bundle(
    State(service): State<Service>,
    From(caller): From,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let state = service.authority.trust().state();
    let wants_pem = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("pem"));
    if wants_pem {
        let kind = HeaderValue::from_static(PEM);
        return Ok(([(header::CONTENT_TYPE, kind)], state.to_pem()).into_response());
    }
    let jwks = state.to_jwks().map_err(|error| Refused::new(error.into(), &caller.request_id))?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], jwks.to_string()).into_response())
}

const PEM: &str = "application/pem-certificate-chain";
