//! What stands before the CA and answers in its place, because it cannot reach it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[allow(dead_code, reason = "each test file uses its own part")]
mod environment;

use axum::Router;
use axum::http::StatusCode;

use environment::Environment;

#[tokio::test]
async fn the_answer_of_a_proxy_is_not_the_cas_and_means_later() {
    let environment = Environment::with_operator(0).await;
    let pin = environment.authority.pin();
    for (status, kind, body) in [
        (502, "text/html", "<h1>502 Bad Gateway</h1>"),
        (503, "text/plain", "no healthy upstream"),
        (504, "application/json", "{\"message\": \"Endpoint request timed out\"}"),
        (500, "text/plain", ""),
        (503, "application/problem+json", "{\"title\": \"of somebody else\"}"),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = async move || (status, [("content-type", kind)], body);
        let url = environment.behind(Router::new().fallback(answer)).await;
        for line in [format!("list --url {url}"), format!("trust fetch {url} --pin {pin}")] {
            let ended = environment.run(&line).await.expect(4);
            for part in [
                &*format!("answered with status {}, but", status.as_u16()),
                "that is no answer of Countersign",
                "next: the same command again",
            ] {
                assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
            }
        }
    }
}

#[tokio::test]
async fn the_answer_of_another_server_means_another_address() {
    let environment = Environment::with_operator(0).await;
    for status in [200, 404] {
        let status = StatusCode::from_u16(status).unwrap();
        let page = async move || (status, [("content-type", "text/html")], "<h1>Hello</h1>");
        let url = environment.behind(Router::new().fallback(page)).await;
        let ended = environment.run(&format!("list --url {url}")).await.expect(1);
        assert!(ended.stderr.contains("is it really the CA?"), "{}", ended.stderr);
        assert!(ended.stderr.contains("next: name the CA itself"), "{}", ended.stderr);
    }
}
