//! Each certificate renews once, as the log says: no row of the database gives a second renewal, and
//! none takes the first away.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;

use api::IssuedCertificate;
use authority::clock::Clock;
use authority::sequencer::{
    AllowedUnder, CertificateMember, Consumes, Member, Outcome, RecordDraft,
};
use authority::store::{Record, RecordKey};
use authority::{Act, Caller, Error, Event, EventDraft};
use identity::SerialNumber;
use issuance::CertificateRequest;
use rusqlite::Connection;
use support::{Environment, csr};
use tlog::{CertificateLeaf, Hash};

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn events(environment: &Environment, kind: &str) -> Vec<Event> {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == kind).collect()
}

async fn record(environment: &Environment, issued: &IssuedCertificate) -> Record {
    let key = RecordKey::LeafIndex(issued.log_index);
    environment.store.records_of(vec![key]).await.unwrap().pop().flatten().unwrap()
}

/// A workload's certificate, and what it was renewed by.
async fn renewed() -> (Environment, Caller, IssuedCertificate) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let renewed = environment.renew(&held, &csr()).await.unwrap();
    (environment, held, renewed)
}

fn shown(environment: &Environment, issued: &IssuedCertificate) -> Caller {
    let caller = environment.caller(issued);
    environment.authority.note_shown(caller.svid.as_ref().unwrap());
    caller
}

#[tokio::test]
async fn the_event_of_a_renewal_names_what_it_renews_and_that_of_an_issue_nothing() {
    let (environment, held, _) = renewed().await;
    let events = [events(&environment, "renew").await, events(&environment, "issue").await];
    let [renewals, issues] = events;
    let serial_number = held.svid.as_ref().unwrap().serial_number().to_string();
    assert_eq!(renewals[0].detail["renews"], serial_number);
    assert!(issues.iter().all(|event| event.detail.get("renews").is_none()));
}

/// What a writer to the database can do to the rows of what a certificate was renewed by.
const CHANGES: &[&str] = &[
    "DELETE FROM records WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "DELETE FROM certificates",
    "DELETE FROM identities",
    "UPDATE records SET request_hash = zeroblob(32)",
    "UPDATE records SET serial_number = randomblob(16)
     WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "UPDATE records SET facts = x'00' WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
];

#[tokio::test]
async fn no_row_gives_a_second_renewal_with_another_key_and_none_breaks_the_line() {
    for (change, restarts) in CHANGES.iter().flat_map(|it| [(it, false), (it, true)]) {
        let (mut environment, held, renewed) = renewed().await;
        let newest = shown(&environment, &renewed);
        while environment.authority.account().await.unwrap() {}
        let copy = environment.folder.path().join("copy");
        let copied = format!("VACUUM INTO '{}'", copy.display());
        tamper(&environment, &copied);
        tamper(&environment, change);
        if restarts {
            environment.restart().await;
        }
        let is_broken = *change == "DELETE FROM certificates";
        let refused = environment.renew(&held, &csr()).await.unwrap_err();
        assert!(matches!(refused, Error::Attestation { .. }), "{change}: {refused}");
        let conflicts = events(&environment, "renew.conflict").await.len();
        // Where its record says that it is another request, that is so, and is told.
        assert_eq!(conflicts, usize::from(is_broken), "{change}: {refused}");
        let back = format!(
            "ATTACH '{}' AS copy;
             INSERT OR REPLACE INTO identities SELECT * FROM copy.identities;
             INSERT OR REPLACE INTO records SELECT * FROM copy.records;",
            copy.display()
        );
        tamper(&environment, &back);
        assert_eq!(environment.renew(&newest, &csr()).await.is_ok(), !is_broken, "{change}");
    }
}

#[tokio::test]
async fn no_row_that_is_put_in_breaks_an_honest_line() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/reports").await;
    let other = environment.issue(&operator, "/prod/reports").await;
    let put_in = format!(
        "INSERT INTO renewals VALUES (x'{first}', {}, 1);
         INSERT INTO seen VALUES (x'{first}'), (x'{other}');
         INSERT INTO broken_lineages VALUES (x'{first}', 1);",
        other.log_index,
        first = first.serial_number,
        other = other.serial_number,
    );
    tamper(&environment, &put_in);
    environment.renew(&environment.caller(&first), &csr()).await.unwrap();
    assert_eq!(events(&environment, "renew.conflict").await, []);
}

#[tokio::test]
async fn that_a_certificate_was_shown_is_logged_once_and_outlives_a_restart() {
    let (mut environment, held, renewed) = renewed().await;
    shown(&environment, &renewed);
    for restarts in [false, true] {
        if restarts {
            environment.restart().await;
        }
        shown(&environment, &renewed);
        while environment.authority.account().await.unwrap() {}
        let told = events(&environment, "seen").await.into_iter();
        let told: Vec<u64> = told
            .flat_map(|event| event.detail["indexes"].as_array().unwrap().clone())
            .map(|index| index.as_u64().unwrap())
            .collect();
        let held = held.svid.as_ref().unwrap().leaf_index().unwrap();
        assert_eq!(told, [held, renewed.log_index], "{restarts}");
    }
    environment.restart().await;
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("renewed already"), "{refused}");
}

#[tokio::test]
async fn what_was_never_shown_is_replaced_once_before_and_after_a_restart() {
    for restarts in [false, true] {
        let (mut environment, held, _) = renewed().await;
        if restarts {
            environment.restart().await;
        }
        let replaced = environment.renew(&held, &csr()).await.unwrap();
        if restarts {
            environment.restart().await;
        }
        environment.renew(&held, &csr()).await.unwrap_err();
        environment.renew(&environment.caller(&replaced), &csr()).await.expect_err("it is broken");
    }
}

#[tokio::test]
async fn of_many_renewals_at_once_each_finds_what_the_one_before_did() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let asks = |csr: String| {
        let (authority, held) = (Arc::clone(&environment.authority), held.clone());
        async move { authority.issue(&held, &support::request(&csr), None).await }
    };
    let same = csr();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        tasks.spawn(asks(same.clone()));
    }
    let issued: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(issued.iter().all(|one| one.serial_number == issued[0].serial_number));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(asks(csr()));
    }
    let issued = tasks.join_all().await.into_iter().filter(Result::is_ok).count();
    assert_eq!((issued, events(&environment, "renew.conflict").await.len()), (1, 1));
}

/// What a version of before had logged: a renewal by the same key that does not name what it renews.
async fn renewed_before(
    environment: &Environment,
    first: &IssuedCertificate,
    csr: &str,
) -> SerialNumber {
    let entries = environment.store.entries(first.log_index - 1, 2).await.unwrap();
    let (event, leaf) =
        (Event::parse(&entries[0]).unwrap(), CertificateLeaf::parse(&entries[1]).unwrap());
    let record = record(environment, first).await;
    let old = record.serial_number.as_octets();
    let mut new = old.to_vec();
    *new.last_mut().unwrap() ^= 1;
    let mut tbs = leaf.tbs_certificate;
    let at = tbs.windows(old.len()).position(|it| it == old).unwrap();
    tbs[at..at + new.len()].copy_from_slice(&new);
    let serial_number = SerialNumber::from_octets(&new).unwrap();
    let mut detail = event.detail.clone();
    detail["serial_number"] = serial_number.to_string().into();
    detail["tbs_sha256"] = format!("{:?}", Hash::of(&tbs)).into();
    detail.as_object_mut().unwrap().remove("token_sha256");
    let by = Act { actor: &event.actor, request_id: "before" };
    let head = environment.store.head().await.unwrap();
    let member = CertificateMember {
        event: EventDraft::new("renew", &by, record.spiffe_id.as_str(), &detail),
        tbs,
        issuer_key_hash: record.issuer_key_hash,
        record: RecordDraft {
            serial_number,
            spiffe_id: record.spiffe_id,
            profile: record.profile,
            not_before: record.not_before,
            not_after: record.not_after,
            request_hash: *CertificateRequest::parse_pem(csr).unwrap().hash(),
            facts: record.facts,
        },
        consumes: Consumes::Nothing,
        idempotency: None,
        allowed_under: AllowedUnder {
            policy_hash: head.policy_hash,
            revocation_epoch: head.revocation_epoch,
        },
    };
    let group = vec![Member::Certificate(Arc::new(member))];
    let now = environment.clock.unix_milliseconds();
    let outcomes = environment.store.commit(group, now).await.unwrap();
    assert!(matches!(outcomes[0], Outcome::Logged { .. }), "{outcomes:?}");
    serial_number
}

#[tokio::test]
async fn a_renewal_that_a_version_of_before_logged_is_one() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    let first = environment.issue_with(&token, &request).await.unwrap();
    let held = environment.caller(&first);
    let before = renewed_before(&environment, &first, &request).await;
    environment.restart().await;
    let again = environment.renew(&held, &request).await.unwrap();
    assert_eq!(again.serial_number, before, "the same request again");
    environment.renew(&held, &csr()).await.expect("it was not seen: it is replaced, once");
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("renewed already"), "{refused}");
}

#[tokio::test]
async fn who_renewed_with_a_certificate_of_before_has_shown_it() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    let first = environment.issue_with(&token, &request).await.unwrap();
    renewed_before(&environment, &first, &request).await;
    environment.restart().await;
    let second = environment.renew(&environment.caller(&first), &request).await.unwrap();
    environment.renew(&environment.caller(&second), &csr()).await.unwrap();
    // The log tells it, though nobody was noted as shown.
    environment.restart().await;
    let refused = environment.renew(&environment.caller(&first), &csr()).await.unwrap_err();
    assert!(refused.to_string().contains("renewed already"), "{refused}");
}
