//! One workload without a network, for tests of what it makes of what it hears.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tracing::subscriber::DefaultGuard;

use super::Upkeep;
use super::outage::Clock;
use crate::handshake::credentials::Credentials;
use crate::svid::{FileSource, Svid};
use crate::test_authority::{Log, TestAuthority, now};
use crate::verification::Verification;

/// The workload, and the clock that it goes by.
pub(super) struct Alone {
    pub(super) authority: TestAuthority,
    pub(super) clock: Arc<Clock>,
    pub(super) upkeep: Arc<Upkeep>,
}

impl Alone {
    /// It has a certificate for 24 h, and has heard nothing yet. Time passes as tokio's does.
    pub(super) fn new() -> Self {
        Self::by(Clock::starting_at)
    }

    /// The same, beside real connections, by a clock that the test alone moves.
    pub(super) fn held() -> Self {
        Self::by(Clock::held_at)
    }

    fn by(clock: fn(u64) -> Clock) -> Self {
        let authority = TestAuthority::new();
        // One look at the clock: another second may begin before the next.
        let now = now();
        let clock = Arc::new(clock(now.unix_timestamp().cast_unsigned()));
        let verification = Verification::with_clock(authority.trust(), Arc::clone(&clock) as _);
        let svid = authority.svid_at("/prod/reports", now, Log::Asked);
        let credentials = Credentials::new(svid.chain.clone(), svid.key.clone_key()).unwrap();
        let not_after = now + Duration::from_secs(24 * 3600);
        let renewal = api::RenewalWindow { start: not_after, end: not_after };
        let svid = Svid { chain: svid.chain, key: svid.key, renewal, not_after, trust_sequence: 1 };
        let identity = svid.verify(&verification).unwrap();
        let source = Arc::new(FileSource::new("nowhere"));
        let url = String::new();
        let upkeep = Upkeep::new(url, verification, credentials, source, svid, identity, &[]);
        Self { authority, clock, upkeep }
    }

    pub(super) fn verification(&self) -> &Arc<Verification> {
        &self.upkeep.verification
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.clock.jump_to(self.clock.seconds() + seconds);
    }

    pub(super) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.clock.seconds()))
    }
}

/// What is said on this thread while it lives.
pub(super) struct Diagnostics {
    text: Arc<Text>,
    _guard: DefaultGuard,
}

#[derive(Default)]
struct Text(Mutex<Vec<u8>>);

impl Diagnostics {
    pub(super) fn capture() -> Self {
        listen_everywhere();
        let text = Arc::<Text>::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::clone(&text));
        Self { text, _guard: tracing::subscriber::set_default(subscriber.finish()) }
    }

    /// How many lines of this level say this.
    pub(super) fn count(&self, level: &str, what: &str) -> usize {
        let text = self.text.0.lock().unwrap();
        let text = String::from_utf8_lossy(&text);
        text.lines().filter(|line| line.contains(level) && line.contains(what)).count()
    }
}

/// Elsewhere it is said, too, and written nowhere: what another test says first, on a thread where
/// nobody listens, would be unsaid for all threads from then on.
fn listen_everywhere() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let nowhere = tracing_subscriber::fmt().with_writer(io::sink).finish();
        tracing::subscriber::set_global_default(nowhere).unwrap();
    });
}

impl Write for &Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
