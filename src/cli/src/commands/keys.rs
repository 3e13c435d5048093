//! `key`, `issuer` and `rotate`: how one key of the CA takes another's place.
//!
//! They run on the CA's host: what the root and trust keys sign is signed here, and a new key is put
//! where `serve` finds it. Everything else is asked of the running CA.

use std::time::Duration;

use api::{KeyPurpose, KeyRecord, KeyState, KeyStep, NextStep};
use authority::Keys;
use authority::clock::SystemClock;
use authority::rotation::ceremony::{Ceremonies, ISSUER_ENDS_SOON, Taken, needs_offline};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use server::Config;
use time::OffsetDateTime;

use super::Session;
use crate::ca_host::ConfigFile;
use crate::clock;
use crate::context::{self, OpenContext};
use crate::error::Error;
use crate::exit::Exit;
use crate::files::Lock;
use crate::report;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys, and what the next step of each waits for
    List,
    /// Make a new key and make it known
    Prepare(Step),
    /// Let the prepared key sign
    Activate(Step),
    /// Let the key before it count no more, and remove it
    Retire(Step),
}

#[derive(Debug, Subcommand)]
pub(crate) enum IssuerCommand {
    /// List the issuers, and what the next step of each waits for
    List,
    /// Make a new issuer, certified by the root
    Prepare(ConfigFile),
    /// Let the prepared issuer sign
    Activate(ConfigFile),
    /// Let the issuer before it count no more, and remove its key
    Retire(ConfigFile),
}

#[derive(Debug, Args)]
pub(crate) struct Step {
    /// Which key: root, issuer, countersignature, log, feed or trust
    #[arg(value_name = "KEY")]
    purpose: KeyPurpose,
    #[command(flatten)]
    config: ConfigFile,
}

/// Every step that is due.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigFile,
}

pub(crate) async fn run(command: KeyCommand, session: &Session) -> anyhow::Result<Exit> {
    let (step, Step { purpose, config }) = match command {
        KeyCommand::List => return list(None, session).await,
        KeyCommand::Prepare(step) => (KeyStep::Prepare, step),
        KeyCommand::Activate(step) => (KeyStep::Activate, step),
        KeyCommand::Retire(step) => (KeyStep::Retire, step),
    };
    one(purpose, step, &config, session).await
}

pub(crate) async fn run_issuer(command: IssuerCommand, session: &Session) -> anyhow::Result<Exit> {
    let (step, config) = match command {
        IssuerCommand::List => return list(Some(KeyPurpose::Issuer), session).await,
        IssuerCommand::Prepare(config) => (KeyStep::Prepare, config),
        IssuerCommand::Activate(config) => (KeyStep::Activate, config),
        IssuerCommand::Retire(config) => (KeyStep::Retire, config),
    };
    one(KeyPurpose::Issuer, step, &config, session).await
}

/// Takes every step that is due, until none is. Two at once take turns.
pub(crate) async fn rotate(arguments: Rotate, session: &Session) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    let every = config.keys.rotate_every.0;
    if arguments.dry_run {
        let keys = context::open(session).await?.client.keys().await?.items;
        let due: Vec<Due> = all_due(&keys, every, clock::now());
        if due.is_empty() {
            nothing_due(&keys, every, session)?;
        } else {
            session.output.list(&due, |due| {
                due.iter().map(|due| format!("{} {}\n", due.step, due.key)).collect::<String>()
            })?;
        }
        waiting(&keys, session);
        return Ok(Exit::Done);
    }
    let _turn = Lock::of(&config.state)?;
    let mut host = Host { file: &arguments.config, config, online: None, offline: None };
    let mut failed: Vec<KeyPurpose> = Vec::new();
    let mut is_first = true;
    // Each key goes three steps at most, and none goes round.
    for _ in 0..3 * KeyPurpose::ALL.len() {
        let open = context::open(session).await?;
        let keys = open.client.keys().await?.items;
        let due = all_due(&keys, every, clock::now());
        let Some(Due { key, step }) = due.into_iter().find(|due| !failed.contains(&due.key)) else {
            if is_first {
                nothing_due(&keys, every, session)?;
            }
            waiting(&keys, session);
            break;
        };
        is_first = false;
        match host.take(key, step, &open, &keys).await {
            Ok(taken) => show(key, step, &taken, session)?,
            // The others have their turn nevertheless.
            Err(error) => {
                report::error(&error.context(format!("{step} {key} failed")));
                failed.push(key);
            }
        }
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Failed })
}

async fn one(
    purpose: KeyPurpose,
    step: KeyStep,
    config: &ConfigFile,
    session: &Session,
) -> anyhow::Result<Exit> {
    let loaded = config.load()?;
    let _turn = Lock::of(&loaded.state)?;
    let open = context::open(session).await?;
    let keys = open.client.keys().await?.items;
    let mut host = Host { file: config, config: loaded, online: None, offline: None };
    let taken = host.take(purpose, step, &open, &keys).await?;
    show(purpose, step, &taken, session)?;
    if taken.trust.is_some() {
        // The context follows at once: `trust pin` and `trust show` ask nobody.
        context::open(session).await?;
    }
    Ok(Exit::Done)
}

async fn list(purpose: Option<KeyPurpose>, session: &Session) -> anyhow::Result<Exit> {
    let keys = context::open(session).await?.client.keys().await?.items;
    let keys: Vec<KeyRecord> =
        keys.into_iter().filter(|key| purpose.is_none_or(|only| key.purpose == only)).collect();
    session.output.list(&keys, |keys| to_table(keys, clock::now()))?;
    Ok(Exit::Done)
}

/// A step that may be taken now.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Due {
    key: KeyPurpose,
    step: KeyStep,
}

/// What may be done now: rotations that have begun go on, and others begin when their key is old.
fn all_due(keys: &[KeyRecord], every: Duration, now: OffsetDateTime) -> Vec<Due> {
    let due = |purpose| {
        let of_it = || keys.iter().filter(|key| key.purpose == purpose);
        let step = match of_it().find_map(|key| key.next.as_ref()) {
            Some(next) => next.is_due().then_some(next.step),
            None => {
                let active = of_it().find(|key| key.state == KeyState::Active);
                active.filter(|key| is_old(key, keys, every, now)).map(|_| KeyStep::Prepare)
            }
        };
        step.map(|step| Due { key: purpose, step })
    };
    KeyPurpose::ALL.into_iter().filter_map(due).collect()
}

/// What comes next by itself.
#[derive(Debug, PartialEq, Eq)]
struct Later {
    key: KeyPurpose,
    step: KeyStep,
    at: OffsetDateTime,
}

/// The first step that will be due; one that waits for certificates is due no later than it says.
fn next_due(keys: &[KeyRecord], every: Duration, now: OffsetDateTime) -> Option<Later> {
    let later = |key: KeyPurpose| {
        let of_it = || keys.iter().filter(move |record| record.purpose == key);
        if let Some(next) = of_it().find_map(|record| record.next.as_ref()) {
            return next.until.map(|at| Later { key, step: next.step, at });
        }
        let active = of_it().find(|record| record.state == KeyState::Active)?;
        let at = match key {
            KeyPurpose::Root | KeyPurpose::Trust => return None,
            KeyPurpose::Issuer => {
                let soon = active.not_after.map(|end| end - ISSUER_ENDS_SOON);
                soon.into_iter().chain([active.since + every]).min()?
            }
            _ => active.since + every,
        };
        // What is past waits for something else: an issuer for its root.
        (at > now).then_some(Later { key, step: KeyStep::Prepare, at })
    };
    KeyPurpose::ALL.into_iter().filter_map(later).min_by_key(|later| later.at)
}

/// Says so, and when something will be; the list of steps as JSON has none.
fn nothing_due(keys: &[KeyRecord], every: Duration, session: &Session) -> Result<(), Error> {
    let now = clock::now();
    let next = next_due(keys, every, now);
    session.output.list(&[] as &[Due], |_| match &next {
        None => "nothing is due, and nothing will be by itself".to_owned(),
        Some(Later { key, step, at }) => format!(
            "nothing is due; next: {step} {key} {} ({})",
            table::distance(*at, now),
            table::time(*at)
        ),
    })
}

/// Root and trust keys stand in configurations elsewhere, as pins and anchors: their rotation is
/// begun by hand. An issuer goes with its root; a parent elsewhere has to be asked.
fn is_old(key: &KeyRecord, keys: &[KeyRecord], every: Duration, now: OffsetDateTime) -> bool {
    let is_old = now - key.since >= every;
    match key.purpose {
        KeyPurpose::Root | KeyPurpose::Trust => false,
        KeyPurpose::Countersignature | KeyPurpose::Feed | KeyPurpose::Log => is_old,
        KeyPurpose::Issuer => {
            let mut roots = keys.iter().filter(|key| key.purpose == KeyPurpose::Root);
            roots.find(|root| root.state == KeyState::Active).is_some_and(|root| {
                let below_another = key.certified_by.as_ref() != Some(&root.id);
                // One that would end no later is no help.
                let ends =
                    |key: &KeyRecord| key.not_after.filter(|end| *end - now < ISSUER_ENDS_SOON);
                let ends_soon = ends(key).is_some() && ends(root).is_none();
                is_old || below_another || ends_soon
            })
        }
    }
}

/// What a step is taken with, opened when it is needed: passphrases may be asked for.
struct Host<'a> {
    file: &'a ConfigFile,
    config: Config,
    online: Option<Keys>,
    offline: Option<Keys>,
}

impl Host<'_> {
    async fn take(
        &mut self,
        purpose: KeyPurpose,
        step: KeyStep,
        open: &OpenContext,
        keys: &[KeyRecord],
    ) -> anyhow::Result<Taken> {
        let Self { file, config, online, offline } = self;
        let online = match online {
            Some(online) => online,
            none => {
                let passphrase = file.passphrase(config)?;
                none.insert(Keys::open(&config.state, &passphrase)?)
            }
        };
        if offline.is_none() && needs_offline(purpose, step) {
            *offline = Some(open_offline(file, config)?);
        }
        let ceremonies = Ceremonies {
            online,
            offline: offline.as_ref(),
            trust: open.held.state(),
            keys,
            clock: &SystemClock,
        };
        let ask = async |id: &str, step, request: &api::KeyStepRequest| {
            Ok::<_, anyhow::Error>(
                open.client.key_step(id, step, request).await.map_err(Error::from)?,
            )
        };
        ceremonies.take(purpose, step, ask).await
    }
}

/// Their folder may be kept elsewhere: then nobody is asked for a passphrase.
fn open_offline(file: &ConfigFile, config: &Config) -> anyhow::Result<Keys> {
    let folder = config.state.join(OFFLINE);
    if !folder.exists() {
        return Err(Error::NoOfflineKeys(folder).into());
    }
    let passphrase = file.offline_passphrase(config)?;
    Ok(Keys::open_offline(&config.state, &passphrase)?)
}

fn show(purpose: KeyPurpose, step: KeyStep, taken: &Taken, session: &Session) -> Result<(), Error> {
    let trust = taken.trust.as_ref();
    session.output.show(
        &json!({
            "key": purpose, "step": step, "id": taken.id, "log_index": taken.log_index,
            "trust_sequence": trust.map(|trust| trust.sequence),
        }),
        |_| {
            let trust = trust.map(|trust| format!(", trust state {}", trust.sequence));
            format!(
                "{step:<9}{purpose:<17}{:.16}  log index {}{}",
                taken.id,
                taken.log_index,
                trust.unwrap_or_default()
            )
        },
    )?;
    if let Some(trust) = trust.filter(|_| purpose == KeyPurpose::Trust) {
        session.output.note(format!(
            "the new trust pin: {}\nthe old one goes on working for those who ask this CA; give \
             new workloads the new one",
            trust.pin()
        ));
    }
    Ok(())
}

/// Says which steps wait, and for what.
fn waiting(keys: &[KeyRecord], session: &Session) {
    for key in keys {
        if let Some(next) = key.next.as_ref().filter(|next| !next.is_due()) {
            let waits = waits_for(next, clock::now());
            session.output.note(format!("{} {}: {waits}", next.step, key.purpose));
        }
    }
}

/// What a step waits for, in a line.
pub(crate) fn waits_for(next: &NextStep, now: OffsetDateTime) -> String {
    if let Some(first) = &next.first {
        return format!("waits for {first:.23}");
    }
    if next.waiting == 0 {
        return "due".to_owned();
    }
    let ends = next.until.map(|until| format!(", {} at most", table::span(until - now)));
    let first = next.certificates.first().map(|first| format!(" ({})", first.spiffe_id));
    let certificates = if next.waiting == 1 { "certificate" } else { "certificates" };
    format!(
        "waits for {} {certificates}{}{}",
        next.waiting,
        ends.unwrap_or_default(),
        first.unwrap_or_default()
    )
}

fn to_table(keys: &[KeyRecord], now: OffsetDateTime) -> String {
    let rows: Vec<[String; 5]> = keys
        .iter()
        .map(|key| {
            let next = key.next.as_ref();
            [
                key.purpose.to_string(),
                format!("{:.16}", key.id),
                format!("{:?}", key.state).to_lowercase(),
                table::distance(key.since, now),
                next.map(|next| format!("{} {}", next.step, waits_for(next, now)))
                    .unwrap_or_default(),
            ]
        })
        .collect();
    table::table(["KEY", "ID", "STATE", "SINCE", "NEXT"], &rows)
}

/// Where root and trust keys are, in the state folder.
const OFFLINE: &str = "offline";
