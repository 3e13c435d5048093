//! `GET /v1/openapi.json`.

use api::paths;
use axum::body::Bytes;
use axum::extract::State;
use http::{HeaderName, HeaderValue, header};

use super::Service;

/// The description of the API.
#[utoipa::path(get, path = paths::OPENAPI,
    responses((status = 200, body = Object, content_type = "application/json")))]
pub(crate) async fn describe(
    State(service): State<Service>,
) -> ([(HeaderName, HeaderValue); 1], Bytes) {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], service.description.clone())
}
