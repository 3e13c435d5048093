//! How long a revocation takes: from the operator's request to the end that the revoked peer sees.

use std::time::{Duration, Instant};

use api::{RevocationReach, RevokeRequest, Secret, TokenRequest};
use countersign::{AuthorityClient, Credentials, Peers, Stream, TrustPin, Workload, fetch_trust};
use identity::{SpiffeId, Trust};
use system_tests::{Environment, Settings, TRUST_DOMAIN};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::revoked_peer::{End, RevokedPeer};
use crate::table::{Bound, verdict};

/// Connects many verifiers that follow the feed with one peer, and revokes that; again and again.
pub(crate) fn measure(verifiers: usize, rounds: usize) -> anyhow::Result<()> {
    let environment = Environment::start_with(&settings(verifiers));
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let house = runtime.block_on(House::start(&environment, verifiers))?;
    println!("\nrevocation, {verifiers} verifiers by the feed, each connected with the peer");
    let mut all = Vec::new();
    for round in 1..=rounds {
        let name = format!("batch-{round}");
        let mut peer = RevokedPeer::start(&environment.issue(PEER, &name))?;
        let (begun, reach, counted) = runtime.block_on(house.round(&mut peer))?;
        let ends = peer.ends(verifiers)?;
        let after = |what: fn(&End) -> Instant| ends.iter().map(what).map(move |at| at - begun);
        println!(
            "{:<24} last byte {}; end {}; {} of {} reported, {} connections, by {:.0} ms",
            format!("round {round}"),
            quantiles(after(|end| end.last_byte).collect()),
            quantiles(after(|end| end.at).collect()),
            reach.reached,
            reach.live,
            reach.connections_closed,
            millis(counted),
        );
        anyhow::ensure!(reach.connections_closed == verifiers as u64, "{reach:?}");
        all.extend(after(|end| end.at));
    }
    all.sort_unstable();
    let p99 = millis(quantile(&all, 0.99));
    verdict("revocation: p99 until the peer's end in ms", p99, Bound::AtMost(1000.0));
    Ok(())
}

/// The verifiers, and the operator who revokes.
struct House {
    operator: AuthorityClient,
    verifiers: Vec<Workload>,
    peer: SpiffeId,
}

impl House {
    async fn start(environment: &Environment, count: usize) -> anyhow::Result<Self> {
        let (url, pin) = (environment.url(), environment.countersign(&["trust", "pin"]).success());
        let pin = pin.stdout.trim().to_owned();
        let trust = Trust::new(fetch_trust(&url, &pin.parse::<TrustPin>()?).await?.state)?;
        let context = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}"));
        let credentials = Credentials::load(&context)?;
        let operator = AuthorityClient::new(&url, trust, Some(credentials))?;
        let (mut starting, mut verifiers) = (JoinSet::new(), Vec::with_capacity(count));
        for instance in 0..count {
            let spiffe_id = SpiffeId::parse(&environment.id(&service(instance / INSTANCES)))?;
            let token = TokenRequest { spiffe_id, ttl: None, key_sha256: None };
            let token = operator.create_token(&token).await?.token;
            let workload = Workload::builder().url(&url).trust_pin(&pin);
            starting.spawn(workload.token(Secret::new(token.expose())).start());
            if starting.len() >= STARTING {
                verifiers.extend(starting.join_next().await.transpose()?.transpose()?);
            }
        }
        while let Some(started) = starting.join_next().await {
            verifiers.push(started??);
        }
        Ok(Self { operator, verifiers, peer: SpiffeId::parse(&environment.id(PEER))? })
    }

    /// Connects all, lets them write, and revokes. Returns when that began, what the operator
    /// learned of it, and after how long.
    async fn round(
        &self,
        peer: &mut RevokedPeer,
    ) -> anyhow::Result<(Instant, RevocationReach, Duration)> {
        let peers = Peers::one_of([self.peer.to_string()])?;
        for verifier in &self.verifiers {
            let stream = verifier.connect(&peer.address.to_string(), peers.clone()).await?;
            tokio::spawn(write(stream));
        }
        let reason = "key-compromise".to_owned();
        let request = RevokeRequest {
            target: self.peer.to_string(),
            reason,
            dry_run: false,
            named_override: None,
        };
        // Its connection is open, and the reports of the connecting have come in.
        tokio::time::sleep(SETTLE).await;
        self.operator.status().await?;
        let begun = Instant::now();
        let revoked = self.operator.revoke(&request).await?;
        let log_index = revoked.log_index.ok_or_else(|| anyhow::anyhow!("nothing was revoked"))?;
        loop {
            let reach = self.operator.revocation_reach(log_index).await?;
            let counted = begun.elapsed();
            if reach.reached >= reach.live || counted > PATIENCE {
                return Ok((begun, reach, counted));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// A byte now and then, as long as it goes.
async fn write(mut stream: Stream) {
    let mut interval = tokio::time::interval(WRITE_EVERY);
    while stream.write_all(b"x").await.is_ok() {
        interval.tick().await;
    }
}

fn settings(verifiers: usize) -> Settings {
    let paths = (0..verifiers.div_ceil(INSTANCES)).map(service).chain([PEER.to_owned()]);
    let rows: Vec<String> = paths.map(|path| format!(r#"{{"id": "{path}"}}"#)).collect();
    let workloads = format!(r#"{{"workloads": [{}]}}"#, rows.join(",\n"));
    Settings { workloads, ..Settings::default() }
}

fn service(number: usize) -> String {
    format!("/prod/verifier-{number}")
}

fn quantiles(mut of: Vec<Duration>) -> String {
    of.sort_unstable();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| millis(quantile(&of, share)));
    format!("p50 {p50:.0} p99 {p99:.0} max {max:.0} ms")
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const PEER: &str = "/prod/batch";
/// Instances of one service.
const INSTANCES: usize = 4;
/// Verifiers that start at once.
const STARTING: usize = 16;
const WRITE_EVERY: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);
