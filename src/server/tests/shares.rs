//! What callers share, whatever addresses and certificates they have: room for bodies, and requests a
//! second; and who gets through.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Attestation, BootstrapToken, RevokeRequest, TokenRequest};
use countersign::Credentials;
use futures_util::future::join_all;
use support::Service;
use support::wire::Wire;
use tlog::Hash;

/// Bodies that lack their last byte.
struct Siege {
    wires: Vec<Wire>,
    /// How many were refused for want of room: none where there was enough for all of them.
    refused: usize,
}

impl Siege {
    /// Begins so many bodies from each of these doors but the last, all at once; from that one after
    /// the other, down to small ones, in the room that is left.
    async fn lay(
        service: &Service,
        doors: &[(Ipv4Addr, Option<Arc<Credentials>>)],
        line: &str,
        of_each: usize,
    ) -> Self {
        let begun = |size| {
            let head = format!("{line} HTTP/1.1\r\nhost: ca\r\ncontent-length: {BODY}\r\n\r\n");
            format!("{head}{{{}", " ".repeat(size - 1))
        };
        let ((source, credentials), others) = doors.split_last().unwrap();
        let (mut small, mut wires, mut refused) = (Vec::new(), Vec::new(), 0);
        for _ in CRUMBS {
            small.push(Wire::open_from(*source, service, credentials.as_ref()).await);
        }
        for (source, credentials) in others.iter().cycle().take(others.len() * of_each) {
            wires.push(Wire::open_from(*source, service, credentials.as_ref()).await);
        }
        let whole = begun(BODY - 1);
        join_all(wires.iter_mut().map(|wire| wire.send(whole.as_bytes()))).await;
        for (mut wire, size) in small.into_iter().zip(CRUMBS) {
            wire.send(begun(*size).as_bytes()).await;
            refused += usize::from(wire.answered().await == Some(429));
            wires.push(wire);
        }
        Self { wires, refused }
    }

    async fn refused(&mut self) -> usize {
        let answered = join_all(self.wires.iter_mut().map(Wire::answered)).await;
        self.refused + answered.into_iter().filter(|status| *status == Some(429)).count()
    }
}

/// Certificates of one line, each renewed by the next.
async fn line_of(service: &Service, path: &str, renewals: usize) -> Vec<Arc<Credentials>> {
    let mut line = vec![service.enrol(path).await.1];
    for _ in 0..renewals {
        let (csr, key) = support::csr();
        let body = support::request(csr, Attestation::Svid {});
        let issued = service.client(line.last().cloned()).issue(&body, None).await.unwrap();
        line.push(support::credentials(&issued, key));
    }
    line
}

#[tokio::test]
async fn line_that_renews_and_holds_bodies_keeps_no_operator_from_revoking_it() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    let (_, other) = service.enrol("/prod/reports").await;
    let line = line_of(&service, "/prod/monolith", 16).await;
    let doors: Vec<_> = line.into_iter().map(|it| (Ipv4Addr::LOCALHOST, Some(it))).collect();
    let mut siege = Siege::lay(&service, &doors, "POST /v1/revocations", 16).await;
    let mut reporting = Wire::open(&service, Some(&other)).await;
    let report = reporting.exchange("PUT /v1/reports/self", "", "{").await;
    assert_eq!((report.status, &*report.problem()), (400, "request-invalid"), "it was read");
    let revoke = RevokeRequest {
        target: service.id("/prod/monolith").to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: true,
        named_override: None,
    };
    operator.revoke(&revoke).await.unwrap();
    assert!(siege.refused().await > 0, "there was room for all");
    service.running.stop().await;
}

#[tokio::test]
async fn strangers_at_many_addresses_keep_nobody_from_a_first_certificate() {
    let service = Service::start(time::Duration::ZERO).await;
    for addresses in [10, 100] {
        let door = |number| (Ipv4Addr::new(127, 0, 1, number), None);
        let doors: Vec<_> = (1..=addresses).map(door).collect();
        let of_each = 150 / doors.len() + 1;
        let mut siege = Siege::lay(&service, &doors, "POST /v1/certificates", of_each).await;
        for _ in 0..3 {
            service.enrol("/prod/reports").await;
        }
        assert!(siege.refused().await > 0, "there was room for all of {addresses}");
    }
    service.running.stop().await;
}

#[tokio::test]
async fn body_that_hardly_comes_is_given_up_before_its_time_is_over() {
    let service = Service::start(time::Duration::ZERO).await;
    let mut wire = Wire::open(&service, None).await;
    let begun = Instant::now();
    wire.send(b"POST /v1/certificates HTTP/1.1\r\nhost: ca\r\ncontent-length: 4000\r\n\r\n{").await;
    let answer = wire.answer_to("POST").await;
    assert_eq!((answer.status, &*answer.problem()), (400, "request-invalid"));
    assert!(answer.body.contains("less than 1 KiB a second"), "{}", answer.body);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    service.running.stop().await;
}

#[tokio::test]
async fn body_that_was_held_up_once_is_read() {
    let service = Service::start(time::Duration::ZERO).await;
    let mut wire = Wire::open(&service, None).await;
    wire.send(b"POST /v1/certificates HTTP/1.1\r\nhost: ca\r\ncontent-length: 4000\r\n\r\n{").await;
    let held_up = tokio::time::timeout(Duration::from_millis(4500), wire.answer_to("POST")).await;
    assert!(held_up.is_err(), "{held_up:?}");
    wire.send(&[b' '; 3999]).await;
    let answer = wire.answer_to("POST").await;
    assert!(answer.body.contains("it ends early"), "{}", answer.body);
    service.running.stop().await;
}

#[tokio::test]
async fn certificates_of_one_line_share_one_rate_of_requests() {
    let service = Service::start_with(time::Duration::ZERO, 5).await;
    let line = line_of(&service, "/prod/monolith", 8).await;
    let mut wires = Vec::new();
    for credentials in &line {
        wires.push(Wire::open(&service, Some(credentials)).await);
    }
    let mut answers = Vec::new();
    for _ in 0..4 {
        for wire in &mut wires {
            answers.push(wire.ask("GET /v1/trust").await.status);
        }
    }
    assert!(answers.contains(&429), "each has its own: {answers:?}");
    let (_, other) = service.enrol("/prod/monolith").await;
    let answer = Wire::open(&service, Some(&other)).await.ask("GET /v1/trust").await;
    assert_eq!(answer.status, 200, "another line of the same identity");
    service.running.stop().await;
}

/// What a workload starts by, where it shares its address (NAT, a load balancer) with a flood.
#[tokio::test]
async fn whoever_has_a_token_starts_although_its_address_has_no_share_left() {
    let service = Service::start_with(time::Duration::ZERO, 1).await;
    let operator = service.operator().await;
    let spiffe_id = service.id("/prod/reports");
    let request = TokenRequest { spiffe_id, ttl: None, key_sha256: None };
    let token = operator.create_token(&request).await.unwrap().token;
    let secret = token.expose().parse::<BootstrapToken>().unwrap();
    let named = format!("{:?}", Hash::of(secret.secret()));
    let mut flood = Wire::open(&service, None).await;
    let mut asking = Wire::open(&service, None).await;
    let mut asked = async |named: &str| {
        while flood.ask("GET /v1/openapi.json").await.status != 429 {}
        let fields = format!("countersign-token: {named}\r\n");
        asking.exchange("POST /v1/certificates", &fields, "{}").await.status
    };
    for other in [&*"0".repeat(64), &named.to_uppercase(), &format!("{named}0"), ""] {
        assert_eq!(asked(other).await, 429, "{other:?}");
    }
    // A library that starts: the trust state, then its first certificate.
    let stranger = service.client(None);
    stranger.trust_note().await.unwrap();
    let body = support::request(support::csr().0, Attestation::Token { token });
    stranger.issue(&body, None).await.unwrap();
    // It has a share, and no more than that.
    let mut seen = vec![asked(&named).await];
    while seen.len() < 40 && !seen.contains(&429) {
        seen.push(asked(&named).await);
    }
    assert!(seen[0] == 400 && seen.contains(&429), "{seen:?}");
    service.running.stop().await;
}

/// All that is read of one.
const BODY: usize = 64 * 1024;
const CRUMBS: &[usize] = &[
    65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535,
    32_000, 16_000, 8000, 8000, 4000, 2000, 1000, 500, 500, 200, 100, 100, 50, 50, 20, 20,
];
