//! P4: every key is replaced, step by step, and no handshake fails.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{IssuedCertificate, KeyPurpose, KeyState, KeyStep, Report, TrustQuery};
use authority::clock::Clock;
use authority::{Error, Keys};
use identity::feed::Envelope;
use identity::{Trust, TrustState};
use support::rotation::take;
use support::{Environment, csr};
use time::Duration;
use tlog::{Checkpoint, VerifierKey};

/// A workload: what it shows, and what it believes.
struct Workload {
    issued: IssuedCertificate,
    trust: Trust,
    is_silent: bool,
}

/// Ten workloads, of which one at a time hears and says nothing for as long as its certificate
/// lives; then it starts anew, with the pin of the first day.
struct Fleet {
    environment: Environment,
    workloads: Vec<Workload>,
    offline: Keys,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pair_of_old_and_new_fails_at_any_step_of_any_key() {
    let mut fleet = Fleet::start(10).await;
    let mut waited = Vec::new();
    for (position, purpose) in KeyPurpose::ALL.into_iter().enumerate() {
        // A root goes when no issuer is below it: that one is replaced in between.
        let steps: &[(KeyPurpose, KeyStep)] = match purpose {
            KeyPurpose::Root => &[
                (KeyPurpose::Root, KeyStep::Prepare),
                (KeyPurpose::Root, KeyStep::Activate),
                (KeyPurpose::Issuer, KeyStep::Prepare),
                (KeyPurpose::Issuer, KeyStep::Activate),
                (KeyPurpose::Issuer, KeyStep::Retire),
                (KeyPurpose::Root, KeyStep::Retire),
            ],
            _ => &[
                (purpose, KeyStep::Prepare),
                (purpose, KeyStep::Activate),
                (purpose, KeyStep::Retire),
            ],
        };
        fleet.silence(position);
        for (purpose, step) in steps {
            let ticks = fleet.until_taken(*purpose, *step).await;
            if ticks > 0 {
                waited.push(format!("{step} {purpose}"));
            }
        }
        assert!(fleet.keys_in_use(purpose).await == 1, "{purpose} has one key again");
    }
    assert_eq!(
        waited,
        [
            "activate root",
            "retire issuer",
            "retire issuer",
            "activate countersignature",
            "retire countersignature",
            "retire log",
            "activate feed",
            "retire trust",
        ]
    );
    // Whoever starts with the first pin finds its way over every replaced trust key.
    let trust = fleet.by_pin();
    assert_eq!(trust.state(), fleet.environment.authority.view.trust().state());
    assert_ne!(trust.state().pin(), fleet.environment.pin);
}

impl Fleet {
    async fn start(size: usize) -> Self {
        let environment = Environment::start().await;
        let offline = environment.offline_keys();
        let mut fleet = Self { environment, workloads: vec![], offline };
        for _ in 0..size {
            let workload = fleet.begin().await;
            fleet.workloads.push(workload);
        }
        fleet
    }

    /// Takes the step as soon as nothing waits for it; all the while the fleet lives on. Returns for
    /// how many hours it had to be waited for.
    async fn until_taken(&mut self, purpose: KeyPurpose, step: KeyStep) -> usize {
        for hours in 0..=25 {
            let operator = self.environment.operator().await;
            match take(&self.environment, &self.offline, &operator, purpose, step).await {
                Ok(_) => {
                    self.assert_all_pairs(&format!("after {step} {purpose}")).await;
                    return hours;
                }
                Err(Error::Waits(_)) => {}
                Err(error) => panic!("{step} {purpose}: {error}"),
            }
            self.live_an_hour().await;
            self.assert_all_pairs(&format!("while {step} {purpose} waits")).await;
        }
        panic!("{step} {purpose} waits for longer than a certificate lives");
    }

    /// Whoever is not silent renews when it is due, follows the trust state, and says so.
    async fn live_an_hour(&mut self) {
        self.environment.clock.advance(Duration::HOUR);
        let now = self.environment.clock.now();
        let mut workloads = std::mem::take(&mut self.workloads);
        for workload in &mut workloads {
            if workload.issued.not_after <= now {
                *workload = self.begin().await;
            }
            if workload.is_silent {
                continue;
            }
            let mut caller = self.environment.caller(&workload.issued);
            if workload.issued.renewal.start <= now {
                workload.issued = self.environment.renew(&caller, &csr()).await.unwrap();
                caller = self.environment.caller(&workload.issued);
            }
            workload.trust = self.after(&workload.trust);
            let trust_sequence = workload.trust.state().sequence;
            let report = Report { trust_sequence, ..Report::default() };
            self.environment.authority.fleet.report(&caller, report).await.unwrap();
        }
        self.workloads = workloads;
    }

    /// Every workload that is alive believes every other, the feed and the log.
    async fn assert_all_pairs(&self, when: &str) {
        let now = self.environment.clock.now();
        let operator = self.environment.operator().await;
        let mut feed = self.environment.authority.feed.subscribe(&operator, None).await.unwrap();
        let message = feed.next().await.unwrap();
        let envelope = || Envelope::parse(message.line()).unwrap();
        self.environment.authority.writer.sign_checkpoint().await.unwrap();
        let checkpoint = self.environment.authority.writer.checkpoint().unwrap();
        let alive = || self.workloads.iter().filter(|workload| workload.issued.not_after > now);
        for verifier in alive() {
            let state = verifier.trust.state();
            for peer in alive() {
                let verified = self.environment.verify_by(&verifier.trust, &peer.issued.chain);
                assert!(verified.is_ok(), "{when}: state {} refuses: {verified:?}", state.sequence);
            }
            let heard = envelope().verify(state);
            assert!(heard.is_ok(), "{when}: state {} hears no feed: {heard:?}", state.sequence);
            let key = VerifierKey::parse(&state.log.key).unwrap();
            let read = Checkpoint::verify(&checkpoint, &state.log.origin, &key);
            assert!(read.is_ok(), "{when}: state {} reads no log: {read:?}", state.sequence);
        }
    }

    fn silence(&mut self, position: usize) {
        self.workloads[position].is_silent = true;
    }

    async fn begin(&self) -> Workload {
        let operator = self.environment.operator().await;
        let trust = self.by_pin();
        let issued = self.environment.issue(&operator, "/prod/reports").await;
        Workload { issued, trust, is_silent: false }
    }

    /// As `countersign::fetch_trust` does: from the first pin, one state after the other.
    fn by_pin(&self) -> Trust {
        let pin = self.environment.pin;
        let query = TrustQuery { pin: Some(pin.to_string()), after: None };
        let first = self.environment.authority.view.trust_state(&query).unwrap();
        let state = TrustState::verify_pinned(&first.note, &pin).unwrap();
        self.after(&Trust::new(state).unwrap())
    }

    fn after(&self, held: &Trust) -> Trust {
        let mut held = held.state().clone();
        loop {
            let query = TrustQuery { pin: None, after: Some(held.sequence) };
            let next = self.environment.authority.view.trust_state(&query).unwrap();
            if next.sequence == held.sequence {
                return Trust::new(held).unwrap();
            }
            held = held.verify_successor(&next.note).unwrap();
        }
    }

    async fn keys_in_use(&self, purpose: KeyPurpose) -> usize {
        let operator = self.environment.operator().await;
        let keys = self.environment.authority.rotation.keys(&operator).await.unwrap().items;
        let in_use =
            |key: &&api::KeyRecord| key.purpose == purpose && key.state != KeyState::Retired;
        keys.iter().filter(in_use).count()
    }
}
