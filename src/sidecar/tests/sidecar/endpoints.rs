//! Endpoints of one trust domain, and a clock that the test holds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign::{Endpoint, Listener, Peers, Stream, Verification};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Log, TestAuthority, TestSvid, now};
use crate::server::soon;

/// A service that others connect to.
pub(crate) const LEDGER: &str = "/prod/ledger";
/// One that connects to it.
pub(crate) const REPORTS: &str = "/prod/reports";
/// Another one.
pub(crate) const WITNESS: &str = "/prod/witness";

impl TestAuthority {
    /// A workload whose SVID was issued an hour ago.
    pub(crate) fn endpoint(&self, path: &str) -> Endpoint {
        self.endpoint_of(self.svid_at(path, now() - time::Duration::hours(1), Log::Asked))
    }

    /// A workload with an SVID of any kind, that believes in this authority.
    pub(crate) fn endpoint_of(&self, svid: TestSvid) -> Endpoint {
        Endpoint::new(svid.credentials(), Verification::new(self.trust()))
    }

    pub(crate) fn peers(&self, paths: &[&str]) -> Peers {
        Peers::one_of(paths.iter().map(|path| self.id(path).to_string())).unwrap()
    }

    /// Listens for reports and the witness.
    pub(crate) async fn listener(&self, endpoint: &Endpoint) -> Listener {
        endpoint.listen("127.0.0.1:0", self.peers(&[REPORTS, WITNESS])).await.unwrap()
    }

    /// Connects to the ledger.
    pub(crate) async fn connect(&self, endpoint: &Endpoint, address: SocketAddr) -> Stream {
        soon(endpoint.connect(&address.to_string(), self.peers(&[LEDGER]))).await.unwrap()
    }
}

/// The two ends of one connection, the accepting one first.
pub(crate) async fn both_ends(
    authority: &TestAuthority,
    listener: &mut Listener,
    client: &Endpoint,
) -> (Stream, Stream) {
    let address = listener.local_address();
    let (accepted, connected) = tokio::join!(listener.accept(), authority.connect(client, address));
    (accepted.unwrap(), connected)
}

/// Sends back whatever comes, on every connection.
pub(crate) fn echo(mut listener: Listener) {
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
}

/// Fails unless what is sent comes back.
pub(crate) async fn assert_echoes(stream: &mut Stream) {
    stream.write_all(b"still there").await.unwrap();
    let mut answer = [0; 11];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"still there");
}

/// Waits until something is so. Who spins takes the processor from what is waited for.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Stands still until the test moves it.
#[derive(Debug)]
pub(crate) struct HeldClock(AtomicU64);

impl HeldClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(UnixTime::now().as_secs())))
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn advance_to(&self, second: i64) {
        self.0.store(second.try_into().unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

impl TimeProvider for HeldClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}
