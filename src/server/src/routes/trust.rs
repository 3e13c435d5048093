//! The trust state, and its plain forms for software that knows no trust state.

use api::TrustQuery;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Service;
use super::headers::IfNoneMatch;
use crate::caller::{From, Query};
use crate::negotiation::{has_already, preferred, varies_by_accept};
use crate::problem::Refused;

/// The signed trust state: the newest; with `pin`, the newest that the pin's keys signed; with
/// `after`, the newest that the keys of that state signed, which is the next one where those keys
/// were replaced since.
#[utoipa::path(get, path = api::paths::TRUST, params(TrustQuery, IfNoneMatch),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 304)))]
pub(crate) async fn trust(
    State(service): State<Service>,
    From(caller): From,
    Query(asked): Query<TrustQuery>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let id = &caller.request_id;
    let found = service.authority.view.trust_state(&asked).map_err(|e| Refused::new(e, id))?;
    let etag = format!("\"{}\"", found.sequence);
    let known = has_already(&headers, &etag);
    let mut answer = HeaderMap::new();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.insert(header::ETAG, etag);
    }
    if known {
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok((answer, Bytes::from_owner(found.note)).into_response())
}

/// The trust anchors: a SPIFFE bundle (JWKS), or PEM where `Accept` asks for it.
#[utoipa::path(get, path = api::paths::BUNDLE,
    responses((status = 200, content((serde_json::Value = "application/json"), (String = "application/pem-certificate-chain")))))]
pub(crate) async fn bundle(
    State(service): State<Service>,
    From(caller): From,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let trust = service.authority.view.trust();
    let state = trust.state();
    let vary = varies_by_accept();
    if preferred(&headers, [(JSON, &[]), (PEM, PEM_BEFORE_IT_HAD_A_NAME)]) == PEM {
        let kind = HeaderValue::from_static(PEM);
        return Ok(([(header::CONTENT_TYPE, kind), vary], state.to_pem()).into_response());
    }
    let jwks = state.to_jwks().map_err(|error| Refused::new(error.into(), &caller.request_id))?;
    let kind = HeaderValue::from_static(JSON);
    Ok(([(header::CONTENT_TYPE, kind), vary], jwks.to_string()).into_response())
}

const JSON: &str = "application/json";
const PEM_BEFORE_IT_HAD_A_NAME: &[&str] = &["application/x-pem-file", "application/pem"];
const PEM: &str = "application/pem-certificate-chain";
