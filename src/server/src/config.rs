//! The service's configuration, one TOML file.
//!
//! ```
//! let config: server::Config = server::Config::parse(r#"
//!     trust_domain = "pay.example"
//!     listen       = "0.0.0.0:8443"
//!     names        = ["ca.pay.internal"]
//!     state        = "/var/lib/countersign"
//!     policies     = "/etc/countersign/policies"
//!     passphrase_file = "/run/secrets/countersign"
//! "#)?;
//! assert_eq!(config.admin_listen.port(), 8444);
//! # Ok::<(), server::ConfigError>(())
//! ```

mod checks;
mod faults;

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use api::Ttl;
use authority::BudgetLimits;
use authority::files::Input;
use identity::TrustDomain;
use serde::{Deserialize, Serialize};

pub use self::faults::Fault;

/// Where the file is looked for.
pub const DEFAULT_PATH: &str = "/etc/countersign/countersign.toml";

/// The configuration. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain: `pay.example`.
    pub trust_domain: TrustDomain,
    /// Where TLS is served.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served, without TLS.
    #[serde(default = "default_admin_listen")]
    pub admin_listen: SocketAddr,
    /// DNS names and IP addresses by which clients reach this service: they stand in its own
    /// certificate.
    pub names: Vec<String>,
    /// The state folder: database and sealed keys.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// The policies folder that `init` applies; afterwards `policy apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<PathBuf>,
    /// The file with the passphrase that seals the keys in `keys/`; asked for without it.
    ///
    /// Refused where others than owner and group may read it, or others than the owner may write it:
    /// 0600, 0400, and 0640 or 0440 (systemd's credentials) pass, 0644 and 0444 (a container's secret
    /// in its default mode) do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// The file with the passphrase of `offline/`: `init` and `rotate` only, and best elsewhere
    /// between them. Its mode as for `passphrase_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_passphrase_file: Option<PathBuf>,
    /// Where clients find CRLs; `{issuer}` becomes the issuer's id. Only with it do certificates
    /// carry a distribution point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_url: Option<String>,
    /// When keys are replaced.
    #[serde(default)]
    pub keys: KeysConfig,
    /// What one line of renewals may make the log carry.
    #[serde(default)]
    pub budgets: BudgetsConfig,
    /// Requests a second that one line of renewals may make, or one address without certificates,
    /// in bursts of twice as many; 0 lifts it.
    #[serde(default = "default_rate")]
    pub requests_per_second: u32,
}

/// When keys are replaced: `[keys]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// `rotate` replaces issuer, countersignature, log and feed keys that are as old as this;
    /// 90 days, unless it is set.
    #[serde(default = "default_rotate_every")]
    pub rotate_every: Ttl,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self { rotate_every: default_rotate_every() }
    }
}

/// What a certificate and those renewed from one another with it may make the log carry:
/// `[budgets]`. Refusals are counted by `countersign_budget_refusals_total`; operators are not
/// limited, and a certificate may always revoke itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetsConfig {
    /// Certificates for other identities an hour; 600, unless it is set; 0 lifts it.
    pub issues_per_hour: u32,
    /// Renewals an hour; 60, unless it is set; 0 lifts it.
    pub renewals_per_hour: u32,
    /// Revocations of other certificates than its own an hour; 60, unless it is set; 0 lifts it.
    pub revocations_per_hour: u32,
}

impl Default for BudgetsConfig {
    fn default() -> Self {
        let BudgetLimits { issues_per_hour, renewals_per_hour, revocations_per_hour } =
            BudgetLimits::default();
        Self { issues_per_hour, renewals_per_hour, revocations_per_hour }
    }
}

impl From<&BudgetsConfig> for BudgetLimits {
    fn from(config: &BudgetsConfig) -> Self {
        Self {
            issues_per_hour: config.issues_per_hour,
            renewals_per_hour: config.renewals_per_hour,
            revocations_per_hour: config.revocations_per_hour,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Keys that are not known, values that cannot be used.
    #[error("{}", told(.0))]
    Faults(Vec<Fault>),
    /// It cannot be parsed.
    #[error("{}", without_source(.0))]
    Parse(Box<toml::de::Error>),
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One in its line, several each in one of its own.
fn told(faults: &[Fault]) -> String {
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    match &all[..] {
        [one] => one.clone(),
        all => format!("{} faults\n{}", all.len(), all.join("\n")),
    }
}

/// Where a text is not what it should be, and why. toml would show the line itself, which may be a
/// secret's: a passphrase in the configuration's place is one slip away.
pub fn without_source(error: &toml::de::Error) -> String {
    let shown = error.to_string();
    let place = shown.lines().next().and_then(|line| line.split_once(" at "));
    let why = identity::without_values(&error.message().trim().replace('\n', ", "));
    match place {
        Some((_, place)) => format!("{place}: {why}"),
        None => why,
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = Input::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            let why = format!("it is larger than {} KiB", MAX_BYTES >> 10);
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let text = identity::utf8_text(&bytes)
            .map_err(|fault| failed(io::Error::new(io::ErrorKind::InvalidData, fault)))?;
        Self::parse(text)
    }

    /// Parses and checks: all that is wrong is told at once.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        text.parse::<toml::Table>().map_err(|error| ConfigError::Parse(Box::new(error)))?;
        faults::read(text).map_err(ConfigError::Faults)
    }

    /// Where clients reach the API by the first of the names, at this port.
    pub fn url(&self, port: u16) -> String {
        let name = &self.names[0];
        let host = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        format!("https://{host}:{port}")
    }

    /// The names, sorted into DNS names and IP addresses, each once.
    pub fn sorted_names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (mut dns, mut ip) = (vec![], vec![]);
        for name in &self.names {
            match name.parse() {
                Ok(address) if !ip.contains(&address) => ip.push(address),
                Err(_) if !dns.contains(name) => dns.push(name.clone()),
                _ => {}
            }
        }
        (dns, ip)
    }
}

/// Of the file: some lines are needed.
const MAX_BYTES: u64 = 1 << 20;

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8444))
}

fn default_state() -> PathBuf {
    PathBuf::from("/var/lib/countersign")
}

fn default_rotate_every() -> Ttl {
    Ttl(std::time::Duration::from_secs(90 * 24 * 3600))
}

fn default_rate() -> u32 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_named() {
        for (text, expected) in [
            ("", "trust_domain"),
            ("trust_domain = \"Pay\"\nnames = [\"a\"]", "lower-case"),
            ("trust_domain = \"pay.example\"\nnames = []", "names"),
            ("trust_domain = \"pay.example\"\nnames = [\"a\"]\nport = 1", "port"),
            ("trust_domain = \"pay.example\"\nnames = [\"a\"]\ncrl_url = \"https://x\"", "crl_url"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_shows_what_stands_in_the_file() {
        for (text, expected) in [
            ("hunter2hunter2", "line 1"),
            ("hunter2/hunter2==", "line 1"),
            ("\n\npassphrase = \"hunter2\"", "line 3: unknown field `passphrase`"),
            ("state = hunter2", "string values must be quoted"),
            ("trust_domain = \"hunter2 hunter2\"", "trust domain"),
            ("trust_domain = \"a\"\nnames = \"hunter2\"", "line 2: names: invalid type: string"),
            ("trust_domain = \"a\"\nnames = [\"a\"]\nlisten = \"hunter2\"", "line 3"),
            (
                "trust_domain = \"a\"\nnames = [\"a\"]\n[keys]\nrotate_every = \"hunter2\"",
                "duration",
            ),
            ("hunter2 = \"unclosed", "line 1"),
            ("[hunter2", "line 1"),
            ("a = \"\\hunter2\"", "line 1"),
            ("trust_domain = \"a\"\nnames = [\n  [\"hunter2\"],\n]", "names: invalid type"),
            ("trust_domain = \"a\"\nnames = [\n  7 # hunter2\n]", "names: invalid type"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
            assert!(!error.contains('|'), "{text}: {error}");
        }
        let port =
            Config::parse("trust_domain = \"a\"\nnames = [\"a\"]\nlisten = 271828").unwrap_err();
        assert!(!port.to_string().contains("271828"), "{port}");
    }

    fn named(names: &str) -> Result<Config, String> {
        let text = format!("trust_domain = \"pay.example\"\nnames = [{names}]");
        Config::parse(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_no_certificate_can_carry_is_refused_by_its_key() {
        for (name, hint) in [
            ("localhost:8443", "no port"),
            ("127.0.0.1:8443", "no port"),
            ("https://ca.pay.internal", "not an URL"),
            ("[::1]", "without brackets"),
            ("[::1]:8443", "without brackets"),
            ("fe80::1%eth0", "zone ids"),
            ("CA.pay.internal", "lower case"),
            ("ca_1.pay.internal", "ca_1"),
            ("*.pay.internal", "wildcards"),
            ("ca.pay.internal.", "labels"),
            ("ca pay", "ca pay"),
            ("", "\"\""),
            ("0.0.0.0", "`listen`"),
            ("::", "`listen`"),
            ("10.0.0.256", "IP address"),
            ("127.1", "IP address"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
        ] {
            let refused = named(&format!("\"localhost\", {name:?}")).unwrap_err();
            assert!(
                refused.contains("line 2: names: ") && refused.contains(hint),
                "{name}: {refused}"
            );
        }
        let many: Vec<String> = (0..101).map(|n| format!("\"n{n}.internal\"")).collect();
        assert!(named(&many[..100].join(",")).is_ok());
        assert!(named(&many.join(",")).unwrap_err().contains("names: "));
    }

    #[test]
    fn a_name_that_stands_there_twice_counts_once() {
        let config = named(r#""localhost", "::1", "localhost", "0:0:0:0:0:0:0:1""#).unwrap();
        let loopback = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(config.sorted_names(), (vec!["localhost".to_owned()], vec![loopback]));
    }

    #[test]
    fn a_file_in_another_encoding_is_named_and_a_mark_before_utf_8_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.toml");
        let text = "trust_domain = \"pay.example\"\r\nnames = [\"localhost\"]\r\n";
        std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
        Config::load(&path).unwrap();
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, utf16).unwrap();
        let refused = Config::load(&path).unwrap_err().to_string();
        assert!(refused.contains("UTF-16") && refused.contains("ca.toml"), "{refused}");
    }
}
