//! HTTP to peers, over connections that are registered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;

use crate::connect::connector::{Connector, Pool};
use crate::connect::reply::Reply;
use crate::endpoint::Endpoint;
use crate::error::cause::BoxError;
use crate::error::{ConfigurationFault, Error};
use crate::handshake::http_protocols;
use crate::host::{HTTPS, HostPort, without_user};
use crate::peers::welcome::Welcome;
use crate::peers::{LivePeers, Peers};

impl Endpoint {
    /// A client of these peers, whatever their addresses. Connects only when asked something.
    pub fn http_client(&self, peers: Peers) -> HttpClient {
        let peers = LivePeers::new(peers);
        let mut tls = self
            .client_config(Arc::clone(&peers))
            .expect("the one crypto provider has the cipher suites of TLS 1.3");
        tls.alpn_protocols = http_protocols();
        let tls = Arc::new(self.tls(tls, &peers));
        let verification = Arc::clone(self.verification());
        let credentials = Some(Arc::clone(self.credentials()));
        let welcome = Welcome::Among(peers);
        let connector = Connector { tls, credentials, verification, welcome };
        HttpClient(Arc::new(Pool::new(connector, PING)))
    }
}

/// HTTP/1.1 and HTTP/2 to peers, over a pool of connections; clones share it.
///
/// A server is believed for its SPIFFE ID, not for the name in the URL, and
/// [`Reply::peer`] names it. A connection whose server is revoked is
/// closed, with the requests on it; one whose server's certificate has expired takes no further
/// request. A request is never sent twice, and takes as long as it takes: put a timeout around it.
#[derive(Clone)]
pub struct HttpClient(Arc<Pool<UnsyncBoxBody<Bytes, BoxError>>>);

impl HttpClient {
    /// Asks for a resource.
    pub async fn get(&self, url: &str) -> Result<Reply, Error> {
        let unparsed = |_| HostPort::of_url(url, HTTPS).err().unwrap_or("it is not an URL");
        let uri: Uri = url.parse().map_err(unparsed).map_err(|why| not_a_target(url, why))?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri;
        self.request(request).await
    }

    /// Sends any request whose URI is `https://HOST[:PORT]/…`.
    ///
    /// Fails with [`Error::Peer`] if the server is not to be believed, or was cut off meanwhile,
    /// and with [`Error::Refused`] if it does not take our certificate.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Reply, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let url = request.uri().to_string();
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            return Err(not_a_target(&url, "it does not begin with https://"));
        }
        HostPort::of_url(&url, HTTPS).map_err(|why| not_a_target(&url, why))?;
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        match self.0.request(request).await {
            Ok((response, connection)) => {
                Reply::new(url, response, connection, Arc::clone(self.0.verification()))
            }
            Err(error) => Err(Error::of_connection(url, error)),
        }
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpClient")
    }
}

fn not_a_target(url: &str, why: &'static str) -> Error {
    Error::Configuration(ConfigurationFault::Target { given: without_user(url), why })
}

/// How often HTTP/2 looks whether the peer still lives, and for how long it waits to hear so.
const PING: Duration = Duration::from_secs(20);
