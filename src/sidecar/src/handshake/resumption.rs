//! Sessions that resume: only where their owner allows it, and only while nothing has changed.
//!
//! rustls verifies nobody again when a session resumes: left to itself, a peer that was revoked,
//! denied or distrusted comes back for days, and so does one whose certificate has expired. Here:
//!
//! - Whoever resumes is verified after the handshake like everybody else, before a byte of it is
//!   read (`admission::admit`). That alone would do.
//! - A session lives in one *era*: the same trust and revocations, the same peers named, the same
//!   certificate of our own, and no longer than was allowed. Who is revoked has no session left, and
//!   shakes hands in full: that handshake tells both ends the rule, where a connection closed after
//!   it would only end. Somebody who resumed and was refused ends the era, too: its certificate may
//!   have expired and been renewed since, which a session does not know.
//!
//! Each era has a configuration of its own, with a store that begins empty. A handshake leaves its
//! session in the store that it began with, however late it ends: to resume prolongs nothing. The
//! store before goes when the next handshake begins and no handshake or client connection of its
//! own is left; until then its secrets are in memory, and of no use with us.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::handshake::credentials::Credentials;
use crate::peers::{LivePeers, Peers};
use crate::verification::Verification;
use crate::verification::epoch::Epoch;

/// The TLS configuration of each handshake.
pub(crate) enum Tls<C> {
    /// The one that was given.
    Given(Arc<C>),
    /// One that keeps sessions as long as nothing changes.
    Resuming(Eras<C>),
}

impl<C: KeepsSessions> Tls<C> {
    /// That of a handshake that begins now.
    pub(crate) fn of_now(&self) -> Arc<C> {
        match self {
            Self::Given(config) => Arc::clone(config),
            Self::Resuming(eras) => eras.config(),
        }
    }

    /// That of a handshake that must be whole.
    pub(crate) fn without_sessions(&self) -> Arc<C> {
        match self {
            Self::Given(config) => Arc::clone(config),
            Self::Resuming(eras) => Arc::clone(&eras.base),
        }
    }

    /// Ends the era: no session that was made until now resumes.
    pub(crate) fn forget_sessions(&self) {
        if let Self::Resuming(eras) = self {
            *eras.newest() = None;
        }
    }
}

/// What sessions depend on.
pub(crate) struct Ground {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) verification: Arc<Verification>,
    pub(crate) peers: Arc<LivePeers>,
}

/// Configurations that follow each other.
pub(crate) struct Eras<C> {
    /// What they are made of: it keeps no sessions.
    base: Arc<C>,
    ground: Ground,
    max_age: Duration,
    newest: Mutex<Option<(Era, Arc<C>)>>,
}

impl<C: KeepsSessions> Eras<C> {
    pub(crate) fn new(base: C, ground: Ground, max_age: Duration) -> Self {
        Self { base: Arc::new(base), ground, max_age, newest: Mutex::default() }
    }

    fn config(&self) -> Arc<C> {
        let mut newest = self.newest();
        let now = Era::now(&self.ground);
        if let Some((era, config)) = &*newest
            && era.is_still(&now)
            && era.age_at(&now) < self.max_age
        {
            return Arc::clone(config);
        }
        let config = Arc::new(self.base.with_empty_store());
        *newest = Some((now, Arc::clone(&config)));
        config
    }

    fn newest(&self) -> MutexGuard<'_, Option<(Era, Arc<C>)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session was made under.
struct Era {
    epoch: Epoch,
    peers: Arc<Peers>,
    shown: Arc<CertifiedKey>,
    began: UnixTime,
    began_at: Instant,
}

impl Era {
    fn now(ground: &Ground) -> Self {
        Self {
            epoch: ground.verification.epoch(),
            peers: ground.peers.current(),
            shown: ground.credentials.shown(),
            began: ground.verification.now(),
            began_at: Instant::now(),
        }
    }

    fn is_still(&self, now: &Self) -> bool {
        self.epoch == now.epoch
            && Arc::ptr_eq(&self.peers, &now.peers)
            && Arc::ptr_eq(&self.shown, &now.shown)
    }

    /// By the clock, or by the time that passed if that is more: a clock may be set back, and a
    /// machine may sleep.
    fn age_at(&self, now: &Self) -> Duration {
        let by_the_clock = now.began.as_secs().saturating_sub(self.began.as_secs());
        let passed = now.began_at.duration_since(self.began_at);
        passed.max(Duration::from_secs(by_the_clock))
    }
}

/// A configuration of rustls', at either end.
pub(crate) trait KeepsSessions {
    /// The same, with a store of sessions in which nothing is.
    fn with_empty_store(&self) -> Self;
}

impl KeepsSessions for ClientConfig {
    fn with_empty_store(&self) -> Self {
        let mut config = self.clone();
        config.resumption = Resumption::in_memory_sessions(TICKETS);
        config
    }
}

impl KeepsSessions for ServerConfig {
    /// Sessions stay here, and a client gets no more than a name for its own, good for once: there is
    /// no key that opens every ticket.
    fn with_empty_store(&self) -> Self {
        let mut config = self.clone();
        config.session_storage = ServerSessionMemoryCache::new(CLIENTS);
        // A session resumes once, and the handshake that resumes it brings the next.
        config.send_tls13_tickets = 1;
        config
    }
}

/// Of as many clients; a session weighs some 2 KiB, for the peer's chain is part of it.
const CLIENTS: usize = 1024;
/// Of 128 servers: rustls reserves eight for each.
const TICKETS: usize = 8 * 128;
