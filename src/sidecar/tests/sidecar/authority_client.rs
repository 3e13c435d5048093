//! The CA's API: what is sent, and what is made of answers.

use std::sync::{Arc, Mutex};

use api::{
    Attestation, CertificateFilter, DenyRequest, IssueRequest, PolicyFiles, Problem, ProblemType,
    Secret,
};
use axum::extract::{RawQuery, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use axum::{Json, Router};
use countersign::{AnswerFault, AuthorityClient, ConfigurationFault, Error};
use identity::SpiffeId;
use tokio::net::TcpListener;

use crate::authority::TestAuthority;
use crate::server::{TestServer, soon};

async fn server_and_client(router: Router) -> (TestServer, AuthorityClient) {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, router).await;
    let client = server.client(&authority, None);
    (server, client)
}

fn issue_request() -> IssueRequest {
    IssueRequest {
        csr: String::new(),
        spiffe_id: None,
        dns: None,
        ip: None,
        profile: None,
        ttl: None,
        attestation: Attestation::Token { token: Secret::new("ct1") },
    }
}

fn problem() -> Problem {
    Problem {
        problem_type: ProblemType::PolicyDenied,
        title: "policy-denied".into(),
        status: 403,
        detail: "no row names it".into(),
        request_id: "7".into(),
        next_step: Some("countersign policy explain".into()),
        policies: vec!["rows".into()],
        rule: None,
    }
}

#[tokio::test]
async fn problem_of_the_ca_reaches_the_caller_whole() {
    let refuse = async || {
        let headers = [("content-type", "application/problem+json")];
        (StatusCode::FORBIDDEN, headers, serde_json::to_vec(&problem()).unwrap())
    };
    let (_server, client) = server_and_client(Router::new().fallback(refuse)).await;
    match client.issue(&issue_request(), None).await.unwrap_err() {
        Error::Authority(found) => assert_eq!(*found, problem()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn failure_without_a_problem_is_not_the_cas_word() {
    let page = async || (StatusCode::BAD_GATEWAY, "<h1>502</h1>");
    let (_server, client) = server_and_client(Router::new().fallback(page)).await;
    let error = client.allow("7").await.unwrap_err();
    let fault = AnswerFault::NoProblem;
    assert!(
        matches!(&error, Error::UnexpectedAnswer { status: 502, fault: f, .. } if *f == fault),
        "{error:?}"
    );
}

#[tokio::test]
async fn answer_of_another_shape_is_refused() {
    let (_server, client) = server_and_client(Router::new().fallback(async || "{}")).await;
    let error = client.status().await.unwrap_err();
    assert!(
        matches!(error, Error::UnexpectedAnswer { fault: AnswerFault::Shape, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn oversized_answer_is_refused() {
    let limit = 8 * 1024 * 1024;
    let router = Router::new()
        .route("/v1/trust", get(async move || vec![b' '; limit + 1]))
        .route("/v1/status", get(async move || vec![b' '; limit]));
    let (_server, client) = server_and_client(router).await;
    let error = soon(client.trust_note()).await.unwrap_err();
    assert!(
        matches!(error, Error::UnexpectedAnswer { fault: AnswerFault::TooLarge, .. }),
        "{error:?}"
    );
    let error = soon(client.status()).await.unwrap_err();
    assert!(
        matches!(error, Error::UnexpectedAnswer { fault: AnswerFault::Shape, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn requests_carry_what_their_routes_ask_for() {
    let seen = async |query: RawQuery, request: Request| {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (method, path) = (request.method(), request.uri().path());
        let RawQuery(query) = query;
        let seen = format!(
            "{method} {path} {} {} {}",
            query.unwrap_or_default(),
            header("idempotency-key"),
            header("if-match")
        );
        let problem = Problem { detail: seen.trim_end().to_owned(), ..problem() };
        let headers = [("content-type", "application/problem+json")];
        (StatusCode::FORBIDDEN, headers, Json(problem).into_response().into_body()).into_response()
    };
    let (_server, client) = server_and_client(Router::new().fallback(any(seen))).await;
    let detail = |error: Error| match error {
        Error::Authority(problem) => problem.detail,
        other => panic!("{other:?}"),
    };
    let error = client.issue(&issue_request(), Some("k1")).await.unwrap_err();
    assert_eq!(detail(error), "POST /v1/certificates  k1");
    let policies = PolicyFiles { files: Default::default() };
    let error = client.replace_policies(&policies, "ab").await.unwrap_err();
    assert_eq!(detail(error), "PUT /v1/policies   \"ab\"");
    let filter = CertificateFilter { revoked: true, limit: Some(5), ..Default::default() };
    let error = client.certificates(&filter).await.unwrap_err();
    assert_eq!(detail(error), "GET /v1/certificates revoked=true&limit=5");
    let error = client.revoke_token("../policies?x=1").await.unwrap_err();
    assert_eq!(detail(error), "DELETE /v1/tokens/..%2Fpolicies%3Fx%3D1");
}

#[tokio::test]
async fn an_act_whose_answer_is_lost_is_asked_for_once_more_under_its_name() {
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    let lose_the_first = async move |headers: HeaderMap| {
        let name = headers["idempotency-key"].to_str().unwrap().to_owned();
        let first = {
            let mut names = seen.lock().unwrap();
            names.push(name);
            names.len() == 1
        };
        assert!(!first, "the answer is lost");
        (StatusCode::FORBIDDEN, [("content-type", "application/problem+json")], Json(problem()))
    };
    let (_server, client) = server_and_client(Router::new().fallback(any(lose_the_first))).await;
    let id = SpiffeId::parse("spiffe://test.example/a").unwrap();
    let request = DenyRequest { spiffe_id: id, reason: "superseded".into(), named_override: None };
    for _ in 0..2 {
        assert!(matches!(client.deny(&request).await, Err(Error::Authority(_))));
    }
    let names = names.lock().unwrap();
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], names[1]);
    assert_ne!(names[1], names[2], "another act has another name");
}

#[tokio::test]
async fn header_that_would_end_early_is_refused() {
    let (_server, client) = server_and_client(Router::new()).await;
    let error = client.issue(&issue_request(), Some("a\r\nb: c")).await.unwrap_err();
    assert!(matches!(error, Error::Configuration(ConfigurationFault::Header { .. })), "{error:?}");
}

#[test]
fn url_is_https_host_and_port() {
    let authority = TestAuthority::new();
    let new = |url: &str| AuthorityClient::new(url, authority.trust(), None);
    for good in ["https://ca", "https://ca:8443", "https://ca/", "https://[::1]:8443"] {
        assert!(new(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "ca:8443",
        "/v1",
        "http://ca",
        "https://",
        "https://ca/v1",
        "https://ca?x",
        "https://ca#x",
        "https://user@ca",
        "https://ca:port",
        "https://ca:65536",
        "https://ca:",
        "unix:///ca",
    ] {
        let refused = new(bad).err();
        assert!(
            matches!(refused, Some(Error::Configuration(ConfigurationFault::Url { .. }))),
            "{bad}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn server_that_is_away_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = AuthorityClient::new(&url, TestAuthority::new().trust(), None).unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}
