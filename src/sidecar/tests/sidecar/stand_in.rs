//! A CA for a running workload: it says and answers what the test wants.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Attestation, IssueRequest, Problem, ProblemType, Secret, paths};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use countersign::{Builder, Limits, Workload};
use data_encoding::BASE64;
use futures_util::stream;
use http::Method;
use identity::TrustDomain;
use identity::feed::{Content, Heartbeat, Position};
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use tlog::Hash;

use crate::authority::{Log, TestAuthority, now};
use crate::endpoints::REPORTS;
use crate::server::TestServer;

/// The stand-in, and the server that it is.
pub(crate) struct StandIn {
    pub(crate) authority: TestAuthority,
    asked: Mutex<Vec<Asked>>,
    answers: Mutex<VecDeque<Answer>>,
    says: Mutex<Says>,
    said: AtomicUsize,
    trust: Mutex<Vec<u8>>,
}

/// What came, in the order in which it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: String,
    /// The checkpoint that came along.
    pub(crate) shown: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Bytes,
}

/// What becomes of a request for a certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Issues,
    /// Its clock is another than ours.
    IssuesAt(OffsetDateTime),
    /// It issues, and something between us drops the answer.
    Loses,
    Refuses(ProblemType),
}

/// Makes the line that the feed says next.
type Says = Box<dyn Fn(&TestAuthority) -> Vec<u8> + Send>;

impl StandIn {
    /// A CA that says heartbeats and issues, until it is told otherwise.
    pub(crate) async fn start() -> (Arc<Self>, TestServer) {
        let authority = TestAuthority::new();
        let trust = Mutex::new(authority.trust_note());
        let says = Mutex::new(Box::new(|ca: &TestAuthority| ca.heartbeat(UnixTime::now())) as _);
        let (asked, answers) = (Mutex::default(), Mutex::default());
        let stand_in =
            Arc::new(Self { authority, asked, answers, says, said: AtomicUsize::new(0), trust });
        let answering = Arc::clone(&stand_in);
        let router = Router::new().fallback(async move |request| answering.answer(request).await);
        let an_hour_ago = now() - time::Duration::hours(1);
        let svid = stand_in.authority.svid_at("/countersign/authority", an_hour_ago, Log::Asked);
        let limits = Limits::default();
        let server = TestServer::start_with(&stand_in.authority, svid, router, limits).await;
        (stand_in, server)
    }

    /// A workload that this CA has.
    pub(crate) fn workload(&self, server: &TestServer) -> Builder {
        let workload = Workload::builder().url(server.url());
        workload.trust_pin(self.authority.pin().to_string()).token(Secret::new("ct1"))
    }

    /// What the feed says from now on, every now and then.
    pub(crate) fn say(&self, says: impl Fn(&TestAuthority) -> Vec<u8> + Send + 'static) {
        *self.says.lock().unwrap() = Box::new(says);
    }

    /// How often the feed has said something.
    pub(crate) fn said(&self) -> usize {
        self.said.load(Ordering::SeqCst)
    }

    /// What becomes of the next requests for certificates; whoever comes after them gets one.
    pub(crate) fn next_answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Has another trust state from now on; where it is empty, none can be fetched.
    pub(crate) fn set_trust(&self, note: Vec<u8>) {
        *self.trust.lock().unwrap() = note;
    }

    /// What came for a method and path so far.
    pub(crate) fn asked(&self, what: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.what == what).cloned().collect()
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let header = |name: &str| parts.headers.get(name).cloned();
        let shown = header(paths::CHECKPOINT_HEADER)
            .map(|note| String::from_utf8(BASE64.decode(note.as_bytes()).unwrap()).unwrap());
        let idempotency_key = header("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
        let what = format!("{} {}", parts.method, parts.uri.path());
        let asked = Asked { what, shown, idempotency_key, body: body.clone() };
        self.asked.lock().unwrap().push(asked);
        match (parts.method, parts.uri.path()) {
            (Method::GET, paths::TRUST) => match self.trust.lock().unwrap().clone() {
                none if none.is_empty() => StatusCode::BAD_GATEWAY.into_response(),
                note => note.into_response(),
            },
            (Method::GET, paths::FEED) => self.feed(),
            (Method::POST, paths::CERTIFICATES) => self.certificate(&body),
            (Method::PUT, paths::OWN_REPORT) => StatusCode::NO_CONTENT.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn feed(self: &Arc<Self>) -> Response {
        let (stand_in, mut beat) = (Arc::clone(self), tokio::time::interval(BEAT));
        let beats = stream::poll_fn(move |cx| {
            beat.poll_tick(cx).map(|_| {
                let line = (stand_in.says.lock().unwrap())(&stand_in.authority);
                stand_in.said.fetch_add(1, Ordering::SeqCst);
                let event = [b"data: ", &line[..], b"\n\n"].concat();
                Some(Ok::<_, Infallible>(Bytes::from(event)))
            })
        });
        ([("content-type", "text/event-stream")], Body::from_stream(beats)).into_response()
    }

    fn certificate(&self, body: &[u8]) -> Response {
        let request: IssueRequest = serde_json::from_slice(body).unwrap();
        let issue = |at| self.authority.issue(&request.csr, REPORTS, at);
        match self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Issues) {
            Answer::Issues => Json(issue(now())).into_response(),
            Answer::IssuesAt(at) => Json(issue(at)).into_response(),
            Answer::Loses => StatusCode::BAD_GATEWAY.into_response(),
            Answer::Refuses(problem_type) => problem(problem_type),
        }
    }
}

impl Asked {
    /// What a request for a certificate asks for.
    pub(crate) fn request(&self) -> IssueRequest {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn is_renewal(&self) -> bool {
        matches!(self.request().attestation, Attestation::Svid {})
    }
}

impl TestAuthority {
    /// Nothing is revoked, says the feed at a time.
    pub(crate) fn heartbeat(&self, at: UnixTime) -> Vec<u8> {
        self.heartbeat_naming(at, 1, &self.trust_note())
    }

    /// The same, where another trust state is in force.
    pub(crate) fn heartbeat_naming(
        &self,
        at: UnixTime,
        trust_sequence: u64,
        trust_note: &[u8],
    ) -> Vec<u8> {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        self.heartbeat_at(at, genesis, trust_sequence, trust_note)
    }

    /// The same, after some items.
    pub(crate) fn heartbeat_at(
        &self,
        at: UnixTime,
        position: Position,
        trust_sequence: u64,
        trust_note: &[u8],
    ) -> Vec<u8> {
        let (checkpoint, trust_hash) = (self.checkpoint(7), Hash::of(trust_note));
        let heartbeat = Heartbeat { checkpoint, trust_sequence, trust_hash };
        self.feed_line_at(at, position, Content::Heartbeat(heartbeat))
    }
}

fn problem(problem_type: ProblemType) -> Response {
    let (name, status) = (problem_type.name(), problem_type.status());
    let problem = Problem {
        problem_type,
        title: name.into(),
        status,
        detail: "the test wants it so".into(),
        request_id: "7".into(),
        next_step: None,
        policies: vec![],
        rule: None,
    };
    let headers = [("content-type", "application/problem+json")];
    let status = StatusCode::from_u16(status).unwrap();
    (status, headers, serde_json::to_vec(&problem).unwrap()).into_response()
}

/// More often than a CA's, so that tests are short.
const BEAT: Duration = Duration::from_millis(50);
