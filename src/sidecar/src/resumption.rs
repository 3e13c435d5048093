//! Sessions that resume: only where their owner allows it, and only while nothing has changed.
//!
//! rustls verifies nobody again when a session resumes: left to itself, a peer that was revoked,
//! denied or distrusted comes back for days, and so does one whose certificate has expired. Here:
//!
//! - Whoever resumes is verified after the handshake like everybody else, before a byte of it is
//!   read (`connections::admit`). That alone would do.
//! - A session lives in one *era*: the same trust and revocations, the same peers named, the same
//!   certificate of our own, and no longer than was allowed. Who is revoked has no session left, and
//!   shakes hands in full: that handshake tells both ends the rule, where a connection closed after
//!   it would only end.
//!
//! Each era has a configuration of its own, with a store that begins empty. A handshake leaves its
//! session in the store that it began with, however late it ends: to resume prolongs nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::UnixTime;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::credentials::Credentials;
use crate::peers::{LivePeers, Peers};
use crate::verification::{Epoch, Verification};

/// The TLS configuration of each handshake.
pub(crate) enum Tls<C> {
    /// No session is kept.
    NoSessions(Arc<C>),
    /// Sessions are kept as long as nothing changes.
    Sessions(Eras<C>),
}

impl<C: KeepsSessions> Tls<C> {
    /// That of a handshake that begins now.
    pub(crate) fn of_now(&self) -> Arc<C> {
        match self {
            Self::NoSessions(config) => Arc::clone(config),
            Self::Sessions(eras) => eras.config(),
        }
    }
}

/// Configurations that follow each other.
pub(crate) struct Eras<C> {
    /// What they are made of: it keeps no sessions.
    pub(crate) base: C,
    pub(crate) max_age: Duration,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) verification: Arc<Verification>,
    pub(crate) peers: Arc<LivePeers>,
    pub(crate) newest: Mutex<Option<(Era, Arc<C>)>>,
}

impl<C: KeepsSessions> Eras<C> {
    fn config(&self) -> Arc<C> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.era();
        if let Some((era, config)) = &*newest
            && era.lasts_until(&now, self.max_age)
        {
            return Arc::clone(config);
        }
        let config = Arc::new(self.base.with_empty_store());
        *newest = Some((now, Arc::clone(&config)));
        config
    }

    fn era(&self) -> Era {
        Era {
            epoch: self.verification.epoch(),
            peers: self.peers.current(),
            shown: self.credentials.shown(),
            began: self.verification.now(),
        }
    }
}

/// What a session was made under.
pub(crate) struct Era {
    epoch: Epoch,
    peers: Arc<Peers>,
    shown: Arc<CertifiedKey>,
    began: UnixTime,
}

impl Era {
    /// A clock that is set back ends it, too: nobody knows how old it is.
    fn lasts_until(&self, now: &Self, max_age: Duration) -> bool {
        let age = now.began.as_secs().checked_sub(self.began.as_secs());
        self.epoch == now.epoch
            && Arc::ptr_eq(&self.peers, &now.peers)
            && Arc::ptr_eq(&self.shown, &now.shown)
            && age.is_some_and(|age| age < max_age.as_secs())
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
        let store = Resumption::in_memory_sessions(SERVERS);
        config.resumption = store.tls12_resumption(Tls12Resumption::Disabled);
        config
    }
}

impl KeepsSessions for ServerConfig {
    /// Sessions stay here, and a client gets no more than a name for its own: a ticket that carries
    /// the session would outlive the era.
    fn with_empty_store(&self) -> Self {
        let mut config = self.clone();
        config.session_storage = ServerSessionMemoryCache::new(CLIENTS);
        // A session resumes once, and the handshake that resumes it brings the next.
        config.send_tls13_tickets = 1;
        config
    }
}

/// A session weighs some 2 KiB: the peer's chain is part of it.
const CLIENTS: usize = 1024;
const SERVERS: usize = 256;
