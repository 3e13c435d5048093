//! A workload: its identity, what it believes of others, and the work that keeps both fresh.

mod beginning;
pub(crate) mod cut_off;
pub(crate) mod status;
mod upkeep;

use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Secret, Ttl};
use identity::{SpiffeId, Trust, TrustPin};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::ToSocketAddrs;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authority::bootstrap::follow_steps;
#[cfg(feature = "http")]
use crate::connect::client::HttpClient;
use crate::connections::stream::Stream;
use crate::endpoint::Endpoint;
use crate::error::{ConfigurationFault, Error};
use crate::handshake::credentials::Credentials;
use crate::listen::listener::Listener;
use crate::pace::retry::Retry;
use crate::peers::Peers;
use crate::revocations::hold_back::{Choice, HOLD_BACK_ABOVE, HOLD_BACK_FOR};
use crate::revocations::keeper::Keeper;
use crate::svid::SvidSource;
use crate::svid::authority_source::{AuthoritySource, Evidence, Names};
use crate::verification::Verification;
use crate::verification::staleness::Staleness;
use crate::workload::beginning::Beginning;
use crate::workload::status::Status;
use crate::workload::upkeep::Upkeep;

/// A running workload. It holds a valid SVID from the start, renews it, follows the trust state and
/// the revocations of its CA, and reports back, until it is stopped or dropped.
///
/// The CA may be down: everything goes on until the certificate's end, and
/// [`Status::seconds_without_authority`] says how long that is.
#[derive(Debug)]
pub struct Workload {
    endpoint: Endpoint,
    upkeep: Arc<Upkeep>,
    tasks: JoinSet<()>,
}

/// What a workload is started with; see the functions for what may be left out.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    url: Option<String>,
    trust_pin: Option<String>,
    spiffe_id: Option<String>,
    names: Names,
    evidence: Option<Evidence>,
    source: Option<Arc<dyn SvidSource>>,
    staleness: Staleness,
    without_revocations: Duration,
    hold_back_above: Option<f64>,
    hold_back_for: Option<Duration>,
    session_max_age: Duration,
    give_up_after: Option<Duration>,
    clock: Option<Clock>,
}

#[derive(Debug, Clone)]
struct Clock(Arc<dyn TimeProvider>);

impl Workload {
    /// Takes what is needed from the environment: `COUNTERSIGN_URL`, `COUNTERSIGN_TRUST_PIN`,
    /// `COUNTERSIGN_TOKEN_FILE`, and `COUNTERSIGN_SPIFFE_ID` where the evidence names no one
    /// identity; `COUNTERSIGN_START_WITHOUT_REVOCATIONS` (`10m`) is
    /// [`Builder::start_without_revocations`], `COUNTERSIGN_HOLD_BACK_ABOVE` (`0.5`) is
    /// [`Builder::hold_back_above`], `COUNTERSIGN_HOLD_BACK_FOR` (`10m`) is
    /// [`Builder::hold_back_for`]. Fails if one of the first two is not there.
    pub fn from_env() -> Result<Builder, Error> {
        let mut builder = Self::builder().url(required(URL)?).trust_pin(required(TRUST_PIN)?);
        if let Some(id) = variable(SPIFFE_ID) {
            builder = builder.spiffe_id(id);
        }
        if let Some(path) = variable(TOKEN_FILE) {
            builder = builder.token_file(path);
        }
        if let Some(limit) = variable(WITHOUT_REVOCATIONS) {
            builder = builder.start_without_revocations(duration(WITHOUT_REVOCATIONS, limit)?);
        }
        if let Some(given) = variable(HOLD_BACK_ABOVE) {
            builder = builder.hold_back_above(share(HOLD_BACK_ABOVE, given)?);
        }
        if let Some(limit) = variable(HOLD_BACK_FOR) {
            builder = builder.hold_back_for(duration(HOLD_BACK_FOR, limit)?);
        }
        Ok(builder)
    }

    /// Begins with nothing.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Listens for these peers, and nobody else.
    pub async fn listen(
        &self,
        address: impl ToSocketAddrs + Debug,
        peers: Peers,
    ) -> Result<Listener, Error> {
        self.endpoint.listen(address, peers).await
    }

    /// Connects to `HOST:PORT`, whoever of these peers is there.
    pub async fn connect(&self, address: &str, peers: Peers) -> Result<Stream, Error> {
        self.endpoint.connect(address, peers).await
    }

    /// A client of HTTPS servers among these peers; its connections are closed when one is revoked.
    #[cfg(feature = "http")]
    pub fn http_client(&self, peers: Peers) -> HttpClient {
        self.endpoint.http_client(peers)
    }

    /// For software that takes a rustls configuration and keeps connections itself, such as
    /// reqwest: new handshakes are verified, open connections outlive a revocation.
    pub fn unregistered_client_config(&self, peers: Peers) -> Result<ClientConfig, Error> {
        self.endpoint.unregistered_client_config(peers)
    }

    /// The same for servers.
    pub fn unregistered_server_config(&self, peers: Peers) -> Result<ServerConfig, Error> {
        self.endpoint.unregistered_server_config(peers)
    }

    /// Both ends of TLS under this identity.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How it is doing now.
    pub fn status(&self) -> Status {
        self.upkeep.status()
    }

    /// Whether it can serve: its certificate is valid, and its revocations are not too old to go by.
    pub fn ready(&self) -> bool {
        self.status().ready
    }

    /// Tells of each change: a new certificate, trust state, revocation, or an error that came or
    /// went.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.upkeep.changes()
    }

    /// Applies the revocations that are [held back](Builder::hold_back_above): closes the connections
    /// that they concern before it returns, and says of how many peers that is.
    pub fn release_revocations(&self) -> usize {
        self.upkeep.release_revocations()
    }

    /// Ends listeners and upkeep. Connections that are open go on until they are dropped, but for those
    /// whose revocation was [held back](Builder::hold_back_above): nobody would release it later.
    pub async fn stop(mut self) {
        self.endpoint.stop();
        self.tasks.shutdown().await;
        self.upkeep.end_keeping().await;
        self.upkeep.release_revocations();
    }
}

impl Builder {
    /// The CA, `https://HOST:PORT`.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The trust pin that the CA's operator names: `countersign trust pin`.
    #[must_use]
    pub fn trust_pin(mut self, pin: impl Into<String>) -> Self {
        self.trust_pin = Some(pin.into());
        self
    }

    /// Who to be, where the evidence names more than one identity, or none.
    #[must_use]
    pub fn spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.spiffe_id = Some(id.into());
        self
    }

    /// A DNS name in its certificate, beside others. Our own verifiers look at the SPIFFE ID alone;
    /// curl, Python and most others want the name in the URL. The CA refuses names that the
    /// workload's row does not have.
    #[must_use]
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.names.dns.push(name.into());
        self
    }

    /// An IP address in its certificate, beside others: for clients that call it by address. See
    /// [`dns`](Self::dns).
    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.names.ip.push(address);
        self
    }

    /// Proves who it is by a one-time bootstrap token in a file. It is read whenever it is needed:
    /// whoever replaces the file lets a workload attest again.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.evidence = Some(Evidence::TokenFile(path.into()));
        self
    }

    /// Proves who it is by a one-time bootstrap token.
    #[must_use]
    pub fn token(mut self, token: Secret) -> Self {
        self.evidence = Some(Evidence::Token(token));
        self
    }

    /// Takes SVIDs from elsewhere than the CA: from files that another process renews, say.
    #[must_use]
    pub fn svid_source(mut self, source: Arc<dyn SvidSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// What to do without news of revocations: go on and say so (as if it is left out), or refuse.
    #[must_use]
    pub fn staleness(mut self, staleness: Staleness) -> Self {
        self.staleness = staleness;
        self
    }

    /// Lets peers in for so long from the start although nothing is known of revocations, where the
    /// feed is not heard and nothing was kept: whoever is revoked gets in, too. It is said until when
    /// ([`Status::without_revocations_until`]). If left out, everybody is refused until the first
    /// news, and the workload is not ready.
    #[must_use]
    pub fn start_without_revocations(mut self, limit: Duration) -> Self {
        self.without_revocations = limit;
        self
    }

    /// Holds back what revokes more than this share of the peers connected now at one stroke, from 0
    /// to below 1: by one message, or by several within ten seconds. Off if left out, and revocations
    /// are applied at once whatever they take.
    ///
    /// Peers are counted by identity, those of which no connection would be left; fewer than three are
    /// never too many. They go on and get in, whatever the message says of them, a revoked issuer
    /// included; everything else that it says is applied. That is told as an error in the log, by
    /// [`Status::held_back`], a metric, and to the CA, whose operators see that we wait. It ends with
    /// [`Workload::release_revocations`], after [`hold_back_for`](Self::hold_back_for), and with the
    /// process. What is revoked by itself, ten seconds later, is applied to them, too.
    #[must_use]
    pub fn hold_back_above(mut self, share: f64) -> Self {
        self.hold_back_above = Some(share);
        self
    }

    /// How long revocations are held back: 10 min if left out, 24 h at most. See
    /// [`hold_back_above`](Self::hold_back_above), without which it says nothing.
    #[must_use]
    pub fn hold_back_for(mut self, limit: Duration) -> Self {
        self.hold_back_for = Some(limit);
        self
    }

    /// Lets TLS sessions resume for so long: see [`Endpoint::allow_resumption`]. Off if left out.
    #[must_use]
    pub fn allow_resumption(mut self, max_age: Duration) -> Self {
        self.session_max_age = max_age;
        self
    }

    /// How long [`start`](Self::start) waits for a CA that does not answer: 5 min if left out.
    #[must_use]
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.give_up_after = Some(limit);
        self
    }

    /// The clock that certificates are compared with; the system's if left out.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn TimeProvider>) -> Self {
        self.clock = Some(Clock(clock));
        self
    }

    /// Attests, and returns with a valid SVID and the revocations of now.
    ///
    /// The CA's trust state is fetched and verified against the pin; a connection is made under it,
    /// the CA's own SVID is verified, and only then is evidence sent. While the CA does not answer
    /// this waits and says why; what it refuses fails at once. A feed that is not heard is waited for
    /// a moment: the workload is not ready then, and refuses everybody, until it is.
    ///
    /// Where the SVID comes from files, what was kept beside them does in place of a CA that is away,
    /// unless that is of more than eight days ago.
    pub async fn start(self) -> Result<Workload, Error> {
        let url = self.url.ok_or_else(|| missing(URL))?;
        let pin: TrustPin = self.trust_pin.ok_or_else(|| missing(TRUST_PIN))?.parse()?;
        let spiffe_id = self.spiffe_id.map(|id| SpiffeId::parse(&id)).transpose()?;
        let hold_back = self
            .hold_back_above
            .map(|above| Choice::new(above, self.hold_back_for.unwrap_or(HOLD_BACK_FOR_AT_FIRST)));
        let hold_back = hold_back.transpose().map_err(Error::Configuration)?;
        let clock = self.clock.map_or_else(|| Arc::new(DefaultTimeProvider) as _, |clock| clock.0);
        let give_up_after = self.give_up_after.unwrap_or(GIVE_UP_AFTER);
        let mut retry = Retry::until(give_up_after);
        let folder = self.source.as_ref().and_then(|source| source.folder()).map(Path::to_owned);
        let Beginning { mut trust, kept, unused } =
            Beginning::find(&url, &pin, folder.clone(), &*clock, &mut retry).await?;
        let verification = Verification::with_clock(Trust::new(trust.state.clone())?, clock);
        verification.set_staleness(self.staleness);
        verification.refuse_before_news(self.without_revocations);
        let source = match self.source {
            Some(source) => source,
            None => {
                let evidence = self.evidence.ok_or_else(|| missing(TOKEN_FILE))?;
                let (asked, names) = (spiffe_id.clone(), self.names);
                Arc::new(AuthoritySource::new(&url, &verification, evidence, asked, names))
            }
        };
        let svid = retry.run("a certificate", || source.next(None)).await?;
        if svid.trust_sequence > trust.state.sequence {
            // Keys were replaced while we asked: it may be signed by one that we do not know yet.
            let next = || follow_steps(&url, &trust.state);
            let steps = retry.run("the newest trust state", next).await?;
            trust.take(steps);
            verification.replace_trust(Trust::new(trust.state.clone())?);
        }
        // The same one, should our clock be behind the CA's: another would burn the evidence.
        let verify = || std::future::ready(svid.verify(&verification));
        let identity = retry.run("its certificate to become valid", verify).await?;
        if let Some(expected) = spiffe_id.filter(|expected| expected != identity.spiffe_id()) {
            return Err(Error::OtherIdentity { expected, found: identity.spiffe_id().clone() });
        }
        let credentials = Credentials::new(svid.chain.clone(), svid.key.clone_key())?;
        let endpoint = Endpoint::new(Arc::clone(&credentials), Arc::clone(&verification));
        let endpoint = endpoint.allow_resumption(self.session_max_age);
        let note = trust.note();
        let upkeep = Upkeep::new(url, verification, credentials, source, svid, identity, note);
        if let Some(choice) = hold_back {
            upkeep.hold_back(choice);
        }
        if let Some(folder) = folder {
            let keeper = Keeper::new(folder, trust.notes, kept.as_ref(), unused.as_ref());
            upkeep.go_on_from(keeper, kept);
        }
        let tasks = upkeep.start();
        // Where the CA has just not answered, what was kept is not waited for.
        let longest = if trust.is_of_now { FIRST_SNAPSHOT } else { Duration::ZERO };
        upkeep.await_news(longest.min(give_up_after)).await;
        Ok(Workload { endpoint, upkeep, tasks })
    }
}

fn required(name: &'static str) -> Result<String, Error> {
    variable(name).ok_or_else(|| missing(name))
}

fn missing(name: &'static str) -> Error {
    Error::Configuration(ConfigurationFault::Missing { variable: name })
}

fn duration(variable: &'static str, given: String) -> Result<Duration, Error> {
    let parsed: Result<Ttl, String> = given.parse();
    let malformed = |why| ConfigurationFault::Malformed { variable, given, why };
    parsed.map(|ttl| ttl.0).map_err(|why| Error::Configuration(malformed(why)))
}

fn share(variable: &'static str, given: String) -> Result<f64, Error> {
    given.parse().map_err(|_| {
        let why = "write a share of the peers, such as 0.5".to_owned();
        Error::Configuration(ConfigurationFault::Malformed { variable, given, why })
    })
}

fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

const URL: &str = "COUNTERSIGN_URL";
const TRUST_PIN: &str = "COUNTERSIGN_TRUST_PIN";
const SPIFFE_ID: &str = "COUNTERSIGN_SPIFFE_ID";
const TOKEN_FILE: &str = "COUNTERSIGN_TOKEN_FILE";
const WITHOUT_REVOCATIONS: &str = "COUNTERSIGN_START_WITHOUT_REVOCATIONS";
const HOLD_BACK_FOR_AT_FIRST: Duration = Duration::from_secs(10 * 60);
const GIVE_UP_AFTER: Duration = Duration::from_secs(5 * 60);
const FIRST_SNAPSHOT: Duration = Duration::from_secs(10);
