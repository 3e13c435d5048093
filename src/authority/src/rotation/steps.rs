//! The engine's part of a rotation: it accepts chains and trust states that were signed elsewhere,
//! and takes a step when nothing waits for it any more.

use api::{KeyPurpose, KeyState, KeyStep, KeyStepOutcome, KeyStepRequest, OfflineSignature};
use identity::{Der, Trust, TrustState};
use issuance::IssuerCertificate;
use tlog::Hash;

use super::{Rotation, TrustChange, changes_trust};
use crate::caller::Caller;
use crate::checkpoint::verifier_key;
use crate::error::Error;
use crate::event::{self, EventDraft};
use crate::fold::ledger::LedgerKey;
use crate::policy::Action;
use crate::proven::made_by;
use crate::sequencer::{ActMember, AllowedUnder, ChangedKeys, Effect, IdempotencyKey, KeptRequest};
use crate::signer::SignerError;
use crate::view::in_force::InForce;
use crate::writer::RESTARTS;
use crate::writer::once::read_answer;

impl Rotation {
    /// Takes a step of the key whose id this is, or logs what an offline key is about to sign for
    /// it. A step that was taken already is answered again.
    pub async fn key_step(
        &self,
        caller: &Caller,
        id: &str,
        step: KeyStep,
        request: &KeyStepRequest,
    ) -> Result<KeyStepOutcome, Error> {
        let action = Action::RotateKey(request.purpose, step);
        self.view.authorize(caller, action.clone(), None)?;
        let named = caller.named(&api::paths::key_step(id, step), request)?;
        let named = named.as_ref();
        for _ in 0..RESTARTS {
            let allowed_under = self.view.authorize(caller, action.clone(), None)?;
            if let Some(kept) = self.view.kept(named).await? {
                return step_before(&kept, request);
            }
            self.view.require_whole_log()?;
            let (_, in_force) = self.view.state().await?;
            if let Some(key) = done_already(&in_force, id, step, request) {
                if !self.writer.holds(allowed_under).await? {
                    continue;
                }
                return Ok(KeyStepOutcome::Done { log_index: key.log_index });
            }
            let planned = self.plan_step(&in_force, id, step, request).await?;
            match self.announce(&in_force, caller, &planned, request, allowed_under, named).await? {
                Announced::Done(announced) => return Ok(announced),
                Announced::Moved => continue,
                Announced::Nothing => {}
            }
            let changed = self.verify_signed(&in_force, &planned, request).await?;
            let done = self.commit_step(caller, planned, changed, allowed_under, named).await?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
        Err(self.writer.restless())
    }

    /// Whether the step may be taken at all.
    async fn plan_step(
        &self,
        in_force: &InForce,
        id: &str,
        step: KeyStep,
        request: &KeyStepRequest,
    ) -> Result<Planned, Error> {
        let purpose = request.purpose;
        let public_key = match (step, in_force.ledger.by_id(id)) {
            (KeyStep::Prepare, None) => {
                let key = self.require_new_key(in_force, id, request)?;
                self.require_key_file(purpose, Hash::of(key.as_bytes())).await?;
                key
            }
            (KeyStep::Activate | KeyStep::Retire, Some(key)) if key.purpose == purpose => {
                self.require_due(key, step).await?;
                if step == KeyStep::Activate {
                    self.require_key_file(purpose, key.id).await?;
                }
                Der::new(key.public_key.clone())
            }
            _ => return Err(Error::NotFound(format!("{purpose} key {id} to {step}"))),
        };
        let of_many = in_force.trust.state().trust_keys.len() > 1;
        if (purpose, step) == (KeyPurpose::Trust, KeyStep::Activate) && of_many {
            return Err(Error::Invalid {
                why: "the trust state names several trust keys: one cannot take their place".into(),
                next_step: None,
            });
        }
        if (purpose, step) == (KeyPurpose::Log, KeyStep::Activate) {
            // Whoever takes the next trust state finds a checkpoint that this key signed.
            self.writer.sign_checkpoint().await?;
        }
        Ok(Planned { purpose, step, public_key })
    }

    /// A node that cannot open a key could not sign with it later.
    async fn require_key_file(&self, purpose: KeyPurpose, id: Hash) -> Result<(), Error> {
        if purpose.is_offline() {
            return Ok(());
        }
        let keys = self.view.key_files().clone();
        // To open one costs 600,000 rounds.
        let opened = tokio::task::spawn_blocking(move || keys.signer(purpose, &id)).await;
        let died = |_| SignerError::Refused("the thread that opened it died".to_owned());
        opened.map_err(died)?.map(drop).map_err(|error| Error::Invalid {
            why: error.to_string(),
            next_step: Some(
                "put the file where `serve` finds it, for the user that `serve` runs as".to_owned(),
            ),
        })
    }

    fn require_new_key(
        &self,
        in_force: &InForce,
        id: &str,
        request: &KeyStepRequest,
    ) -> Result<Der, Error> {
        let refuse =
            |why: String, next: &str| Err(Error::Invalid { why, next_step: Some(next.to_owned()) });
        let purpose = request.purpose;
        let Some(public_key) = &request.public_key else {
            return refuse("public_key is missing".to_owned(), "send the key to prepare");
        };
        if format!("{:?}", Hash::of(public_key.as_bytes())) != id {
            return refuse(
                "public_key has another id".to_owned(),
                "send the key whose hash stands in the path",
            );
        }
        let is_ed25519 = verifier_key(self.view.trust_domain(), public_key.as_bytes()).is_ok();
        let is_right = match purpose {
            KeyPurpose::Feed | KeyPurpose::Log => is_ed25519,
            _ => public_key.as_bytes().starts_with(P256_SPKI_PREFIX),
        };
        if !is_right {
            return refuse(format!("a {purpose} key is not of that kind"), "countersign key list");
        }
        let mut in_use = in_force.ledger.in_use(purpose);
        if let Some(other) = in_use.find(|key| key.state != KeyState::Active) {
            let why = format!("the {purpose} key {:?} is {:?}", other.id, other.state);
            return Err(Error::OutOfTurn {
                why: why.to_lowercase(),
                next_step: "finish that rotation first: countersign rotate",
            });
        }
        let certifies = match purpose {
            KeyPurpose::Issuer => KeyPurpose::Root,
            other => other,
        };
        if in_force.ledger.find(certifies, KeyState::Active).is_none() {
            return refuse(
                format!("this CA has no {certifies} key: its parent is elsewhere"),
                "have the parent certify the issuer again: countersign init --certificate FILE",
            );
        }
        Ok(public_key.clone())
    }

    /// Logs what will be signed.
    async fn announce(
        &self,
        in_force: &InForce,
        caller: &Caller,
        planned: &Planned,
        request: &KeyStepRequest,
        allowed_under: AllowedUnder,
        named: Option<&IdempotencyKey>,
    ) -> Result<Announced, Error> {
        let (mut certificate, mut trust_state) = (None, None);
        // The name goes with the last of what is announced: what was announced twice harms nobody.
        let is_last = !announces(request.trust_state.as_ref());
        if let Some(OfflineSignature::Announced { to_be_signed: tbs }) = &request.certificate {
            issuance::lint::ca_tbs(tbs.as_bytes())?;
            let event = announcement(caller, event::KEY_ISSUER, planned, tbs);
            let named = named.filter(|_| is_last);
            match self.log(event, allowed_under, named, None).await? {
                Some(log_index) => certificate = Some(log_index),
                None => return Ok(Announced::Moved),
            }
        }
        let earlier = certificate;
        if let Some(OfflineSignature::Announced { to_be_signed: text }) = &request.trust_state {
            // Compared before it is signed: no signature is asked of a trust key for anything else.
            let next: TrustState = serde_json::from_slice(text.as_bytes())
                .map_err(|error| not_that_step(&format!("the trust state: {error}")))?;
            let certificate = request.certificate.as_ref().and_then(OfflineSignature::signed);
            let change = self.trust_change(planned, &next, certificate)?;
            let is_it = change.apply(in_force.trust.state()) == next;
            if !is_it || next.text().as_bytes() != text.as_bytes() {
                return Err(not_that_step("the trust state says something else than this step"));
            }
            let event = announcement(caller, event::TRUST_CHANGE, planned, text);
            match self.log(event, allowed_under, named, earlier).await? {
                Some(log_index) => trust_state = Some(log_index),
                None => return Ok(Announced::Moved),
            }
        }
        if certificate.is_none() && trust_state.is_none() {
            return Ok(Announced::Nothing);
        }
        Ok(Announced::Done(KeyStepOutcome::Announced { certificate, trust_state }))
    }

    /// Verifies what was signed elsewhere: announced, by the right key, and saying what this step
    /// says, no more.
    async fn verify_signed(
        &self,
        in_force: &InForce,
        planned: &Planned,
        request: &KeyStepRequest,
    ) -> Result<ChangedKeys, Error> {
        let Planned { purpose, step, public_key } = planned;
        let mut changed = ChangedKeys::default();
        if *step == KeyStep::Prepare && matches!(purpose, KeyPurpose::Issuer | KeyPurpose::Root) {
            let (signed, announced_at) = signed(request.certificate.as_ref(), "certificate")?;
            let tbs = self.verify_certificate(in_force, planned, signed)?;
            self.require_announced(event::KEY_ISSUER, announced_at, &tbs).await?;
            if *purpose == KeyPurpose::Issuer {
                let key_hash = Hash::of(public_key.as_bytes());
                changed.issuer = Some((signed.as_bytes().to_vec(), key_hash));
            }
        }
        if changes_trust(*purpose, *step) {
            let (note, announced_at) = signed(request.trust_state.as_ref(), "trust_state")?;
            let state = in_force.trust.state();
            let next = state
                .verify_successor(note.as_bytes())
                .map_err(|error| not_that_step(&error.to_string()))?;
            let certificate = request.certificate.as_ref().and_then(OfflineSignature::signed);
            let change = self.trust_change(planned, &next, certificate)?;
            if change.apply(state) != next {
                return Err(not_that_step("the trust state says something else than this step"));
            }
            if *purpose == KeyPurpose::Trust {
                // By its new pin alone it must be believed, too.
                TrustState::verify_pinned(note.as_bytes(), &next.pin())?;
            }
            let text = next.text();
            self.require_announced(event::TRUST_CHANGE, announced_at, text.as_bytes()).await?;
            changed.trust_state = Some((next.sequence, note.as_bytes().to_vec()));
            Trust::new(next)?;
        }
        Ok(changed)
    }

    /// Returns the bytes that were signed.
    fn verify_certificate(
        &self,
        in_force: &InForce,
        planned: &Planned,
        certificate: &Der,
    ) -> Result<Vec<u8>, Error> {
        let der = certificate.as_bytes();
        let parsed = IssuerCertificate::from_der(der)?;
        let signer = match planned.purpose {
            KeyPurpose::Issuer => {
                let root = in_force.ledger.find(KeyPurpose::Root, KeyState::Active);
                root.map_or(&[][..], |root| &root.public_key)
            }
            _ => planned.public_key.as_bytes(),
        };
        if parsed.public_key() != planned.public_key.as_bytes()
            || !issuance::is_signed_by(der, signer)
        {
            return Err(not_that_step("the certificate is not for this key, or not by the root"));
        }
        // Made where the clock is ahead: once active, it would certify nobody.
        parsed.require_begun(self.view.clock().now())?;
        let split = tlog::split_certificate(der)
            .map_err(|error| issuance::Error::Encoding(error.to_string()))?;
        Ok(split.tbs.to_vec())
    }

    /// What this step changes; only the time from which a countersignature key counts, and a new
    /// root's certificate, are chosen by whoever makes the trust state.
    fn trust_change(
        &self,
        planned: &Planned,
        next: &TrustState,
        certificate: Option<&Der>,
    ) -> Result<TrustChange, Error> {
        let Planned { purpose, step, public_key } = planned;
        let mut named = next.countersignature_keys.iter();
        let named = named.find(|named| named.key == *public_key);
        let counts_from = named.map_or(0, |named| named.not_before);
        if counts_from > self.view.clock().unix_milliseconds() + CLOCKS_DIFFER {
            return Err(not_that_step("the countersignature key counts from too late on"));
        }
        let key = public_key.clone();
        let (step, domain) = ((*purpose, *step), self.view.trust_domain());
        TrustChange::of(step, key, counts_from, certificate, domain)?
            .ok_or_else(|| not_that_step("a new root needs its certificate first"))
    }

    /// What was signed stands in the log, at this place, by its hash.
    async fn require_announced(
        &self,
        kind: &str,
        announced_at: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let hash = format!("{:?}", Hash::of(bytes));
        let field = hash_field(kind);
        let is_it = |event: &event::Event| event.kind == kind && event.detail[field] == hash;
        if made_by(self.view.store(), announced_at, is_it).await? {
            return Ok(());
        }
        Err(not_that_step("what was signed was not announced at that place of the log"))
    }

    /// None where policy, revocations or keys moved since the step was planned.
    async fn commit_step(
        &self,
        caller: &Caller,
        planned: Planned,
        changed: ChangedKeys,
        allowed_under: AllowedUnder,
        named: Option<&IdempotencyKey>,
    ) -> Result<Option<KeyStepOutcome>, Error> {
        let Planned { purpose, step, public_key } = &planned;
        let held = self.view.in_force().trust.state().sequence;
        let trust_sequence = changed.trust_state.as_ref().map_or(held, |(sequence, _)| *sequence);
        let mut detail = serde_json::json!({
            "key_sha256": format!("{:?}", Hash::of(public_key.as_bytes())),
            "trust_sequence": trust_sequence,
        });
        let kind = match step {
            KeyStep::Prepare => {
                detail["public_key"] = String::from(public_key.clone()).into();
                event::KEY_PREPARE
            }
            KeyStep::Activate => event::KEY_ACTIVATE,
            KeyStep::Retire => event::KEY_RETIRE,
        };
        let by = caller.by();
        let member = ActMember {
            event: EventDraft::new(kind, &by, purpose.name(), &detail),
            effect: Effect::ChangeKeys(changed),
            allowed_under: Some(allowed_under),
        };
        let done = self.writer.act(member, named, kept_step(None)).await;
        if matches!(done, Ok(_) | Err(Error::Conflict(_))) {
            // What is committed is done, whether or not the keys open that it brings into force.
            drop(self.view.follow_keys().await);
        }
        Ok(done?.map(|log_index| KeyStepOutcome::Done { log_index }))
    }

    /// Logs an announcement; `earlier` is the place of the one that came with it. None where policy
    /// or revocations moved since the step was planned, or the same request was done at once: it is
    /// answered from there.
    async fn log(
        &self,
        event: EventDraft,
        allowed_under: AllowedUnder,
        named: Option<&IdempotencyKey>,
        earlier: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let allowed_under = Some(allowed_under);
        let member = ActMember { event, effect: Effect::None, allowed_under };
        self.writer.act(member, named, kept_step(earlier)).await
    }
}

/// What became of an announcement.
enum Announced {
    Done(KeyStepOutcome),
    /// Policy or revocations are others: whoever announces may not be allowed to any more.
    Moved,
    /// None was asked for.
    Nothing,
}

/// A step that may be taken.
#[derive(Debug, Clone)]
struct Planned {
    purpose: KeyPurpose,
    step: KeyStep,
    public_key: Der,
}

fn announces(part: Option<&OfflineSignature>) -> bool {
    matches!(part, Some(OfflineSignature::Announced { .. }))
}

/// What is kept of a step with its request's name: the place of what was announced first.
fn kept_step(earlier: Option<u64>) -> String {
    serde_json::to_string(&earlier).expect("a number is plain data")
}

/// The outcome of a step that was named and taken before.
fn step_before(kept: &KeptRequest, request: &KeyStepRequest) -> Result<KeyStepOutcome, Error> {
    let earlier: Option<u64> = read_answer(kept)?;
    Ok(if announces(request.trust_state.as_ref()) {
        KeyStepOutcome::Announced { certificate: earlier, trust_state: kept.place }
    } else if announces(request.certificate.as_ref()) {
        KeyStepOutcome::Announced { certificate: kept.place, trust_state: None }
    } else {
        KeyStepOutcome::Done { log_index: kept.place.unwrap_or_default() }
    })
}

/// A lost answer is asked for again.
fn done_already(
    in_force: &InForce,
    id: &str,
    step: KeyStep,
    request: &KeyStepRequest,
) -> Option<LedgerKey> {
    let key = in_force.ledger.by_id(id).filter(|key| key.purpose == request.purpose)?;
    let is_done = match step {
        KeyStep::Prepare => key.state == KeyState::Prepared,
        KeyStep::Activate => key.state == KeyState::Active,
        KeyStep::Retire => key.state == KeyState::Retired,
    };
    is_done.then(|| key.clone())
}

fn announcement(
    caller: &Caller,
    kind: &'static str,
    planned: &Planned,
    to_be_signed: &Der,
) -> EventDraft {
    let detail = serde_json::json!({
        "key_sha256": format!("{:?}", Hash::of(planned.public_key.as_bytes())),
        "step": planned.step.name(),
        hash_field(kind): format!("{:?}", Hash::of(to_be_signed.as_bytes())),
    });
    let by = caller.by();
    EventDraft::new(kind, &by, planned.purpose.name(), &detail)
}

fn signed<'a>(ceremony: Option<&'a OfflineSignature>, what: &str) -> Result<(&'a Der, u64), Error> {
    match ceremony {
        Some(OfflineSignature::Signed { signed, announced_at }) => Ok((signed, *announced_at)),
        _ => Err(Error::Invalid {
            why: format!("this step needs a {what}, announced and then signed"),
            next_step: Some("`countersign rotate` does both".to_owned()),
        }),
    }
}

fn not_that_step(why: &str) -> Error {
    Error::Invalid {
        why: why.to_owned(),
        next_step: Some(
            "`countersign rotate` makes it anew from the newest trust state".to_owned(),
        ),
    }
}

/// How events name what is signed after them.
fn hash_field(kind: &str) -> &'static str {
    if kind == event::TRUST_CHANGE { "note_text_sha256" } else { "tbs_sha256" }
}

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes … (RFC 5480 §2).
const P256_SPKI_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Whoever makes the trust state has another clock, in milliseconds.
const CLOCKS_DIFFER: u64 = 60_000;
