//! A listener between the impolite and those who wait.

use std::net::SocketAddr;
use std::time::Duration;

use countersign::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::authority::TestAuthority;
use crate::endpoints::{LEDGER, REPORTS, WITNESS, assert_echoes, both_ends, echo, until};
use crate::server::soon;

/// Connects from another address of this machine.
async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    soon(socket.connect(address)).await.unwrap()
}

/// The beginning of a TLS record with a ClientHello, which never comes.
const BEGINNING: [u8; 6] = [22, 3, 1, 2, 0, 1];

#[tokio::test]
async fn unfinished_handshakes_hold_up_nobody() {
    let authority = TestAuthority::new();
    let never = Duration::from_secs(3600);
    let limits = Limits {
        handshakes: 64,
        handshakes_per_source: 32,
        handshake_timeout: never,
        ..Limits::default()
    };
    let listener = authority.listener(&authority.endpoint(LEDGER)).await.with_limits(limits);
    let address = listener.local_address();
    echo(listener);
    let reports = authority.endpoint(REPORTS);
    let mut open = authority.connect(&reports, address).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(connect_from("127.0.0.2", address).await);
    }
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = connect_from("127.0.0.3", address).await;
        stream.write_all(&BEGINNING).await.unwrap();
        slow.push(stream);
    }
    let mut half_open = connect_from("127.0.0.3", address).await;
    half_open.shutdown().await.unwrap();
    for byte in 0..8 {
        for stream in &mut slow {
            stream.write_all(&[byte]).await.unwrap();
        }
        let mut late = authority.connect(&reports, address).await;
        assert_echoes(&mut late).await;
        assert_echoes(&mut open).await;
    }
}

/// Behind one address that many share, those who say nothing are not all that comes in.
#[tokio::test]
async fn unfinished_handshakes_of_its_own_address_hold_up_nobody() {
    let authority = TestAuthority::new();
    let never = Duration::from_secs(3600);
    let limits = Limits {
        handshakes: 8,
        handshakes_per_source: 4,
        handshake_timeout: never,
        ..Limits::default()
    };
    let listener = authority.listener(&authority.endpoint(LEDGER)).await.with_limits(limits);
    let address = listener.local_address();
    echo(listener);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(connect_from("127.0.0.1", address).await);
    }
    // However new they are.
    let mut late = authority.connect(&authority.endpoint(REPORTS), address).await;
    assert_echoes(&mut late).await;
    assert!(!matches!(soon(silent[0].read(&mut [0; 1])).await, Ok(1)));
}

/// From forty addresses, each within its share: far more than there are places.
#[tokio::test]
async fn ten_thousand_handshakes_never_finished_hold_up_nobody() {
    let authority = TestAuthority::new();
    let never = Duration::from_secs(3600);
    let limits = Limits { handshake_timeout: never, ..Limits::default() };
    let listener = authority.listener(&authority.endpoint(LEDGER)).await.with_limits(limits);
    let address = listener.local_address();
    echo(listener);
    let reports = authority.endpoint(REPORTS);
    let mut open = authority.connect(&reports, address).await;
    let attack = async {
        let mut silent = Vec::new();
        for number in 0..10_000 {
            let source = format!("127.0.1.{}", 1 + number / 250);
            silent.push(connect_from(&source, address).await);
        }
        silent
    };
    let visits = async {
        loop {
            assert_echoes(&mut authority.connect(&reports, address).await).await;
            assert_echoes(&mut open).await;
        }
    };
    let silent = tokio::select! {
        silent = attack => silent,
        () = visits => unreachable!(),
    };
    assert_echoes(&mut authority.connect(&reports, address).await).await;
    assert_eq!(silent.len(), 10_000);
}

#[tokio::test]
async fn handshake_that_lasts_too_long_is_cut() {
    let authority = TestAuthority::new();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let listener = authority.listener(&authority.endpoint(LEDGER)).await.with_limits(limits);
    let address = listener.local_address();
    echo(listener);
    for beginning in [&BEGINNING[..], &[]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        assert!(!matches!(soon(stream.read(&mut [0; 1])).await, Ok(1)));
    }
}

/// More streams wait than the channel takes; whoever was revoked meanwhile is not handed out.
#[tokio::test]
async fn streams_wait_for_an_application_that_is_busy() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let mut listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    let (reports, witness) = (authority.endpoint(REPORTS), authority.endpoint(WITNESS));
    let (_first, _other_end) = both_ends(&authority, &mut listener, &reports).await;
    let mut waiting = Vec::new();
    for _ in 0..80 {
        waiting.push(authority.connect(&reports, address).await);
    }
    let _last = authority.connect(&witness, address).await;
    until(|| ledger.verification().connections().open == 82).await;
    let id = authority.id(REPORTS);
    ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    let accepted = soon(listener.accept()).await.unwrap();
    assert_eq!(accepted.peer().spiffe_id(), &authority.id(WITNESS));
}

#[tokio::test]
async fn stopped_endpoint_accepts_nobody_and_keeps_what_is_open() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let mut listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    let reports = authority.endpoint(REPORTS);
    let (mut accepted, mut connected) = both_ends(&authority, &mut listener, &reports).await;
    ledger.stop();
    assert!(soon(listener.accept()).await.is_none());
    drop(listener);
    connected.write_all(b"x").await.unwrap();
    soon(accepted.read_exact(&mut [0; 1])).await.unwrap();
    assert!(reports.connect(&address.to_string(), authority.peers(&[LEDGER])).await.is_err());
}

#[tokio::test]
async fn dropped_listener_frees_its_address() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let mut listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    let _ends = both_ends(&authority, &mut listener, &authority.endpoint(REPORTS)).await;
    drop(listener);
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn address_that_is_taken_is_named() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let refused = ledger.listen(address, authority.peers(&[REPORTS])).await.unwrap_err();
    assert!(refused.to_string().contains(&address.to_string()), "{refused}");
    drop(taken);
}

/// One peer takes what it gets; another comes and has its share, the newest of the first give way.
#[tokio::test]
async fn peer_that_takes_all_places_gives_way_to_others() {
    let authority = TestAuthority::new();
    let limits = Limits { connections: 64, ..Limits::default() };
    let listener = authority.listener(&authority.endpoint(LEDGER)).await.with_limits(limits);
    let (address, places) = (listener.local_address(), listener.places());
    echo(listener);
    let greedy = authority.endpoint(REPORTS);
    let mut held = Vec::new();
    while places.taken() < 59 {
        held.push(authority.connect(&greedy, address).await);
        assert_echoes(held.last_mut().unwrap()).await;
    }
    let mut refused = authority.connect(&greedy, address).await;
    assert!(!matches!(soon(refused.read(&mut [0; 1])).await, Ok(1..)), "the last are for others");
    places.require_room().unwrap();
    let witness = authority.endpoint(WITNESS);
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(authority.connect(&witness, address).await);
        assert_echoes(others.last_mut().unwrap()).await;
    }
    assert_echoes(&mut held[0]).await;
    let mut newest = held.pop().unwrap();
    assert!(!matches!(soon(newest.read(&mut [0; 1])).await, Ok(1..)), "it gave way");
    assert!(places.taken() <= 64);
}
