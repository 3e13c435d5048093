//! What workloads report, and what operators learn from it.

use api::{Page, Report, RevocationReach, WorkloadFilter, WorkloadInstance};
use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::Service;
use crate::caller::{Body, From, Path, Query};
use crate::problem::Refused;

/// Takes the report of the calling workload.
#[utoipa::path(put, path = api::paths::OWN_REPORT, request_body = Report,
    responses((status = 204)))]
pub(crate) async fn report(
    State(service): State<Service>,
    body: Body<Report>,
) -> Result<StatusCode, Refused> {
    let Body { caller, value, .. } = body;
    let taken = Box::pin(service.authority.fleet.report(&caller, value)).await;
    taken.map_err(|error| Refused::new(error, &caller.request_id))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists workloads' instances, with their newest reports.
#[utoipa::path(get, path = api::paths::WORKLOADS, params(WorkloadFilter),
    responses((status = 200, body = Page<WorkloadInstance>)))]
pub(crate) async fn workloads(
    State(service): State<Service>,
    From(caller): From,
    Query(filter): Query<WorkloadFilter>,
) -> Result<Json<Page<WorkloadInstance>>, Refused> {
    let id = &caller.request_id;
    let page = service.authority.fleet.workloads(&caller, &filter);
    page.map(Json).map_err(|error| Refused::new(error, id))
}

/// Says how many workloads have a revocation, and who has not answered.
#[utoipa::path(get, path = api::paths::REVOCATION, params(("log_index" = u64, Path)),
    responses((status = 200, body = RevocationReach)))]
pub(crate) async fn revocation(
    State(service): State<Service>,
    From(caller): From,
    Path(log_index): Path<u64>,
) -> Result<Json<RevocationReach>, Refused> {
    let id = &caller.request_id;
    let reach = service.authority.fleet.revocation_reach(&caller, log_index).await;
    reach.map(Json).map_err(|error| Refused::new(error, id))
}
