//! What stood between us and an answer: what there is to do differs.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use rustls::InvalidMessage;

use crate::error::cause::{Unresolved, find};

/// Why nothing answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle<'a> {
    /// Somebody takes the connection, and ends it.
    Closed,
    /// Somebody answers, and not by TLS: perhaps the CA's admin port.
    NoTls,
    /// Nobody listens on that port.
    NobodyListens,
    /// Nothing came back in time, or there is no way there.
    Silence,
    /// No address is known for this host: a name that is mistyped does not become right by waiting.
    Unresolved(&'a str),
}

impl<'a> Obstacle<'a> {
    /// Looks for it in an error of the connection.
    pub fn of(error: &'a (dyn StdError + 'static)) -> Option<Self> {
        if let Some(unresolved) = find::<Unresolved>(error) {
            return Some(Self::Unresolved(&unresolved.host));
        }
        if let Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::UnknownProtocolVersion,
        )) = find(error)
        {
            return Some(Self::NoTls);
        }
        if find::<tokio::time::error::Elapsed>(error).is_some() {
            return Some(Self::Silence);
        }
        let io = find::<io::Error>(error)?;
        Self::of_kind(io.kind()).or_else(|| {
            // One that wraps another says nothing of its own.
            let wrapped: &'a (dyn StdError + 'static) = io.get_ref()?;
            Self::of_kind(find::<io::Error>(wrapped)?.kind())
        })
    }

    fn of_kind(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::ConnectionRefused => Some(Self::NobodyListens),
            ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::UnexpectedEof => Some(Self::Closed),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::TimedOut => {
                Some(Self::Silence)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => {
                "the connection was ended there; is the CA running, and the port right?"
            }
            Self::NoTls => "what listens there speaks no TLS; is it another port than the API's?",
            Self::NobodyListens => "nobody listens there; is the CA running, and the port right?",
            Self::Silence | Self::Unresolved(_) => USUAL,
        })
    }
}

/// What there is to ask where nothing answered.
pub(crate) fn questions(error: &(dyn StdError + 'static)) -> String {
    Obstacle::of(error).map_or_else(|| USUAL.to_owned(), |obstacle| obstacle.to_string())
}

const USUAL: &str = "is the CA running, and does the network let you through?";
