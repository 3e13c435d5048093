//! What many revocations cost: a handshake that looks among them, and a snapshot that brings them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign::Verification;
use identity::feed::{Content, Envelope, FeedState, FeedUpdate, Position, Snapshot, SnapshotHead};
use identity::{Revocations, SerialNumber, Usage, VerifiedSvid};
use rustls::pki_types::{CertificateDer, UnixTime};
use tlog::Hash;

use crate::authority::TestAuthority;
use crate::floor::CLIENT;
use crate::process::{Metered, Thread, median};

pub(crate) fn print(authority: &TestAuthority) {
    println!("\nlooking among revocations: CPU of a thread (target: no more for more of them)");
    let counts = [0, 100_000, 1_000_000];
    println!("{:<46} {:>9} {:>9} {:>9}", "revoked", counts[0], counts[1], counts[2]);
    let held = counts.map(|count| revoked(0..count));
    let chains: Vec<_> = (0..PEERS).map(|_| authority.svid(CLIENT).chain).collect();
    row(
        "check_svid, peers in turn, ns",
        held.each_ref().map(|held| check(authority, held, &chains)),
    );
    row("a serial number nobody asked for before, ns", held.each_ref().map(look_up));
    row(
        "verify, a peer that returns, ns",
        held.each_ref().map(|held| {
            let verification = verification(authority, held);
            nanos(PEERS, RETURNS, |peer| {
                black_box(
                    verification.verify(&chains[peer], Usage::Client, UnixTime::now()).unwrap(),
                );
            })
        }),
    );
    row(
        "verify, a new peer, ns",
        held.each_ref().map(|held| {
            let trust = authority.trust();
            nanos(PEERS, 1, |peer| {
                let now = UnixTime::now();
                black_box(
                    identity::verify(&chains[peer], Usage::Client, now, &trust, held).unwrap(),
                );
            })
        }),
    );
    println!("\na snapshot of {SNAPSHOT} (target: 100 ms), while another thread verifies a peer");
    println!("{:<46} {:>9} {:>9} {:>9} {:>9}", "", "load, ms", "CPU, ms", "wait, ms", "else, ms");
    snapshots(authority, "nothing held before", &held[0]);
    snapshots(authority, "a million held before", &held[2]);
}

fn row(name: &str, figures: [f64; 3]) {
    let [none, many, most] = figures;
    println!("{name:<46} {none:>9.0} {many:>9.0} {most:>9.0}");
}

fn check(authority: &TestAuthority, held: &Revocations, chains: &[Chain]) -> f64 {
    let (trust, now) = (authority.trust(), UnixTime::now());
    let verify = |chain: &Chain| identity::verify(chain, Usage::Client, now, &trust, held).unwrap();
    let peers: Vec<VerifiedSvid> = chains.iter().map(verify).collect();
    nanos(PEERS, RETURNS, |peer| held.check_svid(black_box(&peers[peer])).unwrap())
}

/// The table does not fit a cache, nor is any part of it there yet.
fn look_up(held: &Revocations) -> f64 {
    let unknown: Vec<SerialNumber> = serial_numbers(OTHERS..OTHERS + 100_000).collect();
    nanos(unknown.len(), 1, |number| {
        assert!(!black_box(held).is_serial_revoked(&unknown[number]));
    })
}

/// Nanoseconds of one call, the median of some runs through all numbers.
fn nanos(numbers: usize, times: usize, mut call: impl FnMut(usize)) -> f64 {
    let thread = Thread::this();
    let mut run = || {
        let before = thread.micros();
        for _ in 0..times {
            (0..numbers).for_each(&mut call);
        }
        (thread.micros() - before) * 1000.0 / (numbers * times) as f64
    };
    run();
    median((0..RUNS).map(|_| run()).collect())
}

/// Takes a snapshot as a workload does. *Wait* is the longest verification meanwhile; *else* is the
/// longest while a verifier of others takes it: what the machine alone makes of it.
fn snapshots(authority: &TestAuthority, name: &str, before: &Revocations) {
    let chunks = Snapshot::of(&revoked(OTHERS..OTHERS + SNAPSHOT)).chunks();
    let position = Position { sequence: SNAPSHOT, hash: Hash::new([7; 32]) };
    let head = authority.feed_line(position, Content::Snapshot(SnapshotHead::of(&chunks)));
    let chain = authority.svid(CLIENT).chain;
    let (mut loads, mut cpu, mut waits, mut others) = (vec![], vec![], vec![], vec![]);
    let thread = Thread::this();
    for _ in 0..RUNS {
        let [verification, other] = [(); 2].map(|()| verification(authority, before));
        let (_, elsewhere) =
            while_verifying(&verification, &chain, || take(&other, &head, &chunks));
        let before_load = thread.micros();
        let (took, wait) =
            while_verifying(&verification, &chain, || take(&verification, &head, &chunks));
        cpu.push((thread.micros() - before_load) / 1000.0);
        loads.push(millis(took));
        waits.push(millis(wait));
        others.push(millis(elsewhere));
        let held = verification.with_revocations(|held| held.serials().count());
        assert_eq!(held as u64, before.serials().count() as u64 + SNAPSHOT);
    }
    let [load, cpu, wait, other] = [loads, cpu, waits, others].map(median);
    println!("{name:<46} {load:>9.1} {cpu:>9.1} {wait:>9.2} {other:>9.2}");
}

fn verification(authority: &TestAuthority, held: &Revocations) -> Arc<Verification> {
    let verification = Verification::new(authority.trust());
    verification.update_revocations(|empty| empty.clone_from(held));
    verification
}

/// From the bytes of the lines to the revocations held.
fn take(verification: &Verification, head: &[u8], chunks: &[Vec<u8>]) {
    let trust = verification.trust();
    let message = Envelope::parse(head).unwrap().verify(trust.state()).unwrap();
    let mut feed = FeedState::new(trust.state().trust_domain.clone());
    let now = UnixTime::now().as_secs() * 1000;
    let FeedUpdate::Assemble(mut assembly) = feed.accept(message, now).unwrap() else {
        panic!("it is no snapshot")
    };
    chunks.iter().for_each(|chunk| assembly.take(chunk).unwrap());
    let FeedUpdate::Replace(snapshot) = feed.complete(assembly, now).unwrap() else {
        panic!("it is not new")
    };
    verification.update_revocations_aside(|held| snapshot.clone().apply(held));
}

/// How long `work` took, and the longest verification meanwhile.
fn while_verifying(
    verification: &Verification,
    chain: &Chain,
    work: impl FnOnce(),
) -> (Duration, Duration) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifying = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                verification.verify(chain, Usage::Client, UnixTime::now()).unwrap();
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        let begun = Instant::now();
        work();
        let took = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        (took, verifying.join().unwrap())
    })
}

fn revoked(numbers: std::ops::Range<u64>) -> Revocations {
    let mut held = Revocations::default();
    serial_numbers(numbers).for_each(|serial_number| held.revoke_serial(serial_number));
    held
}

/// As ours are: a time, then randomness.
fn serial_numbers(numbers: std::ops::Range<u64>) -> impl Iterator<Item = SerialNumber> {
    numbers.map(|number| {
        let random = Hash::of(&number.to_be_bytes());
        issuance::serial_number(
            UnixTime::now().as_secs() * 1000,
            random.as_bytes()[..14].try_into().unwrap(),
        )
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

type Chain = Vec<CertificateDer<'static>>;

/// As many chains as the cache of verdicts holds at least.
const PEERS: usize = 500;
const RETURNS: usize = 100;
const RUNS: usize = 7;
const SNAPSHOT: u64 = 100_000;
/// Above all numbers that are revoked beforehand.
const OTHERS: u64 = 2_000_000;
