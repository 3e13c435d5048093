//! Certificates: issue, renew, list, show.

use api::{
    Attestation, CertificateFilter, CertificateRecord, IssueRequest, IssuedCertificate, Page,
    RenewalWindow,
};
use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::{HeaderValue, StatusCode, header};
use identity::SerialNumber;

use super::Service;
use super::headers::{IdempotencyKey, NamedToken};
use crate::caller::{Body, From, Path, Query};
use crate::diagnostics::Did;
use crate::problem::Refused;

/// Issues a certificate, or renews the one this connection was made with.
#[utoipa::path(post, path = api::paths::CERTIFICATES, request_body = IssueRequest,
    params(IdempotencyKey, NamedToken),
    responses((status = 201, body = IssuedCertificate)))]
pub(crate) async fn issue(
    State(service): State<Service>,
    body: Body<IssueRequest>,
) -> Result<impl IntoResponse, Refused> {
    let Body { caller, value, .. } = body;
    let key = caller.idempotency_key.as_deref();
    let issued = Box::pin(service.authority.issuing.issue(&caller, &value, key)).await;
    let issued = issued.map_err(|error| Refused::new(error, &caller.request_id))?;
    let is_renewal = matches!(value.attestation, Attestation::Svid {})
        && caller.svid.as_ref().is_some_and(|svid| *svid.spiffe_id() == issued.spiffe_id);
    let what = if is_renewal { "renewed" } else { "issued" };
    let did = Did::new(what, &issued.spiffe_id);
    let did = did.to(issued.serial_number).at(Some(issued.log_index));
    Ok((StatusCode::CREATED, Extension(did), Json(issued)))
}

/// Lists certificates, newest first.
#[utoipa::path(get, path = api::paths::CERTIFICATES, params(CertificateFilter),
    responses((status = 200, body = Page<CertificateRecord>)))]
pub(crate) async fn list(
    State(service): State<Service>,
    From(caller): From,
    Query(filter): Query<CertificateFilter>,
) -> Result<Json<Page<CertificateRecord>>, Refused> {
    let id = &caller.request_id;
    let page = service.authority.operations.certificates(&caller, &filter).await;
    page.map(Json).map_err(|error| Refused::new(error, id))
}

/// Shows what is kept of a certificate.
#[utoipa::path(get, path = api::paths::CERTIFICATE, params(("serial" = api::schema::SerialNumber, Path)),
    responses((status = 200, body = CertificateRecord)))]
pub(crate) async fn record(
    State(service): State<Service>,
    From(caller): From,
    Path(serial): Path<String>,
) -> Result<Json<CertificateRecord>, Refused> {
    let serial = parse_serial(&serial, &caller.request_id)?;
    let record = service.authority.operations.certificate(&caller, &serial).await;
    record.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Says when a certificate is to be renewed; ask again after `Retry-After`.
#[utoipa::path(get, path = api::paths::RENEWAL, params(("serial" = api::schema::SerialNumber, Path)),
    responses((status = 200, body = RenewalWindow)))]
pub(crate) async fn renewal(
    State(service): State<Service>,
    From(caller): From,
    Path(serial): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let serial = parse_serial(&serial, &caller.request_id)?;
    let window = service.authority.operations.renewal(&caller, &serial).await;
    let window = window.map_err(|error| Refused::new(error, &caller.request_id))?;
    Ok(([(header::RETRY_AFTER, HeaderValue::from_static(ASK_AGAIN_SECONDS))], Json(window)))
}

fn parse_serial(text: &str, request_id: &str) -> Result<SerialNumber, Refused> {
    let plain = if text.contains(char::is_control) { "" } else { text };
    SerialNumber::from_any_hex(plain).map_err(|error| {
        let kind = api::ProblemType::RequestInvalid;
        Refused::request(kind, error.to_string(), None, request_id)
    })
}

const ASK_AGAIN_SECONDS: &str = "300";
