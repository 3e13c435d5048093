//! The CA's keys, and the steps by which one takes another's place.

use api::{KeyRecord, KeyStep, KeyStepOutcome, KeyStepRequest, Page, ProblemType};
use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};

use super::Service;
use super::headers::IdempotencyKey;
use crate::caller::{Body, From, Path};
use crate::diagnostics::Did;
use crate::problem::Refused;

/// Lists the keys, and what the next step of each waits for.
#[utoipa::path(get, path = api::paths::KEYS,
    responses((status = 200, body = Page<KeyRecord>)))]
pub(crate) async fn keys(
    State(service): State<Service>,
    From(caller): From,
) -> Result<Json<Page<KeyRecord>>, Refused> {
    let page = service.authority.rotation.keys(&caller).await;
    page.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Takes a step of a key's rotation; 409 says what is still missing.
#[utoipa::path(post, path = api::paths::KEY_STEP,
    params(("id" = api::schema::Sha256, Path), ("step" = KeyStep, Path), IdempotencyKey), request_body = KeyStepRequest,
    responses((status = 200, body = KeyStepOutcome)))]
pub(crate) async fn step(
    State(service): State<Service>,
    Path((id, step)): Path<(String, String)>,
    body: Body<KeyStepRequest>,
) -> Result<impl IntoResponse, Refused> {
    let request_id = &body.caller.request_id;
    let step: KeyStep = step
        .parse()
        .map_err(|why: String| Refused::request(ProblemType::NotFound, why, None, request_id))?;
    let outcome =
        Box::pin(service.authority.rotation.key_step(&body.caller, &id, step, &body.value)).await;
    let outcome = outcome.map_err(|error| Refused::new(error, request_id))?;
    let purpose = body.value.purpose;
    let did = Did::new("key step taken", format_args!("{step} {purpose} {id}"));
    Ok((Extension(did), Json(outcome)))
}
