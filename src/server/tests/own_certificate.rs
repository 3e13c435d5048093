//! The CA's own certificate is renewed, and used, without a restart.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign::{ExpectedServer, Verification, client_config};
use identity::{SerialNumber, SpiffeId};
use rustls::pki_types::ServerName;
use support::Service;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The serial number of the certificate that a client meets now.
async fn presented(service: &Service) -> SerialNumber {
    let trust = identity::Trust::clone(&service.authority.view.trust());
    let expected = ExpectedServer::authority(service.authority.view.trust_domain());
    let config = client_config(Verification::new(trust), expected, None).unwrap();
    let address: SocketAddr = service.running.address;
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    SerialNumber::from_octets(certificate.raw_serial()).unwrap()
}

#[tokio::test]
async fn the_cas_own_certificate_is_renewed_without_a_restart() {
    let service = Service::start(BEHIND).await;
    let first = presented(&service).await;
    assert_eq!(presented(&service).await, first);
    service.clock.advance(BEHIND);
    let begun = Instant::now();
    while presented(&service).await == first {
        assert!(begun.elapsed() < PATIENCE, "it was not renewed");
    }
    service.running.stop().await;
}

#[tokio::test]
async fn the_cas_own_certificate_is_replaced_as_soon_as_it_is_revoked() {
    let service = Service::start(time::Duration::ZERO).await;
    let first = presented(&service).await;
    service.revoke_in_the_store(&SpiffeId::authority(service.authority.view.trust_domain())).await;
    let begun = Instant::now();
    while presented(&service).await == first {
        assert!(begun.elapsed() < PATIENCE, "it was not replaced");
    }
    until_ready(&service).await;
    service.running.stop().await;
}

#[tokio::test]
async fn readiness_says_that_the_clock_is_wrong() {
    let service = Service::start(time::Duration::ZERO).await;
    assert!(service.readiness().await.starts_with("HTTP/1.1 200"));
    for (leap, why) in [(time::Duration::days(3), "leapt ahead"), (-BEHIND, "behind the log")] {
        service.clock.leap(leap);
        let told = service.readiness().await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains(why), "{told}");
        service.clock.leap(-leap);
        // What was tried at the wrong time has failed, and is tried again within a second or so.
        until_ready(&service).await;
    }
    service.running.stop().await;
}

#[tokio::test]
async fn a_restart_without_the_issuers_key_serves_the_certificate_of_before() {
    let service = Service::start(time::Duration::ZERO).await;
    let first = presented(&service).await;
    let lose = |state: &Path| {
        std::fs::rename(state.join("keys/issuer.key"), state.join("lost")).unwrap();
    };
    let service = service.restart(lose).await;
    assert_eq!(presented(&service).await, first);
    let told = service.readiness().await;
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("issuer key"), "{told}");
    // Workloads and operators are heard.
    service.client(None).trust_note().await.unwrap();

    // The certificate runs out, and nobody can make another: it is said, and mended with the key.
    service.clock.advance(time::Duration::hours(25));
    let service = service.restart(|_| {}).await;
    let told = service.readiness().await;
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("has expired"), "{told}");
    assert!(told.contains("issuer key"), "{told}");
    let state = service.state.path();
    std::fs::rename(state.join("lost"), state.join("keys/issuer.key")).unwrap();
    service.clock.advance(time::Duration::seconds(5));
    until_ready(&service).await;
    service.running.stop().await;
}

async fn until_ready(service: &Service) {
    let begun = Instant::now();
    loop {
        let told = service.readiness().await;
        if told.starts_with("HTTP/1.1 200") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "it is not ready again: {told}");
    }
}

/// For what a busy machine takes long for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Past the middle of a certificate's 24 hours, and before its end.
const BEHIND: time::Duration = time::Duration::hours(13);
