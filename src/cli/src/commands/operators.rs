//! `operator`: who administers the CA. Operators are added by operators; the key is made where the new
//! one is, and a one-time token leads from one to the other.

use std::path::PathBuf;

use api::{
    Attestation, BootstrapToken, NewToken, OperatorRecord, OperatorRequest, OperatorState, Secret,
    Ttl,
};
use authority::policy::OPERATOR_LIFE;
use clap::{Args, Subcommand};
use countersign::{AuthorityClient, Credentials, Error as LibraryError};
use identity::{SpiffeId, TrustPin};
use serde_json::json;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::deny;
use super::issue::{read_token, summary, warn_of_readers};
use super::token::TokenPlace;
use crate::chain;
use crate::clock;
use crate::context;
use crate::contexts::{self, Context, Contexts, MakeCurrent};
use crate::error::Error;
use crate::exit::Exit;
use crate::installation::Installation;
use crate::operator_place::{OperatorPlace, operator_id};
use crate::own_svid::own_svid;
use crate::passphrase;
use crate::pending::{Line, PendingRequest};
use crate::session::Session;
use crate::shell;
use crate::svid_folder;
use crate::svid_record::Wish;
use crate::table;
use crate::target::Reason;
use crate::trust::HeldTrust;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make somebody new an operator, and print the token by which they join
    Add(Add),
    /// Become the operator that another has added: the key is made here
    Join(Join),
    /// List operators: until when each can act, and who added them
    List,
    /// Deny an operator, until allowed again
    Remove(Remove),
    /// Before `add`: make the key here, so that the token is for this key alone
    Request(Request),
}

#[derive(Debug, Args)]
#[command(after_help = "\
The token goes to stdout alone, or into a file that only you may read: --out.
Whoever has it within its time becomes this operator: hand it over where nobody
else reads. With --key it is good for that key alone: the new operator makes it
by `countersign operator request NAME --trust-pin PIN`, and tells you the hash.")]
pub(crate) struct Add {
    /// The new operator's name
    name: String,
    /// Only for the key with this SHA-256, as `operator request` printed it
    #[arg(long, value_name = "SHA256", value_parser = sha256)]
    key: Option<String>,
    /// How long the token may be used: 15m, or less
    #[arg(long)]
    ttl: Option<Ttl>,
    /// Write the token here (0600), and print nothing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// They were an operator of this name before, and start anew with another key
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Makes a key (0600) and an SVID in a context of its own: see `context list`.
If the answer was lost, run the same command again.")]
pub(crate) struct Join {
    /// Your name, as the other operator gave it to `operator add`
    name: String,
    /// The token's file; - is stdin; without it, you are asked
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Asks on a terminal; without one it is done, but to yourself only with --yes.")]
pub(crate) struct Remove {
    /// The operator's name
    name: String,
    /// Why
    #[arg(long, value_enum, default_value_t = Reason::PrivilegeWithdrawn)]
    #[arg(hide_possible_values = true)]
    reason: Reason,
    /// Only say what would be revoked
    #[arg(long)]
    dry_run: bool,
    /// Wait so long for every workload to have it, and say who has not answered
    #[arg(long, value_name = "TIME")]
    wait: Option<Ttl>,
}

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Your name, as it is to be
    name: String,
    /// Names the CA's trust keys: an operator's `countersign trust pin` prints it
    #[arg(long, value_name = "PIN", env = "COUNTERSIGN_TRUST_PIN", hide_env_values = true)]
    trust_pin: TrustPin,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Add(arguments) => add(arguments, session).await?,
        Command::Join(arguments) => join(&arguments, session).await?,
        Command::List => list(session).await?,
        Command::Remove(arguments) => return remove(arguments, session).await,
        Command::Request(arguments) => request(&arguments, session).await?,
    }
    Ok(Exit::Done)
}

async fn add(arguments: Add, session: &Session) -> Result<(), Error> {
    let Add { name, key, ttl, out, again } = arguments;
    let open = context::open(session).await?;
    let asked = OperatorRequest { name, ttl, key_sha256: key, again };
    let place = TokenPlace::prepare(out.as_deref(), session)?;
    let token = open.client.add_operator(&asked).await?;
    place.fill(&token, session)?;
    if let Some(warning) = &token.warning {
        session.output.warn(warning);
    }
    session.output.note(hint(&token, &asked, &open.url));
    Ok(())
}

fn hint(token: &NewToken, asked: &OperatorRequest, url: &str) -> String {
    let name = shell::word(&asked.name);
    let whose = match asked.key_sha256 {
        Some(_) => "for the key that it names alone",
        None => "for whoever has it: hand it over where nobody else reads",
    };
    format!(
        "{name} is an operator once they join. The token is good once, until\n{}, {whose}.\nThey \
         type, where they work, and are asked for it:\n  countersign operator join {name} \\\n    \
         --url {url}",
        table::time(token.expires_at),
    )
}

async fn join(arguments: &Join, session: &Session) -> Result<(), Error> {
    let url = session.options.url.clone().ok_or(Error::NoUrl)?;
    let text = match &arguments.token_file {
        Some(path) => {
            warn_of_readers(path, session);
            read_token(path)?
        }
        None => ask_for_token()?,
    };
    let token: BootstrapToken = text.parse().map_err(|why| Error::OperatorToken { why })?;
    let newcomer = Newcomer::find(&arguments.name, &url, token.pin(), session).await?;
    let attestation = Attestation::Token { token: Secret::new(text.trim()) };
    newcomer.join(attestation, session).await
}

fn ask_for_token() -> Result<Zeroizing<String>, Error> {
    passphrase::ask("The token that you were given: ").map_err(|why| Error::OperatorToken { why })
}

async fn request(arguments: &Request, session: &Session) -> Result<(), Error> {
    let url = session.options.url.clone().ok_or(Error::NoUrl)?;
    let newcomer = Newcomer::find(&arguments.name, &url, &arguments.trust_pin, session).await?;
    let directory = svid_folder::create(&newcomer.place.directory)?;
    let lock = directory.lock()?;
    directory.require_room(&lock, &newcomer.held.contents())?;
    let pending = PendingRequest::resume_or_create(&directory, &newcomer.wish, Line::First)?;
    let key = chain::sha256_hex(pending.request.public_key());
    let asked = json!({ "spiffe_id": newcomer.wish.spiffe_id, "key_sha256": key });
    session.output.show(&asked, |_| key.clone())?;
    let name = shell::word(&arguments.name);
    let context =
        session.options.context.as_ref().map(|it| format!(" --context {}", shell::word(it)));
    let context = context.unwrap_or_default();
    session.output.note(format!(
        "the key is in {}, and never leaves it. An operator types:\n  countersign operator add \
         {name} \\\n    --key {key}\nand you, with the token that it prints:\n  countersign \
         operator join {name}{context} --url {url}",
        shell::quoted(directory.path()),
    ));
    Ok(())
}

/// Somebody who is to be an operator of a CA, on this machine.
struct Newcomer {
    held: HeldTrust,
    pin: TrustPin,
    place: OperatorPlace,
    url: String,
    wish: Wish,
}

impl Newcomer {
    async fn find(name: &str, url: &str, pin: &TrustPin, session: &Session) -> Result<Self, Error> {
        let held = HeldTrust::fetch(url, pin).await?;
        let id = operator_id(&held.state().trust_domain, name)?;
        let known = [*pin, held.pin()].map(|pin| pin.of_any_sequence());
        let is_of_this_ca = |pin: &TrustPin| known.contains(&pin.of_any_sequence());
        let place = OperatorPlace::of_operator(&id, &is_of_this_ca, &session.options)?;
        let wish = Wish { ttl: Some(Ttl(OPERATOR_LIFE)), ..Wish::only(id) };
        Ok(Self { held, pin: *pin, place, url: url.to_owned(), wish })
    }

    /// Without a context, an SVID that is there and good was installed by a run that was ended before
    /// its last step: the token is used, and nothing is left to ask for.
    async fn join(self, attestation: Attestation, session: &Session) -> Result<(), Error> {
        let has_svid = self.has_svid(session).await?;
        let Self { held, pin, place: OperatorPlace { name, directory: path }, url, wish } = self;
        if !has_svid {
            let directory = svid_folder::create(&path)?;
            let lock = directory.lock()?;
            let client = &AuthorityClient::new(&url, held.trust.clone(), None)?;
            let (directory, lock, line) = (&directory, &lock, Line::First);
            let installation = Installation { directory, lock, url: &url, client, line };
            let issued = installation.run(&wish, attestation, held, clock::now()).await?;
            session.output.show(&issued, |issued| summary(issued, &path))?;
        }
        let context = Context::new(&url, pin, &path);
        contexts::add(&name, context, MakeCurrent::IfNone, &session.options)?;
        session.output.note(told_context(&name, &session.options)?);
        Ok(())
    }

    /// Whether an earlier run has left an SVID of theirs, and no context, and the CA takes that SVID
    /// still: it may have been revoked since.
    async fn has_svid(&self, session: &Session) -> Result<bool, Error> {
        let OperatorPlace { name, directory: path } = &self.place;
        let has_context = Contexts::load(&session.options)?.all().any(|(other, ..)| other == name);
        let is_theirs = own_svid(path)
            .is_ok_and(|(who, not_after)| who == self.wish.spiffe_id && not_after > clock::now());
        if has_context || !is_theirs {
            return Ok(false);
        }
        // Where it cannot even be shown, the token makes another.
        let Ok(credentials) = Credentials::load(path) else { return Ok(false) };
        let trust = self.held.trust.clone();
        let client = AuthorityClient::new(&self.url, trust, Some(credentials))?;
        match client.status().await {
            Ok(_) => Ok(true),
            // Whatever it has against that one, it says what it makes of the token.
            Err(LibraryError::Authority(_) | LibraryError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn told_context(name: &str, options: &crate::options::GlobalOptions) -> Result<String, Error> {
    let contexts = Contexts::load(options)?;
    let is_current = contexts.select(None).is_ok_and(|(current, _)| current == name);
    Ok(match is_current {
        true => format!("the context {name} is the current one; next: countersign status"),
        false => format!(
            "the context is {name}; next: countersign status --context {name}; or: countersign \
             context use {name}"
        ),
    })
}

async fn list(session: &Session) -> Result<(), Error> {
    let operators = context::open(session).await?.client.operators().await?.items;
    let now = clock::now();
    session.output.list(&operators, |operators| to_table(operators, now))
}

fn to_table(operators: &[OperatorRecord], now: OffsetDateTime) -> String {
    let rows: Vec<[String; 5]> = operators
        .iter()
        .map(|operator| {
            let OperatorRecord { name, spiffe_id, state, not_after, added_by, .. } = operator;
            let ends = not_after.or(operator.invited_until);
            let ends = ends.map_or_else(|| "-".to_owned(), |ends| table::distance(ends, now));
            let added_by = SpiffeId::parse(added_by).ok().and_then(|id| match id.operator_name() {
                Some(name) if id.trust_domain() == spiffe_id.trust_domain() => {
                    Some(name.to_owned())
                }
                _ => None,
            });
            let added_by = added_by.unwrap_or_else(|| operator.added_by.clone());
            [name.clone(), state.name().to_owned(), ends, added_by, spiffe_id.to_string()]
        })
        .collect();
    table::table(["NAME", "STATE", "ENDS", "ADDED BY", "SPIFFE ID"], &rows)
}

async fn remove(arguments: Remove, session: &Session) -> anyhow::Result<Exit> {
    let Remove { name, reason, dry_run, wait } = arguments;
    let operators = context::open(session).await?.client.operators().await?.items;
    let known = || operators.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = operators.iter().find(|operator| operator.name == name);
    let operator = found.ok_or_else(|| Error::UnknownOperator { name, known: known() })?;
    let spiffe_id = operator.spiffe_id.clone();
    if operator.state == OperatorState::Denied {
        session.output.show(&json!({ "spiffe_id": spiffe_id, "state": "denied" }), |_| {
            format!("{spiffe_id} is denied already")
        })?;
        return Ok(Exit::Done);
    }
    let is_listed = operator.log_index.is_none();
    let denial =
        deny::Arguments { spiffe_id, reason, dry_run, wait, allow_locking_everybody_out: false };
    let exit = deny::run(&denial, session).await?;
    if is_listed && !dry_run {
        session.output.note(format!(
            "it stands in workloads.json still: take {:?} out of \"operators\" there, then: \
             countersign policy apply DIR",
            denial.spiffe_id.path()
        ));
    }
    Ok(exit)
}

/// The hex of a SHA-256.
fn sha256(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    match data_encoding::HEXLOWER.decode(text.as_bytes()) {
        Ok(octets) if octets.len() == 32 => Ok(text),
        _ => Err("it is not the SHA-256 of a key: 64 digits 0-9 and a-f".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_whole_hash() {
        assert_eq!(sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        for wrong in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(sha256(wrong).is_err(), "{wrong}");
        }
    }
}
