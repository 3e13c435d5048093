//! `trust`: the signed trust state.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign::svid_folder::{RECORD, SvidFolder, TRUST_NOTE};
use identity::{Countersignature, TrustPin, TrustState};
use serde_json::json;
use time::OffsetDateTime;
use tlog::Hash;
use zeroize::Zeroizing;

use crate::chain;
use crate::clock;
use crate::context;
use crate::destination::{Destination, Replaced};
use crate::error::Error;
use crate::exit::Exit;
use crate::other_file::OtherFile;
use crate::session::Session;
use crate::svid_folder;
use crate::svid_record::SvidRecord;
use crate::table;
use crate::trust::HeldTrust;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the context's trust state
    Show,
    /// Print the context's trust pin
    Pin,
    /// Fetch a CA's trust state and verify it by its pin
    Fetch(Fetch),
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// The CA's URL
    #[arg(value_name = "URL")]
    from: String,
    /// Names the CA's trust keys
    #[arg(long, env = "COUNTERSIGN_TRUST_PIN", hide_env_values = true)]
    pin: TrustPin,
    /// Write the signed note here instead of to stdout; trust.note beside an SVID with all that goes
    /// with it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Fetch(arguments) => fetch(&arguments, session).await?,
        Command::Pin => pin(session)?,
        Command::Show => show(session)?,
    }
    Ok(Exit::Done)
}

fn show(session: &Session) -> Result<(), Error> {
    let held = context::trust(session)?;
    let now = clock::now();
    session.output.show(held.state(), |state| to_text(state, now))
}

fn pin(session: &Session) -> Result<(), Error> {
    let pin = context::trust(session)?.state().pin().to_string();
    session.output.show(&json!({ "trust_pin": pin }), |_| pin.clone())
}

async fn fetch(arguments: &Fetch, session: &Session) -> Result<(), Error> {
    let out = arguments.out.as_deref();
    // Asked for a file that it may not write, it asks nobody.
    let place = out.map(|out| Place::prepare(out, session)).transpose()?;
    let held = HeldTrust::fetch(&arguments.from, &arguments.pin).await?;
    let state = held.state();
    session.output.note(format!(
        "trust state {} of {}, signed by the keys of the pin",
        state.sequence, state.trust_domain
    ));
    match place {
        Some(place) => {
            place.fill(&held)?;
            session.output.show(held.state(), |_| String::new())
        }
        None => session.output.bytes(&held.note),
    }
}

/// Where a signed note goes.
enum Place<'a> {
    /// Beside what countersign wrote, a file of that name is ours, whatever is in it: this is how a
    /// broken one is repaired.
    Note(SvidFolder),
    Other(Destination<'a>),
}

impl<'a> Place<'a> {
    fn prepare(out: &'a Path, session: &Session) -> Result<Self, Error> {
        if out.file_name() == Some(TRUST_NOTE.as_ref()) {
            let directory = beside(out)?;
            if directory.is_ours()? {
                directory.require_replaceable(TRUST_NOTE)?;
                return Ok(Self::Note(directory));
            }
        }
        let replaced = match session.options.yes {
            true => Replaced::Anything,
            false => Replaced::Only(OtherFile::TrustState),
        };
        Destination::prepare(out, replaced).map(Self::Other)
    }

    fn fill(self, held: &HeldTrust) -> Result<(), Error> {
        match self {
            Self::Note(directory) if install(&directory, held)? => Ok(()),
            Self::Note(directory) => Ok(directory.write(TRUST_NOTE, &held.note)?),
            Self::Other(destination) => destination.fill(&held.note),
        }
    }
}

fn beside(note: &Path) -> Result<SvidFolder, Error> {
    let parent = note.parent().filter(|parent| *parent != Path::new(""));
    Ok(SvidFolder::at(parent.unwrap_or_else(|| Path::new(".")))?)
}

/// Beside an SVID the note goes with the pin that is recorded there: since that was written, the keys
/// may be others. False where no SVID is.
fn install(directory: &SvidFolder, held: &HeldTrust) -> Result<bool, Error> {
    if svid_folder::record(directory)?.is_none() {
        return Ok(false);
    }
    let lock = directory.lock()?;
    let Some(record) = svid_folder::record(directory)? else { return Ok(false) };
    let record = SvidRecord { trust_pin: held.pin(), ..record };
    let mut contents = held.contents();
    contents.insert(RECORD, Zeroizing::new(record.to_json()));
    directory.replace(contents, &lock)?;
    Ok(true)
}

fn to_text(state: &TrustState, now: OffsetDateTime) -> String {
    let mut fields = vec![
        ("trust domain", state.trust_domain.to_string()),
        ("sequence", state.sequence.to_string()),
        ("pin", state.pin().to_string()),
        ("signed by", format!("{} of {} trust keys", state.threshold, state.trust_keys.len())),
    ];
    for anchor in &state.anchors {
        let needs = match anchor.countersignature {
            Countersignature::None => "no countersignature needed",
            Countersignature::Required => "countersignature required",
        };
        let der = anchor.certificate.as_bytes();
        fields.push(("anchor", format!("{}, {needs}", anchor_text(der, now))));
    }
    for key in &state.countersignature_keys {
        let retired = if key.not_after.is_some() { ", retired" } else { "" };
        fields.push(("log key", format!("{}{retired}", Hash::of(key.key.as_bytes()))));
    }
    fields.push(("checkpoints", state.log.key.clone()));
    table::fields(&fields)
}

fn anchor_text(der: &[u8], now: OffsetDateTime) -> String {
    match chain::read(der) {
        Ok(certificate) => {
            let not_after = certificate.validity().not_after.to_datetime();
            format!("{}, ends {}", certificate.subject(), table::distance(not_after, now))
        }
        Err(why) => why,
    }
}
