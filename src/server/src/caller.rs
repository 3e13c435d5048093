//! Who calls, and the request's own id; bodies with a limit and a clear refusal.

use std::time::Duration;

use api::ProblemType;
use authority::Caller;
use aws_lc_rs::rand;
use axum::body::{Body as HttpBody, HttpBody as _};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use countersign::{Answering, LastAnswer, Peer, VerifiedSvid};
use data_encoding::HEXLOWER;
use http::request::Parts;
use http::{Extensions, HeaderMap, header};
use http_body_util::BodyExt;
use identity::utf8_text;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bodies::{Bodies, Full, Share};
use crate::problem::Refused;

/// The caller of a request, from the connection's handshake.
#[derive(Debug, Clone)]
pub(crate) struct From(pub(crate) Caller);

/// The parameters of a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = extract::Path::from_request_parts(parts, state).await;
        let why = "the last part of the path is none that there could be: it is to be a number";
        read.map(|extract::Path(value)| Self(value))
            .map_err(|_| unreadable(why.to_owned(), &parts.extensions))
    }
}

/// What a path is asked for: unknown parameters and repeated ones are refused.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = extract::Query::from_request_parts(parts, state).await;
        read.map(|extract::Query(value)| Self(value))
            .map_err(|error| unreadable(in_words(&error.body_text()), &parts.extensions))
    }
}

/// What axum says of what comes after a `?`, without its own words for it.
fn in_words(said: &str) -> String {
    let why = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(said);
    // What Rust says of texts that are no numbers and no truths.
    let known = OF_VALUES.iter().find_map(|(theirs, ours)| Some((why.strip_suffix(theirs)?, ours)));
    let why = known.map_or_else(|| why.to_owned(), |(name, ours)| format!("{name}{ours}"));
    format!("what comes after the ? cannot be read: {why}")
}

const OF_VALUES: [(&str, &str); 4] = [
    ("invalid digit found in string", "it is no number"),
    ("cannot parse integer from empty string", "it is no number"),
    ("number too large to fit in target type", "the number is too large"),
    ("provided string was not `true` or `false`", "it is neither true nor false"),
];

fn unreadable(why: String, extensions: &Extensions) -> Refused {
    let id = &caller(extensions).request_id;
    Refused::request(ProblemType::RequestInvalid, why, Some(DESCRIBED), id)
}

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(caller(&parts.extensions)))
    }
}

/// A JSON body with its caller: read whole, unknown fields refused; as an argument of a handler, at
/// most 64 KiB.
#[derive(Debug)]
pub(crate) struct Body<T> {
    pub(crate) caller: Caller,
    pub(crate) value: T,
    last_answer: Option<LastAnswer>,
}

impl<T> Body<T> {
    /// Where the request ends its own caller, they hear what came of it before their connection is
    /// closed: while what is returned lives, and until the answer has left.
    pub(crate) fn last_answer_to(
        &self,
        ends: impl FnOnce(&VerifiedSvid) -> bool,
    ) -> Option<Answering> {
        let is_last = self.caller.svid.as_ref().is_some_and(ends);
        self.last_answer.as_ref().filter(|_| is_last).map(LastAnswer::hold)
    }
}

/// How much of a body is read, and for how long.
#[derive(Debug)]
pub(crate) struct BodyLimit {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
    /// What is said of one that has so many bytes: what is wrong, and what to do.
    pub(crate) too_large: fn(u64) -> (String, &'static str),
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        Self::read(request, &SMALL).await
    }
}

impl<T: DeserializeOwned> Body<T> {
    /// Reads within this limit.
    pub(crate) async fn read(request: Request, limit: &BodyLimit) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        let mut caller = caller(&parts.extensions);
        caller.idempotency_key = idempotency_key(&parts.headers);
        let id = &caller.request_id;
        let invalid = |why: String, next: &str| {
            Refused::request(ProblemType::RequestInvalid, why, Some(next), id)
        };
        if let Some(coding) = coding(&parts.headers) {
            let next = "send it as it is, without Content-Encoding";
            let what = format!("the body is encoded ({coding}), and none is decoded here");
            let kind = ProblemType::MediaTypeUnsupported;
            return Err(Refused::request(kind, what, Some(next), id).takes_no_coding());
        }
        if !is_json(&parts.headers) {
            let next = "send JSON, and say so: Content-Type: application/json";
            let what = "the body is said to be something else than JSON";
            let kind = ProblemType::MediaTypeUnsupported;
            return Err(Refused::request(kind, what, Some(next), id));
        }
        let share = parts.extensions.get::<Bodies>().and_then(|all| all.share(&parts.extensions));
        let last_answer = parts.extensions.get::<LastAnswer>().cloned();
        // A header is not held for as long as its body may take.
        drop(parts);
        let bytes = read_whole(body, limit, share, id).await?;
        let text = utf8_text(&bytes)
            .map_err(|fault| invalid(format!("the body cannot be read: {fault}"), DESCRIBED))?;
        if text.trim().is_empty() {
            return Err(invalid(
                "the body is empty, and JSON is expected here".to_owned(),
                DESCRIBED,
            ));
        }
        // serde would take a list of the fields in their order, too.
        if !text.trim_start().starts_with('{') {
            let why = "the body is not the JSON expected here: it is no object";
            return Err(invalid(why.to_owned(), DESCRIBED));
        }
        let value = serde_json::from_str(text).map_err(|error| {
            invalid(
                format!("the body is not the JSON expected here: {}", explain(&error)),
                DESCRIBED,
            )
        })?;
        Ok(Self { caller, value, last_answer })
    }
}

/// Whether a body may be JSON. One that says nothing may, and one that says that it is a form: curl
/// does where it is told nothing. What a browser sends for a stranger's page has an `Origin`, and must
/// say that it is JSON: then the browser asks us first, and is not let.
fn is_json(headers: &HeaderMap) -> bool {
    let is_page = headers.contains_key(header::ORIGIN);
    if is_page && !headers.contains_key(header::CONTENT_TYPE) {
        return false;
    }
    headers.get_all(header::CONTENT_TYPE).iter().all(|kind| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        let kind = kind.trim().to_ascii_lowercase();
        kind == "application/json"
            || !is_page && kind == "application/x-www-form-urlencoded"
            || kind.starts_with("application/") && kind.ends_with("+json")
    })
}

/// How a body is said to be encoded (RFC 9110 §8.4), where that is in some way; cut to what a coding's
/// name may be long.
fn coding(headers: &HeaderMap) -> Option<String> {
    let fields = headers.get_all(header::CONTENT_ENCODING).iter();
    let named = fields.map(|field| String::from_utf8_lossy(field.as_bytes()).into_owned());
    let codings = named.collect::<Vec<_>>().join(",");
    let mut codings = codings.split(',').map(str::trim).filter(|coding| !coding.is_empty());
    let other = codings.find(|coding| !coding.eq_ignore_ascii_case("identity"))?;
    Some(other.chars().take(MAX_CODING).collect())
}

/// The caller's name for the request; the engine says whether it is one. Two make a name that is none.
fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let names = headers.get_all("idempotency-key").iter().map(|name| {
        let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
        // draft-ietf-httpapi-idempotency-key-header §2.1: a string in quotes.
        let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        quoted.map(ToOwned::to_owned).unwrap_or(name)
    });
    names.reduce(|first, second| format!("{first}, {second}"))
}

async fn read_whole(
    mut body: HttpBody,
    limit: &BodyLimit,
    share: Option<Share>,
    id: &str,
) -> Result<Vec<u8>, Refused> {
    let announced = body.size_hint().lower();
    let read = if announced > limit.bytes as u64 {
        Ok(Err(NotRead::TooLarge(announced)))
    } else {
        tokio::time::timeout(limit.time, read(&mut body, limit, share)).await
    };
    let invalid =
        |why: String| Refused::request(ProblemType::RequestInvalid, why, Some("send it again"), id);
    let (reason, refused) = match read {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(NotRead::TooLarge(seen))) => {
            let (why, next) = (limit.too_large)(seen);
            ("too-large", Refused::request(ProblemType::TooLarge, why, Some(next), id))
        }
        Ok(Err(NotRead::NoRoom)) => {
            let why =
                "too many bodies are under way at once, and of its sender's this was the largest";
            let refused =
                Refused::request(ProblemType::RateLimited, why, Some("wait a second"), id);
            ("no-room", refused.retry_after(1))
        }
        Ok(Err(NotRead::Ended)) => ("ended", invalid("the body ended early".to_owned())),
        Ok(Err(NotRead::Slow)) => {
            let (rate, seconds) = (LEAST_RATE / 1024, (LOOKED_AT_EVERY * LOOKS).as_secs());
            let why = format!("the body came at less than {rate} KiB a second for {seconds} s");
            ("slow", invalid(why))
        }
        Err(_) => {
            let seconds = limit.time.as_secs();
            ("slow", invalid(format!("the body took longer than {seconds} s")))
        }
    };
    metrics::counter!("countersign_bodies_refused_total", "reason" => reason).increment(1);
    Err(refused)
}

/// Why a body is not here.
enum NotRead {
    Ended,
    /// Those of others, or of the same caller, hold what there is.
    NoRoom,
    Slow,
    /// So many bytes were announced, or have come.
    TooLarge(u64),
}

async fn read(
    body: &mut HttpBody,
    limit: &BodyLimit,
    share: Option<Share>,
) -> Result<Vec<u8>, NotRead> {
    // Larger ones have places of their own, of a few callers.
    let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= MAX_BODY as u64);
    let is_usual = is_small || limit.bytes <= MAX_BODY;
    let mut share = share.filter(|_| is_usual);
    let mut kept = Vec::new();
    let mut looks = tokio::time::interval_at(Instant::now() + LOOKED_AT_EVERY, LOOKED_AT_EVERY);
    // After a pause of ours each sender has its time again.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looked_at, mut slow_looks) = (0, 0);
    loop {
        let frame = tokio::select! {
            biased;
            () = gives_way(&mut share) => return Err(NotRead::NoRoom),
            frame = body.frame() => frame,
            _ = looks.tick(), if is_usual => {
                let is_slow =
                    kept.len() - looked_at < LEAST_RATE * LOOKED_AT_EVERY.as_secs() as usize;
                slow_looks = if is_slow { slow_looks + 1 } else { 0 };
                if slow_looks == LOOKS {
                    return Err(NotRead::Slow);
                }
                looked_at = kept.len();
                continue;
            }
        };
        let Some(frame) = frame else { return Ok(kept) };
        let Ok(data) = frame.map_err(|_| NotRead::Ended)?.into_data() else { continue };
        let seen = kept.len() + data.len();
        if seen > limit.bytes {
            return Err(NotRead::TooLarge(seen as u64));
        }
        // As a vector grows, but counted. What is whole waits for nothing, and is held by nobody.
        if seen > kept.capacity() && !body.is_end_stream() {
            let room = seen.max(2 * kept.capacity()).max(LEAST_ROOM).min(limit.bytes);
            if let Some(share) = &mut share {
                share.grow(room - kept.capacity()).map_err(|Full| NotRead::NoRoom)?;
            }
            kept.reserve_exact(room - kept.len());
        }
        kept.extend_from_slice(&data);
    }
}

async fn gives_way(share: &mut Option<Share>) {
    match share {
        Some(share) => share.gives_way().await,
        None => std::future::pending().await,
    }
}

/// What is wrong, without the values: they may be secrets.
fn explain(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return format!("it ends early, at line {} column {}", error.line(), error.column());
    }
    let text = error.to_string();
    // Those that repeat a value whatever it is; our own parsers say what they would say anywhere.
    let repeats = ["invalid ", "unknown variant", "data did not match"];
    if !repeats.iter().any(|beginning| text.starts_with(beginning)) {
        return text;
    }
    format!("a value is of the wrong kind at line {} column {}", error.line(), error.column())
}

/// The caller of a request, from the connection's handshake.
pub(crate) fn caller(extensions: &Extensions) -> Caller {
    let svid = extensions.get::<Peer>().map(|peer| peer.svid().clone());
    let request_id =
        extensions.get::<RequestId>().map_or_else(|| RequestId::fresh().0, |id| id.0.clone());
    Caller { svid, request_id, idempotency_key: None }
}

/// What diagnostics, events and problems call a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    pub(crate) fn fresh() -> Self {
        let mut random = [0; 8];
        // Without randomness nothing is issued; an id of zeros is then the least trouble.
        if rand::fill(&mut random).is_err() {
            random = [0; 8];
        }
        Self(HEXLOWER.encode(&random))
    }
}

/// What most routes read.
pub(crate) const SMALL: BodyLimit = BodyLimit {
    bytes: MAX_BODY,
    time: BODY_TIME,
    too_large: |seen| {
        let next = "send what GET /v1/openapi.json describes for this path, and nothing else";
        (format!("the body has {seen} bytes, and 64 KiB at most are read here"), next)
    },
};
pub(crate) const MAX_BODY: usize = 64 * 1024;
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);
/// Bytes a second, as long as a body is not whole: what a modem does.
pub(crate) const LEAST_RATE: usize = 1024;
/// As long as it takes to send again what was lost twice (RFC 6298 §5: after one second, and two more).
const LOOKED_AT_EVERY: Duration = Duration::from_secs(3);
/// Given up at the second look in a row that finds too little: the first may come just before what was
/// sent again.
const LOOKS: u32 = 2;
/// What the smallest body costs beside its bytes.
const LEAST_ROOM: usize = 1024;
/// RFC 9110 §16.6.1 registers none longer than 20.
const MAX_CODING: usize = 32;
const DESCRIBED: &str = "GET /v1/openapi.json describes it";
