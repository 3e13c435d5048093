//! The admin port: without TLS, on loopback by default, and read-only.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::own_certificate::OwnCertificate;

/// What the admin port shows.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) own: Arc<OwnCertificate>,
    pub(crate) metrics: Option<PrometheusHandle>,
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

/// Ready: the store answers, and the CA's own certificate is valid.
async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.own.ready().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(admin): State<Admin>) -> String {
    admin.metrics.map(|handle| handle.render()).unwrap_or_default()
}
