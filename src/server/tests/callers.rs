//! Every route by every kind of caller: what each sees, over real connections.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use api::{Attestation, DenyRequest, IssueRequest, RevokeRequest, TokenRequest, paths};
use countersign::{Credentials, ExpectedServer, Verification, client_config};
use identity::SpiffeId;
use rustls::pki_types::ServerName;
use server::ROUTES;
use support::{Service, credentials, csr, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Callers across; below, each route with a body that is as described, and where it has a body,
/// once more (`{`) with one that is no JSON. `workload` asks about itself, `other` about `workload`.
/// A certificate that does not count is refused in the handshake (`-`): none is anonymous.
const GRID: &str = "
                                     anonymous workload other listed init unlisted expired revoked denied
GET    /v1/trust                     200       200      200   200    200  200      -       -       -
GET    /v1/bundle                    200       200      200   200    200  200      -       -       -
POST   /v1/certificates              401       422      422   422    422  422      -       -       -
POST { /v1/certificates              400       400      400   400    400  400      -       -       -
GET    /v1/certificates              401       403      403   200    200  403      -       -       -
GET    /v1/certificates/{serial}     401       200      404   200    200  404      -       -       -
GET    /v1/certificates/{serial}/renewal 401   200      404   200    200  404      -       -       -
POST   /v1/revocations               401       403      403   200    200  403      -       -       -
POST { /v1/revocations               401       400      400   400    400  400      -       -       -
GET    /v1/revocations/{log_index}   401       403      403   404    404  403      -       -       -
GET    /v1/feed                      401       200      200   200    200  200      -       -       -
PUT    /v1/reports/self              401       204      204   204    204  204      -       -       -
PUT  { /v1/reports/self              401       400      400   400    400  400      -       -       -
GET    /v1/workloads                 401       403      403   200    200  403      -       -       -
GET    /v1/denials                   401       403      403   200    200  403      -       -       -
POST   /v1/denials                   401       403      403   201    201  403      -       -       -
POST { /v1/denials                   401       400      400   400    400  400      -       -       -
DELETE /v1/denials/{id}              401       404      404   404    404  404      -       -       -
GET    /v1/acts                      401       403      403   200    200  403      -       -       -
GET    /v1/tokens                    401       403      403   200    200  403      -       -       -
POST   /v1/tokens                    401       403      403   201    201  403      -       -       -
POST { /v1/tokens                    401       400      400   400    400  400      -       -       -
DELETE /v1/tokens/{id}               401       403      403   404    404  403      -       -       -
GET    /v1/operators                 401       403      403   200    200  403      -       -       -
POST   /v1/operators                 401       403      403   201    201  403      -       -       -
POST { /v1/operators                 401       400      400   400    400  400      -       -       -
GET    /v1/policies                  401       403      403   200    200  403      -       -       -
PUT    /v1/policies                  401       403      403   409    409  403      -       -       -
PUT  { /v1/policies                  401       403      403   400    400  403      -       -       -
POST   /v1/policies/explain          401       403      403   200    200  403      -       -       -
POST { /v1/policies/explain          401       403      403   400    400  403      -       -       -
GET    /v1/keys                      401       403      403   200    200  403      -       -       -
POST   /v1/keys/{id}/{step}          401       403      403   404    404  403      -       -       -
POST { /v1/keys/{id}/{step}          401       400      400   400    400  400      -       -       -
GET    /v1/status                    401       403      403   200    200  403      -       -       -
GET    /log/checkpoint               401       200      200   200    200  200      -       -       -
GET    /log/tile/{*path}             401       403      403   404    404  403      -       -       -
GET    /crl                          200       200      200   200    200  200      -       -       -
GET    /crl/{issuer}                 200       200      200   200    200  200      -       -       -
GET    /v1/openapi.json              200       200      200   200    200  200      -       -       -
";

/// One line of the grid.
struct Line {
    method: &'static str,
    is_broken: bool,
    path: &'static str,
    expected: Vec<&'static str>,
}

fn grid() -> (Vec<&'static str>, Vec<Line>) {
    let mut lines = GRID.trim_start_matches('\n').lines();
    let callers = lines.next().unwrap().split_whitespace().collect();
    let line = |line: &'static str| {
        let mut words = line.split_whitespace().peekable();
        let method = words.next().unwrap();
        let is_broken = words.next_if_eq(&"{").is_some();
        let path = words.next().unwrap();
        Line { method, is_broken, path, expected: words.collect() }
    };
    (callers, lines.map(line).collect())
}

#[tokio::test]
async fn each_route_answers_each_caller_as_the_grid_says() {
    let (names, lines) = grid();
    let in_grid: BTreeSet<_> = lines.iter().map(|line| (line.method, line.path)).collect();
    let in_table = ROUTES.iter().map(|(method, path, _)| (method.as_str(), *path));
    assert_eq!(
        in_grid,
        in_table.collect::<BTreeSet<_>>(),
        "each route of the table has its line, and no other"
    );

    let scene = Scene::set().await;
    let mut wrong = Vec::new();
    for line in &lines {
        for (position, name) in names.iter().enumerate() {
            let answer = scene.ask(line, name).await;
            let expected = line.expected[position];
            if answer.status != expected {
                let what = format!("{} {}", line.method, line.path);
                wrong.push(format!("{what} by {name}: {expected}, not {}", answer.status));
            }
            if answer.status != "-" {
                assert!(
                    scene.is_described(line, &answer),
                    "{} by {name}: {}",
                    line.path,
                    answer.head
                );
            }
            if answer.status.starts_with('4') {
                let told = scene.secrets.iter().find(|secret| answer.body.contains(*secret));
                assert_eq!(told, None, "{} by {name} tells it: {}", line.path, answer.body);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    scene.service.running.stop().await;
}

#[tokio::test]
async fn who_may_not_ask_is_answered_before_the_body_comes() {
    let scene = Scene::set().await;
    for (method, path, _) in ROUTES.iter().filter(|(method, ..)| *method == "PUT") {
        for (name, expected) in [("anonymous", "401"), ("workload", "403")] {
            if name == "workload" && *path == paths::OWN_REPORT {
                continue;
            }
            let head = format!("{method} {path} HTTP/1.1\r\nhost: ca\r\ncontent-length: 4000000");
            // Nothing of the body ever comes, and nothing is waited for.
            let answer = scene.exchange(name, &head, "").await;
            assert_eq!(answer.status, expected, "{method} {path} by {name}");
        }
    }
    scene.service.running.stop().await;
}

#[tokio::test]
async fn a_policy_set_above_the_limit_is_refused_with_size_and_limit() {
    let scene = Scene::set().await;
    let head = "PUT /v1/policies HTTP/1.1\r\nhost: ca\r\nif-match: *\r\ncontent-length: 4194305";
    let answer = scene.exchange("init", head, "").await;
    assert_eq!(answer.status, "413");
    for told in ["too-large", "4194305 bytes", "4194304 at most", "policy check"] {
        assert!(answer.body.contains(told), "{told}: {}", answer.body);
    }
    scene.service.running.stop().await;
}

#[tokio::test]
async fn few_large_policy_sets_are_read_at_once_and_small_ones_wait_for_nobody() {
    let scene = Scene::set().await;
    let large =
        "PUT /v1/policies HTTP/1.1\r\nhost: ca\r\nif-match: \"0\"\r\ncontent-length: 4000000";
    // Their bodies never come, so that those which have a place keep it.
    let ask = || scene.exchange("init", large, "");
    let (mut first, mut second, mut third) = (pin!(ask()), pin!(ask()), pin!(ask()));
    let answer = tokio::select! {
        answer = &mut first => answer,
        answer = &mut second => answer,
        answer = &mut third => answer,
    };
    assert_eq!(answer.status, "429");
    assert!(answer.head.contains("retry-after: 5"), "{}", answer.head);
    let small = "PUT /v1/policies HTTP/1.1\r\nhost: ca\r\ncontent-length: 1";
    assert_eq!(scene.exchange("listed", small, "{").await.status, "400");
}

/// A CA with somebody of each kind.
struct Scene {
    service: Service,
    trust: identity::Trust,
    serial: String,
    /// What `GET /v1/openapi.json` says.
    description: serde_json::Value,
    /// What no refusal may tell.
    secrets: Vec<String>,
    callers: Vec<(&'static str, Option<Arc<Credentials>>)>,
}

struct Answer {
    status: String,
    head: String,
    body: String,
}

impl Scene {
    /// The CA's time is behind, so that a certificate of an hour has expired by the machine's.
    async fn set() -> Self {
        let service = Service::start(time::Duration::hours(2)).await;
        let (own, workload) = service.enrol("/prod/reports").await;
        let (other_own, other) = service.enrol("/prod/monolith").await;
        let (revoked_own, revoked) = service.enrol("/prod/batch").await;
        let (_, denied) = service.enrol("/prod/legacy").await;
        let admin = service.operator().await;
        let revocation = RevokeRequest {
            target: revoked_own.serial_number.to_string(),
            reason: "superseded".to_owned(),
            dry_run: false,
            named_override: None,
        };
        admin.revoke(&revocation).await.unwrap();
        let denial = DenyRequest {
            spiffe_id: service.id("/prod/legacy"),
            reason: "key-compromise".to_owned(),
            named_override: None,
        };
        admin.deny(&denial).await.unwrap();
        let callers = vec![
            ("anonymous", None),
            ("workload", Some(workload)),
            ("other", Some(other)),
            ("listed", operator(&service, "second").await),
            ("init", operator(&service, "admin").await),
            ("unlisted", operator(&service, "stranger").await),
            ("expired", Some(expired(&service).await)),
            ("revoked", Some(revoked)),
            ("denied", Some(denied)),
        ];
        let secrets =
            vec![other_own.serial_number.to_string(), "/prod/batch".to_owned(), "-----".to_owned()];
        let trust = identity::Trust::clone(&service.authority.view.trust());
        let mut stranger = support::wire::Wire::open(&service, None).await;
        let description = stranger.ask("GET /v1/openapi.json").await.body;
        let description = serde_json::from_str(&description).unwrap();
        Self {
            service,
            description,
            trust,
            serial: own.serial_number.to_string(),
            secrets,
            callers,
        }
    }

    /// Whether the description names this status for the route, and this type for the status.
    fn is_described(&self, line: &Line, answer: &Answer) -> bool {
        let method = line.method.to_lowercase();
        let operation = &self.description["paths"][line.path.replace("{*", "{")][&method];
        let mut response = &operation["responses"][&answer.status];
        if let Some(shared) = response["$ref"].as_str() {
            response = self.description.pointer(shared.trim_start_matches('#')).unwrap();
        }
        let kind = answer.head.lines().find_map(|line| line.strip_prefix("content-type: "));
        let kind = kind.map(|kind| kind.split(';').next().unwrap());
        let is_problem = kind == Some("application/problem+json");
        let is_refused = answer.status.starts_with(['4', '5']);
        response.is_object()
            && is_problem == is_refused
            && kind.is_none_or(|kind| response["content"].get(kind).is_some())
    }

    async fn ask(&self, line: &Line, caller: &str) -> Answer {
        let path = line
            .path
            .replace(paths::ACTS, &format!("{}?by={}", paths::ACTS, self.service.id("/prod/batch")))
            .replace("{serial}", &self.serial)
            .replace("{id}", "9999")
            .replace("{log_index}", "9999")
            .replace("{step}", "activate")
            .replace("{*path}", "0/255")
            .replace("{issuer}", &self.service.authority.view.issuer_id());
        let body = if line.is_broken { "{".to_owned() } else { body(line, &self.service) };
        let head = format!(
            "{} {path} HTTP/1.1\r\nhost: ca\r\nif-match: \"0\"\r\ncontent-length: {}",
            line.method,
            body.len()
        );
        self.exchange(caller, &head, &body).await
    }

    /// One request on a connection of its own; the status is `-` where no answer comes.
    async fn exchange(&self, caller: &str, head: &str, body: &str) -> Answer {
        let (_, credentials) = self.callers.iter().find(|(name, _)| *name == caller).unwrap();
        let exchanged = exchange(&self.service, &self.trust, credentials.clone(), head, body);
        let text = tokio::time::timeout(std::time::Duration::from_secs(60), exchanged);
        let text = text.await.expect("an answer comes").unwrap_or_default();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or("-").to_owned();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

async fn exchange(
    service: &Service,
    trust: &identity::Trust,
    credentials: Option<Arc<Credentials>>,
    head: &str,
    body: &str,
) -> std::io::Result<String> {
    let expected = ExpectedServer::authority(service.authority.view.trust_domain());
    let config = client_config(Verification::new(trust.clone()), expected, credentials).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols.clear();
    let stream = TcpStream::connect(service.running.address).await?;
    let name = ServerName::from(service.running.address.ip());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    // The connection stays while the body is awaited that never comes.
    while !is_whole(&answer) && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.parse().unwrap())
}

/// A body as the route describes it; none where it has none.
fn body(line: &Line, service: &Service) -> String {
    let id = |path: &str| service.id(path).to_string();
    let reports = id("/prod/reports");
    if !matches!(line.method, "POST" | "PUT") {
        return String::new();
    }
    match line.path {
        paths::CERTIFICATES => r#"{"csr":"","attestation":{"type":"svid"}}"#.to_owned(),
        paths::REVOCATIONS => {
            format!(r#"{{"target":"{reports}","reason":"superseded","dry_run":true}}"#)
        }
        paths::OWN_REPORT => REPORT.to_owned(),
        paths::DENIALS => {
            format!(r#"{{"spiffe_id":"{}","reason":"superseded"}}"#, id("/prod/legacy"))
        }
        paths::TOKENS => format!(r#"{{"spiffe_id":"{reports}"}}"#),
        paths::OPERATORS => r#"{"name":"third"}"#.to_owned(),
        paths::POLICIES => r#"{"files":{"workloads.json":"{\"workloads\":[]}"}}"#.to_owned(),
        paths::EXPLAIN => {
            format!(r#"{{"as":"{reports}","action":"issue","resource":"{reports}"}}"#)
        }
        paths::KEY_STEP => r#"{"purpose":"issuer"}"#.to_owned(),
        path => panic!("which body has {path}?"),
    }
}

const REPORT: &str = r#"{"trust_sequence":1,"feed_sequence":0,"open_connections":0,
    "seconds_without_authority":0}"#;

/// An operator's certificate, made on the CA's host.
async fn operator(service: &Service, name: &str) -> Option<Arc<Credentials>> {
    let id = SpiffeId::operator(service.authority.view.trust_domain(), name).unwrap();
    let (csr, key) = csr();
    let body = IssueRequest { spiffe_id: Some(id), ..request(csr, Attestation::Svid {}) };
    let issued = service.authority.issuing.issue_internal(&body, "init").await.unwrap();
    Some(credentials(&issued, key))
}

async fn expired(service: &Service) -> Arc<Credentials> {
    let spiffe_id = service.id("/prod/reports");
    let asked = TokenRequest { spiffe_id, ttl: None, key_sha256: None };
    let token = service.operator().await.create_token(&asked).await.unwrap().token;
    let (csr, key) = csr();
    let ttl = Some("1h".parse().unwrap());
    let body = IssueRequest { ttl, ..request(csr, Attestation::Token { token }) };
    let issued = service.client(None).issue(&body, None).await.unwrap();
    credentials(&issued, key)
}
