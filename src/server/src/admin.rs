//! The admin port: without TLS, on loopback by default, and read-only.

use api::paths;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};

use crate::exposition::Exposition;
use crate::readiness::Readiness;

/// What the admin port shows.
#[derive(Clone)]
pub(crate) struct Admin {
    /// Where the API is: who takes this port for it is told.
    pub(crate) api: String,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Exposition,
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(elsewhere)
        .with_state(admin)
}

/// Ready: see [`Readiness`].
async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.readiness.require().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Somebody looks for something else: the API, most likely.
async fn elsewhere(State(Admin { api, .. }): State<Admin>) -> impl IntoResponse {
    let told = format!(
        "this is the admin port of a Countersign CA: /livez, /readyz and /metrics\nits API: {api}\n"
    );
    (StatusCode::NOT_FOUND, [(paths::API_HEADER, api)], told)
}

/// Whether the node is ready is found out for each scrape: the two answers are of one state.
async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    drop(admin.readiness.require().await);
    ([(header::CONTENT_TYPE, EXPOSITION)], admin.metrics.now().await)
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>: scrapers choose their parser by it.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
