//! HTTP on a [`Listener`]: any tower service, until a shutdown.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::service::TowerToHyperService;

use crate::error::Error;
use crate::error::cause::BoxError;
use crate::handshake::http_protocols;
use crate::listen::accept::Drained;
use crate::listen::listener::Listener;
use crate::serve::serve_secure;

impl Listener {
    /// Serves HTTP/1.1 and HTTP/2 by a tower service, such as an axum router.
    ///
    /// Each request carries a [`Peer`](crate::Peer) and a [`RemoteAddress`](crate::RemoteAddress)
    /// in its extensions. When that peer is revoked, its requests end with its connection: handlers
    /// at the await that they are at, bodies before their next frame. A task that a handler has
    /// spawned is its own. Streams that were accepted before and not taken are closed.
    pub fn serve<S>(self, service: S) -> Serving<S> {
        Serving { listener: self, service }
    }
}

/// A service and its listener, before the first request: see [`until`](Self::until).
#[derive(Debug)]
#[must_use = "nothing is served until it is said until when"]
pub struct Serving<S> {
    listener: Listener,
    service: S,
}

impl<S, B> Serving<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Serves until `shutdown`, or until the endpoint is stopped. Then no connection and no request
    /// is taken any more (HTTP/2 says GOAWAY), those in flight are finished, and what takes longer
    /// than `grace` is cut.
    pub async fn until(
        self,
        shutdown: impl Future<Output = ()> + Send,
        grace: Duration,
    ) -> Result<Drained, Error> {
        let Self { mut listener, service } = self;
        listener.end_accepting().await;
        let address = listener.local_address();
        let (socket, secure, endpoint) = listener.into_parts(http_protocols());
        let either = async {
            tokio::select! {
                () = shutdown => {}
                () = endpoint.stopped() => {}
            }
        };
        let service = TowerToHyperService::new(service);
        let served = serve_secure(socket, secure, service, grace, either).await;
        served.map_err(|source| Error::Listen { address: address.to_string(), source })
    }
}
