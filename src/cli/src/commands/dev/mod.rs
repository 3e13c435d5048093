//! `dev`: a CA on free ports in a temporary folder, demo services that use it, and a tour of what
//! they do. Every line is printed from what happened.

mod awake;
mod env;
mod forger;
mod hints;
mod lines;
mod refusals;
mod roles;
mod services;
mod tour;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{IssuedCertificate, Secret, TokenRequest};
use authority::clock::{Clock, SystemClock};
use authority::policy::PolicySet;
use authority::setup::{self, NewAuthority, Parent};
use clap::{Args, Subcommand, ValueEnum};
use countersign::svid_folder::create_private;
use countersign::{AuthorityClient, Drained};
use identity::{SpiffeId, TrustDomain, TrustPin};
use server::{Config, Running};
use tlog::{Checkpoint, VerifierKey};

use self::lines::folded;
use self::refusals::Refusals;
use self::services::{Services, Starter};
use crate::ca_host;
use crate::clock;
use crate::context::OpenContext;
use crate::contexts::{self, Context};
use crate::dev_folder::{self, Afterwards, DevFolder, Running as Claim};
use crate::diagnostics;
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::installation::Installation;
use crate::options::GlobalOptions;
use crate::pending::Line;
use crate::session::Session;
use crate::svid_folder;
use crate::svid_record::Wish;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// Keep the state in this folder; a temporary one otherwise
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Show what the CA does, or only run it and the demo services
    #[arg(long, value_enum, default_value = "on")]
    tour: Tour,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Lets your own service take part: adds its row, writes a token, prints the environment
    Env(env::Arguments),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tour {
    On,
    Off,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let (refusals, listener) = Refusals::new();
    diagnostics::start_of_dev(listener, session.options.verbose);
    if let Some(DevCommand::Env(arguments)) = arguments.command {
        let named = session.options.context.clone();
        let running =
            named.map_or_else(|| contexts::current_dev(&session.options), |it| Ok(Some(it)))?;
        let name = running.unwrap_or_else(|| CONTEXT.to_owned());
        return env::run(arguments, &own(session, &name)).await;
    }
    // Heard from now on: a signal while the CA starts waits until there is one to stop.
    let stop = ca_host::stop_signal()?;
    let folder = Folder::of(arguments.state.as_deref())?;
    let dev = Dev::start(&folder, refusals, session).await?;
    let session = &own(session, &dev.context);
    let ended = dev.run(arguments.tour, stop, session).await?;
    let folder = folder.remove()?;
    // A terminal has just shown `^C`: this comes behind it.
    session.output.verbatim(&format!("  {}, {folder}", connections(ended)))?;
    Ok(Exit::Done)
}

/// The CA is the one run here, whatever the environment says: perhaps it was made by a `dev env`
/// for a CA that is gone.
fn own(session: &Session, context: &str) -> Session {
    let context = Some(context.to_owned());
    Session::new(GlobalOptions { url: None, context, ..session.options.clone() })
}

/// Where the CA lives, and the claim on it that ends with this process.
struct Folder {
    place: Place,
    _claim: Claim,
}

/// A temporary folder (0700), or one that is kept.
enum Place {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn of(kept: Option<&Path>) -> anyhow::Result<Self> {
        match kept {
            None => {
                // An empty TMPDIR is none: a CA's keys do not belong where somebody happens to be.
                let temporary = Some(std::env::temp_dir()).filter(|it| !it.as_os_str().is_empty());
                let temporary = temporary.unwrap_or_else(|| PathBuf::from("/tmp"));
                dev_folder::clear_left_behind(&temporary);
                let folder = tempfile::Builder::new()
                    .prefix(dev_folder::PREFIX)
                    .permissions(PermissionsExt::from_mode(0o700))
                    .tempdir_in(&temporary)
                    .map_err(|source| Error::NoTemporary { folder: temporary, source })?;
                let claim = claim(folder.path())?;
                Ok(Self { place: Place::Temporary(folder), _claim: claim })
            }
            Some(path) => {
                svid_folder::require_for_dev(path)?;
                create_private(path)?;
                let path = fs::canonicalize(path)?;
                let claim = claim(&path)?;
                Ok(Self { place: Place::Kept(path), _claim: claim })
            }
        }
    }

    fn path(&self) -> &Path {
        match &self.place {
            Place::Kept(path) => path,
            Place::Temporary(folder) => folder.path(),
        }
    }

    /// What its context says of it.
    fn described(&self) -> DevFolder {
        let afterwards = match self.place {
            Place::Kept(..) => Afterwards::Kept,
            Place::Temporary(..) => Afterwards::Removed,
        };
        DevFolder { path: self.path().to_owned(), afterwards }
    }

    /// Says what became of it.
    fn remove(self) -> anyhow::Result<String> {
        match self.place {
            Place::Kept(path) => Ok(format!("kept {}", path.display())),
            Place::Temporary(folder) => {
                folder.close()?;
                Ok("removed the state folder".to_owned())
            }
        }
    }
}

fn claim(folder: &Path) -> anyhow::Result<Claim> {
    let path = folder.join(dev_folder::LOCK);
    let claimed = dev_folder::claim(folder).map_err(|source| Error::Write { path, source })?;
    claimed.ok_or_else(|| {
        anyhow::anyhow!("another `countersign dev` runs in {}: stop it first", folder.display())
    })
}

/// A running CA for development.
struct Dev {
    running: Running,
    /// The name of its context.
    context: String,
    pin: TrustPin,
    started: Instant,
    folder: PathBuf,
    executable: PathBuf,
    passphrase: Secret,
    refusals: Refusals,
}

impl Dev {
    async fn start(folder: &Folder, refusals: Refusals, session: &Session) -> anyhow::Result<Self> {
        let started = Instant::now();
        let described = folder.described();
        let folder = folder.path().to_owned();
        // The first word comes before the keys are made, which takes a moment.
        session.output.verbatim(&format!("  state     {}", folder.display()))?;
        let state = folder.join("state");
        let config = config(&state)?;
        let passphrase = passphrase(&folder)?;
        let authority = if state.join("trust.pin").exists() {
            ca_host::open_by(clock_of_now(), &config, &passphrase, &session.output).await?
        } else {
            create(&config, &passphrase).await?
        };
        let pin = setup::read_pin(&state)?;
        let running = server::start(authority, &config, str::to_owned).await?;
        let url = format!("https://{}", running.address);
        let operator = folder.join("operator");
        ca_host::install_operator(running.authority(), "developer", &url, pin, &operator).await?;
        let context = Context::new(&url, pin, &operator).while_runs(described);
        let context = contexts::add_dev(CONTEXT, context, &session.options)?;
        let executable = std::env::current_exe()?;
        Ok(Self { running, context, pin, started, folder, executable, passphrase, refusals })
    }

    /// Shows what there is until a signal comes; says what became of the connections.
    async fn run(
        self,
        tour: Tour,
        stop: impl Future<Output = &'static str>,
        session: &Session,
    ) -> anyhow::Result<Drained> {
        let mut services = None;
        let shown_until_signal = async {
            self.show(tour, &mut services, session).await?;
            match &services {
                Some(services) => self.keep_awake(services, session).await,
                None => std::future::pending().await,
            }
        };
        let shown = tokio::select! {
            biased;
            _ = stop => Ok(()),
            failed = shown_until_signal => failed,
        };
        let ended = self.stop(services, session).await;
        shown.map(|()| ended)
    }

    /// Says what there is, then what happens, then what to type.
    async fn show(
        &self,
        tour: Tour,
        running: &mut Option<Services>,
        session: &Session,
    ) -> anyhow::Result<()> {
        self.introduce(session).await?;
        let context = crate::context::open(session).await?;
        let services = running.insert(self.start_services(&context).await?);
        self.introduce_services(services, session)?;
        let mut tools_serial_number = None;
        if tour == Tour::On {
            self.tour(services, &context, session).await?;
            let tools = SpiffeId::new(&state_domain(&context.held), "/tools")?;
            let issued = self.issue_first(&context.client, &tools, session).await?;
            tools_serial_number = Some(issued.serial_number.to_string());
        }
        Ok(session.output.verbatim(&self.hints(tools_serial_number.as_deref()))?)
    }

    async fn start_services(&self, context: &OpenContext) -> anyhow::Result<Services> {
        let starter = Starter {
            operator: &context.client,
            url: &self.url(),
            pin: self.pin.to_string(),
            authority: Arc::clone(self.running.authority()),
            tokens: self.folder.join(TOKENS),
        };
        starter.start().await
    }

    /// What there is, before anything is done with it.
    async fn introduce(&self, session: &Session) -> anyhow::Result<()> {
        let pin = self.pin.to_string();
        let domain = self.running.authority().view.trust_domain().id();
        let log = self.signed_checkpoint().await?;
        Ok(session.output.verbatim(&format!(
            "  ca        https://{}    admin http://{}\n\
             \x20 trust     {domain}   pin {}…\n\
             \x20 log       {} entries, checkpoint signed",
            self.running.address,
            self.running.admin_address,
            &pin[..8],
            log.size,
        ))?)
    }

    /// Who is there, and where; `dev env` hears it too.
    fn introduce_services(&self, services: &Services, session: &Session) -> anyhow::Result<()> {
        let monolith = format!("https://{}", services.monolith_address);
        files::replace(&self.folder.join(MONOLITH_URL), monolith.as_bytes())?;
        Ok(session.output.verbatim(&format!(
            "  services  gateway → reports → monolith {monolith}\n\
             \x20           batch → monolith, one stream held open   TLS 1.3 {}\n",
            services.key_exchange
        ))?)
    }

    /// The newest checkpoint, signed now and verified by the log's key.
    async fn signed_checkpoint(&self) -> anyhow::Result<Checkpoint> {
        let authority = self.running.authority();
        authority.writer.sign_checkpoint().await?;
        let note = authority.writer.checkpoint()?;
        let trust = authority.view.trust();
        let log = &trust.state().log;
        Ok(Checkpoint::verify(&note, &log.origin, &VerifierKey::parse(&log.key)?)?)
    }

    /// A first certificate, the way a workload gets it: token, key made here, request.
    async fn issue_first(
        &self,
        operator: &AuthorityClient,
        spiffe_id: &SpiffeId,
        session: &Session,
    ) -> anyhow::Result<IssuedCertificate> {
        let asked = TokenRequest { spiffe_id: spiffe_id.clone(), ttl: None, key_sha256: None };
        let token = operator.create_token(&asked).await?;
        let url = self.url();
        let held = HeldTrust::fetch(&url, &self.pin).await?;
        let client = AuthorityClient::new(&url, held.trust.clone(), None)?;
        let directory = svid_folder::create(self.folder.join("tools"))?;
        let lock = directory.lock()?;
        let wish = Wish {
            dns: vec![issuance::DnsName::parse("localhost")?],
            ip: vec![std::net::IpAddr::from([127, 0, 0, 1])],
            ..Wish::only(spiffe_id.clone())
        };
        let begun = Instant::now();
        let installation = Installation {
            directory: &directory,
            lock: &lock,
            url: &url,
            client: &client,
            line: Line::First,
        };
        let attestation = api::Attestation::Token { token: token.token };
        let issued = installation.run(&wish, attestation, held, clock::now()).await?;
        let (took, index) = (milliseconds(begun.elapsed()), issued.log_index);
        let text =
            format!("{} for curl and openssl   {took}   countersigned #{index}", spiffe_id.path());
        self.line(session, "issue", &text)?;
        Ok(issued)
    }

    /// Ends the services, then the CA; says what became of the connections that were open.
    async fn stop(self, services: Option<Services>, session: &Session) -> Drained {
        let forgotten = contexts::remove(&self.context, &session.options)
            .and_then(|()| files::remove_if_there(&self.folder.join(MONOLITH_URL)));
        if let Err(error) = forgotten {
            session.output.warn(error);
        }
        let services = match services {
            Some(services) => services.stop().await,
            None => Drained::default(),
        };
        let authority = self.running.stop().await;
        Drained { drained: services.drained + authority.drained, cut: services.cut + authority.cut }
    }

    fn url(&self) -> String {
        format!("https://{}", self.running.address)
    }

    /// What has just happened.
    fn line(&self, session: &Session, what: &str, text: &str) -> anyhow::Result<()> {
        let since = self.started.elapsed().as_secs_f64();
        let line = format!("{since:5.1}s  {what:<8} {text}");
        Ok(session.output.verbatim(&folded(&line, DETAIL))?)
    }

    /// More of it.
    fn detail(&self, session: &Session, text: &str) -> anyhow::Result<()> {
        Ok(session.output.verbatim(&folded(&format!("{:DETAIL$}{text}", ""), DETAIL))?)
    }
}

async fn create(config: &Config, passphrase: &Secret) -> anyhow::Result<Arc<authority::Authority>> {
    let policy = PolicySet::shipped(WORKLOADS)?;
    let created = setup::create(
        &NewAuthority {
            trust_domain: config.trust_domain.clone(),
            state: &config.state,
            passphrase,
            offline_passphrase: passphrase,
            policy: &policy,
            operator: "developer",
            parent: Parent::Local,
        },
        &SystemClock,
    )
    .await?;
    let pin = setup::read_pin(&config.state)?;
    ca_host::engine_by(clock_of_now(), config, created.store, created.keys, pin).await
}

/// A laptop's clock leaps whenever it wakes, and nobody is there to say that it is right now: of a CA
/// for development, what it says counts.
fn clock_of_now() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn config(state: &Path) -> anyhow::Result<Config> {
    let mut config = Config::parse(&format!(
        "trust_domain = \"{DOMAIN}\"\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         names = [\"localhost\", \"127.0.0.1\"]"
    ))?;
    config.state = state.to_owned();
    Ok(config)
}

/// 256 random bits beside the state, so that a kept folder opens again: it is for development.
fn passphrase(folder: &Path) -> anyhow::Result<Secret> {
    let path = folder.join("passphrase");
    if let Some(kept) = files::read_if_there(&path)? {
        return Ok(Secret::new(String::from_utf8(kept)?));
    }
    let random = rcgen::KeyPair::generate()?.serialize_der();
    let made = Secret::new(crate::chain::sha256_hex(&random));
    files::replace(&path, made.expose().as_bytes())?;
    Ok(made)
}

fn state_domain(held: &HeldTrust) -> TrustDomain {
    held.trust.state().trust_domain.clone()
}

fn connections(Drained { drained, cut }: Drained) -> String {
    let drained = match drained {
        1 => "drained 1 connection".to_owned(),
        drained => format!("drained {drained} connections"),
    };
    if cut == 0 { drained } else { format!("{drained}, cut {cut}") }
}

fn milliseconds(elapsed: Duration) -> String {
    format!("{:.1} ms", elapsed.as_secs_f64() * 1000.0)
}

/// A path as a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The table of the development hierarchy.
const WORKLOADS: &str = include_str!("../../../../../certs-dev/workloads.json");
const CONTEXT: &str = "dev";
/// The services' tokens, in the state folder.
const TOKENS: &str = "tokens";
/// Where `dev env` finds the monolith, in the state folder.
const MONOLITH_URL: &str = "monolith.url";
/// Where the text of a line begins.
const DETAIL: usize = 17;
const DOMAIN: &str = "dev.internal";
