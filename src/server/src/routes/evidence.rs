//! The log's checkpoint and tiles, and CRLs.

use api::ProblemType;
use authority::policy::Action;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, header};
use tlog::Tile;
use tokio::task::spawn_blocking;

use super::Service;
use crate::caller::{From, Path};
use crate::problem::Refused;

/// The newest checkpoint: a signed note, at most a second behind the log.
#[utoipa::path(get, path = api::paths::CHECKPOINT,
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn checkpoint(
    State(service): State<Service>,
    From(caller): From,
) -> Result<impl IntoResponse, Refused> {
    let refuse = |error| Refused::new(error, &caller.request_id);
    service.authority.view.require_certificate(&caller).map_err(refuse)?;
    let note = service.authority.writer.checkpoint().map_err(refuse)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, note))
}

/// A tile of the log, C2SP tlog-tiles. Full tiles never change.
#[utoipa::path(get, path = "/log/tile/{path}", params(("path" = String, Path, pattern = r"^([0-9]|[1-5][0-9]|6[0-3]|entries)/(x[0-9]{3}/){0,2}[0-9]{3}(\.p/([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?$")),
    responses((status = 200, content_type = "application/octet-stream")))]
pub(crate) async fn tile(
    State(service): State<Service>,
    From(caller): From,
    Path(path): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let id = &caller.request_id;
    service
        .authority
        .view
        .permits(&caller, Action::ReadLog)
        .map_err(|error| Refused::new(error, id))?;
    let tile = Tile::parse(&format!("tile/{path}")).map_err(|error| {
        Refused::request(ProblemType::RequestInvalid, error.to_string(), None, id)
    })?;
    let bytes = service.authority.view.tile(tile).await.map_err(|error| Refused::new(error, id))?;
    let full = u64::from(tile.width()) == tlog::TILE_WIDTH;
    let caching = if full { "public, max-age=31536000, immutable" } else { "no-store" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
    ];
    Ok((headers, bytes))
}

/// The CRLs of all issuers as one text, so that all who read it read the same bytes: it may be large,
/// and anyone may ask.
#[derive(Debug, Default)]
pub(crate) struct CrlText(tokio::sync::Mutex<(Vec<Bytes>, Bytes)>);

impl CrlText {
    async fn of(&self, crls: Vec<Bytes>) -> Bytes {
        let mut held = self.0.lock().await;
        let is_same = |one: &Bytes, other: &Bytes| one.as_ptr_range() == other.as_ptr_range();
        if held.0.len() != crls.len() || !held.0.iter().zip(&crls).all(|(a, b)| is_same(a, b)) {
            let ders = crls.clone();
            let write = move || ders.iter().map(|der| identity::pem("X509 CRL", der)).collect();
            let text: String = spawn_blocking(write).await.expect("to write PEM does not panic");
            *held = (crls, text.into());
        }
        held.1.clone()
    }
}

/// The CRLs of all issuers, never older than the last revocation, as one file for OpenSSL and what asks
/// for the list of a leaf's issuer. What asks for one of every CA lacks the root's.
#[utoipa::path(get, path = api::paths::CRLS,
    responses((status = 200, body = String, content_type = "application/x-pem-file")))]
pub(crate) async fn crls(
    State(service): State<Service>,
    From(caller): From,
) -> Result<impl IntoResponse, Refused> {
    let crls = service.authority.crls.crls().await;
    let crls = crls.map_err(|error| Refused::new(error, &caller.request_id))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    ];
    Ok((headers, service.crl_text.of(crls).await))
}

/// The CRL of an issuer, never older than the last revocation.
#[utoipa::path(get, path = api::paths::CRL, params(("issuer" = String, Path, pattern = "^[0-9a-f]{16,64}$")),
    responses((status = 200, content_type = "application/pkix-crl")))]
pub(crate) async fn crl(
    State(service): State<Service>,
    From(caller): From,
    Path(issuer): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let refuse = |error| Refused::new(error, &caller.request_id);
    let issuer = service.authority.crls.issuer_named(&issuer).map_err(refuse)?;
    let der = service.authority.crls.crl(&issuer).await.map_err(refuse)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    ];
    Ok((headers, der))
}
