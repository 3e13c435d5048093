//! `init`: makes a CA, or repairs what expired.

mod parent_answer;

use std::path::PathBuf;
use std::sync::Arc;

use authority::clock::{Clock, SteadyClock, SystemClock};
use authority::policy::{Action, PolicySet, Principal, Query};
use authority::setup::{self, Again, CertifiedAgain, NewAuthority, Outcomes, Parent};
use authority::store::Store;
use authority::store::sqlite::SqliteStore;
use authority::{Authority, Keys};
use clap::{Args, ValueEnum};
use identity::{SpiffeId, TrustPin, TrustState};
use server::Config;

use crate::ca_host::{self, ConfigFile};
use crate::clock;
use crate::contexts::{self, Context, MakeCurrent};
use crate::error::Error;
use crate::exit::Exit;
use crate::operator_place::{OperatorPlace, operator_id};
use crate::policy_folder;
use crate::session::Session;
use crate::table;

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Who certifies the issuer: a root made here, or a CA elsewhere that signs a request
    #[arg(long, value_enum, default_value = "local")]
    parent: ParentChoice,
    /// Finish `--parent csr`, or renew the issuer's certificate, which alone changes then: that, then
    /// the CA's that signed it, and so on to the root, PEM
    #[arg(long, value_name = "FILE", conflicts_with_all = ["parent", "recover"])]
    certificate: Option<PathBuf>,
    /// With --certificate: it may end before the one in use
    #[arg(long, requires = "certificate")]
    allow_earlier_end: bool,
    /// Repair what expired: the operator's SVID, the issuer's certificate
    #[arg(long)]
    recover: bool,
    /// With --recover: let a CA that has halted issue again, on the log as it is; and set aside
    /// STATE/head, STATE/checkpoint or STATE/halted where this CA has neither sealed nor signed it
    #[arg(long, requires = "recover")]
    lift_halt: bool,
    /// With --recover: the clock is right. The log goes on from it, where a clock that was ahead
    /// took it further
    #[arg(long, requires = "recover")]
    accept_clock: bool,
    /// With --recover: the issuer's key is lost for good. Another takes its place, certified by the
    /// root in STATE/offline; certificates that there are stay good
    #[arg(long, requires = "recover")]
    replace_lost_issuer: bool,
    /// With --recover: put the policy set of the configuration's folder in force, or, where it names
    /// none, the shipped policies over the table in force. The way back from a set that lets no
    /// operator change it
    #[arg(long, requires = "recover")]
    replace_policies: bool,
    /// The first operator's name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    operator: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ParentChoice {
    Local,
    Csr,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let config = arguments.config.load()?;
    operator_id(&config.trust_domain, &arguments.operator)?;
    let done = match &arguments.certificate {
        _ if arguments.recover => recover(&arguments, &config, session).await,
        Some(path) => parent_answer::take(&arguments, &config, path, session).await,
        None => create(&arguments, &config, session).await,
    };
    done.map_err(|error| arguments.config.blame(&config, error))
}

async fn create(arguments: &Arguments, config: &Config, session: &Session) -> anyhow::Result<Exit> {
    setup::require_vacant(&config.state)?;
    let place = OperatorPlace::of_new_ca(&config.trust_domain, &session.options)?;
    let policy = ca_host::first_policy(config)?;
    if let Some(folder) = &config.policies {
        policy_folder::warn_of_others(folder, session.output)?;
    }
    let (passphrase, offline_passphrase) = arguments.config.new_passphrases(config)?;
    arguments.config.warn_of_one_passphrase(config, &session.output);
    ca_host::warn_of_writers(config, session.output);
    // Last, since it leaves a folder.
    place.require_room(&session.options)?;
    let created = setup::create(
        &NewAuthority {
            trust_domain: config.trust_domain.clone(),
            state: &config.state,
            passphrase: &passphrase,
            offline_passphrase: &offline_passphrase,
            policy: &policy,
            operator: &arguments.operator,
            parent: match arguments.parent {
                ParentChoice::Local => Parent::Local,
                ParentChoice::Csr => Parent::Elsewhere,
            },
        },
        &SystemClock,
    )
    .await?;
    match created.outcome {
        Outcomes::Ready(pin) => {
            let authority = ca_host::engine(config, created.store, created.keys, pin).await?;
            let ready = ready(arguments, config, &authority, pin, &place, session).await;
            ready.map_err(|source| without_operator(config, source))
        }
        Outcomes::AwaitsCertificate(request) => {
            session.output.text(&request.display().to_string())?;
            session.output.note(
                "have this request certified as a CA (cA=true, path length 0, keyCertSign and \
                 cRLSign),\nthen: countersign init --certificate FILE   (the issuer's \
                 certificate, then the CA's)",
            );
            Ok(Exit::Done)
        }
    }
}

/// The CA is whole: `--recover` goes on with it.
fn without_operator(config: &Config, source: anyhow::Error) -> anyhow::Error {
    Error::NotHandedOver {
        made: format!("the CA in {} is made and whole", config.state.display()),
        lost: "what its operator needs was not written or shown",
        source,
        repair: "once there is room: countersign init --recover".to_owned(),
    }
    .into()
}

/// A new operator's SVID; the issuer certified again where it ends soon, and a halt lifted where
/// that is asked for.
async fn recover(
    arguments: &Arguments,
    config: &Config,
    session: &Session,
) -> anyhow::Result<Exit> {
    let passphrase = arguments.config.passphrase(config)?;
    let pin = setup::read_pin(&config.state)?;
    {
        let keys = Keys::open(&config.state, &passphrase)?;
        let (store, migrated) = setup::open_store(&config.state, &config.trust_domain, &keys)?;
        if let Some(migrated) = migrated {
            session.output.note(migrated.to_string());
        }
        // Before anything is logged for an operator who has no place here.
        let place = place_of_operator(arguments, config, &store, session).await?;
        if arguments.accept_clock {
            accept_clock(config, &store, session).await?;
        } else {
            // What is written now by a clock that leapt ahead, `serve` waits for once it is set right.
            SteadyClock::watch(&config.state).require_steady()?;
        }
        if arguments.lift_halt {
            lift_halt(config, &store, &keys, session).await?;
        }
        // Before anything is certified on a log that is not what it was.
        setup::require_no_halt(&config.trust_domain, &config.state, &store, &keys).await?;
        if arguments.replace_lost_issuer {
            let offline = arguments.config.offline_passphrase_at_hand(config)?;
            let (domain, state) = (&config.trust_domain, &config.state);
            let clock = &SystemClock;
            let done =
                setup::replace_lost_issuer(domain, state, &store, &keys, &offline, clock).await?;
            session.output.note("another issuer took the place of the one whose key is lost");
            if done == CertifiedAgain::RootAndIssuer {
                session
                    .output
                    .note(format!("its root has a new certificate for the same key, {NEW_BUNDLE}"));
            }
        }
        certify_again(arguments, config, &store, &keys, session).await?;
        if arguments.replace_policies {
            replace_policies(arguments, config, &store, session).await?;
        }
        let is_new = let_in(arguments, config, &store, session).await?;
        let authority = ca_host::engine(config, Arc::new(store), keys, pin).await?;
        tell_standing(&authority, &arguments.operator, is_new, session)?;
        // The trust keys may have been replaced since `init`.
        let pin = authority.view.trust().state().pin();
        ready(arguments, config, &authority, pin, &place, session).await
    }
}

/// The place of an operator of the CA that there is. A context is that CA's where its pin names keys
/// that signed a trust state, old or new, or that its state folder names.
async fn place_of_operator(
    arguments: &Arguments,
    config: &Config,
    store: &dyn Store,
    session: &Session,
) -> anyhow::Result<OperatorPlace> {
    let notes = store.trust_states().await?;
    // A database of before the issuer was certified has none.
    let kept = setup::read_pin(&config.state).ok();
    let is_of_this_ca = |pin: &TrustPin| {
        let pin = pin.of_any_sequence();
        kept.is_some_and(|kept| kept.of_any_sequence() == pin)
            || notes.iter().any(|note| TrustState::verify_pinned(note, &pin).is_ok())
    };
    let id = operator_id(&config.trust_domain, &arguments.operator)?;
    let place = OperatorPlace::of_operator(&id, &is_of_this_ca, &session.options)?;
    contexts::require_room(&session.options)?;
    Ok(place)
}

/// Gives the issuer another certificate, where that ends soon or begins only later.
async fn certify_again(
    arguments: &Arguments,
    config: &Config,
    store: &SqliteStore,
    keys: &Keys,
    session: &Session,
) -> anyhow::Result<()> {
    let (domain, state) = (&config.trust_domain, &config.state);
    let Some(why) = setup::to_certify_again(domain, store, clock::now()).await? else {
        return Ok(());
    };
    // Before anybody is asked for a passphrase.
    setup::require_clock(store, &SystemClock).await?;
    let offline = match arguments.config.offline_passphrase_at_hand(config) {
        Ok(offline) => offline,
        // Operators are enrolled nevertheless.
        Err(error) if why == Again::EndsSoon => {
            session.output.warn(format!("the issuer ends soon: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    match setup::certify_again(domain, state, store, keys, &offline, &SystemClock).await {
        Ok(CertifiedAgain::Issuer) => {
            session.output.note("the issuer has a new certificate for the same key");
        }
        Ok(CertifiedAgain::RootAndIssuer) => session
            .output
            .note(format!("root and issuer have new certificates for the same keys, {NEW_BUNDLE}")),
        Err(error) if why == Again::EndsSoon => {
            session.output.warn(format!("the issuer ends soon: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Says what the policy set in force thinks of an operator, before there is a certificate.
fn tell_standing(
    authority: &Authority,
    operator: &str,
    is_new: bool,
    session: &Session,
) -> anyhow::Result<()> {
    let id = SpiffeId::operator(authority.view.trust_domain(), operator)?;
    let policy = authority.view.policy();
    let query = Query { principal: Principal::of(&id), action: Action::ReadStatus, resource: None };
    let is_allowed = policy.decide(&query).allowed;
    let is_listed = policy.set().workloads().lists_operator(&id);
    let row = format!(
        "the row to add under \"operators\" of workloads.json: {:?}; then: countersign policy apply DIR",
        id.path()
    );
    if !is_allowed {
        let policies = if is_listed { "" } else { "\n" };
        let row = if is_listed { "" } else { row.as_str() };
        session.output.warn(format!(
            "{operator} may do nothing by the policy set in force: the certificate is of no use until \
             that changes{policies}{row}\nor, on this host, to put the configuration's set in force: countersign \
             init --recover --replace-policies"
        ));
    } else if is_new && !is_listed {
        session.output.note(format!(
            "{operator} is not in the workload table: an operator because this host says so\n{row}"
        ));
    }
    Ok(())
}

/// The CA itself and the operator may have been denied, by a slip or on purpose: who stands at the
/// host decides. Returns whether the operator was unknown.
async fn let_in(
    arguments: &Arguments,
    config: &Config,
    store: &SqliteStore,
    session: &Session,
) -> anyhow::Result<bool> {
    let (domain, operator) = (&config.trust_domain, &arguments.operator);
    let done = setup::let_in(domain, store, operator, &SystemClock).await?;
    for spiffe_id in done.allowed {
        session.output.note(format!("{spiffe_id} was denied, and is allowed again"));
    }
    if done.registered {
        session.output.note(format!("{operator} is registered as an operator"));
    }
    Ok(done.registered)
}

async fn replace_policies(
    arguments: &Arguments,
    config: &Config,
    store: &SqliteStore,
    session: &Session,
) -> anyhow::Result<()> {
    let set = match &config.policies {
        Some(_) => ca_host::first_policy(config)?,
        None => {
            let mut files = setup::policies_in_force(store).await?;
            files.retain(|name, _| name == WORKLOADS);
            PolicySet::parse(&files)?
        }
    };
    let (domain, operator) = (&config.trust_domain, &arguments.operator);
    let is_other = setup::replace_policies(domain, store, &set, operator, &SystemClock).await?;
    let hash = set.hash();
    session.output.note(match is_other {
        true => format!("policy set {hash:?} took the place of the one in force"),
        false => format!("policy set {hash:?} was in force already"),
    });
    Ok(())
}

async fn accept_clock(
    config: &Config,
    store: &SqliteStore,
    session: &Session,
) -> anyhow::Result<()> {
    SteadyClock::accept(&config.state)?;
    let ahead = setup::reset_clock(&config.trust_domain, store, &SystemClock).await?;
    session.output.note(match ahead {
        Some(ahead) => format!(
            "the log was {} ahead of this clock, and goes on from it. Certificates and tokens of \
             then live as long\nas they say: `countersign list` and `countersign token list` show them; revoke what nobody \
             knows",
            table::span(time::Duration::milliseconds(ahead.cast_signed())),
        ),
        None => "the log is not ahead of this clock, which counts from now on".to_owned(),
    });
    Ok(())
}

async fn lift_halt(
    config: &Config,
    store: &SqliteStore,
    keys: &Keys,
    session: &Session,
) -> anyhow::Result<()> {
    let (domain, state) = (&config.trust_domain, &config.state);
    let lifted = setup::lift_halt(domain, state, store, keys, &SystemClock).await?;
    for (path, aside) in &lifted.set_aside {
        session.output.note(format!(
            "{} was neither sealed nor signed by this CA: it is {} now, and counts for nothing. Find \
             out who wrote it,\nand compare the log with a checkpoint held elsewhere",
            path.display(),
            aside.display()
        ));
    }
    match lifted.why {
        Some(why) => session.output.note(format!(
            "lifted: {why}\nrestart `serve`, and the workloads that have seen more: they take no \
             feed of a shorter\nlog; then replace the log's key: countersign key prepare log; \
             countersign rotate"
        )),
        None if lifted.set_aside.is_empty() => session.output.note("the CA had not halted"),
        None => {}
    }
    Ok(())
}

/// Gives the operator an SVID and a context, and says what comes next.
async fn ready(
    arguments: &Arguments,
    config: &Config,
    authority: &Arc<Authority>,
    pin: TrustPin,
    place: &OperatorPlace,
    session: &Session,
) -> anyhow::Result<Exit> {
    let url = url(config, session);
    let OperatorPlace { name, directory } = place;
    let operator =
        ca_host::install_operator(authority, &arguments.operator, &url, pin, directory).await?;
    authority.writer.sign_checkpoint().await?;
    let context = Context::new(&url, pin, directory);
    contexts::add(name, context, MakeCurrent::IfNone, &session.options)?;
    session.output.show(
        &serde_json::json!({
            "operator": operator, "trust_domain": config.trust_domain, "context": name, "trust_pin": pin.to_string(), "url": url,
        }),
        |_| format!("trust pin  {pin}\noperator   {operator}\ncontext    {name} ({url})"),
    )?;
    let offline =
        if authority.view.has_own_root() { "root and trust keys" } else { "the trust key" };
    session.output.note(format!(
        "keys are sealed in {state}/keys; {state}/offline holds {offline}: move it away, `serve` never \
         needs it\nnext: countersign serve --config {config}",
        state = config.state.display(),
        config = crate::shell::quoted(&arguments.config.config),
    ));
    if url.ends_with(":0") {
        session.output.note(format!(
            "`listen` has port 0: `serve` takes another each time it starts, and says which. Name it \
             to each command:\n  countersign status --url {}PORT",
            url.trim_end_matches('0')
        ));
    }
    Ok(Exit::Done)
}

/// Where clients find it. Behind port 0 stands whichever is free, and somebody may know which.
fn url(config: &Config, session: &Session) -> String {
    let port = config.listen.port();
    let named = session.options.url.as_ref().filter(|_| port == 0);
    named.cloned().unwrap_or_else(|| config.url(port))
}

const NEW_BUNDLE: &str = "valid from now on; the trust pin stays.\nWhat verifies by bundle.pem needs the \
    new one: `renew` installs it, or countersign bundle show";
const WORKLOADS: &str = "workloads.json";
