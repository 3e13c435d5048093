//! The cache before the verifier: chains that passed, each for one epoch and within its validity.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use identity::Usage;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::peers::peer::Peer;
use crate::verification::epoch::Epoch;

/// Chains that passed in one epoch.
#[derive(Default)]
pub(crate) struct ChainCache {
    epoch: Epoch,
    passed: HashMap<CacheKey, Passed>,
}

struct Passed {
    peer: Peer,
    validity: Validity,
}

/// SHA-256 over the usage and every certificate of the chain.
pub(crate) type CacheKey = [u8; 32];

impl ChainCache {
    pub(crate) fn find(&mut self, key: &CacheKey, epoch: Epoch, now: UnixTime) -> Option<Peer> {
        self.enter(epoch);
        let passed = self.passed.get(key)?;
        passed.validity.contains(now).then(|| passed.peer.clone())
    }

    pub(crate) fn insert(
        &mut self,
        key: CacheKey,
        epoch: Epoch,
        chain: &[CertificateDer<'_>],
        peer: &Peer,
    ) {
        let Some(validity) = Validity::of_chain(chain) else { return };
        self.enter(epoch);
        // Only chains of our own CA come here. Whoever has more of them verifies them all once more.
        if self.passed.len() >= MAX_CACHED {
            self.passed.clear();
        }
        self.passed.insert(key, Passed { peer: peer.clone(), validity });
    }

    fn enter(&mut self, epoch: Epoch) {
        if self.epoch != epoch {
            self.passed.clear();
            self.epoch = epoch;
        }
    }
}

/// When *every* certificate presented is valid: an issuer may end before what it issued.
struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let always = Self { not_before: i64::MIN, not_after: i64::MAX };
        chain.iter().try_fold(always, |whole, der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            let validity = certificate.validity();
            Some(Self {
                not_before: whole.not_before.max(validity.not_before.timestamp()),
                not_after: whole.not_after.min(validity.not_after.timestamp()),
            })
        })
    }

    fn contains(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs())
            .is_ok_and(|now| (self.not_before..=self.not_after).contains(&now))
    }
}

pub(crate) fn cache_key(chain: &[CertificateDer<'_>], usage: Usage) -> CacheKey {
    let mut context = Context::new(&SHA256);
    context.update(match usage {
        Usage::Client => b"client",
        Usage::Server => b"server",
    });
    for certificate in chain {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// Twice the instances of 500 services with four tasks each; about half a kilobyte an entry.
const MAX_CACHED: usize = 4096;
