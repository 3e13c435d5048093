//! From two strings to trust: the CA's URL and the trust pin.

use api::paths;
use bytes::Bytes;
use http::{HeaderMap, Method};
use identity::{Trust, TrustPin, TrustState};

use crate::error::Error;
use crate::handshake::dangerous_unverified_config;
use crate::http_client::HttpClient;

/// A trust state that the pin vouches for, and the note that proves it: keep the note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedTrust {
    /// What it says.
    pub state: TrustState,
    /// The signed note, as [`load_trust`] reads it again.
    pub note: Vec<u8>,
}

/// Fetches the trust state from a CA that nothing is known of but its pin.
///
/// The server of this one request is not verified: whoever answers, only a note that the pin names
/// is believed, and nothing but the path is sent. Connect again under the state before sending any
/// evidence, as [`crate::AuthorityClient`] does.
pub async fn fetch_trust(url: &str, pin: &TrustPin) -> Result<FetchedTrust, Error> {
    let anybody = HttpClient::new(url, dangerous_unverified_config()?)?;
    let nothing = (HeaderMap::new(), Bytes::new());
    let answer = anybody.exchange(Method::GET, paths::TRUST, nothing.0, nothing.1).await?;
    let state = TrustState::verify_pinned(&answer.body, pin)?;
    Ok(FetchedTrust { state, note: answer.body.into() })
}

/// Reads a note that was kept, as sceptically as if it came over the network.
pub fn load_trust(note: &[u8], pin: &TrustPin) -> Result<Trust, Error> {
    Ok(Trust::new(TrustState::verify_pinned(note, pin)?)?)
}
