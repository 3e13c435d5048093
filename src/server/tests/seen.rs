//! Whoever shows a certificate holds its key: it is not replaced as one that nobody got.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Attestation, IssuedCertificate};
use authority::Event;
use countersign::{
    AuthorityClient, Credentials, Error, ExpectedServer, Verification, client_config,
};
use rustls::pki_types::ServerName;
use support::{Service, credentials, csr, request};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

struct Renewed {
    service: Service,
    old: AuthorityClient,
    issued: IssuedCertificate,
    new: Arc<Credentials>,
}

impl Renewed {
    /// A workload that has renewed, and not used what it got.
    async fn begin() -> Self {
        let service = Service::start(time::Duration::ZERO).await;
        let (_, old) = service.workload("/prod/reports").await;
        let (csr, key) = csr();
        let issued = old.issue(&request(csr, Attestation::Svid {}), None).await.unwrap();
        let new = credentials(&issued, key);
        Self { service, old, issued, new }
    }

    /// Whoever kept the old key asks for another in place of the new one.
    async fn replace(&self) -> Result<IssuedCertificate, Error> {
        self.old.issue(&request(csr().0, Attestation::Svid {}), None).await
    }

    async fn require_not_replaced(self) {
        let refused = self.replace().await.unwrap_err();
        assert!(refused.to_string().contains("renewed already"), "{refused}");
        self.service.running.stop().await;
    }
}

#[tokio::test]
async fn what_nobody_has_shown_is_replaced_once() {
    let renewed = Renewed::begin().await;
    renewed.replace().await.unwrap();
    renewed.service.running.stop().await;
}

#[tokio::test]
async fn a_certificate_that_made_a_request_require_not_replaced() {
    let renewed = Renewed::begin().await;
    let client = renewed.service.client(Some(Arc::clone(&renewed.new)));
    client.renewal(&renewed.issued.serial_number).await.unwrap();
    renewed.require_not_replaced().await;
}

#[tokio::test]
async fn neither_is_one_that_asked_for_what_anybody_may_have_or_for_what_it_may_not() {
    let renewed = Renewed::begin().await;
    let client = renewed.service.client(Some(Arc::clone(&renewed.new)));
    assert!(client.status().await.is_err());
    renewed.require_not_replaced().await;
    let renewed = Renewed::begin().await;
    let mut wire = support::wire::Wire::open(&renewed.service, Some(&renewed.new)).await;
    assert_eq!(wire.ask("GET /v1/trust").await.status, 200);
    renewed.require_not_replaced().await;
}

#[tokio::test]
async fn a_handshake_without_any_request_is_enough() {
    let renewed = Renewed::begin().await;
    let service = &renewed.service;
    let trust = identity::Trust::clone(&service.authority.view.trust());
    let expected = ExpectedServer::authority(service.authority.view.trust_domain());
    let shown = Some(Arc::clone(&renewed.new));
    let config = client_config(Verification::new(trust), expected, shown).unwrap();
    let stream = TcpStream::connect(service.running.address).await.unwrap();
    let name = ServerName::from(service.running.address.ip());
    let _stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let begun = Instant::now();
    while !service.authority.view.has_seen(renewed.issued.log_index) {
        assert!(begun.elapsed() < PATIENCE, "the handshake was not noted");
        tokio::task::yield_now().await;
    }
    renewed.require_not_replaced().await;
}

#[tokio::test]
async fn what_was_shown_is_told_before_the_service_has_ended() {
    let Renewed { service, issued, new, .. } = Renewed::begin().await;
    service.client(Some(new)).renewal(&issued.serial_number).await.unwrap();
    let store = Arc::clone(&service.store);
    service.running.stop().await;
    let entries = store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    let told: Vec<u64> = events
        .filter(|event| event.kind == "seen")
        .flat_map(|event| event.detail["indexes"].as_array().unwrap().clone())
        .map(|index| index.as_u64().unwrap())
        .collect();
    assert!(told.contains(&issued.log_index), "{told:?}");
}

const PATIENCE: Duration = Duration::from_secs(60);
