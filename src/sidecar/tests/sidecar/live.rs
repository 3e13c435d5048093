//! Connections that are open end when their peer is no longer welcome, used or not.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign::{Endpoint, Error, Limits, Listener, Stream, Verification};
use identity::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::TestAuthority;
use crate::endpoints::{HeldClock, LEDGER, REPORTS, WITNESS, both_ends, echo, until};
use crate::server::soon;

/// A ledger, and reports and a witness connected to it; the accepting ends first.
struct Connected {
    authority: TestAuthority,
    ledger: Endpoint,
    listener: Listener,
    reports: (Stream, Stream),
    witness: (Stream, Stream),
}

impl Connected {
    async fn new() -> Self {
        let authority = TestAuthority::new();
        let ledger = authority.endpoint(LEDGER);
        let mut listener = authority.listener(&ledger).await;
        let reports = both_ends(&authority, &mut listener, &authority.endpoint(REPORTS)).await;
        let witness = both_ends(&authority, &mut listener, &authority.endpoint(WITNESS)).await;
        Self { authority, ledger, listener, reports, witness }
    }

    fn verification(&self) -> &Arc<Verification> {
        self.ledger.verification()
    }

    fn revoke_reports(&self) {
        let id = self.authority.id(REPORTS);
        self.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    }

    /// The witness has seen nothing of it all.
    async fn assert_witness_is_well(&mut self) {
        let (accepted, connected) = &mut self.witness;
        connected.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        soon(accepted.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"ping");
        assert_eq!(self.verification().connections().open, 1);
    }
}

/// The stream is gone at our end, and says why.
async fn assert_aborted(stream: &mut Stream, is_expected: fn(&Refusal) -> bool) {
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    let refusal = error.get_ref().and_then(|error| error.downcast_ref::<Refusal>());
    assert!(refusal.is_some_and(is_expected), "{error:?}");
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert!(matches!(stream.explain(error), Error::Peer { .. }));
}

/// The other end sees that the connection is over, and gets nothing more.
async fn assert_ended(stream: &mut Stream) {
    let mut rest = Vec::new();
    let ended = soon(stream.read_to_end(&mut rest)).await;
    assert!(ended.is_err(), "it was cut off, not finished");
    assert_eq!(rest, b"");
}

fn is_revoked(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Revoked { .. })
}

#[tokio::test]
async fn revoked_peer_loses_a_connection_that_nobody_polls() {
    let mut all = Connected::new().await;
    all.revoke_reports();
    assert_ended(&mut all.reports.1).await;
    assert_aborted(&mut all.reports.0, is_revoked).await;
    assert_eq!(all.verification().connections().closed.get("revoked"), Some(&1));
    all.assert_witness_is_well().await;
}

#[tokio::test]
async fn revocation_wakes_a_reader_and_a_writer_that_wait() {
    let all = Connected::new().await;
    let (mut reader, mut writer) = tokio::io::split(all.reports.0);
    let id = all.authority.id(REPORTS);
    let verification = all.ledger.verification();
    let mut byte = [0; 1];
    let (read, (), ()) = soon(async {
        tokio::join!(
            reader.read(&mut byte),
            // Nobody reads at the other end: it waits in the end.
            async { while writer.write_all(&[7; 65536]).await.is_ok() {} },
            async {
                // The two before it are polled first.
                tokio::task::yield_now().await;
                verification.update_revocations(|held| held.revoke_identity(id, u64::MAX));
            }
        )
    })
    .await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn denied_peer_is_told_apart_from_a_revoked_one() {
    let mut all = Connected::new().await;
    let id = all.authority.id(REPORTS);
    all.verification().update_revocations(|held| held.deny(id, 0));
    assert_aborted(&mut all.reports.0, |refusal| *refusal == Refusal::Denied).await;
    all.assert_witness_is_well().await;
}

#[tokio::test]
async fn client_that_learns_of_a_revocation_cuts_its_server_off() {
    let authority = TestAuthority::new();
    let (ledger, reports) = (authority.endpoint(LEDGER), authority.endpoint(REPORTS));
    let mut listener = authority.listener(&ledger).await;
    let (mut accepted, mut connected) = both_ends(&authority, &mut listener, &reports).await;
    let serial_number = ledger.credentials().serial_number().unwrap();
    reports.verification().update_revocations(|held| held.revoke_serial(serial_number));
    assert_ended(&mut accepted).await;
    assert_aborted(&mut connected, is_revoked).await;
}

#[tokio::test]
async fn revoked_issuer_takes_its_connections_with_it() {
    let mut all = Connected::new().await;
    let issuer = all.authority.issuer_serial_number();
    all.verification().update_revocations(|held| held.revoke_serial(issuer));
    assert_aborted(&mut all.reports.0, is_revoked).await;
    assert_aborted(&mut all.witness.0, is_revoked).await;
    assert_eq!(all.verification().connections().closed_in_all(), 2);
}

/// What the peer has read when all is over was written before the revocation returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_peer_reads_no_byte_written_after_the_revocation() {
    let all = Connected::new().await;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let mut accepted = all.reports.0;
    let writing = tokio::spawn(async move {
        loop {
            match accepted.write(&[7; 4096]).await {
                Ok(bytes) => count.fetch_add(bytes as u64, Ordering::SeqCst),
                Err(error) => return error,
            };
        }
    });
    let mut connected = all.reports.1;
    let read = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&read);
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(bytes @ 1..) = connected.read(&mut buffer).await {
            count.fetch_add(bytes as u64, Ordering::SeqCst);
        }
    });
    until(|| read.load(Ordering::SeqCst) > 1_000_000).await;
    let id = all.authority.id(REPORTS);
    all.ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    // One write may have come back before the count of it: it is a whole buffer at most.
    let at_most = written.load(Ordering::SeqCst) + 4096;
    let error = soon(writing).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    soon(reading).await.unwrap();
    let read = read.load(Ordering::SeqCst);
    assert!(read <= at_most, "{read} of {at_most}");
    assert!(written.load(Ordering::SeqCst) <= at_most);
}

/// Revoked at any moment of its handshakes, a peer has nothing open in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_in_the_middle_of_handshakes_leaves_none_open() {
    let authority = Arc::new(TestAuthority::new());
    for round in 0..8 {
        let ledger = authority.endpoint(LEDGER);
        let listener = authority.listener(&ledger).await;
        let address = listener.local_address().to_string();
        echo(listener);
        let reports = authority.endpoint(REPORTS);
        let peers = authority.peers(&[LEDGER]);
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let (reports, address, peers) = (reports.clone(), address.clone(), peers.clone());
                tokio::spawn(async move { reports.connect(&address, peers).await })
            })
            .collect();
        until(|| ledger.verification().connections().open > round).await;
        let id = authority.id(REPORTS);
        ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
        for client in clients {
            if let Ok(mut stream) = soon(client).await.unwrap() {
                let mut byte = [0; 1];
                assert!(!matches!(soon(stream.read(&mut byte)).await, Ok(1)));
            }
        }
        until(|| ledger.verification().connections().open == 0).await;
    }
}

/// The handshake was begun under one epoch and is finished under the next.
#[tokio::test]
async fn peer_revoked_in_the_middle_of_its_handshake_is_refused() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    echo(listener);
    let reports = authority.endpoint(REPORTS);
    let config = reports.unregistered_client_config(authority.peers(&[LEDGER])).unwrap();
    let name = rustls::pki_types::ServerName::from(address.ip());
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    socket.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    while client.is_handshaking() {
        soon(socket.read_buf(&mut answer)).await.unwrap();
        client.read_tls(&mut &answer[..]).unwrap();
        answer.clear();
        client.process_new_packets().unwrap();
    }
    let id = authority.id(REPORTS);
    ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    let mut finished = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut finished).unwrap();
    }
    socket.write_all(&finished).await.unwrap();
    let mut alert = Vec::new();
    let _ = soon(socket.read_to_end(&mut alert)).await;
    client.read_tls(&mut &alert[..]).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
    assert_eq!(ledger.verification().connections().open, 0);
}

#[tokio::test]
async fn new_trust_closes_what_it_does_not_cover() {
    let mut all = Connected::new().await;
    let newer = all.authority.trust_with(|state| state.sequence = 2);
    assert_eq!(all.verification().replace_trust(newer), 0);
    assert_eq!(all.verification().connections().open, 2);
    assert_eq!(all.verification().replace_trust(TestAuthority::new().trust()), 2);
    for accepted in [&mut all.reports.0, &mut all.witness.0] {
        assert_aborted(accepted, |refusal| matches!(refusal, Refusal::UnknownAuthority(_))).await;
    }
    assert_ended(&mut all.reports.1).await;
}

#[tokio::test]
async fn peers_replaced_on_a_listener_count_for_its_open_connections() {
    let mut all = Connected::new().await;
    let peers = all.listener.peers();
    assert_eq!(peers.replace(all.authority.peers(&[REPORTS, WITNESS])), 0);
    assert_eq!(peers.replace(all.authority.peers(&[WITNESS])), 1);
    assert_eq!(*peers.current(), all.authority.peers(&[WITNESS]));
    let outside = |refusal: &Refusal| matches!(refusal, Refusal::NotAmongPeers { .. });
    assert_aborted(&mut all.reports.0, outside).await;
    assert_ended(&mut all.reports.1).await;
    all.assert_witness_is_well().await;
    echo(all.listener);
    let address = all.witness.1.remote_address();
    let mut again = all.authority.connect(&all.authority.endpoint(REPORTS), address).await;
    let error = soon(again.read(&mut [0; 1])).await.unwrap_err();
    assert!(matches!(again.explain(error), Error::Refused { .. }));
}

#[tokio::test]
async fn expired_peer_is_cut_after_a_grace() {
    let authority = TestAuthority::new();
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn rustls::time_provider::TimeProvider>;
    let verification = Verification::with_clock(authority.trust(), time);
    let ledger = Endpoint::new(authority.svid(LEDGER).credentials(), verification);
    let mut listener = authority.listener(&ledger).await;
    let reports = authority.endpoint(REPORTS);
    let (mut accepted, mut connected) = both_ends(&authority, &mut listener, &reports).await;
    clock.advance_to(accepted.peer().not_after() + 10);
    until(|| format!("{accepted:?}").contains("phase: Ending")).await;
    accepted.write_all(b"x").await.unwrap();
    soon(connected.read_exact(&mut [0; 1])).await.unwrap();
    clock.advance_to(accepted.peer().not_after() + 21);
    assert_ended(&mut connected).await;
    assert_aborted(&mut accepted, |refusal| matches!(refusal, Refusal::Expired { .. })).await;
    assert_eq!(ledger.verification().connections().closed.get("expired"), Some(&1));
}

#[tokio::test]
async fn place_of_a_closed_connection_is_free_though_its_stream_is_kept() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let listener = authority.listener(&ledger).await;
    let mut listener = listener.with_limits(Limits { connections: 1, ..Limits::default() });
    let reports = authority.endpoint(REPORTS);
    let (kept, _connected) = both_ends(&authority, &mut listener, &reports).await;
    let id = authority.id(REPORTS);
    ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    let witness = authority.endpoint(WITNESS);
    let (accepted, _) = soon(both_ends(&authority, &mut listener, &witness)).await;
    assert_eq!(accepted.peer().spiffe_id(), &authority.id(WITNESS));
    drop(kept);
}

#[tokio::test]
async fn dropped_stream_leaves_the_registry_and_closes_its_socket() {
    let mut all = Connected::new().await;
    drop(all.reports.0);
    assert_eq!(all.ledger.verification().connections().open, 1);
    assert_eq!(all.ledger.verification().connections().closed_in_all(), 0);
    assert_ended(&mut all.reports.1).await;
}

#[tokio::test]
async fn stream_that_is_shut_down_ends_politely() {
    let mut all = Connected::new().await;
    all.reports.0.write_all(b"bye").await.unwrap();
    all.reports.0.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(all.reports.1.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"bye");
}
