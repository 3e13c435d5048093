//! Fills the store of a CA that does not run with many certificates, as if it had issued them.
//!
//! Everything goes through the store's own transaction and plan, so log, tiles, head and tables
//! agree by construction: for each certificate an `issue` event, its leaf, a record and the
//! certificate, and for every 500 an `issued` event. What is not true of them is their
//! signatures: they are copied from the one real certificate that all are made after.

use std::sync::Arc;

use anyhow::Context;
use api::Secret;
use authority::clock::{Clock, SystemClock};
use authority::sequencer::{
    ActMember, AllowedUnder, CertificateMember, CompleteMember, Consumes, Effect, Head, Member,
    Outcome, RecordDraft,
};
use authority::store::sqlite::SqliteStore;
use authority::store::{Record, RecordQuery, Store};
use authority::{Act, Event, EventDraft, Keys, setup};
use aws_lc_rs::rand;
use identity::SpiffeId;
use system_tests::{Environment, TRUST_DOMAIN};
use tlog::Hash;

/// The path of the real certificate; the others' have the same length.
pub(crate) const TEMPLATE: &str = "/prod/reports";

/// Adds so many certificates. The store must hold one for [`TEMPLATE`], the newest of all.
pub(crate) fn fill(environment: &Environment, certificates: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let state = environment.path("state");
    let passphrase = std::fs::read_to_string(environment.path("passphrase"))?;
    let keys = Keys::open(&state, &Secret::new(passphrase.trim_end()))?;
    let (store, _) = setup::open_store(&state, &TRUST_DOMAIN.parse()?, &keys)?;
    runtime.block_on(async {
        let template = Template::read(&store, environment).await?;
        let mut filling = Filling { template, made: 0, unsigned: Vec::new() };
        let mut group = filling.certificates(certificates.min(GROUP))?;
        while !group.is_empty() {
            // The store's thread writes this group while this one makes the next.
            let commit = store.commit(group, SystemClock.unix_milliseconds());
            let unsigned = std::mem::take(&mut filling.unsigned);
            let next = filling.certificates((certificates - filling.made).min(GROUP))?;
            group = filling.completions(&unsigned, &commit.await?)?;
            group.extend(next);
        }
        anyhow::Ok(())
    })
}

/// What is the same in all certificates, and where they differ.
struct Template {
    record: Record,
    event: Event,
    tbs: Vec<u8>,
    certificate: Vec<u8>,
    head: Head,
}

impl Template {
    async fn read(store: &SqliteStore, environment: &Environment) -> anyhow::Result<Self> {
        let spiffe_id: SpiffeId = environment.id(TEMPLATE).parse()?;
        let query = RecordQuery { spiffe_id: Some(spiffe_id), limit: 1, ..RecordQuery::default() };
        let record = store.records(query).await?.pop().context("there is no template")?;
        let entries = store.entries(record.leaf_index - 1, 1).await?;
        let event = Event::parse(entries.first().context("a leaf follows its event")?)?;
        let certificate = record.certificate.clone().context("the template was not issued")?;
        let (tbs, _) = tlog::splice_out(tlog::split_certificate(&certificate)?.tbs)?;
        Ok(Self { record, event, tbs, certificate, head: store.head().await? })
    }
}

/// Certificates in the making.
struct Filling {
    template: Template,
    made: usize,
    /// Those whose leaves are being logged.
    unsigned: Vec<Vec<u8>>,
}

impl Filling {
    /// Certificates to be logged.
    fn certificates(&mut self, count: usize) -> anyhow::Result<Vec<Member>> {
        (0..count).map(|_| self.certificate()).collect()
    }

    fn certificate(&mut self) -> anyhow::Result<Member> {
        let Template { record, event, tbs, certificate, head } = &self.template;
        let mut random = [0; 14];
        rand::fill(&mut random)?;
        let serial_number = issuance::serial_number(SystemClock.unix_milliseconds(), random);
        let path = format!("/prod/w{:06}", self.made % IDENTITIES);
        let changes = [
            (record.serial_number.as_octets(), serial_number.as_octets()),
            (TEMPLATE.as_bytes(), path.as_bytes()),
        ];
        let tbs = changed(tbs, &changes)?;
        self.unsigned.push(changed(certificate, &changes)?);
        self.made += 1;
        let text = serial_number.to_string();
        let mut detail = event.detail.clone();
        detail["serial_number"] = text.clone().into();
        detail["tbs_sha256"] = format!("{:?}", Hash::of(&tbs)).into();
        let by = Act { actor: &event.actor, request_id: &event.request_id };
        let spiffe_id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}{path}").parse()?;
        Ok(Member::Certificate(Arc::new(CertificateMember {
            event: EventDraft::new("issue", &by, spiffe_id.as_str(), &detail),
            issuer_key_hash: record.issuer_key_hash,
            record: RecordDraft {
                serial_number,
                spiffe_id,
                profile: record.profile.clone(),
                not_before: record.not_before,
                not_after: record.not_after,
                request_hash: Hash::of(&random),
                facts: record.facts.replace(&record.serial_number.to_string(), &text),
            },
            consumes: Consumes::Nothing,
            idempotency: None,
            allowed_under: AllowedUnder {
                policy_hash: head.policy_hash,
                revocation_epoch: head.revocation_epoch,
            },
            tbs,
        })))
    }

    /// The certificates of the leaves just logged, and the events that account for them.
    fn completions(
        &self,
        certificates: &[Vec<u8>],
        outcomes: &[Outcome],
    ) -> anyhow::Result<Vec<Member>> {
        let logged = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Certificate(Ok(receipt)) => Some(receipt.leaf().leaf_index),
            _ => None,
        });
        let signed: Vec<(u64, &Vec<u8>)> = logged.zip(certificates).collect();
        anyhow::ensure!(signed.len() == certificates.len(), "the store refused some: {outcomes:?}");
        let mut group = Vec::with_capacity(2 * GROUP);
        for batch in signed.chunks(ACCOUNTED) {
            for (leaf_index, certificate) in batch {
                group.push(Member::Complete(CompleteMember {
                    leaf_index: *leaf_index,
                    certificate: (*certificate).clone(),
                    revocation_epoch: self.template.head.revocation_epoch,
                    instead_of: None,
                }));
            }
            group.push(account(batch));
        }
        Ok(group)
    }
}

/// The `issued` event of a batch.
fn account(batch: &[(u64, &Vec<u8>)]) -> Member {
    let lines: Vec<_> = batch
        .iter()
        .map(|(index, certificate)| {
            let sha256 = format!("{:?}", Hash::of(certificate));
            serde_json::json!({ "index": index, "sha256": sha256 })
        })
        .collect();
    let up_to = batch.last().map_or(0, |(index, _)| index + 1);
    let by = Act { actor: "authority", request_id: "" };
    let detail = serde_json::json!({ "certificates": lines });
    let event = EventDraft::new("issued", &by, "certificates", &detail);
    let effect = Effect::Sweep { up_to };
    Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
}

/// The bytes with each pattern replaced by one of the same length, where it stands first.
fn changed(bytes: &[u8], changes: &[(&[u8], &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut changed = bytes.to_vec();
    for (from, to) in changes {
        let place = changed.windows(from.len()).position(|window| window == *from);
        let place = place.context("the template lacks what is to be replaced")?;
        anyhow::ensure!(from.len() == to.len(), "a replacement changes the length");
        changed[place..place + to.len()].copy_from_slice(to);
    }
    Ok(changed)
}

/// Certificates of one transaction.
const GROUP: usize = 4_000;
/// Certificates of one `issued` event, as the engine groups them.
const ACCOUNTED: usize = 500;
/// As many workloads as a large installation has.
const IDENTITIES: usize = 1_000;
