//! A verifier cut off from the news of revocations does as its owner said.

use std::sync::Arc;
use std::time::Duration;

use countersign::{Endpoint, Error, Staleness, Verification, WhenStale};
use identity::Refusal;
use tokio::io::AsyncReadExt;

use crate::authority::TestAuthority;
use crate::endpoints::{HeldClock, LEDGER, REPORTS, assert_echoes, both_ends, echo};
use crate::server::soon;

struct CutOff {
    authority: TestAuthority,
    clock: Arc<HeldClock>,
    reports: Endpoint,
}

impl CutOff {
    fn new(then: WhenStale) -> Self {
        let authority = TestAuthority::new();
        let clock = HeldClock::new();
        let verification = Verification::with_clock(authority.trust(), Arc::clone(&clock) as _);
        let max_staleness = Duration::from_secs(300);
        verification.set_staleness(Staleness { max_staleness, then });
        let reports = Endpoint::new(authority.svid(REPORTS).credentials(), verification);
        Self { authority, clock, reports }
    }

    /// Connects once to a server of its own.
    async fn connect(&self) -> Result<countersign::Stream, Error> {
        let listener = self.authority.listener(&self.authority.endpoint(LEDGER)).await;
        let address = listener.local_address().to_string();
        echo(listener);
        soon(self.reports.connect(&address, self.authority.peers(&[LEDGER]))).await
    }

    async fn refused_age(&self) -> Option<u64> {
        match self.connect().await {
            Err(Error::Peer {
                refusal: Refusal::StaleRevocations { age, max_staleness }, ..
            }) => {
                assert_eq!(max_staleness, 300);
                age
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn refuses_new_handshakes_and_keeps_open_connections() {
    let cut_off = CutOff::new(WhenStale::Refuse);
    let verification = cut_off.reports.verification();
    verification.confirm_revocations(cut_off.clock.now());
    let mut open = cut_off.connect().await.unwrap();
    cut_off.clock.advance(300);
    assert!(cut_off.connect().await.is_ok());
    cut_off.clock.advance(1);
    assert_eq!(cut_off.refused_age().await, Some(301));
    verification.replace_trust(cut_off.authority.trust());
    assert_echoes(&mut open).await;
    verification.confirm_revocations(cut_off.clock.now());
    assert!(cut_off.connect().await.is_ok());
}

#[tokio::test]
async fn refuses_before_the_first_news() {
    let cut_off = CutOff::new(WhenStale::Refuse);
    assert_eq!(cut_off.refused_age().await, None);
}

#[tokio::test]
async fn refuses_clients_too() {
    let cut_off = CutOff::new(WhenStale::Refuse);
    let authority = &cut_off.authority;
    let listener = cut_off.reports.listen("127.0.0.1:0", authority.peers(&[LEDGER])).await;
    let listener = listener.unwrap();
    let address = listener.local_address().to_string();
    echo(listener);
    let client = authority.endpoint(LEDGER);
    let mut stream = client.connect(&address, authority.peers(&[REPORTS])).await.unwrap();
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(matches!(stream.explain(error), Error::Refused { .. }));
}

#[tokio::test]
async fn continues_however_old_the_news_is() {
    let cut_off = CutOff::new(WhenStale::Continue);
    assert!(cut_off.connect().await.is_ok());
    cut_off.reports.verification().confirm_revocations(cut_off.clock.now());
    cut_off.clock.advance(3600);
    assert!(cut_off.connect().await.is_ok());
    let age = cut_off.reports.verification().revocations_age();
    assert_eq!(age, Some(Duration::from_secs(3600)));
}

#[tokio::test]
async fn news_of_the_future_or_of_before_makes_nothing_fresher() {
    let cut_off = CutOff::new(WhenStale::Refuse);
    let (verification, clock) = (cut_off.reports.verification(), &cut_off.clock);
    let before = clock.now();
    clock.advance(100);
    let future = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
    verification.confirm_revocations(future);
    verification.confirm_revocations(before);
    assert_eq!(verification.revocations_age(), Some(Duration::ZERO));
    clock.advance(301);
    assert_eq!(cut_off.refused_age().await, Some(301));
}

#[tokio::test]
async fn default_is_to_continue() {
    let authority = TestAuthority::new();
    let mut listener = authority.listener(&authority.endpoint(LEDGER)).await;
    both_ends(&authority, &mut listener, &authority.endpoint(REPORTS)).await;
    assert_eq!(Staleness::default().then, WhenStale::Continue);
}
