//! The CA's own certificate is renewed, and used, without a restart.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Secret;
use authority::clock::{Clock, ManualClock};
use authority::policy::{PolicySet, SHIPPED_WORKLOADS};
use authority::setup::{self, NewAuthority, Outcomes, Parent};
use authority::{Authority, Parts};
use countersign::{ExpectedServer, Verification, client_config};
use identity::SerialNumber;
use rustls::pki_types::ServerName;
use server::Config;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

struct Service {
    _state: tempfile::TempDir,
    clock: Arc<ManualClock>,
    authority: Arc<Authority>,
    running: server::Running,
}

impl Service {
    async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::parse(
            "trust_domain = \"pay.example\"\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\nnames = [\"127.0.0.1\"]",
        )
        .unwrap();
        config.state = state.path().to_owned();
        let clock = Arc::new(ManualClock::new(real_now() - BEHIND));
        let created = setup::create(
            &NewAuthority {
                trust_domain: config.trust_domain.clone(),
                state: &config.state,
                passphrase: &Secret::new("online passphrase"),
                offline_passphrase: &Secret::new("offline passphrase"),
                policy: &PolicySet::shipped(SHIPPED_WORKLOADS).unwrap(),
                operator: "admin",
                parent: Parent::Local,
            },
            &*clock,
        )
        .await
        .unwrap();
        let Outcomes::Ready(trust_pin) = created.outcome else { panic!("a local parent is ready") };
        let parts = Parts {
            trust_domain: config.trust_domain.clone(),
            crl_url: None,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            store: created.store,
            keys: created.keys,
            trust_pin,
        };
        let authority = Arc::new(Authority::open(parts).await.unwrap());
        let running = server::start(Arc::clone(&authority), &config).await.unwrap();
        Self { _state: state, clock, authority, running }
    }

    /// The serial number of the certificate that a client meets now.
    async fn presented(&self) -> SerialNumber {
        let trust = self.authority.trust().clone();
        let expected = ExpectedServer::authority(self.authority.trust_domain());
        let config = client_config(Verification::new(trust), expected, None).unwrap();
        let address: SocketAddr = self.running.address;
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        SerialNumber::from_octets(certificate.raw_serial()).unwrap()
    }
}

/// The machine's clock, by which rustls verifies.
#[expect(clippy::disallowed_methods, reason = "rustls looks at the machine's clock")]
fn real_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

#[tokio::test]
async fn the_cas_own_certificate_is_renewed_without_a_restart() {
    let service = Service::start().await;
    let first = service.presented().await;
    assert_eq!(service.presented().await, first);
    service.clock.advance(BEHIND);
    let begun = Instant::now();
    while service.presented().await == first {
        assert!(begun.elapsed() < Duration::from_secs(20), "it was not renewed");
    }
    service.running.stop().await;
}

/// Past the middle of a certificate's 24 hours, and before its end.
const BEHIND: time::Duration = time::Duration::hours(13);
