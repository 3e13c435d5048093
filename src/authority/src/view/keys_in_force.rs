//! The keys in force follow from the log's events, a little later: a key has to open first.

use std::sync::Arc;

use api::KeyPurpose;
use tokio::runtime::Handle;

use super::View;
use super::in_force::InForce;
use crate::error::Error;
use crate::policy::PolicyError;
use crate::signer::SignerError;
use crate::signer::absent::AbsentKey;

/// Held by who opens keys: how the last attempt failed.
pub(crate) type Opening = Arc<tokio::sync::Mutex<Option<Failed>>>;

/// An attempt to open keys that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// When, in milliseconds since 1970.
    at: u64,
    why: String,
    /// The newest key event that it was for.
    newest: u64,
}

impl View {
    /// What [`state`](Self::state) says, to whoever is about to make certificates; fails, too, while a key is absent
    /// that one needs.
    pub(crate) async fn state_to_issue(&self) -> Result<(u64, Arc<InForce>), Error> {
        let state = self.state().await?;
        if state.1.require_to_issue().is_ok() {
            return Ok(state);
        }
        // Its file may be back.
        drop(self.follow_keys().await);
        let state = self.state().await?;
        state.1.require_to_issue()?;
        Ok(state)
    }

    /// The epoch, and what is in force at it: for whoever is about to make certificates, revocation
    /// lists or steps of a rotation. Fails while a key does not open that became active since the
    /// start; those that were absent then are told by whoever needs them.
    pub(crate) async fn state(&self) -> Result<(u64, Arc<InForce>), Error> {
        loop {
            if self.keys_moved() {
                // It may fail for a key that was absent before, and bring the others into force.
                let followed = self.follow_keys().await;
                if self.keys_moved() {
                    followed?;
                }
            }
            let folded = self.folded();
            let in_force = self.in_force();
            // Otherwise one more event was folded meanwhile.
            if in_force.ledger.newest() == folded.keys.newest() {
                return Ok((folded.epoch, in_force));
            }
        }
    }

    /// Brings the keys into force that the log's events lead to. While they do not open, nothing is
    /// issued (`state`); feed and checkpoints are signed by the keys before. Looks again for those
    /// without which the CA was started, and fails while one is absent.
    ///
    /// One attempt at a time, told where it fails, and then none for a while: each costs 600,000
    /// rounds for every file that does not open.
    pub async fn follow_keys(&self) -> Result<(), Error> {
        if !self.keys_moved() && self.in_force().absent.is_empty() {
            return Ok(());
        }
        let mut failed = Arc::clone(&self.opening).lock_owned().await;
        let held = self.in_force();
        if !self.keys_moved() && held.absent.is_empty() {
            return Ok(());
        }
        let now = self.clock.unix_milliseconds();
        let ledger = self.folded().keys.clone();
        let newest = ledger.newest();
        if let Some(Failed { at, why, newest: before }) = &*failed
            && now.abs_diff(*at) < PAUSE
            && *before == newest
        {
            return Err(SignerError::NotInForce(why.clone()).into());
        }
        let (keys, store) = (self.keys.clone(), Arc::clone(&self.store));
        let (domain, pin) = (self.trust_domain.clone(), self.trust_pin);
        let runtime = Handle::current();
        // The turn goes with the attempt, which ends even where its caller goes away.
        let attempt = tokio::task::spawn_blocking(move || {
            let opened = runtime.block_on(InForce::open(ledger, &keys, &*store, &domain, &pin));
            // What was there goes on by the keys before; what was absent at the start may stay so.
            let opened = opened.and_then(|opened| match opened.newly_absent(&held) {
                Some(key) => Err(key.why.clone().into()),
                None => Ok(opened),
            });
            let why = match &opened {
                Err(error) => Some(error.to_string()),
                Ok(opened) => opened.absent.first().map(|key| key.error().to_string()),
            };
            let before = failed.take().map(|failed| failed.why);
            match &opened {
                Err(error) if why != before => {
                    tracing::error!(%error, "nothing is issued: a key that the log names is missing");
                }
                Ok(opened) => held.tell_found(opened),
                Err(_) => {}
            }
            *failed = why.map(|why| Failed { at: now, why, newest });
            (failed, opened)
        });
        let died = |_| SignerError::Refused("the thread that opened keys died".to_owned());
        let (_turn, opened) = attempt.await.map_err(died)?;
        let in_force = Arc::new(opened?);
        let still_absent = in_force.absent.first().map(AbsentKey::error);
        self.keys.forget(|id| in_force.ledger.is_retired(id));
        self.in_force.store(in_force);
        warn_of_names(self.require_permitted_rows());
        still_absent.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Whether the root is a key of this CA's, and not that of a CA elsewhere.
    pub fn has_own_root(&self) -> bool {
        self.in_force().ledger.in_use(KeyPurpose::Root).next().is_some()
    }

    /// Refuses where a row of the policy set in force lists a name that a CA above the issuer does not
    /// permit: nobody gets a certificate with it.
    pub fn require_permitted_rows(&self) -> Result<(), PolicyError> {
        self.in_force().refuse_rows(self.policy().set().workloads())
    }

    /// How often the CAs above the issuer were verified for the names of somebody.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn names_verified(&self) -> usize {
        self.in_force().names_verified()
    }

    /// How many active keys it was started without, and goes on without.
    pub fn absent_keys(&self) -> usize {
        self.in_force().absent.len()
    }

    /// Whether the log's events lead to other keys than those in force.
    pub(crate) fn keys_moved(&self) -> bool {
        self.folded().keys.newest() != self.in_force().ledger.newest()
    }
}

/// The issuer may be below another CA than the set was applied under.
pub(super) fn warn_of_names(rows: Result<(), PolicyError>) {
    if let Err(error) = rows {
        tracing::warn!(%error, "a row of the policy set in force lists a name that cannot be had");
    }
}

/// Between two attempts to open keys, in milliseconds.
const PAUSE: u64 = 5_000;
