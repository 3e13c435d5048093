//! `GET /v1/openapi.json`: the API, described from the same types that serve it.

use axum::Json;
use utoipa::OpenApi;

use crate::routes::described;

/// The description.
#[utoipa::path(get, path = api::paths::OPENAPI, responses((status = 200)))]
pub(crate) async fn describe() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

/// The whole document.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    described::Api::openapi()
}
