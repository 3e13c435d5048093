//! `key`, `issuer` and `rotate`: how one key of the CA takes another's place.
//!
//! They run on the CA's host: what the root and trust keys sign is signed here, and a new key is put
//! where `serve` finds it. Everything else is asked of the running CA.

use std::time::Duration;

use api::{KeyPurpose, KeyRecord, KeyStep, LifeLeft, LifeWarning, NextStep};
use authority::Keys;
use authority::clock::SystemClock;
use authority::rotation::ceremony::{Ceremonies, Taken, needs_offline};
use authority::rotation::due::{Due, Later, all_due, next_due};
use clap::{Args, Subcommand};
use countersign::svid_folder::Lock;
use serde_json::json;
use server::Config;
use time::OffsetDateTime;

use crate::ca_context;
use crate::ca_host::ConfigFile;
use crate::clock;
use crate::context::{self, OpenContext};
use crate::error::Error;
use crate::exit::Exit;
use crate::report;
use crate::session::Session;
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
    let session = &ca_context::session_of(&arguments.config.config, &config, session).await?;
    let every = config.keys.rotate_every.0;
    if arguments.dry_run {
        let open = context::open(session).await?;
        let keys = open.client.keys().await?.items;
        let due: Vec<Due> = all_due(&keys, every, clock::now());
        if due.is_empty() {
            nothing_due(&keys, every, session)?;
        } else {
            session.output.list(&due, |due| due.iter().map(proposed).collect::<String>())?;
        }
        waiting(&keys, session);
        return ending(&open, session).await;
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
        let mut due = due.into_iter().filter(|due| !due.by_hand && !failed.contains(&due.key));
        let Some(Due { key, step, .. }) = due.next() else {
            if is_first {
                nothing_due(&keys, every, session)?;
            }
            waiting(&keys, session);
            ending(&open, session).await?;
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
    let session = &ca_context::session_of(&config.config, &loaded, session).await?;
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

/// A step in a line. Roots alone are left to a person.
fn proposed(Due { key, step, by_hand }: &Due) -> String {
    let by_hand = if *by_hand { ", by hand: countersign key prepare root" } else { "" };
    format!("{step} {key}{by_hand}\n")
}

/// Says which issuer and root end, as `status` does. Half a life is a note; less is a warning, also
/// where cron hides notes.
async fn ending(open: &OpenContext, session: &Session) -> anyhow::Result<Exit> {
    let warnings = open.client.status().await.map_err(Error::from)?.warnings;
    for warning in &warnings {
        let (ends, next) = life_warning(warning, clock::now());
        let text = format!("{ends}\nnext: {next}");
        match warning.left {
            LifeLeft::Half => session.output.note(text),
            LifeLeft::Quarter | LifeLeft::Twelfth => session.output.warn(text),
        }
    }
    Ok(Exit::Done)
}

/// What ends, when, and how much of its life is left; and what to type next.
pub(crate) fn life_warning(warning: &LifeWarning, now: OffsetDateTime) -> (String, String) {
    let LifeWarning { key, not_after, left, next_step, .. } = warning;
    let ends = if *not_after < now { "ended" } else { "ends" };
    let distance = table::distance(*not_after, now);
    let text = format!("the {key} {ends} {distance}: {left} of its life is left, or less");
    (text, format!("on the CA's host: {next_step}"))
}

/// Says so, and when something will be. As JSON it is one object, which is no step: a script can tell
/// it from an answer that got lost.
fn nothing_due(keys: &[KeyRecord], every: Duration, session: &Session) -> Result<(), Error> {
    let now = clock::now();
    let next = next_due(keys, every, now);
    let later = next.as_ref().map(|Later { key, step, at }| {
        let at = at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        json!({ "key": key, "step": step, "at": at })
    });
    session.output.show(&json!({ "nothing_due": true, "next": later }), |_| match &next {
        None => "nothing is due, and nothing will be by itself".to_owned(),
        Some(Later { key, step, at }) => format!(
            "nothing is due; next: {step} {key} {} ({})",
            table::distance(*at, now),
            table::time(*at)
        ),
    })
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
                let opened = Keys::open(&config.state, &passphrase);
                none.insert(opened.map_err(|error| file.blame(config, error.into()))?)
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

fn open_offline(file: &ConfigFile, config: &Config) -> anyhow::Result<Keys> {
    let passphrase = file.offline_passphrase_at_hand(config)?;
    let opened = Keys::open_offline(&config.state, &passphrase);
    opened.map_err(|error| file.blame(config, error.into()))
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
