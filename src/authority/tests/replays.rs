//! The same request again: what is revoked or expired is not given again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{Attestation, IssueRequest, IssuedCertificate, KeyPurpose, RevokeRequest, Secret};
use authority::signer::SignerError;
use authority::signer::spy::SpySigner;
use authority::store::RecordQuery;
use authority::{Caller, Error, Keys};
use support::{Environment, anonymous, csr, id, request};

/// As clients ask that name a request by its CSR.
async fn ask(
    environment: &Environment,
    caller: &Caller,
    token: Option<&Secret>,
    csr: &str,
) -> Result<IssuedCertificate, Error> {
    let attestation =
        token.map_or(Attestation::Svid {}, |token| Attestation::Token { token: token.clone() });
    let spiffe_id = Some(id("/prod/reports"));
    let body = IssueRequest { attestation, spiffe_id, ..request(csr) };
    environment.authority.issuing.issue(caller, &body, Some("csr")).await
}

async fn revoke(environment: &Environment, operator: &Caller, issued: &IssuedCertificate) {
    let target = issued.serial_number.to_string();
    let reason = "key-compromise".to_owned();
    let request = RevokeRequest { target, reason, dry_run: false, named_override: None };
    environment.authority.operations.revoke(operator, &request).await.unwrap();
}

#[tokio::test]
async fn a_new_token_makes_a_new_certificate_of_the_same_request() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let csr = csr();
    let token = environment.token(&operator, "/prod/reports").await;
    let first = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    let again = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    assert_eq!(first, again, "the burnt token's own retry");
    revoke(&environment, &operator, &first).await;
    let refused = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap_err();
    assert!(refused.to_string().contains("was revoked since"), "{refused}");
    let token = environment.token(&operator, "/prod/reports").await;
    let fresh = ask(&environment, &anonymous(), Some(&token), &csr).await.unwrap();
    assert_ne!(fresh.serial_number, first.serial_number);
}

#[tokio::test]
async fn what_was_revoked_is_not_given_again_by_idempotency_key() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let csr = csr();
    let first = ask(&environment, &operator, None, &csr).await.unwrap();
    assert_eq!(ask(&environment, &operator, None, &csr).await.unwrap(), first);
    revoke(&environment, &operator, &first).await;
    assert!(ask(&environment, &operator, None, &csr).await.is_err());
}

#[tokio::test]
async fn a_renewal_that_was_revoked_is_not_given_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let csr = csr();
    let renewed = environment.renew(&held, &csr).await.unwrap();
    assert_eq!(environment.renew(&held, &csr).await.unwrap(), renewed);
    revoke(&environment, &operator, &renewed).await;
    let refused = environment.renew(&held, &csr).await.unwrap_err();
    assert!(refused.to_string().contains("was revoked since"), "{refused}");
}

#[tokio::test]
async fn what_has_expired_is_not_given_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    environment.issue_with(&token, &csr).await.unwrap();
    environment.clock.advance(time::Duration::hours(25));
    let refused = environment.issue_with(&token, &csr).await.unwrap_err();
    assert!(refused.to_string().contains("has expired since"), "{refused}");
}

/// The entries of a leaf and of the event before it, in their places of the database.
fn entries(database: &rusqlite::Connection, leaf: u64) -> [(i64, Vec<u8>); 2] {
    [leaf - 1, leaf].map(|index| {
        let place = (1_i64 << 40) + index as i64;
        let sql = "SELECT bytes FROM entries WHERE place = ?1";
        (place, database.query_row(sql, [place], |row| row.get(0)).unwrap())
    })
}

fn put(database: &rusqlite::Connection, entries: &[(i64, Vec<u8>)]) {
    for (place, bytes) in entries {
        let sql = "UPDATE entries SET bytes = ?2 WHERE place = ?1";
        assert_eq!(database.execute(sql, rusqlite::params![place, bytes]).unwrap(), 1);
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A CA whose issuer's key refuses while it is told to.
async fn refusing() -> (Environment, Arc<AtomicBool>) {
    let refuses = Arc::<AtomicBool>::default();
    let is_refusing = Arc::clone(&refuses);
    let wrap = |keys: Keys, _: &Path| {
        keys.wrap(KeyPurpose::Issuer, |inner| {
            Arc::new(SpySigner::new(inner, move |_| match is_refusing.load(Ordering::SeqCst) {
                true => Err(SignerError::Refused("told to".to_owned())),
                false => Ok(()),
            }))
        })
    };
    (Environment::start_with(wrap, |store| store).await, refuses)
}

/// It was logged and not signed, and the log's rows are changed to fit one another while the same
/// request is made again: another serial number, another end, or both.
#[tokio::test]
async fn what_the_log_does_not_hold_is_not_signed_when_the_same_request_is_made_again() {
    let (environment, refuses) = refusing().await;
    let operator = environment.operator().await;
    let path = environment.folder.path().join("countersign.db");
    let database = rusqlite::Connection::open(path).unwrap();
    for (other_serial, other_end) in [(true, false), (false, true), (true, true)] {
        let token = environment.token(&operator, "/prod/reports").await;
        let csr = csr();
        refuses.store(true, Ordering::SeqCst);
        environment.issue_with(&token, &csr).await.unwrap_err();
        refuses.store(false, Ordering::SeqCst);
        let newest = RecordQuery { limit: 1, ..RecordQuery::default() };
        let issued = environment.store.records(newest).await.unwrap().remove(0);
        let not_after = time::OffsetDateTime::from_unix_timestamp(issued.not_after).unwrap();
        let ours = entries(&database, issued.leaf_index);
        let [(event_place, event), (leaf_place, leaf)] = ours.clone();
        let tbs = tlog::CertificateLeaf::parse(&leaf).unwrap().tbs_certificate;
        let (mut other, mut other_event) = (tbs.clone(), String::from_utf8(event).unwrap());
        if other_serial {
            let octets = issued.serial_number.as_octets();
            let mut changed = octets.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            other = replaced(&other, octets, &changed);
            let (ours, theirs) =
                (issued.serial_number.to_string(), data_encoding::HEXLOWER.encode(&changed));
            other_event = other_event.replace(&ours, &theirs);
        }
        if other_end {
            // 2026 becomes 2027: RFC 5280 has two digits of it until 2049.
            let end = issued.not_after;
            let ends = format!("26{:02}{:02}", not_after.month() as u8, not_after.day());
            let last = other.windows(6).rposition(|window| window == ends.as_bytes()).unwrap();
            other[last + 1] = b'7';
            let later = end + 365 * 24 * 3600;
            other_event = other_event.replace(&end.to_string(), &later.to_string());
        }
        let hash = |tbs: &[u8]| format!("{:?}", tlog::Hash::of(tbs));
        let other_event = other_event.replace(&hash(&tbs), &hash(&other));
        let other_leaf = replaced(&leaf, &tbs, &other);
        put(&database, &[(event_place, other_event.into_bytes()), (leaf_place, other_leaf)]);
        let refused = environment.issue_with(&token, &csr).await.unwrap_err();
        let is_told =
            matches!(&refused, Error::Store(authority::store::StoreError::Inconsistent(_)));
        assert!(is_told, "{refused}");
        put(&database, &ours);
        let again = environment.issue_with(&token, &csr).await.unwrap();
        environment.verified(&again);
        assert_eq!((again.serial_number, again.not_after), (issued.serial_number, not_after));
    }
}
