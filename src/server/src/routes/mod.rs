//! The routes: one table, which the router is built of and a test enumerates.
//!
//! What a handler calls once it has a body is boxed: a request has no room for it while its body is on
//! the way.

mod certificates;
pub(crate) mod described;
mod description;
mod evidence;
mod feed;
mod fleet;
mod headers;
mod keys;
mod operators;
mod trust;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use authority::policy::Action;
use authority::{Asks, Authority, Shown};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use countersign::Peer;
use data_encoding::{BASE64, HEXLOWER};
use http::{HeaderValue, Method, StatusCode, Version, header};
use tlog::Hash;
use tokio::sync::watch;

pub(crate) use evidence::CrlText;
pub(crate) use feed::LONGEST_POLL;

use crate::bodies::Bodies;
use crate::caller::{RequestId, caller};
use crate::diagnostics::Asked;
use crate::leftover::Leftover;
use crate::policy_sets::PolicySets;
use crate::problem::{Refused, as_operators_hear};
use crate::rate::RateLimit;
use crate::readiness::Readiness;
use api::{ProblemType, paths};

/// What handlers share. Each request takes some copies.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Shared>);

/// What there is one of.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) authority: Arc<Authority>,
    pub(crate) readiness: Readiness,
    pub(crate) rate: Arc<RateLimit>,
    pub(crate) crl_text: CrlText,
    pub(crate) policy_sets: PolicySets,
    pub(crate) bodies: Bodies,
    /// What `GET /v1/openapi.json` answers.
    pub(crate) description: Bytes,
    /// Becomes true when streams must end.
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Service {
    pub(crate) fn of(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for Service {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Who may call a route at all. It is decided before anything else of a request is looked at:
/// whoever may not ask learns nothing of what they sent, and their body is left unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Anyone: it answers with what is signed or public.
    Anyone,
    /// Whoever attests: with a token in the body, or with a client certificate. The body is read as
    /// far as its evidence, and the rest only once that is good.
    Attested,
    /// Only with a client certificate whose identity policy permits this, whatever else is asked.
    Permitted(Action),
    /// Only with a client certificate that is good; what it may depends on what is asked.
    Svid,
}

/// Every route: method, path, and who may call it.
pub const ROUTES: &[(Method, &str, Access)] = &[
    (Method::GET, paths::TRUST, Access::Anyone),
    (Method::GET, paths::BUNDLE, Access::Anyone),
    (Method::POST, paths::CERTIFICATES, Access::Attested),
    (Method::GET, paths::CERTIFICATES, Access::Permitted(Action::ListInventory)),
    (Method::GET, paths::CERTIFICATE, Access::Svid),
    (Method::GET, paths::RENEWAL, Access::Svid),
    (Method::POST, paths::REVOCATIONS, Access::Svid),
    (Method::GET, paths::REVOCATION, Access::Permitted(Action::ListInventory)),
    (Method::GET, paths::FEED, Access::Svid),
    (Method::PUT, paths::OWN_REPORT, Access::Svid),
    (Method::GET, paths::WORKLOADS, Access::Permitted(Action::ListInventory)),
    (Method::GET, paths::DENIALS, Access::Permitted(Action::ListInventory)),
    (Method::POST, paths::DENIALS, Access::Svid),
    (Method::DELETE, paths::DENIAL, Access::Svid),
    (Method::GET, paths::ACTS, Access::Permitted(Action::ListInventory)),
    (Method::GET, paths::TOKENS, Access::Permitted(Action::ReadTokens)),
    (Method::POST, paths::TOKENS, Access::Svid),
    (Method::DELETE, paths::TOKEN, Access::Permitted(Action::RevokeToken)),
    (Method::GET, paths::OPERATORS, Access::Permitted(Action::ListInventory)),
    (Method::POST, paths::OPERATORS, Access::Svid),
    (Method::GET, paths::POLICIES, Access::Permitted(Action::ReadPolicy)),
    (Method::PUT, paths::POLICIES, Access::Permitted(Action::ChangePolicy)),
    (Method::POST, paths::EXPLAIN, Access::Permitted(Action::ReadPolicy)),
    (Method::GET, paths::KEYS, Access::Permitted(Action::ReadStatus)),
    (Method::POST, paths::KEY_STEP, Access::Svid),
    (Method::GET, paths::STATUS, Access::Permitted(Action::ReadStatus)),
    // The feed tells it to everyone who has a certificate.
    (Method::GET, paths::CHECKPOINT, Access::Svid),
    (Method::GET, paths::TILE, Access::Permitted(Action::ReadLog)),
    (Method::GET, paths::CRLS, Access::Anyone),
    (Method::GET, paths::CRL, Access::Anyone),
    (Method::GET, paths::OPENAPI, Access::Anyone),
];

/// The router of the TLS port.
pub(crate) fn router(service: Service) -> Router {
    let mut paths: Vec<&str> = ROUTES.iter().map(|(_, path, _)| *path).collect();
    paths.dedup();
    paths
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, handlers(path)))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(service.clone(), admit))
        .with_state(service)
}

/// RFC 9110 §8.6: in a 304 the length is that of what was not sent, which nobody knows here. axum says
/// 0, beyond every layer, where the method is HEAD.
pub(crate) fn without_length_where_unmodified(mut response: Response) -> Response {
    if response.status() == StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

fn handlers(path: &str) -> MethodRouter<Service> {
    match path {
        paths::TRUST => get(trust::trust),
        paths::BUNDLE => get(trust::bundle),
        paths::CERTIFICATES => post(certificates::issue).get(certificates::list),
        paths::CERTIFICATE => get(certificates::record),
        paths::RENEWAL => get(certificates::renewal),
        paths::REVOCATIONS => post(operators::revoke),
        paths::REVOCATION => get(fleet::revocation),
        paths::FEED => get(feed::feed),
        paths::OWN_REPORT => put(fleet::report),
        paths::WORKLOADS => get(fleet::workloads),
        paths::DENIALS => get(operators::denials).post(operators::deny),
        paths::DENIAL => delete(operators::allow),
        paths::ACTS => get(operators::acts),
        paths::TOKENS => get(operators::tokens).post(operators::create_token),
        paths::TOKEN => delete(operators::revoke_token),
        paths::OPERATORS => get(operators::operators).post(operators::add_operator),
        paths::POLICIES => get(operators::policies).put(operators::replace_policies),
        paths::EXPLAIN => post(operators::explain),
        paths::KEYS => get(keys::keys),
        paths::KEY_STEP => post(keys::step),
        paths::STATUS => get(operators::status),
        paths::CHECKPOINT => get(evidence::checkpoint),
        paths::TILE => get(evidence::tile),
        paths::CRLS => get(evidence::crls),
        paths::CRL => get(evidence::crl),
        paths::OPENAPI => get(description::describe),
        _ => unreachable!("the table of routes names no other path"),
    }
}

/// A checkpoint that a caller shows is compared with the log, which takes milliseconds.
const WITNESSED_WITHIN: Duration = Duration::from_secs(5);

/// Gives each request its id, and one source no more than its share; lets in who may ask.
async fn admit(State(service): State<Service>, request: Request, next: Next) -> Response {
    let id = RequestId::fresh();
    let named = HeaderValue::from_str(&id.0).ok();
    let (version, leftover) = (request.version(), Leftover::default());
    let mut request = leftover.watch(request);
    let route = row(&request).map_or("none", |(_, path, _)| path);
    let asked = Asked::new(&request, route, &id.0);
    let admitted = service.rate.admits(request.extensions());
    if !admitted {
        leftover.refuse();
    }
    let mut response = if admitted || is_let_in(&service, &request) {
        request.extensions_mut().insert(id.clone());
        request.extensions_mut().insert(service.bodies.clone());
        // It is verified: that is for who has a share left.
        if let Some((note, shown)) = checkpoint_of(&request).filter(|_| admitted) {
            // Boxed: a request has no room for it while it is answered. Where the disk hangs, it comes with
            // the next request.
            let witness = Box::pin(service.authority.writer.witness(&note, shown));
            drop(tokio::time::timeout(WITNESSED_WITHIN, witness).await);
        }
        match may_ask(&service, &request) {
            Ok(()) => {
                if let Some(peer) = request.extensions().get::<Peer>().cloned() {
                    service.authority.view.note_shown(peer.svid());
                }
                let asks = match route {
                    _ if request.method().is_safe() => Asks::ToBeTold,
                    // The next one comes soon.
                    paths::OWN_REPORT => Asks::ToBeTold,
                    paths::CERTIFICATES => Asks::ToBeCertified,
                    _ => Asks::ToBeDone,
                };
                let answer = next.run(request);
                match route {
                    // It waits for what others do.
                    paths::FEED => answer.await,
                    _ => {
                        let request_id = id.0.clone();
                        let ended = move |answer: Response| {
                            let status = answer.status().as_u16();
                            tracing::info!(
                                request_id,
                                status,
                                "what waited for the disk has ended"
                            );
                        };
                        let answered =
                            service.authority.writer.unless_it_hangs(asks, answer, ended).await;
                        answered.unwrap_or_else(|error| Refused::new(error, &id.0).into_response())
                    }
                }
            }
            Err(refused) => {
                drop(request);
                refused.into_response()
            }
        }
    } else {
        drop(request);
        metrics::counter!("countersign_rate_limited_total").increment(1);
        let detail = "this caller sends more requests than its share";
        Refused::request(ProblemType::RateLimited, detail, Some("wait a second"), &id.0)
            .into_response()
    };
    if asked.is_by_operator() {
        response = as_operators_hear(response, service.readiness.as_typed);
    }
    if let Some(named) = named {
        response.headers_mut().insert("x-request-id", named);
    }
    // HTTP/2 has streams for the one, and GOAWAY for the other.
    let is_last = leftover.ends_connection() || *service.stopped.borrow();
    if is_last && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    asked.answered(&response);
    response
}

/// Whether a stranger is let in although its address has no share left: with a token that lives, or for
/// the trust state, which costs little more than to refuse it. Both are what a workload starts by, and it
/// may share its address with anybody.
fn is_let_in(service: &Service, request: &Request) -> bool {
    if request.extensions().get::<Peer>().is_some() {
        return false;
    }
    match row(request) {
        Some((method, paths::TRUST, _)) => {
            *method == Method::GET && service.rate.admits_start(request.extensions())
        }
        Some((method, paths::CERTIFICATES, _)) if *method == Method::POST => token_of(request)
            .is_some_and(|token| {
                service.authority.view.is_live_token(&token) && service.rate.admits_token(&token)
            }),
        _ => false,
    }
}

/// The token that a request names in its header.
fn token_of(request: &Request) -> Option<Hash> {
    let named = request.headers().get(paths::TOKEN_HEADER)?.as_bytes();
    let decoded = HEXLOWER.decode(named.get(..64).filter(|_| named.len() == 64)?).ok()?;
    Hash::try_from(&decoded[..]).ok()
}

/// Whether the caller may ask this at all, as the table says. What the table does not know is
/// refused further on, whoever asks.
fn may_ask(service: &Service, request: &Request) -> Result<(), Refused> {
    let caller = caller(request.extensions());
    let refuse = |error| Refused::new(error, &caller.request_id);
    let malformed = |detail: String, next: &str| {
        let kind = ProblemType::RequestInvalid;
        Err(Refused::request(kind, detail, Some(next), &caller.request_id))
    };
    // RFC 9112 §3.2: whoever reads another of two names than we do is led past its own rules.
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        return malformed(format!("the request has {hosts} Host fields"), "send one");
    }
    let authority = &service.authority;
    let Some((_, path, access)) = row(request) else { return Ok(()) };
    match access {
        Access::Anyone | Access::Attested => {}
        Access::Permitted(action) => {
            authority.view.permits(&caller, action.clone()).map_err(refuse)?;
        }
        Access::Svid => authority.view.require_certificate(&caller).map_err(refuse)?,
    }
    // What is asked for in the wrong place is not done as if it had not been: `?dry_run=true`.
    match request.uri().query() {
        Some(query) if !query.is_empty() && !takes_questions(request.method(), path) => {
            let detail = format!("{} {path} takes no parameters after a ?", request.method());
            malformed(detail, "GET /v1/openapi.json describes where they go")
        }
        _ => Ok(()),
    }
}

/// Whether a route reads what comes after a `?`, or lets pass what foreign software puts there so that
/// no cache answers.
fn takes_questions(method: &Method, path: &str) -> bool {
    let reads = [
        paths::TRUST,
        paths::CERTIFICATES,
        paths::FEED,
        paths::WORKLOADS,
        paths::ACTS,
        paths::TOKENS,
    ];
    let passes = [paths::CRL, paths::CRLS, paths::TILE, paths::CHECKPOINT];
    [Method::GET, Method::HEAD].contains(method)
        && (reads.contains(&path) || passes.contains(&path))
}

/// The row of the table that a request belongs to. HEAD is answered like GET.
fn row(request: &Request) -> Option<&'static (Method, &'static str, Access)> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = match request.method() {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    static TABLE: &[(Method, &str, Access)] = ROUTES;
    TABLE.iter().find(|(its_method, its_path, _)| its_method == method && *its_path == path)
}

/// The newest checkpoint that the client verified, where it brings one along.
fn checkpoint_of(request: &Request) -> Option<(Vec<u8>, Shown)> {
    let note = request.headers().get(paths::CHECKPOINT_HEADER)?;
    let note = BASE64.decode(note.as_bytes()).ok()?;
    let shown = match request.extensions().get::<Peer>() {
        Some(_) => Shown::ByWorkload,
        None => Shown::ByStranger,
    };
    Some((note, shown))
}

async fn unknown(request: Request) -> Response {
    // RFC 9110 §9.3.7: of the server as a whole.
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return allowing(None, StatusCode::NO_CONTENT.into_response());
    }
    let detail = format!("there is no {}", request.uri().path());
    let next = "GET /v1/openapi.json describes what there is";
    Refused::request(ProblemType::NotFound, detail, Some(next), &id_of(&request)).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map(MatchedPath::as_str);
    if request.method() == Method::OPTIONS {
        return allowing(path, StatusCode::NO_CONTENT.into_response());
    }
    let detail = format!("{} is not possible on {}", request.method(), request.uri().path());
    let next = format!("one of {}; GET /v1/openapi.json describes them", allowed(path));
    let kind = ProblemType::MethodNotAllowed;
    let refused = Refused::request(kind, detail, Some(&next), &id_of(&request));
    allowing(path, refused.into_response())
}

fn allowing(path: Option<&str>, mut response: Response) -> Response {
    if let Ok(allowed) = HeaderValue::from_str(&allowed(path)) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// The methods of a path, or all that there are, as `Allow` lists them.
fn allowed(path: Option<&str>) -> String {
    let mut methods = vec![Method::OPTIONS];
    for (method, its_path, _) in ROUTES {
        if path.is_none_or(|path| path == *its_path) {
            methods.extend((method == Method::GET).then_some(Method::HEAD));
            methods.push(method.clone());
        }
    }
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn id_of(request: &Request) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the future of a handler with two arguments.
    fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_three<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn no_handler_has_room_for_what_follows_while_its_body_is_on_the_way() {
        let sizes = [
            ("issue", size(certificates::issue)),
            ("revoke", size(operators::revoke)),
            ("deny", size(operators::deny)),
            ("create_token", size(operators::create_token)),
            ("add_operator", size(operators::add_operator)),
            ("report", size(fleet::report)),
            ("step", size_of_three(keys::step)),
        ];
        let large: Vec<_> = sizes.iter().filter(|(_, size)| *size > MOST).collect();
        assert!(large.is_empty(), "{large:?} of {sizes:?}");
    }

    /// What the body says, and little more.
    const MOST: usize = 2 * 1024;
}
