//! The attacker's own process: what it knows, what it counts, and when it ends.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use system_tests::{Client, Door, TRUST_DOMAIN, certificate_request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use crate::catalogue::Attack;

/// Whom the attacker's certificate names.
pub(crate) const IDENTITY: &str = "/prod/monolith";
/// The folder of that certificate.
pub(crate) const FOLDER: &str = "attacker";
/// Said once all that it wants to hold is held, or refused.
pub(crate) const STANDING: &str = "standing";

/// What came of an attack.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Achieved {
    /// Connections that were made, however they ended.
    pub(crate) connected: usize,
    /// Connections that were not, in time.
    pub(crate) refused: usize,
    /// Those that ended against the attacker's will.
    pub(crate) ended: usize,
    /// Requests, frames or bodies sent.
    pub(crate) sent: usize,
    /// Answers by their class: 2xx to 5xx, 429 apart.
    pub(crate) answers: [usize; 5],
}

/// What every attack has.
#[derive(Clone)]
pub(crate) struct Attacker {
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) long: bool,
    folder: PathBuf,
    bundle: Arc<[u8]>,
    handshakes: Arc<Semaphore>,
    pub(crate) tally: Arc<Tally>,
}

/// [`Achieved`], while it grows.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connected: AtomicUsize,
    refused: AtomicUsize,
    ended: AtomicUsize,
    sent: AtomicUsize,
    answers: [AtomicUsize; 5],
}

impl Tally {
    pub(crate) fn sent(&self, count: usize) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, status: u16) {
        let class = match status {
            429 => 4,
            _ => usize::from(status / 100).clamp(2, 5) - 2,
        };
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    fn achieved(&self) -> Achieved {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Achieved {
            connected: of(&self.connected),
            refused: of(&self.refused),
            ended: of(&self.ended),
            sent: of(&self.sent),
            answers: self.answers.each_ref().map(of),
        }
    }
}

/// Attacks until stdin ends, and says on stdout what came of it.
pub(crate) fn attack(attack: &Attack, attacker: Attacker) -> anyhow::Result<()> {
    let (over, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever it is, nobody is there any more.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = over.send(());
    });
    let tally = Arc::clone(&attacker.tally);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = (attack.run)(attacker) => outcome,
            _ = ended => Ok(()),
        }
    });
    println!("{}", serde_json::to_string(&tally.achieved())?);
    runtime.shutdown_background();
    outcome
}

impl Attacker {
    pub(crate) fn new(
        api: SocketAddr,
        admin: SocketAddr,
        folder: PathBuf,
        long: bool,
    ) -> anyhow::Result<Self> {
        let bundle = std::fs::read(context_of(&folder).join("bundle.pem"))?.into();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        Ok(Self { api, admin, long, folder, bundle, handshakes, tally: Arc::default() })
    }

    /// This many, or that many with `--long`.
    pub(crate) fn count(&self, short: usize, long: usize) -> usize {
        if self.long { long } else { short }
    }

    /// Shows no certificate.
    pub(crate) fn stranger(&self) -> anyhow::Result<Door> {
        Door::of_stranger(self.api, &self.bundle)
    }

    /// Shows the attacker's certificate.
    pub(crate) fn known(&self) -> anyhow::Result<Door> {
        Door::showing(&self.folder.join(FOLDER), self.api, &self.bundle)
    }

    /// Makes certificates of the attacker's identity, as an operator who starts replicas of it.
    pub(crate) async fn replicas(&self, count: usize) -> anyhow::Result<Vec<Door>> {
        let operator = Door::showing(&context_of(&self.folder), self.api, &self.bundle)?;
        let mut client = Client::connect(&operator).await?;
        let mut doors = Vec::with_capacity(count);
        for _ in 0..count {
            doors.push(self.certified(&mut client).await?.1);
        }
        Ok(doors)
    }

    /// Gets another certificate through a client: its serial number, and the door that shows it.
    pub(crate) async fn certified(&self, client: &mut Client) -> anyhow::Result<(String, Door)> {
        let key = KeyPair::generate()?;
        let id = format!("spiffe://{TRUST_DOMAIN}{IDENTITY}");
        let request = certificate_request(&id, &key, &self.api.to_string())?;
        let status = client.exchange(&request).await?;
        self.tally.sent(1);
        self.tally.answered(status);
        anyhow::ensure!(status == 201, "{status}: {}", client.body());
        let issued: serde_json::Value = serde_json::from_str(&client.body())?;
        let text = |name: &str| issued[name].as_str().context("an issued certificate has it");
        let chain = text("chain")?.as_bytes();
        let pem = key.serialize_pem();
        let door = Door::with_certificate(chain, pem.as_bytes(), self.api, &self.bundle)?;
        Ok((text("serial_number")?.to_owned(), door))
    }

    /// The first certificate's serial number.
    pub(crate) fn serial_number(&self) -> anyhow::Result<String> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let path = self.folder.join(FOLDER).join("svid.pem");
        let certificate = CertificateDer::from_pem_file(path)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)?;
        Ok(parsed.raw_serial().iter().map(|octet| format!("{octet:02x}")).collect())
    }

    /// Does the same with many connections at once, and again with those that end. At most sixteen
    /// are in a handshake; sources take turns. The attack stands when each was tried once.
    pub(crate) async fn with_many<Open, Opening, IO, Behave, Behaving>(
        &self,
        count: usize,
        again_after: Duration,
        open: Open,
        behave: Behave,
    ) -> anyhow::Result<()>
    where
        Open: Fn(usize) -> Opening + Clone + Send + 'static,
        Opening: Future<Output = std::io::Result<IO>> + Send,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Behave: Fn(Arc<Tally>, IO) -> Behaving + Clone + Send + 'static,
        Behaving: Future<Output = std::io::Result<()>> + Send,
    {
        let tried = Arc::new(AtomicUsize::new(0));
        for number in 0..count {
            let (attacker, tried) = (self.clone(), Arc::clone(&tried));
            let (open, behave) = (open.clone(), behave.clone());
            tokio::spawn(async move {
                let mut is_first = true;
                loop {
                    let opened = attacker.opened(open(number)).await;
                    if std::mem::take(&mut is_first)
                        && tried.fetch_add(1, Ordering::Relaxed) + 1 == count
                    {
                        println!("{STANDING}");
                    }
                    if let Some(stream) = opened {
                        // An error is an end, too.
                        let _ = behave(Arc::clone(&attacker.tally), stream).await;
                        attacker.tally.ended.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(again_after).await;
                }
            });
        }
        std::future::pending().await
    }

    async fn opened<IO>(&self, opening: impl Future<Output = std::io::Result<IO>>) -> Option<IO> {
        let _turn = self.handshakes.acquire().await.ok()?;
        let opened = tokio::time::timeout(PATIENCE, opening).await;
        let opened = opened.ok().and_then(Result::ok);
        let count = if opened.is_some() { &self.tally.connected } else { &self.tally.refused };
        count.fetch_add(1, Ordering::Relaxed);
        opened
    }
}

/// Where the operator's certificate and the roots are.
fn context_of(folder: &std::path::Path) -> PathBuf {
    folder.join(format!(".config/countersign/{TRUST_DOMAIN}"))
}

/// One of this many addresses of loopback, none of them the operator's.
pub(crate) fn source(number: usize, of: usize) -> IpAddr {
    let last = u8::try_from(number % of.clamp(1, 250)).unwrap_or_default();
    Ipv4Addr::new(127, 0, 1, last + 1).into()
}

/// At once: more would measure how much the attacker's own processor takes.
const HANDSHAKES: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
