//! What `init`, `serve` and `dev` share: configuration, passphrases, and the engine opened on a
//! state folder.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Attestation, IssueRequest, Secret, Ttl};
use authority::clock::{Clock, SteadyClock};
use authority::policy::{OPERATOR_LIFE, PolicySet, SHIPPED_WORKLOADS};
use authority::setup;
use authority::signer::SignerError;
use authority::store::Store;
use authority::{Authority, Keys, OwnNames, Parts};
use clap::Args;
use countersign::svid_folder::{CHAIN, KEY, RECORD};
use identity::{SpiffeId, TrustPin};
use server::Config;
use zeroize::Zeroizing;

use crate::error::{ConfiguredFault, Error};
use crate::output::Output;
use crate::passphrase::{self, Source};
use crate::pending::PendingRequest;
use crate::policy_folder;
use crate::svid_folder;
use crate::svid_record::{SvidRecord, Wish};
use crate::trust::HeldTrust;

/// Where the service's configuration is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigFile {
    /// The service's configuration
    #[arg(long, value_name = "FILE", default_value = server::DEFAULT_PATH, env = "COUNTERSIGN_CONFIG")]
    pub(crate) config: PathBuf,
    // systemd's LoadCredential= puts secrets here; the environment is read by clap alone.
    #[arg(long, hide = true, env = "CREDENTIALS_DIRECTORY")]
    pub(crate) credentials_directory: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads it.
    pub(crate) fn load(&self) -> Result<Config, Error> {
        Config::load(&self.config).map_err(|source| Error::Configuration {
            path: self.config.clone(),
            source: Box::new(source),
        })
    }

    /// The passphrase of the keys that `serve` opens: from a file, systemd, or the terminal.
    pub(crate) fn passphrase(&self, config: &Config) -> Result<Secret, Error> {
        self.online_source(config).known()
    }

    /// The passphrase of `offline/`.
    pub(crate) fn offline_passphrase(&self, config: &Config) -> Result<Secret, Error> {
        offline_source(config).known()
    }

    /// The same, for what opens them now. Their folder may be kept elsewhere: then nobody is asked.
    pub(crate) fn offline_passphrase_at_hand(&self, config: &Config) -> Result<Secret, Error> {
        let folder = config.state.join(OFFLINE);
        if !folder.exists() {
            return Err(Error::NoOfflineKeys(folder));
        }
        self.offline_passphrase(config)
    }

    /// Says of a failure by a passphrase where that came from: none but the host knows.
    pub(crate) fn blame(&self, config: &Config, error: anyhow::Error) -> anyhow::Error {
        let key = match error.downcast_ref() {
            Some(authority::Error::Signer(error)) => wrong_passphrase(error),
            _ => error.downcast_ref().and_then(wrong_passphrase),
        };
        let Some(key) = key.map(str::to_owned) else { return error };
        let is_offline = Path::new(&key).starts_with(config.state.join(OFFLINE));
        let source = if is_offline { offline_source(config) } else { self.online_source(config) };
        source.blamed(key).into()
    }

    /// Those of a new CA: of the keys that `serve` opens, and of `offline/`.
    pub(crate) fn new_passphrases(&self, config: &Config) -> Result<(Secret, Secret), Error> {
        passphrase::new_pair(&self.online_source(config), &offline_source(config))
    }

    /// Says what it means that one file opens all keys.
    pub(crate) fn warn_of_one_passphrase(&self, config: &Config, output: &Output) {
        if passphrase::is_one_file(&self.online_source(config), &offline_source(config)) {
            output.warn(format!(
                "{PASSPHRASE_FILE} and {OFFLINE_PASSPHRASE_FILE} are one file: who reads it has the root, \
                 too. Where the CA is to be trusted, two, and the second kept elsewhere"
            ));
        }
    }

    fn online_source(&self, config: &Config) -> Source {
        let credential = self.credentials_directory.as_ref().map(|folder| folder.join(CREDENTIAL));
        let credential = credential.filter(|path| path.exists());
        let (file, setting) = match &config.passphrase_file {
            Some(file) => (Some(file.clone()), PASSPHRASE_FILE),
            None => (credential, CREDENTIAL),
        };
        Source { file, setting, what: "Passphrase of the CA's keys" }
    }

    /// Refuses files that the configuration names and nobody could use, all at once. That of the
    /// offline keys is kept elsewhere, once there is a CA.
    pub(crate) fn require_files(&self, config: &Config) -> Result<(), Error> {
        let checked = [require_folder(config), require_policies(config)];
        let checked = checked.into_iter().chain(self.require_passphrases(config));
        let mut faults: Vec<Error> = checked.filter_map(Result::err).collect();
        match faults.len() {
            0 => Ok(()),
            1 => Err(faults.remove(0)),
            _ => Err(Error::Several(faults)),
        }
    }

    fn require_passphrases(&self, config: &Config) -> Vec<Result<(), Error>> {
        let (online, offline) = (self.online_source(config), offline_source(config));
        // Without a pin where its issuer's parent has not signed yet: keys are sealed nevertheless.
        let is_made =
            ["trust.pin", "keys", OFFLINE].iter().any(|it| config.state.join(it).exists());
        if !is_made && online.file.is_some() && offline.file.is_some() {
            return passphrase::faults_of_new_pair(&online, &offline);
        }
        let is_needed = |path: &PathBuf| !is_made || path.exists();
        let offline_is_at_hand = offline.file.as_ref().is_some_and(is_needed);
        [(online.file.is_some(), &online), (offline_is_at_hand, &offline)]
            .into_iter()
            .filter(|(is_checked, _)| *is_checked)
            .map(|(_, source)| source.known().map(drop))
            .collect()
    }
}

fn require_folder(config: &Config) -> Result<(), Error> {
    if config.state.metadata().is_ok_and(|it| !it.is_dir()) {
        let fault = ConfiguredFault::Kind("it is no folder".to_owned());
        return Err(Error::ConfiguredFile { key: "state", path: config.state.clone(), fault });
    }
    Ok(())
}

fn require_policies(config: &Config) -> Result<(), Error> {
    let Some(path) = &config.policies else { return Ok(()) };
    let refuse = |error| Error::ConfiguredFile {
        key: POLICIES,
        path: path.clone(),
        fault: ConfiguredFault::Contents(format!("{error:#}")),
    };
    first_policy(config).map(drop).map_err(|error| match error.downcast::<Error>() {
        Ok(error @ (Error::ConfiguredFile { .. } | Error::NoPolicies(_))) => error,
        Ok(error) => refuse(error.into()),
        Err(error) => refuse(error),
    })
}

/// The file that a passphrase does not open.
fn wrong_passphrase(error: &SignerError) -> Option<&str> {
    match error {
        SignerError::Passphrase { path } => Some(path),
        _ => None,
    }
}

fn offline_source(config: &Config) -> Source {
    let file = config.offline_passphrase_file.clone();
    let what = "Passphrase of the offline keys (root, trust)";
    Source { file, setting: OFFLINE_PASSPHRASE_FILE, what }
}

/// Warns of folders of the CA in which others than their owner may put a file in another's place, and
/// of one above it that is somebody else's, who may put another folder in the CA's.
pub(crate) fn warn_of_writers(config: &Config, output: Output) {
    warn_of_landlord(config, output);
    let folders = [config.state.clone(), config.state.join("keys"), config.state.join(OFFLINE)];
    for folder in folders {
        let Ok(metadata) = folder.metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o022 != 0 {
            let path = crate::shell::quoted(&folder);
            output.warn(format!(
                "{path} has mode {mode:04o}: others may write in it, and remove or replace keys and \
                 database\nnext: chmod go-w {path}, and find out who did"
            ));
        }
    }
}

fn warn_of_landlord(config: &Config, output: Output) {
    let above = config.state.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or_else(|| Path::new("."));
    let Ok(landlord) = above.metadata().map(|it| it.uid()) else { return };
    let own = config.state.metadata().map(|it| it.uid()).ok();
    if [Some(0), Some(rustix::process::geteuid().as_raw()), own].contains(&Some(landlord)) {
        return;
    }
    let path = crate::shell::quoted(above);
    output.warn(format!(
        "{path} is user {landlord}'s, who may put another folder in the place of the CA's\nnext: \
         chown root {path}, or name another `state` in the configuration"
    ));
}

/// Warns where each `rotate` would find every key old.
pub(crate) fn warn_of_haste(config: &Config, output: Output) {
    let every = config.keys.rotate_every;
    if every.0 < DAY {
        output.warn(format!(
            "keys.rotate_every is {every}: each `rotate` replaces all keys, and everybody who trusts \
             the CA has to follow; 90d, unless it is set"
        ));
    }
}

/// The policy set of the policies folder, or the one that ships.
pub(crate) fn first_policy(config: &Config) -> anyhow::Result<PolicySet> {
    let files = match &config.policies {
        Some(folder) => policy_folder::read(folder).map_err(|error| match error {
            Error::Read { path, source } if path == *folder => {
                let fault = ConfiguredFault::Read(source);
                Error::ConfiguredFile { key: POLICIES, path, fault }
            }
            error => error,
        })?,
        None => BTreeMap::from([("workloads.json".to_owned(), SHIPPED_WORKLOADS.to_owned())]),
    };
    let policy = PolicySet::parse(&files)?;
    OwnNames::configured(&config.names).refuse_rows(policy.workloads())?;
    policy.require_way_on(Some(&config.trust_domain), None)?;
    Ok(policy)
}

/// Opens the engine on a finished state folder. What was checked of one of before, and migrated, is
/// told first.
pub(crate) async fn open(
    config: &Config,
    passphrase: &Secret,
    output: &Output,
) -> anyhow::Result<Arc<Authority>> {
    open_by(Arc::new(SteadyClock::watch(&config.state)), config, passphrase, output).await
}

/// The same, by another clock.
pub(crate) async fn open_by(
    clock: Arc<dyn Clock>,
    config: &Config,
    passphrase: &Secret,
    output: &Output,
) -> anyhow::Result<Arc<Authority>> {
    let pin = setup::read_pin(&config.state)?;
    let keys = Keys::open(&config.state, passphrase)?;
    let (store, migrated) = setup::open_store(&config.state, &config.trust_domain, &keys)?;
    if let Some(migrated) = migrated {
        output.note(migrated.to_string());
    }
    engine_by(clock, config, Arc::new(store), keys, pin).await
}

/// Puts the engine together from parts that are open already.
pub(crate) async fn engine(
    config: &Config,
    store: Arc<dyn Store>,
    keys: Keys,
    trust_pin: TrustPin,
) -> anyhow::Result<Arc<Authority>> {
    engine_by(Arc::new(SteadyClock::watch(&config.state)), config, store, keys, trust_pin).await
}

/// The same, by another clock.
pub(crate) async fn engine_by(
    clock: Arc<dyn Clock>,
    config: &Config,
    store: Arc<dyn Store>,
    keys: Keys,
    trust_pin: TrustPin,
) -> anyhow::Result<Arc<Authority>> {
    let parts = Parts {
        trust_domain: config.trust_domain.clone(),
        state: config.state.clone(),
        crl_url: config.crl_url.clone(),
        own_names: OwnNames::configured(&config.names),
        clock,
        store,
        keys,
        trust_pin,
    };
    Ok(Arc::new(Authority::open(parts).await?))
}

/// Issues an operator's SVID through the engine's own pipeline and installs it in a directory.
pub(crate) async fn install_operator(
    authority: &Arc<Authority>,
    name: &str,
    url: &str,
    pin: TrustPin,
    directory: &Path,
) -> anyhow::Result<SpiffeId> {
    let spiffe_id = SpiffeId::operator(authority.view.trust_domain(), name)?;
    let wish = Wish { ttl: Some(Ttl(OPERATOR_LIFE)), ..Wish::only(spiffe_id.clone()) };
    let directory = svid_folder::create(directory)?;
    let lock = directory.lock()?;
    let held = HeldTrust::from_note(authority.view.trust_note().to_vec(), &pin)?;
    let mut contents = held.contents();
    directory.require_room(&lock, &contents)?;
    let pending = PendingRequest::generate(&wish)?;
    let body = IssueRequest {
        csr: pending.csr.clone(),
        spiffe_id: Some(spiffe_id.clone()),
        dns: None,
        ip: None,
        profile: None,
        ttl: wish.ttl,
        attestation: Attestation::Svid {},
    };
    let issued = authority.issuing.issue_internal(&body, "init").await?;
    let record = SvidRecord::new(&issued, &wish, url, held.pin());
    contents.insert(CHAIN, Zeroizing::new(issued.chain.into_bytes()));
    contents.insert(KEY, Zeroizing::new(pending.key.as_bytes().to_vec()));
    contents.insert(RECORD, Zeroizing::new(record.to_json()));
    directory.replace(contents, &lock)?;
    Ok(spiffe_id)
}

/// Listens from now on, and completes with the name of the signal: Ctrl-C, SIGTERM, or SIGHUP, which
/// a terminal sends when it is closed. Nothing is read again on it: what may change, changes without.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Whoever starts it by `nohup` wants it to go on: a signal that is ignored stays ignored.
    let mut hangup = match hangups_are_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let hung_up = async move {
        match &mut hangup {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
            () = hung_up => "SIGHUP",
        }
    })
}

/// The kernel's word on this process: a bit for each signal, SIGHUP (1) the lowest.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// A file-size limit shall fail a write, as a full disk does, and not end the process: the signal
/// that the kernel sends (SIGXFSZ) is taken, for as long as the process lives.
pub(crate) fn survive_file_size_limit() -> std::io::Result<()> {
    let file_size_exceeded = tokio::signal::unix::SignalKind::from_raw(SIGXFSZ);
    tokio::signal::unix::signal(file_size_exceeded).map(drop)
}

/// Its number on every architecture that Linux has, but for MIPS.
const SIGXFSZ: i32 = 25;
/// Of keys that others have to follow.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of the state folder: root and trust keys.
const OFFLINE: &str = "offline";
/// Keys of the configuration.
const POLICIES: &str = "policies";
const PASSPHRASE_FILE: &str = "passphrase_file";
const OFFLINE_PASSPHRASE_FILE: &str = "offline_passphrase_file";
const CREDENTIAL: &str = "countersign-passphrase";
