//! Whether a connection goes on after an answer, and that the answer says so where it does not.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::time::{Duration, Instant};

use api::{DenyRequest, RevokeRequest, WorkloadFilter, paths};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::Service;
use support::wire::{Answer, Wire, connect};

/// A request to the last byte, the status of its answer, and whether that is the connection's last.
struct Case {
    name: &'static str,
    request: Vec<u8>,
    status: u16,
    is_last: bool,
}

fn case(name: &'static str, head: &str, body: &[u8], status: u16, is_last: bool) -> Case {
    let head = head.replace('\n', "\r\n");
    let mut request = head.replacen("\r\n", " HTTP/1.1\r\nhost: ca\r\n", 1).into_bytes();
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    Case { name, request, status, is_last }
}

/// Stays or ends, as a stranger: bodies that are not read for each reason that there is.
fn cases() -> Vec<Case> {
    let long = vec![b' '; 300_000];
    let chunked = [b"493e0\r\n", &*long, b"\r\n0\r\n\r\n"].concat();
    let (goes_on, is_last) = (false, true);
    vec![
        case("nothing", "GET /v1/trust\n", b"", 200, goes_on),
        case("GET with a body", "GET /v1/trust\ncontent-length: 2\n", b"{}", 200, goes_on),
        case("long", "GET /v1/trust\ncontent-length: 300000\n", &long, 200, goes_on),
        case("not let in", "POST /v1/tokens\ncontent-length: 300000\n", &long, 401, goes_on),
        case("no such path", "PUT /v1/no\ncontent-length: 300000\n", &long, 404, goes_on),
        case("wrong method", "PUT /v1/tokens\ncontent-length: 300000\n", &long, 405, goes_on),
        case("too large", "POST /v1/certificates\ncontent-length: 300000\n", &long, 413, goes_on),
        case("no JSON", "POST /v1/certificates\ncontent-length: 2\n", b"{]", 400, goes_on),
        case(
            "no JSON by its own word",
            "POST /v1/certificates\ncontent-type: text/plain\ncontent-length: 300000\n",
            &long,
            415,
            goes_on,
        ),
        case(
            "read to the end of its chunks",
            "POST /v1/certificates\ntransfer-encoding: chunked\n",
            b"2\r\n{]\r\n0\r\n\r\n",
            400,
            goes_on,
        ),
        case(
            "large beyond what is ignored",
            "POST /v1/certificates\ncontent-length: 4194305\n",
            &long,
            413,
            is_last,
        ),
        case("nobody knows", "GET /v1/trust\ntransfer-encoding: chunked\n", &chunked, 200, is_last),
        case("same", "PUT /v1/no\ntransfer-encoding: chunked\n", &chunked, 404, is_last),
        case(
            "broken chunks",
            "POST /v1/certificates\ntransfer-encoding: chunked\n",
            b"2\r\n{}oops\r\n",
            400,
            is_last,
        ),
        case(
            "asked first",
            "POST /v1/tokens\nexpect: 100-Continue\ncontent-length: 9\n",
            b"",
            401,
            is_last,
        ),
        case(
            "asked first about too much",
            "POST /v1/certificates\nexpect: 100-continue\ncontent-length: 4194305\n",
            b"",
            413,
            is_last,
        ),
        case("by its client", "GET /v1/trust\nconnection: close\n", b"", 200, is_last),
    ]
}

async fn goes_as_it_says(wire: Wire, answer: &Answer, is_last: bool, what: &str) {
    assert_eq!(answer.says_close(), is_last, "{what}: {}", answer.head);
    if is_last {
        assert!(wire.ends().await, "{what}: it is not closed");
        return;
    }
    let mut wire = wire;
    assert_eq!(wire.ask("GET /v1/openapi.json").await.status, 200, "{what}");
}

#[tokio::test]
async fn an_answer_after_which_the_connection_ends_says_so_and_every_other_goes_on() {
    let service = Service::start(time::Duration::ZERO).await;
    for Case { name, request, status, is_last } in cases() {
        let mut wire = Wire::open(&service, None).await;
        wire.send(&request).await;
        let answer = wire.answer_to(name).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        goes_as_it_says(wire, &answer, is_last, name).await;
    }
    service.running.stop().await;
}

#[tokio::test]
async fn whoever_asks_before_it_sends_is_told_to_go_on_only_where_the_body_is_read() {
    let service = Service::start(time::Duration::ZERO).await;
    let mut wire = Wire::open(&service, None).await;
    let head = "POST /v1/certificates HTTP/1.1\r\nhost: ca\r\nexpect: 100-continue\r\n\
                content-length: 2\r\n\r\n";
    wire.send(head.as_bytes()).await;
    assert_eq!(wire.answer_to("POST").await.status, 100);
    wire.send(b"{]").await;
    let answer = wire.answer_to("POST").await;
    assert_eq!(answer.status, 400);
    goes_as_it_says(wire, &answer, false, "told to go on").await;
    // What nobody has defined is no question.
    let mut wire = Wire::open(&service, None).await;
    let answer = wire.exchange("POST /v1/tokens", "expect: something\r\n", "{}").await;
    assert_eq!(answer.status, 401);
    goes_as_it_says(wire, &answer, false, "nothing was asked").await;
    service.running.stop().await;
}

#[tokio::test]
async fn who_is_rate_limited_asks_again_on_the_same_connection() {
    let service = Service::start_with(time::Duration::ZERO, 1).await;
    for (body, is_last) in [("{]".to_owned(), false), (" ".repeat(60_000), false)] {
        let mut wire = Wire::open(&service, None).await;
        let limited = limited(&mut wire, &body).await;
        assert_eq!(limited.problem(), "rate-limited");
        assert_eq!(limited.field("retry-after"), Some("1"));
        assert_eq!(limited.says_close(), is_last);
        let begun = Instant::now();
        while wire.ask("GET /v1/openapi.json").await.status == 429 {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    }
    service.running.stop().await;
}

#[tokio::test]
async fn who_is_rate_limited_and_sends_without_end_is_told_that_the_connection_ends() {
    let service = Service::start_with(time::Duration::ZERO, 1).await;
    for _ in 0..20 {
        let mut wire = Wire::open(&service, None).await;
        limited(&mut wire, "").await;
        let head = "POST /v1/certificates HTTP/1.1\r\nhost: ca\r\ncontent-length: 9000000\r\n\r\n";
        wire.send(head.as_bytes()).await;
        let answer = wire.answer_to("POST").await;
        // A second after the one before, another is let in.
        if answer.status == 429 {
            goes_as_it_says(wire, &answer, true, "without end").await;
            service.running.stop().await;
            return;
        }
    }
    panic!("it is always let in");
}

/// The first answer that says that there were too many.
async fn limited(wire: &mut Wire, body: &str) -> Answer {
    for _ in 0..100 {
        let answer = wire.exchange("POST /v1/certificates", "", body).await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("nobody is limited");
}

#[tokio::test]
async fn over_http_2_a_refusal_ends_its_stream_and_no_other() {
    let service = Service::start_with(time::Duration::ZERO, 1).await;
    let stream = TokioIo::new(connect(&service, None, b"h2").await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut seen = Vec::new();
    // One a second is let in: as many as it takes to be quicker.
    for size in [2, 300_000].into_iter().cycle().take(100) {
        let request = http::Request::post(format!("https://ca{}", paths::CERTIFICATES));
        let body = Full::<hyper::body::Bytes>::from(vec![b' '; size]);
        client.ready().await.unwrap();
        let answer = client.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.headers().get("connection"), None);
        seen.push(answer.status().as_u16());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<api::Problem>(&body).unwrap();
        let limited = seen.iter().filter(|status| **status == 429).count();
        if seen.len() >= 8 && limited >= 2 {
            break;
        }
    }
    assert_eq!(seen[..2], [400, 413], "{seen:?}");
    assert!(seen[2..].contains(&429), "{seen:?}");
    assert!(!connection.is_finished());
    service.running.stop().await;
}

#[tokio::test]
async fn the_answer_that_a_shutdown_waits_for_says_that_it_is_the_last() {
    let service = Service::start(time::Duration::ZERO).await;
    let (_, credentials) = service.enrol("/prod/reports").await;
    let operator = service.operator().await;
    let denied = DenyRequest {
        spiffe_id: service.id("/prod/batch"),
        reason: "superseded".to_owned(),
        named_override: None,
    };
    let after = operator.deny(&denied).await.unwrap().id;
    let mut wire = Wire::open(&service, Some(&credentials)).await;
    wire.send(format!("GET /v1/feed?after={after} HTTP/1.1\r\nhost: ca\r\n\r\n").as_bytes()).await;
    let begun = Instant::now();
    while operator.workloads(&WorkloadFilter::default()).await.unwrap().items.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is heard of when it subscribes");
    }
    let stopped = tokio::spawn(service.running.stop());
    let answer = wire.answer_to("HEAD, for its body comes in chunks").await;
    assert_eq!((answer.status, answer.says_close()), (200, true), "{}", answer.head);
    stopped.await.unwrap();
}

#[tokio::test]
async fn who_ends_itself_is_told_that_nothing_else_is_answered() {
    let service = Service::start(time::Duration::ZERO).await;
    let (issued, credentials) = service.enrol("/prod/reports").await;
    let revoke = RevokeRequest {
        target: issued.serial_number.to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    let mut wire = Wire::open(&service, Some(&credentials)).await;
    let body = serde_json::to_string(&revoke).unwrap();
    let answer = wire.exchange("POST /v1/revocations", "", &body).await;
    assert_eq!(answer.status, 201);
    goes_as_it_says(wire, &answer, true, "the end").await;
    service.running.stop().await;
}
