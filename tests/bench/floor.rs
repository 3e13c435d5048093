//! The floor: the least cryptography that a countersigned certificate needs.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};

/// Measurements of one verification and two signatures on one thread.
#[derive(Debug, Default)]
pub(crate) struct Floor(Vec<Duration>);

impl Floor {
    /// Measures again: machines of this kind change their speed while they run.
    pub(crate) fn measure(&mut self) {
        self.0.extend((0..RUNS).map(|_| once()));
        self.0.sort_unstable();
    }

    /// The median so far.
    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// The fastest and the slowest so far.
    pub(crate) fn range(&self) -> (Duration, Duration) {
        (self.0[0], self.0[self.0.len() - 1])
    }

    /// A duration as a multiple of the floor.
    pub(crate) fn multiple(&self, of: Duration) -> f64 {
        of.as_secs_f64() / self.median().as_secs_f64()
    }
}

fn once() -> Duration {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("randomness");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let random = SystemRandom::new();
    let message = [7; 600];
    let signature = key.sign(&random, &message).expect("a key signs");
    let before = processor_time();
    for _ in 0..REPEATS {
        public.verify(black_box(&message), signature.as_ref()).expect("it was signed");
        black_box(key.sign(&random, black_box(&message)).expect("a key signs"));
        black_box(key.sign(&random, black_box(&message)).expect("a key signs"));
    }
    (processor_time() - before) / REPEATS
}

/// Time that this thread has had a processor: what others do meanwhile does not count.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("Linux counts what a thread has run"))
}

const RUNS: usize = 5;
const REPEATS: u32 = 4_000;
