//! What the demo services do, each in its role.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use countersign::{Drained, Endpoint, HttpClient, Listener, Peer, Peers, Stream};
use futures_util::stream;
use http::{Method, Request, StatusCode};
use identity::{SerialNumber, SpiffeId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Becomes true when the services are to stop.
pub(super) type Stopping = watch::Receiver<bool>;

/// One call from reports to the monolith that was answered.
pub(super) struct Call {
    pub(super) status: StatusCode,
    pub(super) took: Duration,
    /// Where the monolith's certificate stands in the log.
    pub(super) log_index: Option<u64>,
    /// The caller's certificate, as the monolith saw it.
    pub(super) seen: SerialNumber,
}

/// Calls that have come to an end, of the gateway to reports and of reports to the monolith.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Tally>);

/// How calls ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) made: u64,
    /// Of those made.
    pub(super) failed: u64,
}

impl Calls {
    /// Those up to now.
    pub(super) fn tally(&self) -> Tally {
        *self.held()
    }

    fn count<T>(&self, ended: &anyhow::Result<T>) {
        let mut tally = self.held();
        tally.made += 1;
        tally.failed += u64::from(ended.is_err());
    }

    fn held(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Those after an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { made: self.made - earlier.made, failed: self.failed - earlier.failed }
    }
}

/// What the monolith has for a caller, and whom it saw.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    caller: SpiffeId,
    certificate: SerialNumber,
}

/// The monolith: `/api/data/reports` for an answer, `/stream` for one without end.
pub(super) fn monolith(stopping: Stopping) -> Router {
    Router::new()
        .route("/api/data/reports", get(report))
        .route("/stream", get(lines))
        .with_state(stopping)
}

async fn report(Extension(peer): Extension<Peer>) -> Json<Report> {
    Json(Report { caller: peer.spiffe_id().clone(), certificate: *peer.serial_number() })
}

/// A line each 200 ms, until the caller goes, or is revoked, or the service stops.
async fn lines(State(stopping): State<Stopping>, Extension(peer): Extension<Peer>) -> Body {
    Body::from_stream(stream::unfold(0_u64, move |count| {
        let line = format!("{count} {}\n", peer.spiffe_id());
        let stopping = stopping.clone();
        async move {
            tokio::select! {
                () = told(stopping) => None,
                () = tokio::time::sleep(LINE) => {
                    Some((Ok::<_, Infallible>(Bytes::from(line)), count + 1))
                }
            }
        }
    }))
}

/// Reports: `POST /reports` is answered at once, and its data is fetched afterwards.
#[derive(Clone)]
pub(super) struct Reports {
    pub(super) endpoint: Endpoint,
    pub(super) monolith: Peers,
    pub(super) monolith_address: SocketAddr,
    pub(super) calls: Arc<Calls>,
    /// Told of each call that was answered.
    pub(super) answered: mpsc::Sender<Call>,
}

impl Reports {
    pub(super) fn router(self) -> Router {
        Router::new().route("/reports", post(take_report)).with_state(self)
    }

    /// A client for each call: every one shakes hands anew, with the certificate of now.
    async fn call(&self) -> anyhow::Result<Call> {
        let client = self.endpoint.http_client(self.monolith.clone());
        let url = format!("https://{}/api/data/reports", self.monolith_address);
        let begun = Instant::now();
        let reply = client.get(&url).await?;
        let (status, took) = (reply.status(), begun.elapsed());
        ensure!(status.is_success(), "the monolith answered with {status}");
        let log_index = reply.peer().svid().leaf_index();
        let Report { certificate, .. } = reply.json().await?;
        Ok(Call { status, took, log_index, seen: certificate })
    }
}

async fn take_report(State(reports): State<Reports>) -> StatusCode {
    tokio::spawn(async move {
        let call = reports.call().await;
        reports.calls.count(&call);
        if let Ok(call) = call {
            // Nobody looks once the tour is over.
            drop(reports.answered.try_send(call));
        }
    });
    StatusCode::ACCEPTED
}

/// The gateway: a report every quarter of a second, over connections that it keeps.
pub(super) async fn call_for_ever(client: HttpClient, url: String, calls: Arc<Calls>) {
    loop {
        calls.count(&ask_for_report(&client, &url).await);
        tokio::time::sleep(CALL_EVERY).await;
    }
}

async fn ask_for_report(client: &HttpClient, url: &str) -> anyhow::Result<()> {
    let empty = http_body_util::Empty::<Bytes>::new();
    let request = Request::builder().method(Method::POST).uri(url).body(empty)?;
    let status = client.request(request).await?.status();
    ensure!(status == StatusCode::ACCEPTED, "reports answered with {status}");
    Ok(())
}

/// Serves HTTP until it is to stop, and finishes what has begun.
pub(super) async fn serve(listener: Listener, routes: Router, stopping: Stopping) -> Drained {
    let served = listener.serve(routes).until(told(stopping), DRAIN).await;
    served.unwrap_or_else(|error| {
        tracing::error!(%error, "a demo service has ended");
        Drained::default()
    })
}

/// The monolith's plain streams: a byte every 20 ms on each, until it is to stop.
pub(super) async fn serve_ticks(mut listener: Listener, stopping: Stopping) -> Drained {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = told(stopping.clone()) => break,
            Some(_) = streams.join_next() => {}
            accepted = listener.accept() => match accepted {
                Some(stream) => drop(streams.spawn(tick(stream, stopping.clone()))),
                None => break,
            }
        }
    }
    while streams.try_join_next().is_some() {}
    let mut drained = 0;
    let all = async {
        while streams.join_next().await.is_some() {
            drained += 1;
        }
    };
    // Past the limit, whoever is left is cut.
    let _ = tokio::time::timeout(DRAIN, all).await;
    let cut = streams.len();
    streams.shutdown().await;
    Drained { drained, cut }
}

/// Writes for as long as somebody reads; at the end it takes leave, and waits until the other has.
async fn tick(mut stream: Stream, stopping: Stopping) {
    let ticks = async {
        while stream.write_all(b".").await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        () = ticks => {}
        () = told(stopping) => {
            if stream.shutdown().await.is_ok() {
                read_to_end(stream).await;
            }
        }
    }
}

/// Reads until the stream ends, one way or another.
pub(super) async fn read_to_end(mut stream: Stream) {
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

async fn told(mut stopping: Stopping) {
    // A sender that is gone means the same.
    drop(stopping.wait_for(|stopping| *stopping).await);
}

const CALL_EVERY: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(20);
/// A busy machine takes a second for what is done at once elsewhere.
const DRAIN: Duration = Duration::from_secs(5);
