//! Whoever is there for what the CA is for: operators that issue, strangers that ask for the trust
//! state and for their first certificate, at a fixed pace.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::Secret;
use countersign::Workload;
use rcgen::KeyPair;
use system_tests::{Client, Door, Environment, Requests, Target, post, token_request};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

/// An operator with a connection, one that connects for each certificate, and a stranger.
pub(crate) struct Honest {
    operator: Door,
    stranger: Door,
    requests: Requests,
    /// Whom first certificates name.
    identity: String,
    /// The serial number of the newest certificate: it can be revoked.
    newest: Mutex<String>,
    /// A verifier that follows the feed and reports, so that `revoke --wait` has somebody to wait
    /// for; on threads of its own.
    _verifier: Option<(Workload, Runtime)>,
}

/// How long answers took from the moment that they were due, and how many did not come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    answered: Vec<Duration>,
    pub(crate) failed: usize,
}

/// What became of all that was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// Certificates by one connection.
    pub(crate) kept: Latencies,
    /// Certificates by a connection each.
    pub(crate) fresh: Latencies,
    /// First certificates, by a stranger's connection each with an operator's token.
    pub(crate) first: Latencies,
    /// The trust state by a stranger's connection each.
    pub(crate) trust: Latencies,
}

impl Latencies {
    /// The time that this share stayed within; none where that many did not answer.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted = self.answered.clone();
        sorted.sort_unstable();
        let all = sorted.len() + self.failed;
        let place = (all as f64 * share) as usize;
        sorted.get(place.min(all.saturating_sub(1))).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.answered.len() + self.failed
    }

    fn add(&mut self, is_answered: bool, took: Duration) {
        if is_answered {
            self.answered.push(took);
        } else {
            self.failed += 1;
        }
    }
}

impl Honest {
    pub(crate) fn at(environment: &Environment, strangers_from: IpAddr) -> anyhow::Result<Self> {
        let operator = Target::of(environment)?.door;
        let bundle = ".config/countersign/pay.example/bundle.pem";
        let bundle = std::fs::read(environment.path(bundle))?;
        let stranger = Door::of_stranger(environment.address(), &bundle)?.from(strangers_from);
        let requests = Requests::make(REQUESTS, environment)?;
        let verifier = verifier(environment)
            .inspect_err(|error| eprintln!("no verifier of this library's: {error:#}"));
        let (identity, newest) = (environment.id(FIRST), Mutex::default());
        Ok(Self { operator, stranger, requests, identity, newest, _verifier: verifier.ok() })
    }

    /// The serial number of the newest certificate.
    pub(crate) fn newest(&self) -> String {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Issues and then revokes so many certificates, as fast as it goes.
    pub(crate) fn revoke(&self, count: usize) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let issues = (0..count).map(|_| self.requests.next().to_vec()).collect();
            let issued = self.exchange_all(issues).await?;
            let revocations = issued.iter().map(|issued| {
                let body = serde_json::json!({
                    "target": serial_number(issued), "reason": "superseded"
                });
                post("/v1/revocations", &body.to_string(), &self.operator.host())
            });
            self.exchange_all(revocations.collect()).await.map(drop)
        })
    }

    /// The answers to requests that all make something, by sixteen connections.
    async fn exchange_all(&self, requests: Vec<Vec<u8>>) -> anyhow::Result<Vec<String>> {
        let (mut tasks, mut answers) = (JoinSet::new(), Vec::with_capacity(requests.len()));
        for part in requests.chunks(requests.len().div_ceil(FILLERS).max(1)) {
            let (operator, part) = (self.operator.clone(), part.to_vec());
            tasks.spawn(async move {
                let (mut client, mut answers) = (Client::connect(&operator).await?, Vec::new());
                for request in part {
                    let status = client.exchange(&request).await?;
                    anyhow::ensure!(status == 201, "{status}: {}", client.body());
                    answers.push(client.body());
                }
                anyhow::Ok(answers)
            });
        }
        while let Some(done) = tasks.join_next().await {
            answers.extend(done??);
        }
        Ok(answers)
    }

    /// Asks until it is over; what is not answered then has a second left.
    pub(crate) fn ask(&self, over: &AtomicBool) -> anyhow::Result<Answers> {
        runtime()?.block_on(async {
            let (kept, first, fresh, trust) = tokio::join!(
                self.by_one_connection(over),
                self.first_certificates(over),
                by_new_connections(FRESH_EVERY, over, || {
                    (self.operator.clone(), self.requests.next().to_vec())
                }),
                by_new_connections(TRUST_EVERY, over, || {
                    (self.stranger.clone(), TRUST.to_vec())
                }),
            );
            Ok(Answers { kept, fresh, first, trust })
        })
    }

    /// One request at a time: those that became due meanwhile follow, and count from when they did.
    async fn by_one_connection(&self, over: &AtomicBool) -> Latencies {
        let (mut latencies, mut client) = (Latencies::default(), None);
        let mut due = interval(KEPT_EVERY);
        while !over.load(Ordering::Relaxed) {
            let due = due.tick().await;
            let asked = async {
                let open = match &mut client {
                    Some(client) => client,
                    none => none.insert(Client::connect(&self.operator).await?),
                };
                open.exchange(self.requests.next()).await
            };
            let status = timeout(PATIENCE, asked).await;
            let is_issued = matches!(status, Ok(Ok(201)));
            latencies.add(is_issued, due.elapsed());
            if !is_issued {
                client = None;
            }
            if let Some(client) = &client {
                *self.newest.lock().unwrap_or_else(PoisonError::into_inner) =
                    serial_number(&client.body());
            }
        }
        latencies
    }
}

impl Honest {
    /// One at a time: an operator makes a token, and a stranger comes with it.
    async fn first_certificates(&self, over: &AtomicBool) -> Latencies {
        let mut latencies = Latencies::default();
        let mut due = interval(FIRST_EVERY);
        while !over.load(Ordering::Relaxed) {
            let due = due.tick().await;
            let issued = timeout(PATIENCE, self.first_certificate()).await;
            latencies.add(matches!(issued, Ok(Ok(201))), due.elapsed());
        }
        latencies
    }

    async fn first_certificate(&self) -> anyhow::Result<u16> {
        let host = self.operator.host();
        let asked = serde_json::json!({ "spiffe_id": self.identity }).to_string();
        let mut operator = Client::connect(&self.operator).await?;
        let status = operator.exchange(&post("/v1/tokens", &asked, &host)).await?;
        anyhow::ensure!(status == 201, "{status}: {}", operator.body());
        let made: serde_json::Value = serde_json::from_str(&operator.body())?;
        let token = made["token"].as_str().unwrap_or_default();
        let request = token_request(token, &self.identity, &KeyPair::generate()?, &host)?;
        Ok(Client::connect(&self.stranger).await?.exchange(&request).await?)
    }
}

/// Each as it becomes due, whether the one before was answered or not.
async fn by_new_connections(
    every: Duration,
    over: &AtomicBool,
    next: impl Fn() -> (Door, Vec<u8>),
) -> Latencies {
    let (mut latencies, mut asked) = (Latencies::default(), JoinSet::new());
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !over.load(Ordering::Relaxed) {
        let due = due.tick().await;
        let (door, request) = next();
        asked.spawn(async move {
            let exchange = async { Client::connect(&door).await?.exchange(&request).await };
            let status = timeout(PATIENCE, exchange).await;
            (matches!(status, Ok(Ok(200 | 201))), due.elapsed())
        });
        while let Some(Ok((is_answered, took))) = asked.try_join_next() {
            latencies.add(is_answered, took);
        }
    }
    let last = Instant::now() + LAST;
    while let Ok(Some(Ok((is_answered, took)))) = timeout_at(last, asked.join_next()).await {
        latencies.add(is_answered, took);
    }
    latencies.failed += asked.len();
    latencies
}

fn verifier(environment: &Environment) -> anyhow::Result<(Workload, Runtime)> {
    let (url, pin) = (environment.url(), environment.pin());
    let token = Secret::new(environment.token("/prod/batch"));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let workload = Workload::builder().url(&url).trust_pin(&pin).token(token);
    let started = runtime.block_on(async { timeout(PATIENCE, workload.start()).await });
    Ok((started??, runtime))
}

/// Of an answer that is a certificate.
fn serial_number(body: &str) -> String {
    let issued: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    issued["serial_number"].as_str().unwrap_or_default().to_owned()
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

const TRUST: &[u8] = b"GET /v1/trust HTTP/1.1\r\nhost: ca\r\n\r\n";
const REQUESTS: usize = 500;
const FILLERS: usize = 16;
const FIRST: &str = "/prod/reports";
const FIRST_EVERY: Duration = Duration::from_millis(250);
const KEPT_EVERY: Duration = Duration::from_millis(20);
const FRESH_EVERY: Duration = Duration::from_millis(50);
const TRUST_EVERY: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(1);
