//! `GET /v1/openapi.json`: the API, described from the same types that serve it.

use std::sync::LazyLock;

use axum::body::Bytes;
use http::{HeaderName, HeaderValue, header};
use utoipa::OpenApi;

use crate::routes::described;

/// The description.
#[utoipa::path(get, path = api::paths::OPENAPI, responses((status = 200)))]
pub(crate) async fn describe() -> ([(HeaderName, HeaderValue); 1], Bytes) {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DESCRIPTION.clone())
}

/// Made once, and shared by whoever asks.
static DESCRIPTION: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).unwrap_or_default().into());

/// The whole document.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    described::Api::openapi()
}
