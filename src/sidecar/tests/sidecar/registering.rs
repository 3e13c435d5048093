//! A change between a verdict and the registration of its connection: nobody finds the connection
//! then but itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign::Verification;
use identity::SpiffeId;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::io::AsyncReadExt;

use crate::authority::TestAuthority;
use crate::endpoints::{LEDGER, REPORTS};
use crate::server::soon;

#[tokio::test]
async fn a_peer_revoked_between_its_verdict_and_its_registration_is_closed() {
    let authority = TestAuthority::new();
    let (ledger, reports) = (authority.endpoint(LEDGER), authority.endpoint(REPORTS));
    let mut listener = authority.listener(&ledger).await;
    let revoking = Revoking {
        verification: Arc::clone(ledger.verification()),
        id: authority.id(REPORTS),
        registrations: AtomicUsize::new(0),
    };
    let _recorder = metrics::set_default_local_recorder(&revoking);
    let peers = authority.peers(&[LEDGER]);
    let address = listener.local_address().to_string();
    let accepting = tokio::spawn(async move { listener.accept().await.is_some() });
    let mut stream = soon(reports.connect(&address, peers)).await.unwrap();
    assert!(soon(stream.read(&mut [0])).await.is_err(), "it was cut off");
    assert!(revoking.registrations.load(Ordering::SeqCst) >= 2, "the ledger did register it");
    assert_eq!(ledger.verification().connections().open, 0);
    assert!(!accepting.is_finished(), "nobody was accepted");
}

/// Revokes just before the second connection is registered. The first is the connecting end's.
struct Revoking {
    verification: Arc<Verification>,
    id: SpiffeId,
    registrations: AtomicUsize,
}

impl Recorder for Revoking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let is_registration = key.name() == "countersign_peer_connections_open";
        if is_registration && self.registrations.fetch_add(1, Ordering::SeqCst) == 1 {
            let id = self.id.clone();
            self.verification.update_revocations(|held| held.revoke_identity(id, u64::MAX));
        }
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
