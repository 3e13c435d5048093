//! What operators do: revocations, denials, tokens, operators, policies, status.

use std::collections::BTreeMap;

use api::{
    ActFilter, ActOnRecord, ActivePolicy, Denial, DenyRequest, ExplainRequest, Explanation,
    NewToken, OperatorRecord, OperatorRequest, Page, PolicyFiles, ProblemType, Revocation,
    RevokeRequest, Status, TokenFilter, TokenRecord, TokenRequest,
};
use authority::policy::Action;
use axum::body::{Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use identity::SerialNumber;

use super::Service;
use super::headers::{IdempotencyKey, IfNoneMatch};
use crate::caller::{Body, From, Path, Query, caller};
use crate::diagnostics::Did;
use crate::negotiation::{NoPrecondition, Precondition, has_already};
use crate::policy_sets;
use crate::problem::Refused;

/// Revokes certificates issued so far.
#[utoipa::path(post, path = api::paths::REVOCATIONS, params(IdempotencyKey), request_body = RevokeRequest,
    responses((status = 201, body = Revocation), (status = 200, body = Revocation, description = "A dry run, or nothing was left to revoke.")))]
pub(crate) async fn revoke(
    State(service): State<Service>,
    body: Body<RevokeRequest>,
) -> Result<impl IntoResponse, Refused> {
    let target = &body.value.target;
    let _answering = body.last_answer_to(|svid| {
        let is_serial = target.parse().is_ok_and(|it: SerialNumber| it == *svid.serial_number());
        is_serial || *target == svid.spiffe_id().as_str()
    });
    let done = Box::pin(service.authority.operations.revoke(&body.caller, &body.value)).await;
    let done = done.map_err(|error| Refused::new(error, &body.caller.request_id))?;
    let status = if done.log_index.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    let what = match done.log_index {
        Some(_) => "revoked",
        None if body.value.dry_run => "asked what would be revoked",
        None => "nothing to revoke",
    };
    let did = Did::new(what, &done.target).at(done.log_index);
    Ok((status, Extension(did), Json(done)))
}

/// Lists denied identities.
#[utoipa::path(get, path = api::paths::DENIALS,
    responses((status = 200, body = Page<Denial>)))]
pub(crate) async fn denials(
    State(service): State<Service>,
    From(caller): From,
) -> Result<Json<Page<Denial>>, Refused> {
    let page = service.authority.operations.denials(&caller).await;
    page.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Denies an identity until it is allowed again.
#[utoipa::path(post, path = api::paths::DENIALS, params(IdempotencyKey), request_body = DenyRequest,
    responses((status = 201, body = Denial)))]
pub(crate) async fn deny(
    State(service): State<Service>,
    body: Body<DenyRequest>,
) -> Result<impl IntoResponse, Refused> {
    let _answering = body.last_answer_to(|svid| body.value.spiffe_id == *svid.spiffe_id());
    let denial = Box::pin(service.authority.operations.deny(&body.caller, &body.value)).await;
    let denial = denial.map_err(|error| Refused::new(error, &body.caller.request_id))?;
    let did = Did::new("denied", &denial.spiffe_id).at(denial.id.parse().ok());
    Ok((StatusCode::CREATED, Extension(did), Json(denial)))
}

/// Allows an identity again.
#[utoipa::path(delete, path = api::paths::DENIAL, params(("id" = api::schema::LogIndex, Path)),
    responses((status = 204)))]
pub(crate) async fn allow(
    State(service): State<Service>,
    From(caller): From,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let done = service.authority.operations.allow(&caller, &id).await;
    done.map_err(|error| Refused::new(error, &caller.request_id))?;
    Ok((StatusCode::NO_CONTENT, Extension(Did::new("allowed", format_args!("denial {id}")))))
}

/// Lists what somebody did that stays, newest first, whoever they are by now.
#[utoipa::path(get, path = api::paths::ACTS, params(ActFilter),
    responses((status = 200, body = Page<ActOnRecord>)))]
pub(crate) async fn acts(
    State(service): State<Service>,
    From(caller): From,
    Query(filter): Query<ActFilter>,
) -> Result<Json<Page<ActOnRecord>>, Refused> {
    let page = service.authority.operations.acts(&caller, &filter).await;
    page.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Lists the bootstrap tokens, newest first, without their secrets.
#[utoipa::path(get, path = api::paths::TOKENS, params(TokenFilter),
    responses((status = 200, body = Page<TokenRecord>)))]
pub(crate) async fn tokens(
    State(service): State<Service>,
    From(caller): From,
    Query(filter): Query<TokenFilter>,
) -> Result<Json<Page<TokenRecord>>, Refused> {
    let page = service.authority.operations.tokens(&caller, &filter).await;
    page.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Makes a bootstrap token; it is shown this once.
#[utoipa::path(post, path = api::paths::TOKENS, params(IdempotencyKey), request_body = TokenRequest,
    responses((status = 201, body = NewToken)))]
pub(crate) async fn create_token(
    State(service): State<Service>,
    body: Body<TokenRequest>,
) -> Result<impl IntoResponse, Refused> {
    let made = Box::pin(service.authority.operations.create_token(&body.caller, &body.value)).await;
    let made = made.map_err(|error| Refused::new(error, &body.caller.request_id))?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let did = Did::new("token made", format_args!("{} for {}", made.id, made.spiffe_id));
    Ok((StatusCode::CREATED, no_store, Extension(did), Json(made)))
}

/// Withdraws a bootstrap token.
#[utoipa::path(delete, path = api::paths::TOKEN, params(("id" = String, Path, pattern = "^[0-9a-f]{16}$")),
    responses((status = 204)))]
pub(crate) async fn revoke_token(
    State(service): State<Service>,
    From(caller): From,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refused> {
    let done = service.authority.operations.revoke_token(&caller, &id).await;
    done.map_err(|error| Refused::new(error, &caller.request_id))?;
    Ok((StatusCode::NO_CONTENT, Extension(Did::new("token withdrawn", id))))
}

/// Lists the operators: who added each, and whether they can act.
#[utoipa::path(get, path = api::paths::OPERATORS,
    responses((status = 200, body = Page<OperatorRecord>)))]
pub(crate) async fn operators(
    State(service): State<Service>,
    From(caller): From,
) -> Result<Json<Page<OperatorRecord>>, Refused> {
    let page = service.authority.operations.operators(&caller).await;
    page.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

/// Makes somebody new an operator; the token by which they get their certificate is shown this once.
#[utoipa::path(post, path = api::paths::OPERATORS, params(IdempotencyKey),
    request_body = OperatorRequest,
    responses((status = 201, body = NewToken)))]
pub(crate) async fn add_operator(
    State(service): State<Service>,
    body: Body<OperatorRequest>,
) -> Result<impl IntoResponse, Refused> {
    let made = Box::pin(service.authority.operations.add_operator(&body.caller, &body.value)).await;
    let made = made.map_err(|error| Refused::new(error, &body.caller.request_id))?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let did = Did::new("operator added", format_args!("{} by token {}", made.spiffe_id, made.id));
    Ok((StatusCode::CREATED, no_store, Extension(did), Json(made)))
}

/// Reads the active policy set; its hash is the ETag.
#[utoipa::path(get, path = api::paths::POLICIES, params(IfNoneMatch),
    responses((status = 200, body = ActivePolicy), (status = 304)))]
pub(crate) async fn policies(
    State(service): State<Service>,
    From(caller): From,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let permitted = service.authority.view.permits(&caller, Action::ReadPolicy);
    permitted.map_err(|error| Refused::new(error, &caller.request_id))?;
    let policy = service.authority.view.policy();
    let hash = format!("{:?}", policy.set().hash());
    if has_already(&headers, &format!("\"{hash}\"")) {
        return Ok((StatusCode::NOT_MODIFIED, etag(&hash)).into_response());
    }
    Ok(shown(&service, &hash, policy.set().files()).into_response())
}

/// Replaces the policy set; `If-Match` names the one that it replaces.
#[utoipa::path(put, path = api::paths::POLICIES, request_body = PolicyFiles,
    params(("If-Match" = String, Header, pattern = "^\"[0-9a-f]{64}\"$",
        description = "The ETag of the set that is replaced; or a list of such, or `*`: whatever is in force. Weak tags name nothing.")),
    responses((status = 200, body = ActivePolicy)))]
pub(crate) async fn replace_policies(
    State(service): State<Service>,
    request: Request,
) -> Result<impl IntoResponse, Refused> {
    let caller = caller(request.extensions());
    let id = &caller.request_id;
    // Before so large a body is read, whoever is to be let in has been: nobody else sends one.
    let permitted = service.authority.view.permits(&caller, Action::ChangePolicy);
    permitted.map_err(|error| Refused::new(error, id))?;
    let precondition = precondition(request.headers(), id)?;
    let announced = request.body().size_hint().upper();
    let _place = service.policy_sets.place(announced, id).await?;
    let body: Body<PolicyFiles> = Body::read(request, &policy_sets::LIMIT).await?;
    let is_expected = |hash: &str| precondition.holds(&format!("\"{hash}\""));
    let replaced = Box::pin(service.authority.operations.replace_policies_if(
        &caller,
        &body.value.files,
        is_expected,
    ))
    .await;
    let ActivePolicy { hash, files } = replaced.map_err(|error| Refused::new(error, id))?;
    Ok((Extension(Did::new("policy set replaced", &hash)), shown(&service, &hash, &files)))
}

fn precondition(headers: &HeaderMap, id: &str) -> Result<Precondition, Refused> {
    Precondition::of(headers).map_err(|why| {
        let what = match why {
            NoPrecondition::Malformed => {
                "If-Match is no list of entity tags, such as \"…\" with its quotes, and no *"
            }
            NoPrecondition::Missing => {
                "If-Match is missing: it names the policy set that this one replaces"
            }
        };
        let next = "GET /v1/policies, and send its ETag as If-Match";
        Refused::request(ProblemType::RequestInvalid, what, Some(next), id)
    })
}

/// Says which policy decides, and why.
#[utoipa::path(post, path = api::paths::EXPLAIN, params(IdempotencyKey), request_body = ExplainRequest,
    responses((status = 200, body = Explanation)))]
pub(crate) async fn explain(
    State(service): State<Service>,
    body: Body<ExplainRequest>,
) -> Result<Json<Explanation>, Refused> {
    let explained = service.authority.operations.explain(&body.caller, &body.value);
    explained.map(Json).map_err(|error| Refused::new(error, &body.caller.request_id))
}

/// Says how the CA is doing.
#[utoipa::path(get, path = api::paths::STATUS,
    responses((status = 200, body = Status)))]
pub(crate) async fn status(
    State(service): State<Service>,
    From(caller): From,
) -> Result<Json<Status>, Refused> {
    let status = match service.authority.status(&caller).await {
        Ok(status) => Ok(service.readiness.complete(status).await),
        Err(error) => Err(error),
    };
    status.map(Json).map_err(|error| Refused::new(error, &caller.request_id))
}

fn shown(service: &Service, hash: &str, files: &BTreeMap<String, String>) -> (HeaderMap, Bytes) {
    let mut headers = etag(hash);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (headers, service.policy_sets.answer(hash, files))
}

fn etag(hash: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("\"{hash}\""));
    value.into_iter().map(|value| (header::ETAG, value)).collect()
}
