//! Starting the service, and ending it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use authority::Authority;
use authority::signer::SignerError;
use countersign::{Drained, Limits, Places, Standing, Verification};
use hyper_util::service::TowerToHyperService;
use identity::Trust;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tower::util::MapResponse;

use crate::admin::{self, Admin};
use crate::bodies::Bodies;
use crate::capacity::{Capacity, STOPPED_WITHIN};
use crate::config::Config;
use crate::ending;
use crate::error::ServerError;
use crate::exposition::Exposition;
use crate::measures;
use crate::openapi;
use crate::own_certificate::OwnCertificate;
use crate::policy_sets::PolicySets;
use crate::rate::RateLimit;
use crate::readiness::{AsTyped, Readiness};
use crate::routes::{CrlText, Service, Shared, router, without_length_where_unmodified};

/// A running service.
#[derive(Debug)]
pub struct Running {
    /// Where TLS is served.
    pub address: SocketAddr,
    /// Where the admin port is served.
    pub admin_address: SocketAddr,
    authority: Arc<Authority>,
    stop: watch::Sender<bool>,
    api: JoinHandle<std::io::Result<Drained>>,
    background: Vec<JoinHandle<()>>,
}

/// Starts the service: its own certificate first, then both ports, then the background work. What
/// it tells of commands is put by `as_typed`.
pub async fn start(
    authority: Arc<Authority>,
    config: &Config,
    as_typed: AsTyped,
) -> Result<Running, ServerError> {
    let capacity = Capacity::raise();
    capacity.require_enough()?;
    let metrics = measures::install();
    let (listener, address) = listen("listen", config.listen)?;
    let (admin_listener, admin_address) = listen("admin_listen", config.admin_listen)?;
    authority.limit_budgets((&config.budgets).into());
    let own = Arc::new(OwnCertificate::issue(Arc::clone(&authority), config).await?);
    let verification = Verification::new(Trust::clone(&authority.view.trust()));
    follow_revocations(&authority, &verification);
    let tls = countersign::server_config(own.credentials(), Arc::clone(&verification), None)?;
    let (held, forgetting) = (Arc::clone(&verification), Arc::clone(&verification));
    let rate = Arc::new(RateLimit::new(config.requests_per_second));
    let (stop, stopped) = watch::channel(false);

    capacity.measure();
    let places = places(&authority, capacity.api.clone());
    let (open_files, connections) = (capacity.open_files, capacity.api.connections);
    let (own_too, told) = (Arc::clone(&own), Arc::default());
    let places_too = places.clone();
    let readiness = Readiness { own: own_too, places: places_too, open_files, told, as_typed };
    let watched = readiness.clone().watch(Arc::clone(&authority));
    let service = Service::of(Shared {
        authority: Arc::clone(&authority),
        readiness: readiness.clone(),
        rate: Arc::clone(&rate),
        crl_text: CrlText::default(),
        policy_sets: PolicySets::default(),
        bodies: Bodies::default(),
        description: openapi::document(authority.view.trust_domain()).to_string().into(),
        stopped: stopped.clone(),
    });
    let service = MapResponse::new(router(service), without_length_where_unmodified);
    let service = TowerToHyperService::new(service);
    let api = tokio::spawn(countersign::serve(
        listener,
        tls,
        verification,
        service,
        places,
        until(stopped.clone()),
    ));
    let looking = measures::look(Arc::clone(&authority), readiness.clone());
    let admin = admin::router(Admin {
        api: config.url(address.port()),
        readiness,
        metrics: Exposition::of(metrics.clone()),
    });
    let admin = TowerToHyperService::new(admin);
    let admin_port =
        countersign::serve_plaintext(admin_listener, admin, capacity.admin, until(stopped));
    let background = vec![
        tokio::spawn(async move {
            if let Err(error) = admin_port.await {
                tracing::error!(%error, "the admin port has ended");
            }
        }),
        tokio::spawn(async move { own.keep_fresh().await }),
        tokio::spawn(sign_checkpoints(Arc::clone(&authority))),
        tokio::spawn(account(Arc::clone(&authority))),
        tokio::spawn(watch_head(Arc::clone(&authority), held)),
        tokio::spawn(watch_keys(Arc::clone(&authority))),
        tokio::spawn(look_for_lost_rows(Arc::clone(&authority))),
        tokio::spawn(forget_expired(Arc::clone(&authority), forgetting)),
        tokio::spawn(beat(Arc::clone(&authority))),
        tokio::spawn(tidy(rate, metrics)),
        tokio::spawn(watched),
        tokio::spawn(summarise_refusals(Arc::clone(&authority))),
        tokio::spawn(looking),
        tokio::spawn(ending::warn(Arc::clone(&authority))),
    ];
    tracing::info!(%address, %admin_address, open_files, connections, "serving");
    Ok(Running { address, admin_address, authority, stop, api, background })
}

impl Running {
    /// Takes no new requests, finishes those in flight and what was begun for others that are gone, and
    /// signs a last checkpoint: a second before [`STOPPED_WITHIN`] at the latest.
    pub async fn stop(self) -> Drained {
        self.stop_within(STOPPED_WITHIN - LEFT_TO_THE_PROCESS).await
    }

    /// The same in this time, whatever hangs: each step has what those before have left, up to its share.
    pub async fn stop_within(self, limit: Duration) -> Drained {
        let Self { authority, stop, api, background, .. } = self;
        let begun = Instant::now();
        let until = |share: u32| begun + limit * share / SHARES;
        stop.send_replace(true);
        let drained = drained(api, until(REQUESTS)).await;
        background.iter().for_each(JoinHandle::abort);
        let ended = futures_util::future::join_all(background);
        if timeout_at(until(REQUESTS), ended).await.is_err() {
            tracing::warn!("what goes on beside requests has not ended in time");
        }
        let left = until(COMPLETIONS).saturating_duration_since(Instant::now());
        let left = authority.writer.finish_completions(left).await;
        if left > 0 {
            tracing::warn!(
                left,
                "what was begun has not ended in time: certificates of it may be logged and never signed"
            );
        }
        let told = timeout_at(until(SHOWN), authority.issuing.tell_shown()).await;
        warn_of(told, "which certificates were shown is not told");
        let signed = timeout_at(until(SHARES), authority.writer.sign_checkpoint()).await;
        warn_of(signed, "no last checkpoint");
        drained
    }

    /// The engine behind the service.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Returns if the listener ends by itself, which it should not.
    pub async fn ended(&mut self) {
        drop((&mut self.api).await);
    }
}

/// Waits until the listener has let its connections go; cuts what is left then.
async fn drained(mut api: JoinHandle<std::io::Result<Drained>>, until: Instant) -> Drained {
    match timeout_at(until, &mut api).await {
        Ok(Ok(Ok(drained))) => return drained,
        Ok(Ok(Err(error))) => tracing::error!(%error, "the listener had ended before"),
        Ok(Err(_)) => {}
        Err(_) => {
            api.abort();
            tracing::warn!("connections are cut uncounted: they have not ended in time");
        }
    }
    Drained::default()
}

fn warn_of<T>(done: Result<Result<T, authority::Error>, Elapsed>, what: &str) {
    match done {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{what}"),
        Err(_) => tracing::warn!("{what}: it took too long"),
    }
}

/// The API's places: lines of renewals share them, and operators have the last.
fn places(authority: &Arc<Authority>, limits: Limits) -> Places {
    let authority = Arc::clone(authority);
    Places::with_standing(
        limits,
        Box::new(move |peer| {
            let authority = Arc::clone(&authority);
            Box::pin(async move {
                // A handshake is enough: who asks for nothing holds the key, too.
                authority.view.note_shown(peer.svid());
                let asked = tokio::time::timeout(PATIENCE, authority.view.line(peer.svid())).await;
                let line = asked.unwrap_or_else(|_| *peer.serial_number());
                // Whatever the store does: an operator is one.
                Standing { line, is_reserved: peer.spiffe_id().is_reserved() }
            })
        }),
    )
}

/// The verifier hears of each revocation before the call that made it returns.
fn follow_revocations(authority: &Authority, verification: &Arc<Verification>) {
    let held = Arc::clone(verification);
    authority.view.listen(
        |until_now| verification.update_revocations(|held| held.clone_from(until_now)),
        Box::new(move |items| {
            held.update_revocations(|held| items.iter().for_each(|item| item.apply(held)));
        }),
    );
}

/// Connections inherit the size of the send buffer. Left alone, the kernel grows it to megabytes for
/// whoever asks and does not read, and fills it with answers that were made for nobody.
/// With the address that it has: the configuration may leave the port to the system.
fn listen(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServerError> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bound().map_err(|source| ServerError::Listen { address, key, source })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

async fn sign_checkpoints(authority: Arc<Authority>) {
    loop {
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        match authority.writer.sign_checkpoint().await {
            Ok(size) => {
                metrics::gauge!("countersign_checkpoint_size").set(size as f64);
                let now = authority.view.clock().now().unix_timestamp();
                metrics::gauge!("countersign_checkpoint_timestamp_seconds").set(now as f64);
            }
            Err(error) => complain(&error, "cannot sign a checkpoint"),
        }
    }
}

/// Catches up with what was committed by others, or by callers that went away; clients are verified
/// by the newest trust state.
async fn watch_head(authority: Arc<Authority>, verification: Arc<Verification>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        if let Err(error) = authority.view.refresh().await {
            complain(&error, "cannot follow the log's head");
        }
        let trust = authority.view.trust();
        if trust.state().sequence > verification.trust().state().sequence {
            verification.replace_trust(Trust::clone(&trust));
        }
    }
}

/// Brings the keys into force that a rotation made active. Beside `watch_head`: no revocation waits
/// for a key to open.
async fn watch_keys(authority: Arc<Authority>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        // It has told why it failed.
        drop(authority.view.follow_keys().await);
        metrics::gauge!("countersign_keys_absent").set(authority.view.absent_keys() as f64);
    }
}

/// Each certificate's rows are looked for at the start, then some at a time.
async fn look_for_lost_rows(authority: Arc<Authority>) {
    let mut is_first_round = true;
    loop {
        let more = authority.operations.look_for_lost_rows().await;
        if let Err(error) = &more {
            complain(error, "cannot look for the rows of certificates");
        }
        is_first_round &= !matches!(more, Ok(false));
        if !is_first_round || more.is_err() {
            tokio::time::sleep(LOOK_FOR_ROWS_EVERY).await;
        }
    }
}

/// What ended a day ago needs no revocation: not in the engine, nor in the verifier of clients.
async fn forget_expired(authority: Arc<Authority>, verification: Arc<Verification>) {
    loop {
        match authority.view.forget_expired().await {
            Ok(now) if verification.with_revocations(|held| held.has_expired(now)) => {
                verification.update_revocations_aside(|held| {
                    held.forget_expired(now);
                });
            }
            Ok(_) => {}
            Err(error) => complain(&error, "cannot forget revocations that have expired"),
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}

/// Lets subscribers of the feed know that they have heard of everything.
async fn beat(authority: Arc<Authority>) {
    let mut beats = tokio::time::interval(BEAT_EVERY);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        match authority.feed.heartbeat().await {
            Ok(()) => {
                let now = authority.view.clock().now().unix_timestamp();
                metrics::gauge!("countersign_feed_heartbeat_timestamp_seconds").set(now as f64);
            }
            Err(error) => complain(&error, "no heartbeat of the feed"),
        }
    }
}

/// Why the CA has halted, or which key it was started without, was told when it happened, and
/// `/readyz` goes on telling it.
fn complain(error: &authority::Error, what: &str) {
    use authority::Error::{Halted, Signer};
    if !matches!(error, Halted(_) | Signer(SignerError::Absent { .. })) {
        tracing::error!(%error, "{what}");
    }
}

async fn account(authority: Arc<Authority>) {
    loop {
        match authority.issuing.account().await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(ACCOUNT_EVERY).await,
            Err(error) => {
                tracing::error!(%error, "cannot account for issued certificates");
                tokio::time::sleep(ACCOUNT_EVERY).await;
            }
        }
    }
}

async fn summarise_refusals(authority: Arc<Authority>) {
    loop {
        tokio::time::sleep(SUMMARISE_EVERY).await;
        if let Err(error) = authority.issuing.summarise_refusals().await {
            tracing::warn!(%error, "cannot log how many strangers were refused");
        }
    }
}

/// Forgets sources that have gone quiet, and lets histograms give back their samples.
async fn tidy(rate: Arc<RateLimit>, metrics: Option<PrometheusHandle>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        rate.forget();
        if let Some(metrics) = &metrics {
            metrics.run_upkeep();
        }
    }
}

/// What lies below all that can be waited for, such as to close the database.
const LEFT_TO_THE_PROCESS: Duration = Duration::from_secs(1);
/// Of so many shares of the stop's time, seconds at most, the steps have theirs one after the other.
/// Requests are cut after [`Limits::drain`], 20 s.
const SHARES: u32 = 24;
const REQUESTS: u32 = 21;
const COMPLETIONS: u32 = 22;
const SHOWN: u32 = 23;
/// Less than a newcomer's standing is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// A checkpoint is at most this much behind the log.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const BEAT_EVERY: Duration = Duration::from_secs(2);
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// A thousand certificates a time.
const LOOK_FOR_ROWS_EVERY: Duration = Duration::from_secs(5);
const ACCOUNT_EVERY: Duration = Duration::from_secs(5);
const SUMMARISE_EVERY: Duration = Duration::from_secs(60);
const TIDY_EVERY: Duration = Duration::from_secs(5);
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// In bytes; the kernel counts its own bookkeeping with them and doubles it. Ten megabytes a second
/// over fifty milliseconds.
const SEND_BUFFER: u32 = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
