//! The revocation feed: as server-sent events, or by long polls.
//!
//! A message is one line, signed once and shared by all who hear it. A subscriber that reads too
//! slowly is dropped by the engine; one that reads nothing for the write timeout, or whose connection
//! is gone, by the connection.

use std::time::Duration;

use authority::{FeedMessage, Start, Subscription, TooSlow};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use countersign::{Kept, Place, WithoutEnd};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use tokio::sync::watch;

use super::Service;
use crate::caller::{From, Query};
use crate::negotiation::{preferred, varies_by_accept};
use crate::problem::Refused;
use axum::Extension;

/// Where the subscriber stands.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct After {
    /// The log index of the newest item applied; without it, a snapshot comes first.
    after: Option<u64>,
    /// `true`: a snapshot of then or later comes first nevertheless.
    snapshot: Option<bool>,
}

/// The revocation feed: lines of key id, signature and body.
///
/// With `Accept: text/event-stream` each is an event's data, without end: what the subscriber
/// lacks, then deltas, and a heartbeat every 2 s. Otherwise the next message that is news, or
/// after 25 s a heartbeat. A snapshot's message is followed by its chunks, a line each, whose
/// SHA-256 it names.
#[utoipa::path(get, path = api::paths::FEED, params(After),
    responses((status = 200, content((String = "text/event-stream"), (String = "text/plain")))))]
pub(crate) async fn feed(
    State(service): State<Service>,
    From(caller): From,
    Query(After { after, snapshot }): Query<After>,
    place: Option<Extension<Place>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let id = &caller.request_id;
    let kind = preferred(&headers, [(LINE, &[]), (EVENTS, &[])]);
    // There is nothing to wait for.
    if method == Method::HEAD {
        return Ok(not_stored(kind).into_response());
    }
    let start = match (after, snapshot) {
        (Some(at_least), Some(true)) => Start::Snapshot { at_least },
        _ => after.into(),
    };
    let subscribed = service.authority.feed.subscribe(&caller, start).await;
    let subscription = subscribed.map_err(|error| Refused::new(error, id))?;
    // One of each certificate's connections gives way to nobody: that of its feed.
    let kept = place.and_then(|place| place.keep());
    if kind == EVENTS {
        let body = Body::from_stream(
            events(subscription, service.stopped.clone(), kept).map(Ok::<_, NoError>),
        );
        return Ok((Extension(WithoutEnd), not_stored(EVENTS), body).into_response());
    }
    let (told, subscription) = poll(subscription, service.stopped.clone()).await;
    let line = told.map(|message| message.line().clone()).unwrap_or_default();
    let body = Body::from_stream(lines(line, subscription, kept));
    Ok((not_stored(kind), body).into_response())
}

/// A line, and the chunks that follow it, if it is a snapshot's. The answer breaks off where they are
/// gone before they are read. None is copied.
fn lines(
    line: Bytes,
    subscription: Subscription,
    kept: Option<Kept>,
) -> impl Stream<Item = Result<Bytes, TooSlow>> + Send {
    let chunks = stream::unfold((subscription, kept), async |(mut subscription, kept)| {
        subscription.next_of_snapshot().map(|chunk| (chunk, (subscription, kept)))
    });
    let chunks = chunks.flat_map(|chunk| match chunk {
        Ok(chunk) => stream::iter([Ok(Bytes::from_static(b"\n")), Ok(chunk.line().clone())]),
        Err(gone) => stream::iter([Err(gone), Err(gone)]),
    });
    stream::iter([Ok(line)]).chain(chunks)
}

type NoError = std::convert::Infallible;

/// Each message as an event, until the service stops. Its line is not copied.
fn events(
    subscription: Subscription,
    stopped: watch::Receiver<bool>,
    kept: Option<Kept>,
) -> impl Stream<Item = Bytes> + Send {
    // In a box: what goes from one future into the next has room in each of them.
    let held = Box::new((subscription, stopped, kept));
    let messages = stream::unfold(held, async |mut held| {
        let (subscription, stopped, _) = &mut *held;
        let message = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            message = subscription.next() => message,
        };
        message.map(|message| (message, held))
    });
    messages.flat_map(|message| {
        let line = message.line().clone();
        stream::iter([Bytes::from_static(b"data: "), line, Bytes::from_static(b"\n\n")])
    })
}

/// The next news, or a heartbeat; nothing where the service stops, or the subscriber must.
async fn poll(
    mut subscription: Subscription,
    mut stopped: watch::Receiver<bool>,
) -> (Option<FeedMessage>, Subscription) {
    let told = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => None,
        message = subscription.next_news(LONGEST_POLL) => message,
    };
    (told, subscription)
}

fn not_stored(kind: &str) -> [(header::HeaderName, HeaderValue); 3] {
    let full = if kind == EVENTS { EVENTS } else { "text/plain; charset=utf-8" };
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(full)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        varies_by_accept(),
    ]
}

const LINE: &str = "text/plain";
const EVENTS: &str = "text/event-stream";
/// Below the 30 s that clients and load balancers wait for an answer.
pub(crate) const LONGEST_POLL: Duration = Duration::from_secs(25);
