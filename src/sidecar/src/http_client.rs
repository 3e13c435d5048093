//! HTTP to one server: an URL that is one, exchanges with an end, bodies with a limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use crate::connector::{Connector, TlsFailure};
use crate::error::{AnswerFault, ConfigurationFault, Error};

/// A pool of connections to one server.
pub(crate) struct HttpClient {
    url: ServerUrl,
    client: Client<Connector, Full<Bytes>>,
    failure: TlsFailure,
}

/// An answer of success.
pub(crate) struct Answer {
    pub(crate) url: String,
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl HttpClient {
    /// Connects only when asked something.
    pub(crate) fn new(url: &str, tls: Arc<ClientConfig>) -> Result<Self, Error> {
        let url = ServerUrl::parse(url)?;
        let connector = Connector::new(tls);
        let failure = connector.failure();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        Ok(Self { url, client, failure })
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
        let exchanged = tokio::time::timeout(EXCHANGE_TIMEOUT, async {
            let response = self.client.request(request).await.map_err(Exchange::Failed)?;
            read(response).await
        });
        match exchanged.await {
            Ok(Ok((status, headers, body))) => judge(Answer { url, status, body }, &headers),
            Ok(Err(error)) => Err(self.explain(&url, error)),
            Err(elapsed) => Err(Error::Unreachable { url, source: elapsed.into() }),
        }
    }

    /// Asks for an answer without end, of this kind; returns once it has begun. An answer of
    /// failure becomes an error.
    pub(crate) async fn stream(
        &self,
        path: &str,
        mut headers: HeaderMap,
        kind: &'static str,
    ) -> Result<(String, Incoming), Error> {
        headers.insert(header::ACCEPT, HeaderValue::from_static(kind));
        let (url, request) = self.request(Method::GET, path, headers, Bytes::new())?;
        let begun = tokio::time::timeout(EXCHANGE_TIMEOUT, async {
            let response = self.client.request(request).await.map_err(Exchange::Failed)?;
            let found = response.headers().get(header::CONTENT_TYPE);
            let is_it = found.is_some_and(|found| found.as_bytes().starts_with(kind.as_bytes()));
            if response.status().is_success() && is_it {
                return Ok(Ok(response.into_body()));
            }
            read(response).await.map(Err)
        });
        match begun.await {
            Ok(Ok(Ok(body))) => Ok((url, body)),
            Ok(Ok(Err((status, headers, body)))) => {
                let answer = judge(Answer { url, status, body }, &headers)?;
                Err(answer.unexpected(AnswerFault::Shape))
            }
            Ok(Err(error)) => Err(self.explain(&url, error)),
            Err(elapsed) => Err(Error::Unreachable { url, source: elapsed.into() }),
        }
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

    fn explain(&self, url: &str, error: Exchange) -> Error {
        match (error, self.failure.take()) {
            (Exchange::TooLarge(status), _) => {
                let (url, fault) = (url.to_owned(), AnswerFault::TooLarge);
                Error::UnexpectedAnswer { url, status: status.as_u16(), fault }
            }
            (Exchange::Failed(error), _) if error.is_connect() => {
                Error::of_exchange(url, error.into())
            }
            (Exchange::Failed(_) | Exchange::Broken(_), Some(tls)) => {
                Error::of_exchange(url, tls.into())
            }
            (Exchange::Failed(error), None) => Error::of_exchange(url, error.into()),
            (Exchange::Broken(error), None) => Error::of_exchange(url, error),
        }
    }
}

/// Why no whole answer was read.
enum Exchange {
    Broken(Box<dyn std::error::Error + Send + Sync>),
    Failed(hyper_util::client::legacy::Error),
    TooLarge(StatusCode),
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, HeaderMap, Bytes), Exchange> {
    let (head, body) = response.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok((head.status, head.headers, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(Exchange::TooLarge(head.status)),
        Err(error) => Err(Exchange::Broken(error)),
    }
}

fn judge(answer: Answer, headers: &HeaderMap) -> Result<Answer, Error> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let is_problem = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|found| found.as_bytes().starts_with(PROBLEM_JSON.as_bytes()));
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
        let refuse =
            |why| Err(Error::Configuration(ConfigurationFault::Url { url: url.to_owned(), why }));
        let Ok(uri) = url.parse::<Uri>() else { return refuse("it cannot be parsed") };
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return refuse("it does not begin with https://");
        }
        let Some(authority) = uri.authority() else { return refuse("it has no host") };
        // http::Uri has no port where it cannot read one: that would lead to 443.
        let is_host = authority.as_str() == authority.host();
        if authority.as_str().contains('@') || !(is_host || authority.port_u16().is_some()) {
            return refuse("a user stands before the host, or no number after it");
        }
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
/// From the wish to the last byte of the answer, the connection included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the 75 s that our servers wait for another request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// While an answer is awaited or streamed: a connection that leads nowhere is not taken again.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
