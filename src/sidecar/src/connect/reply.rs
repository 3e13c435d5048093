//! What a server answered, and the connection that its body comes over.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use serde::de::DeserializeOwned;

use crate::connections::connection::{Connection, Phase};
use crate::error::{Error, ReplyFault};
use crate::peers::peer::Peer;
use crate::verification::Verification;

/// A server's answer, of any status: its head is here, its body still comes.
///
/// [`bytes`](Self::bytes), [`text`](Self::text) and [`json`](Self::json) read a body up to 8 MiB,
/// or [another limit](Self::with_limit); [`chunk`](Self::chunk) reads one without end. Once the
/// server is revoked nothing more of the body is given, not even what came before.
#[derive(Debug)]
pub struct Reply {
    response: Response<ReplyBody>,
    limit: usize,
}

impl Reply {
    pub(crate) fn new(
        url: String,
        response: Response<Incoming>,
        connection: Arc<Connection>,
        verification: Arc<Verification>,
    ) -> Result<Self, Error> {
        let body = |incoming| ReplyBody { incoming, connection, verification, url };
        let response = response.map(body);
        response.body().require_welcome()?;
        Ok(Self { response, limit: LIMIT })
    }

    /// The status. One of failure is an answer too, and no error.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Who answered.
    pub fn peer(&self) -> &Peer {
        self.response.body().connection.peer()
    }

    /// How many bytes a body may have that is read as a whole.
    #[must_use]
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// The whole body. One that is larger than the limit is [`Error::UnusableReply`].
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let announced = self.response.body().size_hint().lower();
        if announced > self.limit as u64 {
            return Err(self.too_large());
        }
        let mut read = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > self.limit - read.len() {
                return Err(self.too_large());
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read.freeze())
    }

    /// The whole body as text, which must be UTF-8.
    pub async fn text(self) -> Result<String, Error> {
        let url = self.url().to_owned();
        let text = String::from_utf8(self.bytes().await?.into());
        text.map_err(|_| Error::UnusableReply { url, fault: ReplyFault::NotText })
    }

    /// The whole body as JSON of this type.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let url = self.url().to_owned();
        let parsed = serde_json::from_slice(&self.bytes().await?);
        parsed.map_err(|error| Error::UnusableReply { url, fault: ReplyFault::NotJson(error) })
    }

    /// The next bytes of the body, as they come; none at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.response.body_mut().frame().await {
            // HTTP/2 may say the end by an empty frame.
            match frame?.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The same for software that takes the types of `http`: to pass it on, say.
    pub fn into_http(self) -> Response<ReplyBody> {
        self.response
    }

    fn url(&self) -> &str {
        &self.response.body().url
    }

    fn too_large(&self) -> Error {
        let (url, limit) = (self.url().to_owned(), self.limit);
        Error::UnusableReply { url, fault: ReplyFault::TooLarge { limit } }
    }
}

/// The body of a [`Reply`], as it comes.
pub struct ReplyBody {
    incoming: Incoming,
    connection: Arc<Connection>,
    verification: Arc<Verification>,
    url: String,
}

impl ReplyBody {
    /// hyper reads ahead: what it holds of a server that is revoked is not to be believed. A
    /// connection that the server ended by itself was not there to be closed.
    fn require_welcome(&self) -> Result<(), Error> {
        if self.connection.phase() != Phase::Closed {
            return Ok(());
        }
        let verdict = match self.connection.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                let svid = self.connection.peer().svid();
                self.verification.with_revocations(|held| held.check_svid(svid))
            }
        };
        verdict.map_err(|refusal| Error::Peer { refusal, peer: self.url.clone() })
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let Err(refused) = self.require_welcome() {
            return Poll::Ready(Some(Err(refused)));
        }
        let explain = |error: hyper::Error| self.connection.explain(self.url.clone(), error.into());
        Poll::Ready(frame.map(|frame| frame.map_err(explain)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").field("url", &self.url).finish_non_exhaustive()
    }
}

const LIMIT: usize = 8 * 1024 * 1024;
