//! The requests of one connection, from the service's side: whose they are, and their end with it.
//!
//! HTTP/1 runs in the task of its connection, which is dropped when that is closed. HTTP/2 runs each
//! stream in a task of its own: left alone, such a task would go on to its next await, and a
//! request whose task has not yet run would be handled though nobody may ask any more.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use h2::Reason;
use http::{HeaderValue, Method, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::service::Service;

use crate::connections::connection::{Connection, Phase};
use crate::error::cause::BoxError;
use crate::peers::peer::RemoteAddress;
use crate::places::Place;
use crate::serve::answered::Answered;
use crate::serve::frames::Asked;
use crate::serve::headers::{Headers, Held};
use crate::serve::last_answer::LastAnswer;
use crate::serve::unread::{Counted, Turn, Unread};
use crate::serve::without_end::PutAside;

/// The service as one connection calls it: requests learn whose they are.
pub(crate) struct Requests<S> {
    service: S,
    connection: Option<Arc<Connection>>,
    place: Option<Place>,
    remote: RemoteAddress,
    begun: Arc<AtomicU64>,
    settled: Arc<AtomicU64>,
    unread: Arc<Unread>,
    /// Over HTTP/1 none waits beside another.
    headers: Option<Headers>,
    http1: Option<Http1>,
}

/// What its connection has to know of a request over HTTP/1.
#[derive(Clone)]
struct Http1 {
    /// For answers without end.
    put_aside: Arc<PutAside>,
    answered: Answered,
}

impl<S> Requests<S> {
    pub(crate) fn new(
        service: S,
        remote: SocketAddr,
        connection: Option<&Arc<Connection>>,
        most_unread: usize,
    ) -> Self {
        let (remote, unread) = (RemoteAddress(remote), Arc::new(Unread::new(most_unread)));
        let place = connection.and_then(|connection| connection.place());
        let connection = connection.cloned();
        let (begun, settled) = Default::default();
        let (headers, http1) = (None, None);
        Self { service, connection, place, remote, begun, settled, unread, headers, http1 }
    }

    /// For HTTP/2: headers of requests in flight hold so many bytes at most, and so many have a body.
    pub(crate) fn with_headers(self, most: usize, bodies: usize) -> Self {
        Self { headers: Some(Headers::new(most, bodies)), ..self }
    }

    /// For HTTP/1: answers without end are put aside, and it is told when a request has come.
    pub(crate) fn for_http1(self, put_aside: &Arc<PutAside>, answered: &Answered) -> Self {
        let http1 = Http1 { put_aside: Arc::clone(put_aside), answered: answered.clone() };
        Self { http1: Some(http1), ..self }
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote.0
    }

    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref()
    }

    /// What it holds until it is answered, and until it may begin; none where there is no room.
    fn hold(
        &self,
        request: &Request<Incoming>,
        waits: bool,
    ) -> Option<(Option<[Held; 2]>, Option<Held>)> {
        let Some(headers) = &self.headers else { return Some((None, None)) };
        let in_flight = headers.begin(request)?;
        let waiting = if waits { Some(headers.wait(request)?) } else { None };
        Some((Some(in_flight), waiting))
    }

    /// The answers that wait for their reader.
    pub(crate) fn unread(&self) -> &Arc<Unread> {
        &self.unread
    }

    /// How many requests were more than chatter (see [`Asked`]) since whoever asks has looked.
    pub(crate) fn settled(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.settled)
    }

    /// How many requests have begun so far.
    pub(crate) fn begun(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.begun)
    }
}

impl<S, B> Service<Request<Incoming>> for Requests<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Counted<B>>;
    type Error = BoxError;
    type Future = Handling<S::Response, S::Error>;

    /// Begins a request, unless it was read before its connection was closed: that one is dropped
    /// with the connection. It waits while too many answers wait for this peer.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(self.remote);
        let last_answer = self.connection.as_ref().map(LastAnswer::new);
        if let Some(connection) = &self.connection {
            if connection.is_leaving() {
                return Handling::Dropped;
            }
            extensions.insert(connection.peer().clone());
        }
        if let Some(place) = &self.place {
            extensions.insert(place.clone());
        }
        if let Some(last_answer) = &last_answer {
            extensions.insert(last_answer.clone());
        }
        let unread = Arc::clone(&self.unread);
        let waits = !unread.has_room();
        let Some((in_flight, waiting)) = self.hold(&request, waits) else {
            metrics::counter!("countersign_requests_not_begun_total").increment(1);
            return Handling::Refused;
        };
        self.begun.fetch_add(1, Ordering::Relaxed);
        let asked = Asked::now(&self.settled);
        // Before that version it is the connection's end that ends an answer. With hyper a body that is
        // still being read would end, too.
        let is_whole = request.body().is_end_stream();
        let may_go = request.method() == Method::GET && request.version() == Version::HTTP_11;
        if let Some(http1) = &self.http1 {
            http1.answered.asked();
        }
        let http1 = self.http1.as_ref().filter(|_| is_whole && may_go);
        let put_aside = http1.map(|http1| Arc::clone(&http1.put_aside));
        if !waits {
            let answer = Box::pin(self.service.call(request));
            return Handling::Begun { answer, unread, last_answer, in_flight, asked, put_aside };
        }
        let (service, room) = (self.service.clone(), Arc::clone(&unread));
        let answer = Box::pin(async move {
            room.room().await;
            drop(waiting);
            service.call(request).await
        });
        Handling::Begun { answer, unread, last_answer, in_flight, asked, put_aside }
    }
}

/// What becomes of a request.
pub(crate) enum Handling<R, E> {
    Begun {
        answer: Pin<Box<dyn Future<Output = Result<R, E>> + Send>>,
        unread: Arc<Unread>,
        last_answer: Option<LastAnswer>,
        in_flight: Option<[Held; 2]>,
        asked: Asked,
        put_aside: Option<Arc<PutAside>>,
    },
    /// It waits for the end of the task that it is in, which is near.
    Dropped,
    /// It was not begun.
    Refused,
}

impl<B, E: Into<BoxError>> Future for Handling<Response<B>, E>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Counted<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Begun { last_answer: Some(last_answer), .. } if last_answer.has_ended() => {
                Poll::Pending
            }
            Self::Begun { answer, unread, last_answer, in_flight, asked, put_aside } => {
                let _turn = Turn(Arc::clone(unread));
                let mut answer = ready!(answer.as_mut().poll(cx)).map_err(Into::into)?;
                drop(in_flight.take());
                asked.is_answered();
                if last_answer.as_ref().is_some_and(LastAnswer::says_close) {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                let answer = match put_aside {
                    Some(put_aside) => put_aside.take_in(answer),
                    None => Some(answer),
                };
                // What is put aside is not hyper's: it is left waiting, and is dropped.
                answer.map_or(Poll::Pending, |answer| {
                    Poll::Ready(Ok(answer.map(|body| Counted::new(body, unread))))
                })
            }
            Self::Dropped => Poll::Pending,
            Self::Refused => Poll::Ready(Err(h2::Error::from(Reason::REFUSED_STREAM).into())),
        }
    }
}

/// Runs the streams of one HTTP/2 connection, handlers and bodies, until that is closed.
#[derive(Clone)]
pub(crate) struct StreamTasks(Option<Arc<Connection>>);

impl StreamTasks {
    pub(crate) fn of(connection: Option<Arc<Connection>>) -> Self {
        Self(connection)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        let Some(connection) = self.0.clone() else {
            tokio::spawn(stream);
            return;
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = connection.past(Phase::Leaving) => {}
                () = stream => {}
            }
        });
    }
}
