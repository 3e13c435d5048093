//! From a pin to trust, whoever answers.

use axum::routing::get;
use axum::{Extension, Router};
use countersign::{Error, Limits, Peer, fetch_trust, load_trust};

use crate::authority::TestAuthority;
use crate::server::TestServer;

fn trust_route(note: Vec<u8>) -> Router {
    let trust = async |peer: Option<Extension<Peer>>| {
        assert!(peer.is_none(), "a bootstrap shows no certificate");
        note
    };
    Router::new().route("/v1/trust", get(trust))
}

#[tokio::test]
async fn pin_leads_to_the_trust_state() {
    let authority = TestAuthority::new();
    let note = authority.trust_note();
    let server = TestServer::start(&authority, trust_route(note.clone())).await;
    let fetched = fetch_trust(&server.url(), &authority.pin()).await.unwrap();
    assert!(fetched.note == note);
    let trust = load_trust(&fetched.note, &authority.pin()).unwrap();
    assert_eq!(trust.state(), &fetched.state);
}

/// An attacker in the middle may carry the note, because it proves itself.
#[tokio::test]
async fn note_counts_whoever_delivers_it() {
    let (authority, attacker) = (TestAuthority::new(), TestAuthority::new());
    let (svid, router) = (attacker.own_svid(), trust_route(authority.trust_note()));
    let server = TestServer::start_with(&authority, svid, router, Limits::default()).await;
    assert!(fetch_trust(&server.url(), &authority.pin()).await.is_ok());
}

#[tokio::test]
async fn note_of_another_pin_is_refused() {
    let (authority, attacker) = (TestAuthority::new(), TestAuthority::new());
    let server = TestServer::start(&attacker, trust_route(attacker.trust_note())).await;
    let refused = fetch_trust(&server.url(), &authority.pin()).await;
    let is_mismatch = matches!(&refused, Err(Error::Trust(identity::Error::PinMismatch { .. })));
    assert!(is_mismatch, "{refused:?}");
}

#[tokio::test]
async fn older_note_than_the_pin_demands_is_refused() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, trust_route(authority.trust_note())).await;
    let refused = fetch_trust(&server.url(), &authority.pin().at_least(2)).await;
    let is_older = matches!(&refused, Err(Error::Trust(identity::Error::Sequence { .. })));
    assert!(is_older, "{refused:?}");
}

#[tokio::test]
async fn changed_note_is_refused() {
    let authority = TestAuthority::new();
    let mut note = authority.trust_note();
    let digit = note.windows(14).position(|bytes| bytes == b"\"sequence\": 1,").unwrap() + 12;
    note[digit] = b'2';
    assert!(load_trust(&note, &authority.pin()).is_err());
    let server = TestServer::start(&authority, trust_route(note)).await;
    let refused = fetch_trust(&server.url(), &authority.pin()).await;
    let is_unsigned = matches!(&refused, Err(Error::Trust(identity::Error::Threshold { .. })));
    assert!(is_unsigned, "{refused:?}");
}
