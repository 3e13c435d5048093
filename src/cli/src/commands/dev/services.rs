//! The demo services: real workloads of the library `countersign`, on real sockets.
//!
//! gateway → reports (`POST /reports`, 202, asynchronous) → monolith (`GET /api/data/reports`), and
//! batch → monolith with one stream held open. Who may call whom comes from the workload table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{Secret, TokenRequest};
use authority::Authority;
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use countersign::{AuthorityClient, ListenerPeers, Peers, Stream, Workload};
use http::{Request, StatusCode};
use identity::{SerialNumber, SpiffeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::DOMAIN;

/// The running services.
pub(super) struct Services {
    pub(super) reports: Workload,
    pub(super) monolith: Workload,
    pub(super) batch: Workload,
    pub(super) intruder: Workload,
    /// Of the first certificate of reports.
    pub(super) first_serial_number: SerialNumber,
    pub(super) monolith_address: SocketAddr,
    /// Each call from reports to monolith, as it was answered.
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) counts: Arc<Counts>,
    /// When batch saw the end of its stream, once it has.
    pub(super) stream: watch::Receiver<Option<Instant>>,
    /// The key exchange of batch's stream.
    pub(super) key_exchange: String,
    monolith_peers: ListenerPeers,
    gateway: Workload,
    tasks: JoinSet<()>,
}

/// One call that was answered.
pub(super) struct Call {
    pub(super) status: StatusCode,
    pub(super) took: Duration,
    /// Where the monolith's certificate stands in the log.
    pub(super) log_index: Option<u64>,
}

/// Calls of the gateway so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) made: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// What starting a workload takes.
pub(super) struct Starter<'a> {
    pub(super) operator: &'a AuthorityClient,
    pub(super) url: &'a str,
    pub(super) pin: String,
    pub(super) authority: Arc<Authority>,
}

impl Starter<'_> {
    /// Starts them all and lets them speak.
    pub(super) async fn start(&self) -> anyhow::Result<Services> {
        let (gateway, reports, monolith, batch, intruder) = tokio::try_join!(
            self.workload("/gateway"),
            self.workload("/reports"),
            self.workload("/monolith"),
            self.workload("/batch"),
            self.workload("/intruder"),
        )?;
        let mut tasks = JoinSet::new();
        let counts = Arc::<Counts>::default();
        let (calls, called) = mpsc::channel(64);

        let listener = monolith.listen(LOOPBACK, self.callers_of("/monolith")?).await?;
        let monolith_address = listener.local_address();
        let (http_peers, monolith_peers) = (listener.peers(), listener.peers());
        let routes = Router::new().route("/api/data/reports", get(|| async { "a report\n" }));
        tasks.spawn(async move {
            drop(listener.serve(routes).until(std::future::pending(), DRAIN).await)
        });
        let mut streams = monolith.listen(LOOPBACK, self.callers_of("/monolith")?).await?;
        let (stream_address, stream_peers) = (streams.local_address(), streams.peers());
        tasks.spawn(async move {
            while let Some(stream) = streams.accept().await {
                tokio::spawn(tick(stream));
            }
        });
        tasks.spawn(follow_table(Arc::clone(&self.authority), vec![http_peers, stream_peers]));

        let listener = reports.listen(LOOPBACK, self.callers_of("/reports")?).await?;
        let reports_address = listener.local_address();
        let to_monolith = Peers::one_of([self.id("/monolith")?.as_str()])?;
        let onward = Onward {
            client: reports.http_client(to_monolith.clone()),
            url: format!("https://{monolith_address}/api/data/reports"),
            calls,
            counts: Arc::clone(&counts),
        };
        let routes = Router::new().route("/reports", post(take_report)).with_state(onward);
        tasks.spawn(async move {
            drop(listener.serve(routes).until(std::future::pending(), DRAIN).await)
        });

        let to_reports = Peers::one_of([self.id("/reports")?.as_str()])?;
        let client = gateway.http_client(to_reports);
        let url = format!("https://{reports_address}/reports");
        tasks.spawn(call_for_ever(client, url, Arc::clone(&counts)));

        let stream = batch.connect(&stream_address.to_string(), to_monolith).await?;
        let key_exchange = stream.key_exchange().unwrap_or_default();
        let (ended, stream_ended) = watch::channel(None);
        tasks.spawn(async move {
            read_to_end(stream).await;
            ended.send_replace(Some(Instant::now()));
        });
        Ok(Services {
            first_serial_number: reports.status().serial_number,
            reports,
            monolith,
            batch,
            intruder,
            monolith_peers,
            gateway,
            monolith_address,
            calls: called,
            counts,
            stream: stream_ended,
            key_exchange,
            tasks,
        })
    }

    /// A token from the operator, and a workload that starts with it, as any service would.
    async fn workload(&self, path: &str) -> anyhow::Result<Workload> {
        let spiffe_id = self.id(path)?;
        let asked = TokenRequest { spiffe_id, ttl: None, key_sha256: None };
        let token: Secret = self.operator.create_token(&asked).await?.token;
        Ok(Workload::builder().url(self.url).trust_pin(&self.pin).token(token).start().await?)
    }

    fn id(&self, path: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::new(self.authority.trust_domain(), path)?)
    }

    fn callers_of(&self, path: &str) -> anyhow::Result<Peers> {
        callers_of(&self.authority, path)
    }
}

impl Services {
    /// How many connections the monolith has closed because their peers were revoked.
    pub(super) fn closed_for_revocation(&self) -> u64 {
        self.monolith.status().connections.closed.get("revoked").copied().unwrap_or_default()
    }

    /// Whom the monolith lets in, by path.
    pub(super) fn monolith_peers(&self) -> String {
        self.monolith_peers
            .current()
            .to_string()
            .replace(&format!("spiffe://{DOMAIN}"), "")
            .replace(',', ", ")
    }

    /// Ends them; says how many connections were open.
    pub(super) async fn stop(mut self) -> usize {
        self.tasks.shutdown().await;
        let workloads = [self.gateway, self.reports, self.monolith, self.batch, self.intruder];
        let open = workloads.iter().map(|w| w.status().connections.open).sum();
        for workload in workloads {
            workload.stop().await;
        }
        open
    }
}

/// What reports needs to go on.
#[derive(Clone)]
struct Onward {
    client: countersign::HttpClient,
    url: String,
    calls: mpsc::Sender<Call>,
    counts: Arc<Counts>,
}

/// Takes a report at once, and fetches its data afterwards.
async fn take_report(State(onward): State<Onward>) -> StatusCode {
    tokio::spawn(async move {
        let begun = Instant::now();
        match onward.client.get(&onward.url).await {
            Ok(reply) => {
                let log_index = reply.peer().svid().leaf_index();
                let (status, took) = (reply.status(), begun.elapsed());
                // Nobody looks once the tour is over.
                drop(onward.calls.try_send(Call { status, took, log_index }));
            }
            Err(_) => drop(onward.counts.failed.fetch_add(1, Ordering::Relaxed)),
        }
    });
    StatusCode::ACCEPTED
}

/// The gateway: a report every quarter of a second.
async fn call_for_ever(client: countersign::HttpClient, url: String, counts: Arc<Counts>) {
    loop {
        let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = url.parse().expect("an address of ours is an URL");
        counts.made.fetch_add(1, Ordering::Relaxed);
        let answered = client.request(request).await;
        if !answered.is_ok_and(|reply| reply.status() == StatusCode::ACCEPTED) {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(CALL_EVERY).await;
    }
}

/// Sends a byte every 20 ms for as long as somebody reads.
async fn tick(mut stream: Stream) {
    while stream.write_all(b".").await.is_ok() && stream.flush().await.is_ok() {
        tokio::time::sleep(TICK).await;
    }
}

/// Reads until the stream ends, one way or another.
async fn read_to_end(mut stream: Stream) {
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

/// Lets in whom the table lets call, whenever another table comes into force.
async fn follow_table(authority: Arc<Authority>, listeners: Vec<ListenerPeers>) {
    let mut known = *authority.policy().set().hash();
    loop {
        tokio::time::sleep(CALL_EVERY).await;
        let hash = *authority.policy().set().hash();
        if hash == known {
            continue;
        }
        known = hash;
        if let Ok(peers) = callers_of(&authority, "/monolith") {
            for listener in &listeners {
                listener.replace(peers.clone());
            }
        }
    }
}

/// Whoever's row says that it calls this one.
fn callers_of(authority: &Authority, path: &str) -> anyhow::Result<Peers> {
    let policy = authority.policy();
    let rows = policy.set().workloads().rows();
    let callers = rows.filter(|row| row.calls.iter().any(|called| called == path));
    let ids: Vec<String> =
        callers.map(|row| format!("spiffe://{}{}", authority.trust_domain(), row.id)).collect();
    Ok(Peers::one_of(ids)?)
}

const LOOPBACK: &str = "127.0.0.1:0";
const DRAIN: Duration = Duration::from_secs(1);
const CALL_EVERY: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(20);
