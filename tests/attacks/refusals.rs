//! Requests that are refused, each for another reason, as fast as answers come.

use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use system_tests::{Client, Door, TRUST_DOMAIN, certificate_request, post};

use crate::attacker::{Attacker, STANDING};

/// Denied by policy, no CSR, no such token, no such path; from the operator's address.
pub(crate) async fn of_every_kind(attacker: Attacker) -> anyhow::Result<()> {
    let host = attacker.api.to_string();
    let other = format!("spiffe://{TRUST_DOMAIN}/prod/reports");
    let csr = |csr: &str, attestation: serde_json::Value| {
        let body = serde_json::json!({
            "csr": csr, "spiffe_id": other, "attestation": attestation
        });
        post("/v1/certificates", &body.to_string(), &host)
    };
    let svid = serde_json::json!({ "type": "svid" });
    let token = serde_json::json!({ "type": "token", "token": "bad" });
    let requests = vec![
        certificate_request(&other, &KeyPair::generate()?, &host)?,
        csr("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----", svid),
        csr("none", token),
        get("/v1/nowhere"),
    ];
    ask(attacker, requests).await
}

/// Line breaks, escape sequences and what else a terminal obeys, where paths and headers go.
pub(crate) async fn control_characters(attacker: Attacker) -> anyhow::Result<()> {
    let host = attacker.api.to_string();
    let noise = format!("%0a{FORGED}%1b%5b2J%0d%00%e2%80%ae");
    let paths =
        ["/", "/v1/certificates/", "/v1/revocations/", "/crl/", "/log/tile/", "/v1/feed?after="];
    let mut requests: Vec<Vec<u8>> =
        paths.iter().map(|path| get(&format!("{path}{noise}"))).collect();
    requests.push(post(&format!("/v1/keys/{noise}/prepare"), "{}", &host));
    let target = serde_json::json!({ "target": format!("\n{FORGED}\x1b[2J"), "reason": "\n" });
    requests.push(post("/v1/revocations", &target.to_string(), &host));
    ask(attacker, requests).await
}

/// Bodies that are deep or long, headers without number, paths without end.
pub(crate) async fn oversized(attacker: Attacker) -> anyhow::Result<()> {
    let host = attacker.api.to_string();
    let header = |count: usize| {
        let fields: String = (0..count).map(|n| format!("x-{n}: {n}\r\n")).collect();
        format!("GET /v1/trust HTTP/1.1\r\nhost: ca\r\n{fields}\r\n").into_bytes()
    };
    let requests = vec![
        post("/v1/certificates", &"[".repeat(60_000), &host),
        post("/v1/certificates", &"{\"csr\":".repeat(9_000), &host),
        post("/v1/certificates", &format!("\"{}\"", "a".repeat(2 << 20)), &host),
        header(90),
        header(101),
        get(&format!("/{}", "a".repeat(8_000))),
        get(&format!("/{}", "a".repeat(60_000))),
    ];
    ask(attacker, requests).await
}

/// A half of the connections shows a certificate.
async fn ask(attacker: Attacker, requests: Vec<Vec<u8>>) -> anyhow::Result<()> {
    let requests: Arc<[Vec<u8>]> = requests.into();
    let doors = [attacker.stranger()?, attacker.known()?];
    for number in 0..CONNECTIONS {
        let door = doors[number % doors.len()].clone();
        tokio::spawn(ask_on(attacker.clone(), door, Arc::clone(&requests), number));
    }
    println!("{STANDING}");
    std::future::pending().await
}

/// One connection, and another where that ends.
async fn ask_on(attacker: Attacker, door: Door, requests: Arc<[Vec<u8>]>, first: usize) {
    let mut requests = requests.iter().cycle().skip(first);
    loop {
        let connected = tokio::time::timeout(PATIENCE, Client::connect(&door)).await;
        if let Ok(Ok(mut client)) = connected {
            for request in requests.by_ref() {
                attacker.tally.sent(1);
                let asked = tokio::time::timeout(PATIENCE, client.exchange(request)).await;
                let Ok(Ok(status)) = asked else { break };
                attacker.tally.answered(status);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: ca\r\n\r\n").into_bytes()
}

/// What a forged line of the diagnostics would begin with.
pub(crate) const FORGED: &str = "2026-01-01T00:00:00Z";
const CONNECTIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);
