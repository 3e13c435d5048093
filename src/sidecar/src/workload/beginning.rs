//! What a start goes by: the CA's trust state of now, or what was kept while the CA is away.

use std::path::PathBuf;

use identity::{TrustPin, TrustState};
use rustls::time_provider::TimeProvider;

use crate::authority::bootstrap::{FetchedTrust, fetch_steps, follow_steps};
use crate::error::Error;
use crate::pace::retry::Retry;
use crate::revocations::kept::{self, Loaded};

/// A trust state, and the notes that lead to it from the pin.
pub(crate) struct TrustFound {
    pub(crate) state: TrustState,
    pub(crate) notes: Vec<Vec<u8>>,
    /// Whether the CA was asked for it.
    pub(crate) is_of_now: bool,
}

/// What a start begins with.
pub(crate) struct Beginning {
    pub(crate) trust: TrustFound,
    pub(crate) kept: Option<Loaded>,
    /// Why what is kept is not used.
    pub(crate) unused: Option<Error>,
}

impl Beginning {
    /// Looks in the folder, if there is one, and asks the CA. Where the folder has enough and the CA
    /// does not answer, that is waited for no longer.
    pub(crate) async fn find(
        url: &str,
        pin: &TrustPin,
        folder: Option<PathBuf>,
        clock: &dyn TimeProvider,
        retry: &mut Retry,
    ) -> Result<Self, Error> {
        let now = clock.current_time().map_or(0, |now| now.as_secs().saturating_mul(1000));
        let (kept, unused) = match load(folder, *pin, now).await {
            Ok(kept) => (kept, None),
            Err(error) => {
                tracing::error!(%error, "nothing is known of revocations before the feed is heard");
                (None, Some(error))
            }
        };
        let trust = match &kept {
            Some(kept) => follow(url, pin, kept).await?,
            None => {
                let fetch = || fetch_steps(url, pin);
                let (mut notes, newest) = retry.run("the trust state", fetch).await?;
                notes.push(newest.note);
                TrustFound { state: newest.state, notes, is_of_now: true }
            }
        };
        Ok(Self { trust, kept, unused })
    }
}

impl TrustFound {
    /// Goes on to the last of these.
    pub(crate) fn take(&mut self, steps: Vec<FetchedTrust>) {
        for FetchedTrust { state, note } in steps {
            self.state = state;
            self.notes.push(note);
        }
    }

    /// The newest note.
    pub(crate) fn note(&self) -> &[u8] {
        self.notes.last().map_or(&[], Vec::as_slice)
    }
}

async fn load(folder: Option<PathBuf>, pin: TrustPin, now: u64) -> Result<Option<Loaded>, Error> {
    let Some(folder) = folder else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || kept::load(&folder, &pin, now));
    // It reads files and verifies: it does not panic, and if it did, nothing is kept.
    read.await.unwrap_or(Ok(None))
}

/// The newest trust state, from the one that was kept, which does where the CA does not tell it.
async fn follow(url: &str, pin: &TrustPin, kept: &Loaded) -> Result<TrustFound, Error> {
    let (state, notes) = (kept.trust.clone(), kept.notes.clone());
    let mut trust = TrustFound { state, notes, is_of_now: true };
    match follow_steps(url, &trust.state).await {
        Ok(steps) => trust.take(steps),
        // Also where somebody answers who is not believed: a workload that runs would go on, too.
        Err(error) => {
            tracing::warn!(%error, "starting from what was kept beside the SVID");
            trust.is_of_now = false;
        }
    }
    pin.require_sequence(&trust.state)?;
    Ok(trust)
}
