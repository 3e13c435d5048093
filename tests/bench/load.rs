//! Clients that each send the next request as soon as they have the answer to the last.

use std::time::{Duration, Instant};

use system_tests::{Client, Memory, Process, Requests, Target};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::floor::Floor;

/// What came of a load.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) clients: usize,
    pub(crate) issued: usize,
    pub(crate) failures: usize,
    pub(crate) took: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) server_cpu: Duration,
    pub(crate) client_cpu: Duration,
    pub(crate) memory: Memory,
}

impl Run {
    /// Certificates a second.
    pub(crate) fn rate(&self) -> f64 {
        self.issued as f64 / self.took.as_secs_f64()
    }

    /// The server's CPU time for each certificate.
    pub(crate) fn server_cpu_each(&self) -> Duration {
        self.server_cpu.div_f64(self.issued.max(1) as f64)
    }

    /// The clients' CPU time for each certificate.
    pub(crate) fn client_cpu_each(&self) -> Duration {
        self.client_cpu.div_f64(self.issued.max(1) as f64)
    }
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After so long.
    Elapsed(Duration),
    /// After so many certificates.
    Issued(usize),
}

/// Runs every load in turn, several rounds of them; the floor is measured again between rounds.
pub(crate) fn measure(
    target: &Target,
    requests: &Requests,
    clients: &[usize],
    rounds: usize,
    length: Duration,
    floor: &mut Floor,
) -> anyhow::Result<Vec<Vec<Run>>> {
    let mut runs = vec![Vec::new(); clients.len()];
    for _ in 0..rounds {
        for (runs, clients) in runs.iter_mut().zip(clients) {
            runs.push(run(target, requests, *clients, Until::Elapsed(length))?);
        }
        floor.measure();
    }
    Ok(runs)
}

/// A first second that does not count.
pub(crate) fn warm_up(target: &Target, requests: &Requests) -> anyhow::Result<()> {
    run(target, requests, 16, Until::Elapsed(Duration::from_secs(1))).map(drop)
}

/// Runs one load; all clients share this thread.
pub(crate) fn run(
    target: &Target,
    requests: &Requests,
    clients: usize,
    until: Until,
) -> anyhow::Result<Run> {
    runtime()?.block_on(async {
        let connected = connect(target, clients).await?;
        let own = Process::own();
        let before = (target.process.cpu(), own.cpu());
        let begun = Instant::now();
        let latencies = drive(connected, requests, until).await;
        let took = begun.elapsed();
        let (server_cpu, client_cpu) = (target.process.cpu() - before.0, own.cpu() - before.1);
        let memory = target.process.memory();
        let Latencies { mut issued, failures } = latencies;
        issued.sort_unstable();
        let quantile = |share: f64| {
            let place = (issued.len() as f64 * share) as usize;
            issued.get(place.min(issued.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        let issued = issued.len();
        Ok(Run { clients, issued, failures, took, p50, p99, server_cpu, client_cpu, memory })
    })
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn connect(target: &Target, clients: usize) -> std::io::Result<Vec<Client>> {
    let mut connected = Vec::with_capacity(clients);
    for _ in 0..clients {
        connected.push(Client::connect(&target.door).await?);
    }
    Ok(connected)
}

/// How long each answer took, and how many were not certificates.
#[derive(Debug, Default)]
struct Latencies {
    issued: Vec<Duration>,
    failures: usize,
}

async fn drive(clients: Vec<Client>, requests: &Requests, until: Until) -> Latencies {
    let share = match until {
        Until::Issued(issues) => issues.div_ceil(clients.len()),
        Until::Elapsed(_) => usize::MAX,
    };
    let deadline = match until {
        Until::Issued(_) => None,
        Until::Elapsed(length) => Some(Instant::now() + length),
    };
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(ask(client, requests.clone(), share, deadline));
    }
    let mut all = Latencies::default();
    while let Some(Ok(latencies)) = tasks.join_next().await {
        all.issued.extend(latencies.issued);
        all.failures += latencies.failures;
    }
    all
}

/// One client: a request at a time, until its share is done or its time is over.
async fn ask(
    mut client: Client,
    requests: Requests,
    share: usize,
    deadline: Option<Instant>,
) -> Latencies {
    let mut latencies = Latencies::default();
    while latencies.issued.len() < share && deadline.is_none_or(|end| Instant::now() < end) {
        let begun = Instant::now();
        match client.exchange(requests.next()).await {
            Ok(201) => latencies.issued.push(begun.elapsed()),
            Ok(status) => {
                eprintln!("{status}: {}", client.body());
                latencies.failures += 1;
            }
            Err(error) => {
                eprintln!("a connection broke: {error}");
                latencies.failures += 1;
                break;
            }
        }
    }
    latencies
}
