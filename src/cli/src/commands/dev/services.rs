//! The demo services: real workloads of the library `countersign`, on real sockets.
//!
//! gateway → reports (`POST /reports`, 202, asynchronous) → monolith (`GET /api/data/reports`), and
//! batch → monolith with one stream held open. Who may call whom comes from the workload table.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Secret, TokenRequest};
use authority::Authority;
use countersign::svid_folder::create_private;
use countersign::{AuthorityClient, Drained, ListenerPeers, Peers, Workload};
use identity::SpiffeId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::DOMAIN;
use super::roles::{self, Call, Calls, Reports};
use crate::files;

/// The running services.
pub(super) struct Services {
    pub(super) reports: Workload,
    pub(super) monolith: Workload,
    pub(super) batch: Workload,
    pub(super) intruder: Workload,
    pub(super) monolith_address: SocketAddr,
    /// Each call from reports to the monolith that was answered.
    pub(super) answered: mpsc::Receiver<Call>,
    pub(super) calls: Arc<Calls>,
    /// When batch saw the end of its stream, once it has.
    pub(super) stream: watch::Receiver<Option<Instant>>,
    /// The key exchange of batch's stream.
    pub(super) key_exchange: String,
    monolith_peers: ListenerPeers,
    gateway: Workload,
    stopping: watch::Sender<bool>,
    servers: JoinSet<Drained>,
    /// Those who call, and whoever keeps the table.
    others: JoinSet<()>,
}

/// What starting a workload takes.
pub(super) struct Starter<'a> {
    pub(super) operator: &'a AuthorityClient,
    pub(super) url: &'a str,
    pub(super) pin: String,
    pub(super) authority: Arc<Authority>,
    /// Where they find their tokens.
    pub(super) tokens: PathBuf,
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
        let (mut servers, mut others) = (JoinSet::new(), JoinSet::new());
        let (stopping, stopped) = watch::channel(false);
        let calls = Arc::<Calls>::default();
        let (answers, answered) = mpsc::channel(KEPT);

        let listener = monolith.listen(LOOPBACK, self.callers_of("/monolith")?).await?;
        let monolith_address = listener.local_address();
        let (http_peers, monolith_peers) = (listener.peers(), listener.peers());
        servers.spawn(roles::serve(listener, roles::monolith(stopped.clone()), stopped.clone()));
        let streams = monolith.listen(LOOPBACK, self.callers_of("/monolith")?).await?;
        let (stream_address, stream_peers) = (streams.local_address(), streams.peers());
        servers.spawn(roles::serve_ticks(streams, stopped.clone()));
        others.spawn(follow_table(Arc::clone(&self.authority), vec![http_peers, stream_peers]));

        let listener = reports.listen(LOOPBACK, self.callers_of("/reports")?).await?;
        let url = format!("https://{}/reports", listener.local_address());
        let to_monolith = Peers::one_of([self.id("/monolith")?.as_str()])?;
        let role = Reports {
            endpoint: reports.endpoint().clone(),
            monolith: to_monolith.clone(),
            monolith_address,
            calls: Arc::clone(&calls),
            answered: answers,
        };
        servers.spawn(roles::serve(listener, role.router(), stopped));

        let client = gateway.http_client(Peers::one_of([self.id("/reports")?.as_str()])?);
        others.spawn(roles::call_for_ever(client, url, Arc::clone(&calls)));

        let stream = batch.connect(&stream_address.to_string(), to_monolith.clone()).await?;
        let key_exchange = stream.key_exchange().unwrap_or_default();
        let (ended, stream_ended) = watch::channel(None);
        let (endpoint, changes) = (batch.endpoint().clone(), batch.changes());
        others.spawn(async move {
            let mut stream = Some(stream);
            loop {
                let held = changes.borrow().serial_number;
                if let Some(stream) = stream.take() {
                    roles::read_to_end(stream).await;
                    ended.send_replace(Some(Instant::now()));
                }
                // Revoked, it stays away. Whose certificate only ended comes back with another.
                if changes.clone().wait_for(|status| status.serial_number != held).await.is_err() {
                    return;
                }
                let address = stream_address.to_string();
                stream = endpoint.connect(&address, to_monolith.clone()).await.ok();
            }
        });
        Ok(Services {
            reports,
            monolith,
            batch,
            intruder,
            monolith_address,
            answered,
            calls,
            stream: stream_ended,
            key_exchange,
            monolith_peers,
            gateway,
            stopping,
            servers,
            others,
        })
    }

    /// A token from the operator, and a workload that starts with it, as any service would.
    async fn workload(&self, path: &str) -> anyhow::Result<Workload> {
        let spiffe_id = self.id(path)?;
        let file = token_file(&self.tokens, &spiffe_id);
        create_private(&self.tokens)?;
        give_token(self.operator, &spiffe_id, &file).await?;
        Ok(Workload::builder().url(self.url).trust_pin(&self.pin).token_file(file).start().await?)
    }

    fn id(&self, path: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::new(self.authority.view.trust_domain(), path)?)
    }

    fn callers_of(&self, path: &str) -> anyhow::Result<Peers> {
        callers_of(&self.authority, path)
    }
}

impl Services {
    /// All of them.
    pub(super) fn workloads(&self) -> [&Workload; 5] {
        [&self.gateway, &self.reports, &self.monolith, &self.batch, &self.intruder]
    }

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

    /// Has the servers finish what they have begun, then ends them all; says what ended by itself.
    pub(super) async fn stop(mut self) -> Drained {
        self.stopping.send_replace(true);
        let mut all = Drained::default();
        while let Some(ended) = self.servers.join_next().await {
            let Drained { drained, cut } = ended.unwrap_or_default();
            all.drained += drained;
            all.cut += cut;
        }
        self.others.shutdown().await;
        for workload in [self.gateway, self.reports, self.monolith, self.batch, self.intruder] {
            workload.stop().await;
        }
        all
    }
}

/// Where a service finds its token.
pub(super) fn token_file(folder: &Path, id: &SpiffeId) -> PathBuf {
    folder.join(id.path().trim_start_matches('/').replace('/', "-"))
}

/// Puts a new token where a service finds it.
pub(super) async fn give_token(
    operator: &AuthorityClient,
    id: &SpiffeId,
    file: &Path,
) -> anyhow::Result<()> {
    let asked = TokenRequest { spiffe_id: id.clone(), ttl: None, key_sha256: None };
    let token: Secret = operator.create_token(&asked).await?.token;
    Ok(files::replace(file, token.expose().as_bytes())?)
}

/// Lets in whom the table lets call, whenever another table comes into force.
async fn follow_table(authority: Arc<Authority>, listeners: Vec<ListenerPeers>) {
    let mut known = *authority.view.policy().set().hash();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let hash = *authority.view.policy().set().hash();
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
    let policy = authority.view.policy();
    let rows = policy.set().workloads().rows();
    let callers = rows.filter(|row| row.calls.iter().any(|called| called == path));
    let ids: Vec<String> = callers
        .map(|row| format!("spiffe://{}{}", authority.view.trust_domain(), row.id))
        .collect();
    Ok(Peers::one_of(ids)?)
}

const LOOPBACK: &str = "127.0.0.1:0";
/// Answers that wait for the tour.
const KEPT: usize = 64;
/// Shorter than a service takes from `dev env` to its first call.
const LOOK_EVERY: Duration = Duration::from_millis(10);
