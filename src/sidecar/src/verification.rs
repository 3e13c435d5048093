//! What all verifiers of a process share, and the cache before them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::digest::{Context, SHA256};
use identity::{Refusal, Revocations, Trust, Usage, VerifiedSvid};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The trust and the revocations that every verifier of a process obeys, both replaceable.
///
/// A change counts for every handshake that verifies after it. Connections that are open already
/// are not touched.
pub struct Verification {
    held: RwLock<Held>,
    cache: Mutex<Cache>,
}

/// Counts the changes of what a [`Verification`] holds: what was verified in one epoch says nothing
/// about the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Times that the trust was replaced.
    pub trust: u64,
    /// Times that the revocations were updated.
    pub revocations: u64,
}

struct Held {
    trust: Arc<Trust>,
    revocations: Revocations,
    epoch: Epoch,
}

impl Verification {
    /// Trusts a trust state; nothing is revoked yet.
    pub fn new(trust: Trust) -> Arc<Self> {
        let (revocations, epoch) = (Revocations::default(), Epoch::default());
        let held = Held { trust: Arc::new(trust), revocations, epoch };
        Arc::new(Self { held: RwLock::new(held), cache: Mutex::default() })
    }

    /// The trust held now.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.held().trust)
    }

    /// The epoch held now.
    pub fn epoch(&self) -> Epoch {
        self.held().epoch
    }

    /// Trusts another state from now on.
    pub fn replace_trust(&self, trust: Trust) {
        let mut held = self.held_exclusively();
        held.epoch.trust += 1;
        held.trust = Arc::new(trust);
    }

    /// Changes the revocations in place: they may have a million entries. No handshake verifies
    /// meanwhile, so prepare outside what can be prepared; `update` must not call back.
    pub fn update_revocations<R>(&self, update: impl FnOnce(&mut Revocations) -> R) -> R {
        let mut held = self.held_exclusively();
        // Before the update: should that panic half way, nothing verified before it is believed.
        held.epoch.revocations += 1;
        update(&mut held.revocations)
    }

    /// Reads the revocations; `read` must not call back.
    pub fn with_revocations<R>(&self, read: impl FnOnce(&Revocations) -> R) -> R {
        read(&self.held().revocations)
    }

    /// Verifies the chain that a peer presents, as [`identity::verify`] does.
    ///
    /// A chain that passed before in the same epoch costs a hash and a look-up; its validity is
    /// compared with `now` again each time. Refusals are never cached.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<VerifiedSvid, Refusal> {
        let key = cache_key(chain, usage);
        // Held to the end: no update comes between the verdict and its entry under this epoch.
        let held = self.held();
        if let Some(svid) = self.cache().find(&key, held.epoch, now) {
            return Ok(svid);
        }
        let svid = identity::verify(chain, usage, now, &held.trust, &held.revocations)?;
        self.cache().insert(key, held.epoch, chain, &svid);
        Ok(svid)
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_exclusively(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked after `held`, never before it.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// Chains that passed in one epoch.
#[derive(Default)]
struct Cache {
    epoch: Epoch,
    passed: HashMap<CacheKey, Passed>,
}

struct Passed {
    svid: VerifiedSvid,
    validity: Validity,
}

/// SHA-256 over the usage and every certificate of the chain.
type CacheKey = [u8; 32];

impl Cache {
    fn find(&mut self, key: &CacheKey, epoch: Epoch, now: UnixTime) -> Option<VerifiedSvid> {
        self.enter(epoch);
        let passed = self.passed.get(key)?;
        passed.validity.contains(now).then(|| passed.svid.clone())
    }

    fn insert(
        &mut self,
        key: CacheKey,
        epoch: Epoch,
        chain: &[CertificateDer<'_>],
        svid: &VerifiedSvid,
    ) {
        let Some(validity) = Validity::of_chain(chain) else { return };
        self.enter(epoch);
        // Only chains of our own CA come here. Whoever has more of them verifies them all once more.
        if self.passed.len() >= MAX_CACHED {
            self.passed.clear();
        }
        self.passed.insert(key, Passed { svid: svid.clone(), validity });
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

fn cache_key(chain: &[CertificateDer<'_>], usage: Usage) -> CacheKey {
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
