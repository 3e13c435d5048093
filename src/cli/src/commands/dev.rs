//! `dev`: a CA on free ports in a temporary folder, and a first look at what it does. Every line
//! is printed from what happened.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Secret, TokenRequest};
use authority::clock::SystemClock;
use authority::policy::PolicySet;
use authority::setup::{self, NewAuthority, Parent};
use clap::{Args, ValueEnum};
use countersign::{AuthorityClient, Credentials};
use identity::{Refusal, SpiffeId, Trust, TrustDomain, TrustPin, Usage};
use rustls_pki_types::CertificateDer;
use server::{Config, Running};

use super::Session;
use crate::ca_host;
use crate::clock;
use crate::contexts::{self, Context, MakeCurrent};
use crate::dev_forger::forge;
use crate::exit::Exit;
use crate::files;
use crate::installation::Installation;
use crate::svid_directory::SvidDirectory;
use crate::svid_record::Wish;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Keep the state in this folder; a temporary one otherwise
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Show what the CA does, or only run it
    #[arg(long, value_enum, default_value = "on")]
    tour: Tour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tour {
    On,
    Off,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let stop = ca_host::stop_signal();
    tokio::pin!(stop);
    let folder = Folder::of(arguments.state.as_deref())?;
    let dev = Dev::start(&folder, session).await?;
    let shown = async {
        dev.introduce(session)?;
        if arguments.tour == Tour::On {
            dev.tour(session).await?;
        }
        dev.say_what_to_type(session)
    };
    let signal = tokio::select! {
        signal = &mut stop => signal?,
        shown = shown => match shown {
            Ok(()) => stop.await?,
            Err(error) => {
                dev.stop(session).await;
                return Err(error);
            }
        },
    };
    session.output.text(&format!("\n{signal}"))?;
    dev.stop(session).await;
    folder.remove(session)?;
    Ok(Exit::Done)
}

/// Where the CA lives: a temporary folder (0700), or one that is kept.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn of(kept: Option<&Path>) -> anyhow::Result<Self> {
        match kept {
            None => Ok(Self::Temporary(
                tempfile::Builder::new()
                    .prefix("countersign-")
                    .permissions(PermissionsExt::from_mode(0o700))
                    .tempdir()?,
            )),
            Some(path) => {
                files::create_private_directory(path)?;
                Ok(Self::Kept(fs::canonicalize(path)?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn remove(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Kept(path) => session.output.note(format!("kept {}", path.display())),
            Self::Temporary(folder) => {
                folder.close()?;
                session.output.note("removed the state folder");
            }
        }
        Ok(())
    }
}

/// A running CA for development.
struct Dev {
    running: Running,
    pin: TrustPin,
    started: Instant,
    folder: PathBuf,
    executable: PathBuf,
    passphrase: Secret,
}

impl Dev {
    async fn start(folder: &Folder, session: &Session) -> anyhow::Result<Self> {
        let started = Instant::now();
        let folder = folder.path().to_owned();
        let state = folder.join("state");
        let config = config(&state)?;
        let passphrase = passphrase(&folder)?;
        let authority = if state.join("trust.pin").exists() {
            ca_host::open(&config, &passphrase).await?
        } else {
            create(&config, &passphrase).await?
        };
        let pin = setup::read_pin(&state)?;
        let running = server::start(authority, &config).await?;
        let url = format!("https://{}", running.address);
        let operator = folder.join("operator");
        ca_host::install_operator(running.authority(), "developer", &url, pin, &operator).await?;
        let context = Context::new(&url, pin, &operator);
        contexts::add(CONTEXT, context, MakeCurrent::Yes, &session.options)?;
        let executable = std::env::current_exe()?;
        Ok(Self { running, pin, started, folder, executable, passphrase })
    }

    /// What there is, before anything is done with it.
    fn introduce(&self, session: &Session) -> anyhow::Result<()> {
        let pin = self.pin.to_string();
        let state = self.running.authority().trust().state().clone();
        session.output.text(&format!(
            "  ca        https://{}    admin http://{}\n  trust     {}   pin {}…\n  state     {}",
            self.running.address,
            self.running.admin_address,
            state.trust_domain.id(),
            &pin[..8],
            self.folder.display(),
        ))?;
        Ok(session.output.text("")?)
    }

    async fn tour(&self, session: &Session) -> anyhow::Result<()> {
        let context = crate::context::open(session).await?;
        let reports = SpiffeId::new(&state_domain(&context.held), "/prod/reports")?;
        let directory = self.issue_first(&context.client, &reports, session).await?;
        let (serial_number, client) = self.first_call(&context.held, &directory, session).await?;
        self.call_without_certificate(&context.held, &serial_number, session).await?;
        self.show_forgery(&context.held.trust, &reports, session).await?;
        drop(client);
        Ok(())
    }

    /// A first certificate, the way a workload gets it: token, key made here, request.
    async fn issue_first(
        &self,
        operator: &AuthorityClient,
        spiffe_id: &SpiffeId,
        session: &Session,
    ) -> anyhow::Result<SvidDirectory> {
        let asked = TokenRequest { spiffe_id: spiffe_id.clone(), ttl: None, key_sha256: None };
        let token = operator.create_token(&asked).await?;
        let url = self.url();
        let held = HeldTrust::fetch(&url, &self.pin).await?;
        let client = AuthorityClient::new(&url, held.trust.clone(), None)?;
        let directory = SvidDirectory::create(self.folder.join("reports"))?;
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
            output: &session.output,
        };
        let attestation = api::Attestation::Token { token: token.token };
        let issued = installation.run(&wish, attestation, held, clock::now()).await?;
        self.line(
            session,
            "issue",
            format!(
                "{}   {}   countersigned #{}",
                spiffe_id.path(),
                milliseconds(begun.elapsed()),
                issued.log_index
            ),
        )?;
        Ok(directory)
    }

    /// One mTLS call with it: the CA shows its owner the record.
    async fn first_call(
        &self,
        held: &HeldTrust,
        directory: &SvidDirectory,
        session: &Session,
    ) -> anyhow::Result<(identity::SerialNumber, AuthorityClient)> {
        let credentials = Credentials::load(directory.path())?;
        let client = AuthorityClient::new(&self.url(), held.trust.clone(), Some(credentials))?;
        let record = directory.record()?.ok_or_else(|| anyhow::anyhow!("no svid.json"))?;
        let begun = Instant::now();
        client.certificate(&record.serial_number).await?;
        self.line(
            session,
            "call",
            format!(
                "/prod/reports → ca   200   {}   mutual TLS 1.3",
                milliseconds(begun.elapsed())
            ),
        )?;
        Ok((record.serial_number, client))
    }

    async fn call_without_certificate(
        &self,
        held: &HeldTrust,
        serial_number: &identity::SerialNumber,
        session: &Session,
    ) -> anyhow::Result<()> {
        let nobody = AuthorityClient::new(&self.url(), held.trust.clone(), None)?;
        match nobody.certificate(serial_number).await {
            Err(countersign::Error::Authority(problem)) => self.line(
                session,
                "denied",
                format!("the same call without a certificate   {}", problem.status),
            ),
            Err(error) => Err(error.into()),
            Ok(_) => anyhow::bail!("the CA answered a caller without a certificate"),
        }
    }

    /// A thief of the CA key alone: the certificate is made outside the engine, with the key file.
    async fn show_forgery(
        &self,
        trust: &Trust,
        spiffe_id: &SpiffeId,
        session: &Session,
    ) -> anyhow::Result<()> {
        let authority = self.running.authority();
        let keys = self.folder.join("state");
        let forged = forge(&keys, &self.passphrase, authority, spiffe_id).await?;
        let issuer = CertificateDer::from(authority.issuer_certificate().to_vec());
        let chain = [CertificateDer::from(forged), issuer];
        let now = clock::unix(clock::now());
        let verdict =
            identity::verify(&chain, Usage::Client, now, trust, &identity::Revocations::default());
        match verdict {
            Err(Refusal::NotCountersigned(_)) => self.line(
                session,
                "denied",
                "forger   signed by the CA key, no countersignature".to_owned(),
            ),
            other => anyhow::bail!("a forged certificate met with {other:?}"),
        }
    }

    /// Lines that can be pasted as they are.
    fn say_what_to_type(&self, session: &Session) -> anyhow::Result<()> {
        let program = shown(&self.executable);
        let reports = shown(&self.folder.join("reports"));
        let url = self.url();
        let mut text = String::from("\n  From other terminals, while this runs:\n\n");
        let mut add = |comment: &str, lines: &[String]| {
            text.push_str(&format!("  # {comment}\n"));
            for line in lines {
                text.push_str(&format!("  {line}\n"));
            }
        };
        if self.folder.join("reports").exists() {
            let crl = self.running.authority().issuer_id();
            let serial = format!(
                "$({program} --json list --id '*/prod/reports' \\\n    | grep -o '\"serial_number\":\"[0-9a-f]*' | cut -d'\"' -f4 | head -n 1)"
            );
            add(
                "a call with its certificate",
                &[
                    format!("curl --cacert {reports}/bundle.pem \\"),
                    format!("  --cert {reports}/svid.pem --key {reports}/svid.key \\"),
                    format!("  {url}/v1/certificates/{serial}"),
                ],
            );
            add(
                "what others say of it",
                &[
                    format!("openssl verify -x509_strict -CAfile {reports}/bundle.pem \\"),
                    format!("  -untrusted {reports}/svid.pem {reports}/svid.pem"),
                    format!("{program} verify {reports}/svid.pem"),
                ],
            );
            add(
                "revoke it: OpenSSL sees it by CRL, and it renews no more",
                &[
                    format!(
                        "{program} revoke --yes spiffe://{DOMAIN}/prod/reports --reason key-compromise"
                    ),
                    format!("curl -s --cacert {reports}/bundle.pem {url}/crl/{crl} \\"),
                    format!("  | openssl crl -inform DER -out {reports}/crl.pem"),
                    format!("openssl verify -crl_check -CRLfile {reports}/crl.pem \\"),
                    format!(
                        "  -CAfile {reports}/bundle.pem -untrusted {reports}/svid.pem {reports}/svid.pem"
                    ),
                ],
            );
        }
        add(
            "a certificate for a service of yours, in two steps",
            &[
                format!("{program} token create spiffe://{DOMAIN}/prod/monolith > token"),
                format!("{program} issue spiffe://{DOMAIN}/prod/monolith --url {url} \\"),
                "  --token-file token --out monolith".to_owned(),
            ],
        );
        add("everything", &[format!("{program} status; {program} list")]);
        text.push_str("\n  Ctrl-C stops it and cleans up.");
        Ok(session.output.text(&text)?)
    }

    async fn stop(self, session: &Session) {
        if let Err(error) = contexts::remove(CONTEXT, &session.options) {
            session.output.warn(error);
        }
        let drained = self.running.stop().await;
        session.output.note(format!("drained {} connections", drained.drained));
    }

    fn url(&self) -> String {
        format!("https://{}", self.running.address)
    }

    fn line(&self, session: &Session, what: &str, text: String) -> anyhow::Result<()> {
        let since = self.started.elapsed().as_secs_f64();
        Ok(session.output.text(&format!("{since:5.1}s  {what:<8} {text}"))?)
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
    ca_host::engine(config, created.store, created.keys, pin).await
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
const WORKLOADS: &str = include_str!("../../../../certs-dev/workloads.json");
const CONTEXT: &str = "dev";
const DOMAIN: &str = "dev.internal";
