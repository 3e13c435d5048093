//! A database that a version of before had left.

use std::sync::Arc;

use api::{IssuedCertificate, KeyPurpose};
use authority::clock::Clock;
use authority::sequencer::{
    AllowedUnder, CertificateMember, CompleteMember, Completed, Consumes, Member, Outcome,
    RecordDraft,
};
use authority::store::sqlite::SqliteStore;
use authority::store::{Record, RecordKey};
use authority::{Act, Error, Event, EventDraft};
use identity::SerialNumber;
use issuance::CertificateRequest;
use tlog::{CertificateLeaf, Hash, SignedCertificateTimestamp};

use super::older::database;
use super::{Environment, open, reopen};

/// Stops, and leaves the folder as a version of before had left it, with these changes to its rows.
pub(crate) async fn left_by_version_6(environment: Environment, changes: &str) -> Stopped {
    let Environment { folder, clock, store, keys, pin, authority } = environment;
    drop((authority, store));
    // The lock is let go of a moment after the last handle.
    drop(reopen(folder.path(), &keys).await.unwrap());
    let key = keys.head_key().unwrap().unwrap();
    SqliteStore::take_back(folder.path(), &key, 6).unwrap();
    database(folder.path()).execute_batch(changes).unwrap();
    Stopped { folder, clock, keys, pin }
}

/// A CA that does not run.
pub(crate) struct Stopped {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<authority::clock::ManualClock>,
    pub(crate) keys: authority::Keys,
    pub(crate) pin: identity::TrustPin,
}

impl Stopped {
    pub(crate) async fn start(self) -> Result<Environment, Error> {
        let Self { folder, clock, keys, pin } = self;
        let store = reopen(folder.path(), &keys).await?;
        let authority = open(folder.path(), &store, &keys, &clock, pin).await?;
        Ok(Environment { folder, clock, store, keys, pin, authority })
    }

    pub(crate) async fn refuses(&self) -> Error {
        reopen(self.folder.path(), &self.keys).await.unwrap_err()
    }

    pub(crate) fn change(&self, changes: &str) {
        database(self.folder.path()).execute_batch(changes).unwrap();
    }

    pub(crate) fn version(&self) -> i64 {
        let sql = "SELECT version FROM meta";
        database(self.folder.path()).query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub(crate) async fn upgraded(environment: Environment, changes: &str) -> Environment {
    left_by_version_6(environment, changes).await.start().await.unwrap()
}

pub(crate) async fn events(environment: &Environment, kind: &str) -> Vec<Event> {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == kind).collect()
}

pub(crate) async fn record(environment: &Environment, issued: &IssuedCertificate) -> Record {
    let key = RecordKey::LeafIndex(issued.log_index);
    environment.store.records_of(vec![key]).await.unwrap().pop().flatten().unwrap()
}

/// A renewal that a version of before had logged.
pub(crate) struct Before {
    pub(crate) serial_number: SerialNumber,
    pub(crate) place: u64,
}

/// What a version of before had logged: the `nth` renewal in the line of a first certificate, by its key,
/// that does not name what it renews.
pub(crate) async fn renewed_before(
    environment: &Environment,
    first: &IssuedCertificate,
    nth: u8,
    csr: &str,
) -> Before {
    renewed_until(environment, first, nth, csr, Lasts(first.not_after.unix_timestamp())).await
}

/// Until this second since 1970, as its record and its event say.
pub(crate) struct Lasts(pub(crate) i64);

/// The same, of another end.
pub(crate) async fn renewed_until(
    environment: &Environment,
    first: &IssuedCertificate,
    nth: u8,
    csr: &str,
    Lasts(not_after): Lasts,
) -> Before {
    renewed_by(environment, first, nth, csr, |detail| detail["not_after"] = not_after.into()).await
}

/// The same, whose event was changed so.
pub(crate) async fn renewed_by(
    environment: &Environment,
    first: &IssuedCertificate,
    nth: u8,
    csr: &str,
    change: impl FnOnce(&mut serde_json::Value),
) -> Before {
    let entries = environment.store.entries(first.log_index - 1, 2).await.unwrap();
    let (event, leaf) =
        (Event::parse(&entries[0]).unwrap(), CertificateLeaf::parse(&entries[1]).unwrap());
    let record = record(environment, first).await;
    let old = record.serial_number.as_octets();
    let mut new = old.to_vec();
    *new.last_mut().unwrap() ^= nth;
    let mut tbs = leaf.tbs_certificate;
    let at = tbs.windows(old.len()).position(|it| it == old).unwrap();
    tbs[at..at + new.len()].copy_from_slice(&new);
    let serial_number = SerialNumber::from_octets(&new).unwrap();
    let mut detail = event.detail.clone();
    detail["serial_number"] = serial_number.to_string().into();
    detail["tbs_sha256"] = format!("{:?}", Hash::of(&tbs)).into();
    detail.as_object_mut().unwrap().remove("token_sha256");
    change(&mut detail);
    let not_after = detail["not_after"].as_i64().unwrap_or(record.not_after);
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
            not_after,
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
    let Outcome::Certificate(Ok(receipt)) = &outcomes[0] else { panic!("{outcomes:?}") };
    let leaf_index = receipt.leaf().leaf_index;
    let complete = CompleteMember {
        leaf_index,
        certificate: certificate_at(environment, leaf_index).await,
        revocation_epoch: head.revocation_epoch,
        instead_of: None,
    };
    let stored = environment.store.commit(vec![Member::Complete(complete)], now).await.unwrap();
    assert_eq!(stored, [Outcome::Complete(Completed::Stored)]);
    Before { serial_number, place: leaf_index }
}

/// What the keys make of a leaf.
async fn certificate_at(environment: &Environment, leaf_index: u64) -> Vec<u8> {
    let entry = environment.store.entries(leaf_index, 1).await.unwrap().remove(0);
    let leaf = CertificateLeaf::parse(&entry).unwrap();
    let countersigner = environment.keys.first(KeyPurpose::Countersignature).unwrap();
    let countersignature = SignedCertificateTimestamp {
        log_id: tlog::log_id(countersigner.public_key()),
        timestamp: leaf.timestamp,
        leaf_index,
        signature: countersigner.sign(&entry).await.unwrap(),
    };
    let tbs = tlog::splice_in(&leaf.tbs_certificate, &countersignature).unwrap();
    let issuer = environment.keys.first(KeyPurpose::Issuer).unwrap();
    issuance::assemble(&tbs, &issuer.sign(&tbs).await.unwrap())
}
