//! Refutes promise P6, if it can: a thousand workloads whose CA is gone for hours, in virtual time.
//!
//! Schedule, pauses, renewal and status are those of the product. Only the CA is a stand-in, behind
//! [`SvidSource`], and the clock jumps over the hours in which all are in the same state anyway; a
//! jump makes all try at once, which is worse than the hours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::RenewalWindow;
use identity::{Refusal, Usage};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Mutex, PoisonError, Upkeep};
use crate::error::Error;
use crate::handshake::credentials::Credentials;
use crate::pace::renewal::LONGEST;
use crate::svid::{Svid, SvidFuture, SvidSource};
use crate::test_authority::{Log, TestAuthority};
use crate::verification::Verification;

const WORKLOADS: u64 = 1000;
/// A fleet that is deployed within ten minutes renews within few.
const DEPLOYED_IN: u64 = 600;
const HOUR: u64 = 3600;
const MINUTE: u64 = 60;

/// Goes as tokio's time does, or stands still, and jumps.
#[derive(Debug)]
pub(super) struct Clock {
    began: Option<Instant>,
    offset: AtomicU64,
}

impl Clock {
    pub(super) fn starting_at(second: u64) -> Self {
        Self { began: Some(Instant::now()), offset: AtomicU64::new(second) }
    }

    pub(super) fn held_at(second: u64) -> Self {
        Self { began: None, offset: AtomicU64::new(second) }
    }

    pub(super) fn seconds(&self) -> u64 {
        self.offset.load(Ordering::SeqCst) + self.gone()
    }

    pub(super) fn jump_to(&self, second: u64) {
        self.offset.store(second - self.gone(), Ordering::SeqCst);
    }

    fn gone(&self) -> u64 {
        self.began.map_or(0, |began| began.elapsed().as_secs())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.seconds())))
    }
}

/// Issues while it is there, and counts who asks in each second.
struct StandIn {
    authority: TestAuthority,
    clock: Arc<Clock>,
    verification: Arc<Verification>,
    is_there: AtomicBool,
    asked: Mutex<BTreeMap<u64, usize>>,
    issued: Mutex<BTreeMap<u64, Svid>>,
}

impl StandIn {
    /// The certificate of this second; whoever asks in the same one shares it, to save the test time.
    fn issue(&self, second: u64) -> Svid {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.entry(second).or_insert_with(|| self.sign(second)).copy()
    }

    fn sign(&self, second: u64) -> Svid {
        let at = OffsetDateTime::from_unix_timestamp(second.cast_signed()).unwrap();
        let svid = self.authority.svid_at("/prod/reports", at, Log::Asked);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(second));
        let identity = self.verification.verify(&svid.chain, Usage::Client, now).unwrap();
        let not_after = OffsetDateTime::from_unix_timestamp(identity.not_after()).unwrap();
        // The CA's: the middle of its life, a tenth of it wide.
        let life = not_after - at;
        let renewal = RenewalWindow { start: at + life / 2, end: at + life * 6 / 10 };
        Svid { chain: svid.chain, key: svid.key, renewal, not_after, trust_sequence: 1 }
    }

    fn asked_since(&self, second: u64) -> BTreeMap<u64, usize> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).split_off(&second)
    }
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StandIn")
    }
}

impl SvidSource for StandIn {
    fn next(&self, _after: Option<&Svid>) -> SvidFuture<'_> {
        let now = self.clock.seconds();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry(now).or_default() += 1;
        let answer = if self.is_there.load(Ordering::SeqCst) {
            Ok(self.issue(now))
        } else {
            Err(Error::Unreachable { url: String::new(), source: "it is gone".into() })
        };
        Box::pin(std::future::ready(answer))
    }
}

struct Fleet {
    ca: Arc<StandIn>,
    workloads: Vec<Arc<Upkeep>>,
    _tasks: JoinSet<()>,
}

impl Fleet {
    /// Some minutes before the first renewal, the CA goes.
    fn cut_off() -> Self {
        let authority = TestAuthority::new();
        let deployed = UnixTime::now().as_secs();
        let clock = Arc::new(Clock::starting_at(deployed + 11 * HOUR + 50 * MINUTE));
        let verification = Verification::with_clock(authority.trust(), Arc::clone(&clock) as _);
        let ca = Arc::new(StandIn {
            authority,
            clock,
            verification,
            is_there: AtomicBool::new(false),
            asked: Mutex::default(),
            issued: Mutex::default(),
        });
        let workloads: Vec<_> =
            (0..WORKLOADS).map(|n| workload(&ca, deployed + n * DEPLOYED_IN / WORKLOADS)).collect();
        let mut tasks = JoinSet::new();
        for upkeep in &workloads {
            let upkeep = Arc::clone(upkeep);
            tasks.spawn(async move { upkeep.keep_renewing().await });
        }
        Self { ca, workloads, _tasks: tasks }
    }

    fn now(&self) -> u64 {
        self.ca.clock.seconds()
    }

    /// How long each says that it can go on.
    fn predictions(&self) -> Vec<u64> {
        let left = |upkeep: &Arc<Upkeep>| upkeep.status().seconds_without_authority;
        self.workloads.iter().map(left).collect()
    }

    fn ready(&self) -> usize {
        self.workloads.iter().filter(|upkeep| upkeep.status().ready).count()
    }

    /// The CA comes back: asserts that all have a certificate soon, and how many come at once.
    ///
    /// Who pauses a second and by chance up to `bound`, or more, comes once in 1 + `bound` / 2 s at
    /// most. A thousand that do are spread as chance will have it: about a Poisson distribution, of
    /// which eight standard deviations are never seen.
    async fn assert_no_stampede(&self, bound: Duration) {
        let returned = self.now() + 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.ca.is_there.store(true, Ordering::SeqCst);
        tokio::time::sleep(LONGEST + Duration::from_secs(3)).await;
        let asked = self.ca.asked_since(returned);
        let all: usize = asked.values().sum();
        assert_eq!((all as u64, self.ready() as u64), (WORKLOADS, WORKLOADS));
        let expected = WORKLOADS as f64 / (1.0 + bound.as_secs_f64() / 2.0);
        let at_most = expected + 8.0 * expected.sqrt();
        let peak = asked.values().copied().max().unwrap_or_default();
        println!("{peak} came in one second; {expected:.1} on average, {at_most:.1} at most");
        assert!(peak as f64 <= at_most, "{peak} in one second, expected {expected:.1}");
    }
}

/// A workload that was issued its certificate in this second.
fn workload(ca: &Arc<StandIn>, issued: u64) -> Arc<Upkeep> {
    let svid = ca.issue(issued);
    let verification = Arc::clone(&ca.verification);
    let identity = svid.verify(&verification).unwrap();
    let credentials = Credentials::new(svid.chain.clone(), svid.key.clone_key()).unwrap();
    let source = Arc::clone(ca) as Arc<dyn SvidSource>;
    Upkeep::new(String::new(), verification, credentials, source, svid, identity, &[])
}

#[tokio::test(start_paused = true)]
async fn workloads_know_to_the_second_how_long_they_can_go_on() {
    let fleet = Fleet::cut_off();
    let (cut, predictions) = (fleet.now(), fleet.predictions());
    assert!(predictions.iter().all(|&left| left > 12 * HOUR), "hours");
    for (upkeep, left) in fleet.workloads.iter().zip(&predictions) {
        let state = upkeep.state();
        let verify = |second| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(second));
            fleet.ca.verification.verify(&state.svid.chain, Usage::Client, now)
        };
        verify(cut + left).unwrap();
        assert!(matches!(verify(cut + left + 1), Err(Refusal::Expired { .. })));
    }
    let first = predictions.iter().min().unwrap();
    fleet.ca.clock.jump_to(cut + first - 5);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fleet.ready() as u64, WORKLOADS, "as long as they said");
    let last = predictions.iter().max().unwrap();
    fleet.ca.clock.jump_to(cut + last + 1);
    assert_eq!((fleet.ready(), fleet.predictions().iter().sum()), (0, 0_u64), "and no longer");
    tokio::time::sleep(SPREAD).await;
    fleet.assert_no_stampede(LONGEST).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_expires_or_stampedes_when_the_authority_returns_in_time() {
    let fleet = Fleet::cut_off();
    let first = fleet.predictions().into_iter().min().unwrap();
    fleet.ca.clock.jump_to(fleet.now() + first - 30 * MINUTE - SPREAD.as_secs());
    tokio::time::sleep(SPREAD).await;
    assert!(fleet.ca.asked_since(0).values().sum::<usize>() > 10_000, "all have tried, and failed");
    assert_eq!(fleet.ready() as u64, WORKLOADS);
    // Near the end a twentieth of the time that is left.
    fleet.assert_no_stampede(Duration::from_secs(30 * MINUTE) / 20).await;
    assert!(fleet.predictions().iter().all(|&left| left > 23 * HOUR));
}

/// Until what a jump brought together is apart again.
const SPREAD: Duration = Duration::from_secs(12 * MINUTE);
