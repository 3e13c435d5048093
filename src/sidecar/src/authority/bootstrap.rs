//! From two strings to trust: the CA's URL and the trust pin.

use api::paths;
use bytes::Bytes;
use identity::{Trust, TrustPin, TrustState};

use crate::authority::exchange::UnverifiedClient;
use crate::error::Error;

/// A trust state that the pin vouches for, and the note that proves it: keep the note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedTrust {
    /// What it says.
    pub state: TrustState,
    /// The signed note, as [`load_trust`] reads it again.
    pub note: Vec<u8>,
}

/// Fetches the trust state from a CA that nothing is known of but its pin; where the keys that the
/// pin names were replaced since, by way of the states that did so.
///
/// The server of these requests is not verified: whoever answers, only notes that the pin's keys
/// lead to are believed, and nothing but the path is sent. Connect again under the state before
/// sending any evidence, as [`crate::AuthorityClient`] does.
pub async fn fetch_trust(url: &str, pin: &TrustPin) -> Result<FetchedTrust, Error> {
    fetch_steps(url, pin).await.map(|(_, newest)| newest)
}

/// The same, and the notes before it that lead there from the pin.
pub(crate) async fn fetch_steps(
    url: &str,
    pin: &TrustPin,
) -> Result<(Vec<Vec<u8>>, FetchedTrust), Error> {
    let anybody = UnverifiedClient::new(url)?;
    let any_sequence = pin.of_any_sequence();
    let note = fetch(&anybody, &format!("?pin={any_sequence}")).await?;
    let state = TrustState::verify_pinned(&note, &any_sequence)?;
    let mut steps = follow(&anybody, &state).await?;
    steps.insert(0, FetchedTrust { state, note: note.into() });
    let newest = steps.pop().expect("the first was put there");
    pin.require_sequence(&newest.state)?;
    Ok((steps.into_iter().map(|step| step.note).collect(), newest))
}

/// The newest trust state, from one that is held; none where that is the newest. As sceptical of
/// the server as [`fetch_trust`]: a CA whose keys were replaced since is no other CA. Fails where
/// the server offers an older one, or another of the same sequence.
pub async fn follow_trust(url: &str, held: &TrustState) -> Result<Option<FetchedTrust>, Error> {
    follow_steps(url, held).await.map(|mut steps| steps.pop())
}

/// The same, with the states in between, oldest first.
pub(crate) async fn follow_steps(url: &str, held: &TrustState) -> Result<Vec<FetchedTrust>, Error> {
    follow(&UnverifiedClient::new(url)?, held).await
}

async fn follow(anybody: &UnverifiedClient, held: &TrustState) -> Result<Vec<FetchedTrust>, Error> {
    let mut steps: Vec<FetchedTrust> = Vec::new();
    loop {
        let state = steps.last().map_or(held, |newest| &newest.state);
        let note = fetch(anybody, &format!("?after={}", state.sequence)).await?;
        let Some(state) = state.verify_offered(&note)? else { return Ok(steps) };
        steps.push(FetchedTrust { state, note: note.into() });
    }
}

async fn fetch(anybody: &UnverifiedClient, query: &str) -> Result<Bytes, Error> {
    anybody.get(&format!("{}{query}", paths::TRUST)).await
}

/// Reads a note that was kept, as sceptically as if it came over the network.
pub fn load_trust(note: &[u8], pin: &TrustPin) -> Result<Trust, Error> {
    Ok(Trust::new(TrustState::verify_pinned(note, pin)?)?)
}
