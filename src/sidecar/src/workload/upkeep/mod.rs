//! What a running workload does beside its own work: it renews, hears the feed, follows the trust
//! state, and reports. Each of these fails alone, waits and tries again; none ends the workload.

#[cfg(test)]
mod alone;
mod clocks;
#[cfg(test)]
mod cut_off;
mod feed;
#[cfg(test)]
mod hearing;
#[cfg(test)]
mod holding;
#[cfg(test)]
mod outage;
mod own;
mod releasing;
mod report;
#[cfg(test)]
mod silence;
mod trust;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use api::{ClosedConnections, RenewalWindow};
use identity::feed::FeedState;
use identity::{SerialNumber, VerifiedSvid};
use metrics::{counter, gauge};
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use tlog::Hash;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::clocks::ClockFault;
use crate::authority::client::AuthorityClient;
use crate::clock::date;
use crate::error::Error;
use crate::handshake::credentials::Credentials;
use crate::pace::renewal::Schedule;
use crate::pace::retry::chance;
use crate::revocations::hold_back::HoldBack;
use crate::revocations::keeper::Keeper;
use crate::revocations::kept::Loaded;
use crate::svid::{Svid, SvidSource};
use crate::verification::Verification;
use crate::workload::cut_off::{CutOff, CutOffRule};
use crate::workload::status::Status;

/// What the tasks of a workload share.
pub(crate) struct Upkeep {
    url: String,
    verification: Arc<Verification>,
    credentials: Arc<Credentials>,
    source: Arc<dyn SvidSource>,
    state: Mutex<State>,
    /// What is held back of revocations, where that is wanted.
    hold_back: Arc<HoldBack>,
    /// Keeps what is heard, where that is wanted.
    keeper: OnceLock<Arc<Mutex<Keeper>>>,
    /// There is another SVID: connections to the CA begin anew.
    renewed: Notify,
    /// There is something to report at once.
    news: Notify,
    /// There is another trust state than the one held.
    trust_is_old: Notify,
    heard: watch::Sender<bool>,
    changes: watch::Sender<Status>,
}

/// What is held, and what came of the newest attempts.
struct State {
    svid: Svid,
    identity: VerifiedSvid,
    /// The next one, issued already, that our verifier does not take yet.
    candidate: Option<Svid>,
    /// The CA refused this certificate of ours.
    refused: Option<(SerialNumber, CutOffRule)>,
    /// What was told of that, and of what the feed and the clock have against it.
    cut_off: Option<CutOff>,
    replaces: Option<SerialNumber>,
    schedule: Schedule,
    renewal_error: Option<String>,
    feed_error: Option<String>,
    /// The trust state held: its sequence, and SHA-256 of its signed note.
    trust: (u64, Hash),
    trust_error: Option<String>,
    clock_fault: Option<ClockFault>,
    /// Where the feed is to be heard on from, before it is.
    feed: Option<FeedState>,
    feed_sequence: u64,
    checkpoint_size: Option<u64>,
    keeping_error: Option<String>,
    closed: VecDeque<ClosedConnections>,
}

impl Upkeep {
    pub(crate) fn new(
        url: String,
        verification: Arc<Verification>,
        credentials: Arc<Credentials>,
        source: Arc<dyn SvidSource>,
        svid: Svid,
        identity: VerifiedSvid,
        trust_note: &[u8],
    ) -> Arc<Self> {
        let now = date(verification.now());
        let state = State {
            schedule: Schedule::new(svid.renewal, svid.not_after, now, chance()),
            svid,
            identity,
            candidate: None,
            refused: None,
            cut_off: None,
            replaces: None,
            renewal_error: None,
            feed_error: None,
            trust: (verification.trust().state().sequence, Hash::of(trust_note)),
            trust_error: None,
            clock_fault: None,
            feed: None,
            feed_sequence: 0,
            checkpoint_size: None,
            keeping_error: None,
            closed: VecDeque::new(),
        };
        let changes = watch::Sender::new(state.status(&verification));
        Arc::new(Self {
            url,
            verification,
            credentials,
            source,
            state: Mutex::new(state),
            hold_back: Arc::default(),
            keeper: OnceLock::new(),
            renewed: Notify::new(),
            news: Notify::new(),
            trust_is_old: Notify::new(),
            heard: watch::Sender::new(false),
            changes,
        })
    }

    /// Keeps what is heard, and goes on from what was kept. To be said before the start.
    pub(crate) fn go_on_from(&self, keeper: Keeper, kept: Option<Loaded>) {
        let mut state = self.state();
        state.keeping_error = keeper.error();
        if let Some(Loaded { feed, revocations, .. }) = kept {
            self.verification.update_revocations(|held| *held = revocations);
            if let Some(at) = feed.newest_at() {
                let at = UnixTime::since_unix_epoch(Duration::from_millis(at));
                self.verification.confirm_revocations(at);
            }
            if let Some(checkpoint) = feed.checkpoint() {
                self.verification.keep_checkpoint(checkpoint);
            }
            state.feed_sequence = feed.position().sequence;
            state.checkpoint_size = feed.checkpoint_size();
            state.feed = Some(feed);
        }
        drop(state);
        if self.keeper.set(Arc::new(Mutex::new(keeper))).is_err() {
            tracing::error!("what is heard of revocations is kept once");
        }
        self.publish();
    }

    /// What was revoked before we came is not let in: the first news is awaited, for a while. Says
    /// what follows where it does not come.
    pub(crate) async fn await_news(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.heard()).await.is_ok() {
            return;
        }
        let Status { feed_age, without_revocations_until, cut_off, .. } = self.status();
        let is_told = cut_off.is_some_and(|cut_off| cut_off.rule.is_by_everybody());
        match (feed_age, without_revocations_until) {
            // That it is cut off was told, and nothing else is the matter.
            (Some(_), _) if is_told => {}
            (Some(age), _) => tracing::warn!(
                seconds = age,
                "no word of revocations yet: those that were kept count, as old as they are"
            ),
            (None, Some(until)) => tracing::error!(
                %until,
                "nothing is known of revocations, and peers are let in nevertheless: \
                 start_without_revocations says so"
            ),
            (None, None) => tracing::error!(
                "nothing is known of revocations: peers are refused until the feed is heard"
            ),
        }
    }

    fn note_keeping(&self, error: Option<String>) {
        let changed = {
            let mut state = self.state();
            let changed = state.keeping_error != error;
            state.keeping_error = error;
            changed
        };
        if changed {
            self.publish();
        }
    }

    /// Starts the tasks; they end when the set is dropped.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_renewing().await });
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_hearing().await });
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_trusting().await });
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_reporting().await });
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_measuring().await });
        let upkeep = Arc::clone(self);
        tasks.spawn(async move { upkeep.keep_forgetting().await });
        if self.hold_back.is_chosen() {
            let upkeep = Arc::clone(self);
            tasks.spawn(async move { upkeep.keep_releasing().await });
        }
        tasks
    }

    pub(crate) fn status(&self) -> Status {
        let held_back = self.hold_back.told();
        let mut state = self.state();
        let turn = self.look_at_own(&mut state);
        let status = Status { held_back, ..state.status(&self.verification) };
        drop(state);
        turn.into_iter().for_each(|turn| self.tell(turn));
        status
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Status> {
        self.changes.subscribe()
    }

    /// Returns once the feed was heard for the first time.
    pub(crate) async fn heard(&self) {
        // The sender lives as long as this does.
        let _ = self.heard.subscribe().wait_for(|heard| *heard).await;
    }

    async fn keep_renewing(&self) {
        loop {
            let next = self.state().schedule.next();
            let left = Duration::try_from(next - self.now()).unwrap_or_default();
            if !left.is_zero() {
                // In slices: clocks are set, machines sleep, and the CA may bring it forward.
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => counter!(RENEWALS, "result" => "done").increment(1),
                Err(error) => {
                    counter!(RENEWALS, "result" => "failed").increment(1);
                    let now = self.now();
                    let mut state = self.state();
                    state.schedule.failed(now, chance());
                    state.renewal_error = Some(error.to_string());
                    tracing::warn!(%error, next = %state.schedule.next(), "cannot renew");
                }
            }
            self.publish();
        }
    }

    /// Gets the next SVID, and shows it once it has passed the verifier that peers use.
    async fn renew(&self) -> Result<(), Error> {
        let (held, candidate) = {
            let mut state = self.state();
            (state.svid.copy(), state.candidate.take())
        };
        let now = self.now();
        let svid = match candidate.filter(|candidate| candidate.not_after > now) {
            Some(candidate) => candidate,
            None => self.source.next(Some(&held)).await?,
        };
        self.follow_trust(svid.trust_sequence).await;
        let identity = match svid.verify(&self.verification) {
            Ok(identity) => identity,
            Err(error) => {
                // It is issued, and the CA takes no third request in its place: it may pass later.
                self.state().candidate = Some(svid);
                return Err(error);
            }
        };
        self.require_same_identity(&identity)?;
        self.credentials.replace(svid.chain.clone(), svid.key.clone_key())?;
        let mut state = self.state();
        state.schedule = Schedule::new(svid.renewal, svid.not_after, now, chance());
        state.replaces = Some(*state.identity.serial_number());
        (state.svid, state.identity, state.renewal_error) = (svid, identity, None);
        drop(state);
        self.renewed.notify_one();
        Ok(())
    }

    fn require_same_identity(&self, renewed: &VerifiedSvid) -> Result<(), Error> {
        let (expected, found) = (self.state().identity.spiffe_id().clone(), renewed.spiffe_id());
        if expected == *found {
            return Ok(());
        }
        Err(Error::OtherIdentity { expected, found: found.clone() })
    }

    /// The CA may bring the renewal of a certificate forward, never put it off. Each window is drawn
    /// from once: a fleet that drew again and again would come together at its beginning.
    fn hasten(&self, of: &SerialNumber, window: RenewalWindow) {
        let mut state = self.state();
        if state.identity.serial_number() == of && state.svid.renewal != window {
            state.svid.renewal = window;
            state.schedule.hasten(window, chance());
        }
    }

    /// Says how long the workload can go on without the CA, and how long nothing was heard.
    async fn keep_measuring(&self) {
        let (mut was_stale, mut went_without) = (false, false);
        // A start that waited for the CA has heard nothing for long, and is about to.
        let _ = tokio::time::timeout(MEASURE_EVERY, self.heard()).await;
        loop {
            let status = self.publish();
            let silence = self.verification.silence();
            gauge!(WITHOUT_AUTHORITY).set(status.seconds_without_authority as f64);
            gauge!(FEED_AGE).set(silence.as_secs() as f64);
            gauge!(FEED_STALE).set(f64::from(u8::from(status.stale)));
            let knows_none = status.feed_age.is_none();
            gauge!(WITHOUT_REVOCATIONS).set(f64::from(u8::from(knows_none)));
            self.hold_back.measure();
            own::measure(status.cut_off.as_ref());
            if went_without && knows_none && status.without_revocations_until.is_none() {
                tracing::error!("nothing is known of revocations still: peers are refused");
            }
            went_without = status.without_revocations_until.is_some();
            match (was_stale, status.stale) {
                (false, true) => {
                    let refuses = !self.verification.is_fresh();
                    let why = status.why_unheard();
                    tracing::error!(
                        ?silence,
                        refuses,
                        why,
                        "revocations are older than max_staleness"
                    );
                }
                (true, false) => tracing::info!("revocations are those of now again"),
                _ => {}
            }
            was_stale = status.stale;
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    /// Forgets the revoked certificates that ended a day ago.
    async fn keep_forgetting(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            let verification = Arc::clone(&self.verification);
            let forget = tokio::task::spawn_blocking(move || verification.forget_expired());
            if let Ok(forgotten @ 1..) = forget.await {
                tracing::debug!(forgotten, "forgot revocations of certificates that have ended");
            }
        }
    }

    fn publish(&self) -> Status {
        let status = self.status();
        self.changes.send_if_modified(|known| {
            let changed = !known.is_like(&status);
            *known = status.clone();
            changed
        });
        status
    }

    /// A connection to the CA of its own, under the SVID and the trust held now.
    fn authority(&self) -> Result<AuthorityClient, Error> {
        let verification = Arc::clone(&self.verification);
        AuthorityClient::verified_by(&self.url, verification, Some(Arc::clone(&self.credentials)))
    }

    fn now(&self) -> OffsetDateTime {
        date(self.verification.now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn status(&self, verification: &Verification) -> Status {
        let now = date(verification.now());
        let left = (self.svid.not_after - now).whole_seconds();
        let left = u64::try_from(left).unwrap_or(0);
        let without_authority =
            verification.goes_on_for().map_or(left, |rest| rest.as_secs().min(left));
        let stale = verification.is_stale(self.unheard_for(now));
        let is_refused = self.cut_off.as_ref().is_some_and(|it| it.rule.is_by_everybody());
        Status {
            spiffe_id: self.identity.spiffe_id().clone(),
            serial_number: *self.identity.serial_number(),
            not_after: self.svid.not_after,
            next_renewal: self.schedule.next(),
            seconds_without_authority: without_authority,
            trust_sequence: verification.trust().state().sequence,
            feed_sequence: self.feed_sequence,
            feed_age: verification.revocations_age().map(|age| age.as_secs()),
            stale,
            without_revocations_until: verification
                .goes_on_without()
                .filter(|left| !left.is_zero())
                .map(|left| now + left),
            held_back: None,
            connections: verification.connections(),
            ready: left > 0 && verification.is_fresh() && !is_refused,
            cut_off: self.cut_off.clone(),
            renewal_error: self.renewal_error.clone(),
            feed_error: self.feed_error.clone(),
            keeping_error: self.keeping_error.clone(),
            trust_error: self.trust_error.clone(),
            clock_error: self.clock_fault.as_ref().map(ToString::to_string),
        }
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").field("url", &self.url).finish_non_exhaustive()
    }
}

const RENEWALS: &str = "countersign_renewals_total";
const WITHOUT_AUTHORITY: &str = "countersign_seconds_without_authority";
const FEED_AGE: &str = "countersign_feed_age_seconds";
const FEED_STALE: &str = "countersign_feed_stale";
const WITHOUT_REVOCATIONS: &str = "countersign_without_revocations";
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const MEASURE_EVERY: Duration = Duration::from_secs(5);
const FORGET_EVERY: Duration = Duration::from_secs(600);
