//! HTTP to one server: an URL that is one, exchanges with an end, bodies with a limit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::paths;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::connect::connector::{CONNECT_TIMEOUT, Connector, Pool, TlsSocket, target};
use crate::connections::connection::{Connection, Phase};
use crate::error::cause::BoxError;
use crate::error::{AnswerFault, ConfigurationFault, Error};
use crate::handshake::dangerous_unverified_config;
use crate::host::{HTTPS, HostPort, without_user};
use crate::pace::retry::chance;

/// Requests to one server, over registered connections.
pub(crate) struct ServerClient {
    url: ServerUrl,
    pool: Pool<Full<Bytes>>,
}

/// An answer of success.
pub(crate) struct Answer {
    pub(crate) url: String,
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl ServerClient {
    /// Connects only when asked something.
    pub(crate) fn new(url: &str, connector: Connector) -> Result<Self, Error> {
        Ok(Self { url: ServerUrl::parse(url)?, pool: Pool::new(connector, PING) })
    }

    /// Sends a request and reads the whole answer. An answer of failure becomes an error.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let (url, request) = self.request(method, path, headers, body)?;
        let answered = async {
            let (response, connection) = self.send(&url, request).await?;
            read(&url, response, Some(&connection)).await
        };
        let (answer, headers) = in_time(&url, answered).await?;
        judge(answer, &headers)
    }

    /// Asks for an answer without end, of this kind; returns once it has begun. An answer of
    /// failure becomes an error.
    pub(crate) async fn stream(
        &self,
        path: &str,
        mut headers: HeaderMap,
        kind: &'static str,
    ) -> Result<Endless, Error> {
        headers.insert(header::ACCEPT, HeaderValue::from_static(kind));
        let (url, request) = self.request(Method::GET, path, headers, Bytes::new())?;
        let begun = async {
            let (response, connection) = self.send(&url, request).await?;
            let found = response.headers().get(header::CONTENT_TYPE);
            let is_it = found.is_some_and(|found| found.as_bytes().starts_with(kind.as_bytes()));
            if response.status().is_success() && is_it {
                return Ok((response.into_body(), connection));
            }
            let (answer, headers) = read(&url, response, Some(&connection)).await?;
            Err(judge(answer, &headers)?.unexpected(AnswerFault::Shape))
        };
        let (body, connection) = in_time(&url, begun).await?;
        Ok(Endless { url, body, connection, ends_at: None })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(String, Request<Full<Bytes>>), Error> {
        let uri = self.url.join(path)?;
        let url = uri.to_string();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok((url, request))
    }

    async fn send(
        &self,
        url: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Arc<Connection>), Error> {
        self.pool.request(request).await.map_err(|error| Error::of_exchange(url, error))
    }
}

/// An answer whose body does not end.
pub(crate) struct Endless {
    pub(crate) url: String,
    body: Incoming,
    connection: Arc<Connection>,
    ends_at: Option<Instant>,
}

impl Endless {
    /// The next bytes; none where the server ended it nevertheless, or its certificate comes to its
    /// end: see [`has_expired`](Self::has_expired).
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Self { body, connection, ends_at, .. } = self;
        let ending = async {
            connection.past(Phase::Open).await;
            // Many hear the same server: they are not to come again all at once.
            let spread = || Instant::now() + SPREAD.mul_f64(chance());
            tokio::time::sleep_until(*ends_at.get_or_insert_with(spread)).await;
        };
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = ending => None,
        };
        if let Some(refusal) = self.connection.refusal() {
            return Err(Error::Peer { refusal, peer: self.url.clone() });
        }
        match frame {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => {
                Err(Error::of_exchange(&self.url, self.connection.cause(error.into())))
            }
        }
    }

    /// Whether the server's certificate is at its end: whoever asks again meets the next one.
    pub(crate) fn has_expired(&self) -> bool {
        self.connection.phase() == Phase::Ending
    }
}

impl fmt::Debug for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endless").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Asks a server that nobody verifies: for what proves itself, see [`crate::fetch_trust`].
///
/// No connection of it is kept, and none is ever used for anything else.
pub(crate) struct UnverifiedClient {
    url: ServerUrl,
    tls: Arc<ClientConfig>,
}

impl UnverifiedClient {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        Ok(Self { url: ServerUrl::parse(url)?, tls: dangerous_unverified_config()? })
    }

    /// Asks for a resource: nothing is sent but its path.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Error> {
        let uri = self.url.join(path)?;
        let url = uri.to_string();
        let answered = async {
            let response = self.send(uri).await.map_err(|error| Error::of_exchange(&url, error))?;
            read(&url, response, None).await
        };
        let (answer, headers) = in_time(&url, answered).await?;
        judge(answer, &headers).map(|answer| answer.body)
    }

    async fn send(&self, uri: Uri) -> Result<Response<Incoming>, BoxError> {
        let (host, port) = target(&uri);
        let open = TlsSocket::open(Arc::clone(&self.tls), host, port);
        let TlsSocket { stream, .. } = tokio::time::timeout(CONNECT_TIMEOUT, open).await??;
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let host = uri.authority().map_or("", Authority::as_str);
        let request = Request::get(path).header(header::HOST, host).body(Empty::new())?;
        // Given to it before it runs: what is sent to one that ends just then may never be answered.
        let answered = sender.send_request(request);
        // Ends with the answer's body: nobody sends anything more then.
        tokio::spawn(connection);
        Ok(answered.await?)
    }
}

/// Reads a whole answer, with its headers; none of a server that is no longer to be believed.
async fn read(
    url: &str,
    response: Response<Incoming>,
    connection: Option<&Arc<Connection>>,
) -> Result<(Answer, HeaderMap), Error> {
    let (head, body) = response.into_parts();
    let (url, status) = (url.to_owned(), head.status);
    let most = if url.contains(paths::CRLS) { MAX_CRLS } else { MAX_BODY };
    let read = Limited::new(body, most).collect().await;
    if let Some(refusal) = connection.and_then(|connection| connection.refusal()) {
        return Err(Error::Peer { refusal, peer: url });
    }
    match read {
        Ok(body) => Ok((Answer { url, status, body: body.to_bytes() }, head.headers)),
        Err(error) if error.is::<LengthLimitError>() => {
            let (status, fault) = (status.as_u16(), AnswerFault::TooLarge);
            Err(Error::UnexpectedAnswer { url, status, fault })
        }
        Err(error) => {
            let cause = match connection {
                Some(connection) => connection.cause(error),
                None => error,
            };
            Err(Error::of_exchange(&url, cause))
        }
    }
}

/// An answer comes within a bound, or there is none.
async fn in_time<T>(
    url: &str,
    answered: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(EXCHANGE_TIMEOUT, answered).await {
        Ok(answered) => answered,
        Err(elapsed) => Err(Error::Unreachable { url: url.to_owned(), source: elapsed.into() }),
    }
}

fn judge(answer: Answer, headers: &HeaderMap) -> Result<Answer, Error> {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let is_kind = |known: &str| {
        kind.get(..known.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(known.as_bytes()))
    };
    if answer.status.is_redirection() && headers.contains_key(header::LOCATION) {
        return Err(answer.unexpected(AnswerFault::Redirect));
    }
    if is_kind("text/html") {
        return Err(answer.unexpected(AnswerFault::Page));
    }
    if answer.status.is_success() {
        return Ok(answer);
    }
    let is_problem = is_kind(PROBLEM_JSON);
    match serde_json::from_slice(&answer.body) {
        Ok(problem) if is_problem => Err(Error::Authority(problem)),
        _ => Err(answer.unexpected(AnswerFault::NoProblem)),
    }
}

impl Answer {
    pub(crate) fn unexpected(self, fault: AnswerFault) -> Error {
        Error::UnexpectedAnswer { url: self.url, status: self.status.as_u16(), fault }
    }
}

/// `https`, a host, perhaps a port, and nothing else.
struct ServerUrl(Uri);

impl ServerUrl {
    fn parse(url: &str) -> Result<Self, Error> {
        let refuse = |why| {
            Err(Error::Configuration(ConfigurationFault::Url { url: without_user(url), why }))
        };
        let scheme = url.get(..SCHEME.len());
        if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME)) {
            return refuse("it does not begin with https://");
        }
        if let Err(why) = HostPort::of_url(url, HTTPS) {
            return refuse(why);
        }
        let Ok(uri) = url.parse::<Uri>() else { return refuse("it cannot be parsed") };
        if uri.path() != "/" || uri.query().is_some() || url.contains('#') {
            return refuse("something follows host and port");
        }
        Ok(Self(uri))
    }

    fn join(&self, path: &str) -> Result<Uri, Error> {
        let mut parts = self.0.clone().into_parts();
        let refuse = |why| {
            Error::Configuration(ConfigurationFault::Url { url: format!("{}{path}", self.0), why })
        };
        let path: PathAndQuery = path.parse().map_err(|_| refuse("the path cannot be parsed"))?;
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|_| refuse("the path cannot be joined to it"))
    }
}

const SCHEME: &str = "https://";

/// Bytes that mean themselves wherever they stand in an URL: RFC 3986 §2.3.
pub(crate) fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// A header's value that comes from a caller.
pub(crate) fn header_value(name: &'static str, value: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(value)
        .map_err(|_| Error::Configuration(ConfigurationFault::Header { name }))
}

/// RFC 9457 §3.
const PROBLEM_JSON: &str = "application/problem+json";
/// A page of 1,000 records with their chains is below 4 MiB.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// The lists of two issuers with half a million certificates each, as PEM.
const MAX_CRLS: usize = 80 * 1024 * 1024;
/// From the wish to the last byte of the answer, the connection included.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often HTTP/2 looks whether the CA still lives, while an answer is awaited or streamed: a
/// connection that leads nowhere is not taken again.
const PING: Duration = Duration::from_secs(5);
/// Of the 20 s that a connection has when its server's certificate has expired.
const SPREAD: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_that_can_lead_nowhere_is_told_from_a_ca_that_is_away() {
        for (url, why) in [
            ("https://127.1:8443", "four numbers"),
            ("https://2130706433:8443", "four numbers"),
            ("https://127.0.0.256:1", "four numbers"),
            ("https://a..b:1", "a DNS name is made of"),
            ("https://-a:1", "a DNS name is made of"),
            ("https://*:8443", "many hosts"),
            ("https://bücher:1", "xn--"),
            ("https://[localhost]:1", "no IPv6 address"),
            ("https://::1:8443", "in brackets"),
            ("https://a:0", "port 0"),
            ("https://:1", "no host"),
        ] {
            let Err(refused) = ServerUrl::parse(url) else { panic!("{url} was taken") };
            assert!(refused.to_string().contains(why), "{url}: {refused}");
        }
        for url in ["https://localhost", "https://127.0.0.1:8443/", "https://[::1]:8443"] {
            assert!(ServerUrl::parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_password_before_the_host_is_not_repeated() {
        for url in ["https://user:hunter2@ca:8443", "user:hunter2@ca", "https://a@hunter2@ca/x"] {
            let Err(refused) = ServerUrl::parse(url) else { panic!("{url} was taken") };
            let refused = refused.to_string();
            assert!(!refused.contains("hunter2") && refused.contains("…@ca"), "{refused}");
        }
    }
}
