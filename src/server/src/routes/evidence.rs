//! The log's checkpoint and tiles, and CRLs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use api::ProblemType;
use authority::policy::Action;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, header};
use tlog::Tile;

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
    service.authority.require_certificate(&caller).map_err(refuse)?;
    let note = service.authority.checkpoint().await.map_err(refuse)?;
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
    service.authority.permits(&caller, Action::ReadLog).map_err(|error| Refused::new(error, id))?;
    let tile = Tile::parse(&format!("tile/{path}")).map_err(|error| {
        Refused::request(ProblemType::RequestInvalid, error.to_string(), None, id)
    })?;
    let bytes = service.authority.tile(tile).await.map_err(|error| Refused::new(error, id))?;
    let full = u64::from(tile.width()) == tlog::TILE_WIDTH;
    let caching = if full { "public, max-age=31536000, immutable" } else { "no-store" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
    ];
    Ok((headers, bytes))
}

/// The newest CRL of each issuer, so that all who read it read the same bytes: it may be large, and
/// anyone may ask.
#[derive(Debug, Default)]
pub(crate) struct Crls {
    by_issuer: Mutex<HashMap<String, Bytes>>,
    all: Mutex<(Vec<Vec<u8>>, Bytes)>,
}

impl Crls {
    /// All of them as one text.
    fn text(&self, ders: Vec<Vec<u8>>) -> Bytes {
        let mut held = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 != ders {
            let text: String = ders.iter().map(|der| identity::pem("X509 CRL", der)).collect();
            *held = (ders, Bytes::from(text));
        }
        held.1.clone()
    }

    fn shared(&self, issuer: String, der: Vec<u8>) -> Bytes {
        let mut held = self.by_issuer.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get(&issuer) {
            Some(held) if *held == der => held.clone(),
            _ => {
                let der = Bytes::from(der);
                held.insert(issuer, der.clone());
                der
            }
        }
    }
}

/// The CRLs of all issuers, never older than the last revocation: what OpenSSL, nginx, HAProxy and the
/// JDK read as one file.
#[utoipa::path(get, path = api::paths::CRLS,
    responses((status = 200, body = String, content_type = "application/x-pem-file")))]
pub(crate) async fn crls(
    State(service): State<Service>,
    From(caller): From,
) -> Result<impl IntoResponse, Refused> {
    let crls = service.authority.crls().await;
    let crls = crls.map_err(|error| Refused::new(error, &caller.request_id))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    ];
    Ok((headers, service.crls.text(crls)))
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
    // Its whole id: however it is asked for, one list is held.
    let issuer = service.authority.issuer_named(&issuer).map_err(refuse)?;
    let der = service.authority.crl(&issuer).await.map_err(refuse)?;
    let der = service.crls.shared(issuer, der);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=60")),
    ];
    Ok((headers, der))
}
