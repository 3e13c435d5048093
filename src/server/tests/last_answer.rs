//! Who ends itself hears that it was done, and nothing more.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Attestation, DenyRequest, IssueRequest, Override, RevokeRequest};
use countersign::{Credentials, ExpectedServer, Verification, client_config};
use identity::SpiffeId;
use rustls::pki_types::ServerName;
use support::{Service, credentials, csr, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[tokio::test]
async fn a_sole_operator_that_denies_itself_by_name_is_told_so() {
    let service = Service::start(time::Duration::ZERO).await;
    let operator = service.operator().await;
    operator.status().await.unwrap();
    let id = SpiffeId::operator(service.authority.view.trust_domain(), "admin").unwrap();
    let deny = DenyRequest {
        spiffe_id: id.clone(),
        reason: "cessation-of-operation".to_owned(),
        named_override: Some(Override::LockOut),
    };
    assert_eq!(operator.deny(&deny).await.unwrap().spiffe_id, id);
    operator.status().await.unwrap_err();
    service.running.stop().await;
}

#[tokio::test]
async fn a_workload_that_revokes_its_certificate_is_told_so() {
    let service = Service::start(time::Duration::ZERO).await;
    let (issued, client) = service.workload("/prod/reports").await;
    let revoke = RevokeRequest {
        target: issued.serial_number.to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    assert!(client.revoke(&revoke).await.unwrap().log_index.is_some());
    client.revoke(&revoke).await.unwrap_err();
    service.running.stop().await;
}

/// An operator's connection by HTTP/1.1, byte by byte.
async fn connect(service: &Service, credentials: &Arc<Credentials>) -> TlsStream<TcpStream> {
    let verification = Verification::new(identity::Trust::clone(&service.authority.view.trust()));
    let expected = ExpectedServer::authority(service.authority.view.trust_domain());
    let config = client_config(verification, expected, Some(Arc::clone(credentials))).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols.clear();
    let address = service.running.address;
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn nothing_that_comes_after_ones_own_end_is_answered_and_no_other_connection_stays() {
    let service = Service::start(time::Duration::ZERO).await;
    let id = SpiffeId::operator(service.authority.view.trust_domain(), "admin").unwrap();
    let (csr, key) = csr();
    let body = IssueRequest { spiffe_id: Some(id.clone()), ..request(csr, Attestation::Svid {}) };
    let issued = service.authority.issuing.issue_internal(&body, "init").await.unwrap();
    let credentials = credentials(&issued, key);
    let mut acting = connect(&service, &credentials).await;
    let mut other = connect(&service, &credentials).await;
    let status = "GET /v1/status HTTP/1.1\r\nhost: ca\r\n\r\n";
    other.write_all(status.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    other.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let deny = format!(r#"{{"spiffe_id":"{id}","reason":"key-compromise","override":"lock-out"}}"#);
    let deny = format!(
        "POST /v1/denials HTTP/1.1\r\nhost: ca\r\ncontent-length: {}\r\n\r\n{deny}{status}",
        deny.len()
    );
    let begun = Instant::now();
    acting.write_all(deny.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Whether it ends by a reset does not matter.
    drop(acting.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let mut rest = Vec::new();
    drop(other.read_to_end(&mut rest).await);
    // An idle connection would end by itself after minutes.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    service.running.stop().await;
}
