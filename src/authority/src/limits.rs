//! Limits on what callers ask of the engine, by name: `config check` shows each with its value, and
//! what it refuses or cuts is counted under the same name. Limits of connections and bodies are the
//! server's; budgets are configured, and have counters of their own.

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    name: &'static str,
    most: usize,
    unit: Unit,
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Bytes,
    Count,
}

impl Limit {
    const fn bytes(name: &'static str, most: usize) -> Self {
        Self { name, most, unit: Unit::Bytes }
    }

    const fn count(name: &'static str, most: usize) -> Self {
        Self { name, most, unit: Unit::Count }
    }

    /// Its name, as the counter and `config check` have it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its value with its unit.
    pub fn shown(&self) -> String {
        match self.unit {
            Unit::Bytes if self.most.is_multiple_of(1024) => format!("{} KiB", self.most / 1024),
            Unit::Bytes => format!("{} bytes", self.most),
            Unit::Count => self.most.to_string(),
        }
    }

    /// How much it is.
    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    /// Counts what it has refused or cut.
    pub(crate) fn reached(&self) {
        metrics::counter!("countersign_limits_reached_total", "limit" => self.name).increment(1);
    }
}

/// Acts that an answer names.
pub(crate) const ACTS_FOR_REVIEW: Limit = Limit::count("acts_for_review", 100);
/// DNS and IP names from request and CSR together.
pub(crate) const CERTIFICATE_NAMES: Limit = Limit::count("certificate_names", 100);
pub(crate) const CERTIFICATE_REQUEST: Limit =
    Limit::bytes("certificate_request", issuance::MAX_REQUEST);
pub(crate) const COMPLETIONS: Limit = Limit::count("completions", MAX_WAITING - RESERVED);
pub(crate) const FEED_SUBSCRIPTIONS: Limit = Limit::count("feed_subscriptions_per_line", 16);
pub(crate) const FEED_CERTIFICATES: Limit = Limit::count("feed_certificates_per_line", 32);
/// In bytes; a UUID has 36.
pub(crate) const IDEMPOTENCY_KEY: Limit = Limit::bytes("idempotency_key", 255);
pub(crate) const LOG_ENTRY: Limit = Limit::bytes("log_entry", tlog::MAX_ENTRY);
/// Records of one page.
pub(crate) const PAGE: Limit = Limit::count("page", 1000);
/// Brackets and operators in each other: a hundred alternatives, and half of what the stack of a
/// runtime's thread takes where nothing is optimised.
pub(crate) const POLICY_DEPTH: Limit = Limit::count("policy_depth", 200);
/// An entry of the log has 65,535 bytes, and `policy.change` names each file.
pub(crate) const POLICY_FILE_NAMES: Limit = Limit::bytes("policy_file_names", 32 * 1024);
/// Cedar closes a chain of paths in the cube of its length.
pub(crate) const POLICY_NESTED_PATHS: Limit = Limit::count("policy_nested_paths", 32);
pub(crate) const POLICY_SET: Limit = Limit::bytes("policy_set", api::MAX_POLICY_BYTES);
pub(crate) const PROFILE_NAME: Limit = Limit::bytes("profile_name", 64);
pub(crate) const REACH_NAMED: Limit = Limit::count("reach_named", 1000);
/// A connection is a file descriptor, and this is how many Linux lets one process have
/// (`fs.nr_open`, 2^20 unless somebody raised it).
pub(crate) const REPORT_CONNECTIONS: Limit = Limit::count("report_connections", 1 << 20);
/// What the peers of one report may take, in bytes of identities: ten thousand reports are kept.
pub(crate) const REPORT_IDENTITIES: Limit = Limit::bytes("report_identities", 16 * 1024);
pub(crate) const REPORT_PEERS: Limit = Limit::count("report_peers", 200);
pub(crate) const REPORT_REVOCATIONS: Limit = Limit::count("report_revocations", 100);
pub(crate) const REPORTS: Limit = Limit::count("reports", 10_000);
pub(crate) const REPORTS_PER_IDENTITY: Limit = Limit::count("reports_per_identity", 200);
/// A type may nest in the one declared after it, so that depth and number multiply: some 3,000 levels,
/// which a runtime's thread can drop.
pub(crate) const SCHEMA_DEPTH: Limit = Limit::count("schema_depth", 30);
pub(crate) const SCHEMA_TYPES: Limit = Limit::count("schema_types", 100);
/// Words of a schema with each type in place of its name: a hundred times the shipped one, which
/// Cedar's validator walks in a few milliseconds.
pub(crate) const SCHEMA_WORDS: Limit = Limit::count("schema_words", 50_000);
pub(crate) const WAITING_FOR_THE_LOG: Limit =
    Limit::count("waiting_for_the_log", MAX_WAITING - RESERVED);

/// Requests that may wait; beyond it callers are told to come again.
pub(crate) const MAX_WAITING: usize = 4096;
/// Of these, for what takes away and what is logged already: the others may fill all of theirs before it
/// is found out that a commit hangs.
pub(crate) const RESERVED: usize = 1024;

/// All of them.
pub const LIMITS: &[Limit] = &[
    ACTS_FOR_REVIEW,
    CERTIFICATE_NAMES,
    CERTIFICATE_REQUEST,
    COMPLETIONS,
    FEED_CERTIFICATES,
    FEED_SUBSCRIPTIONS,
    IDEMPOTENCY_KEY,
    LOG_ENTRY,
    PAGE,
    POLICY_DEPTH,
    POLICY_FILE_NAMES,
    POLICY_NESTED_PATHS,
    POLICY_SET,
    PROFILE_NAME,
    REACH_NAMED,
    REPORT_CONNECTIONS,
    REPORT_IDENTITIES,
    REPORT_PEERS,
    REPORT_REVOCATIONS,
    REPORTS,
    REPORTS_PER_IDENTITY,
    SCHEMA_DEPTH,
    SCHEMA_TYPES,
    SCHEMA_WORDS,
    WAITING_FOR_THE_LOG,
];

/// Their names.
pub const LIMIT_NAMES: &[&str] = &NAMES;
const NAMES: [&str; LIMITS.len()] = {
    let mut names = [""; LIMITS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = LIMITS[at].name;
        at += 1;
    }
    names
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A limit that nothing counts would be reached in silence.
    #[test]
    fn each_is_listed_once_and_counted_somewhere() {
        let own = include_str!("limits.rs").split("#[cfg(test)]").next().unwrap();
        let constants = own.split("pub(crate) const ").skip(1);
        let constants = constants.filter_map(|it| it.split_once(": Limit =")).map(|(it, _)| it);
        let constants: BTreeSet<&str> = constants.collect();
        let names: BTreeSet<&str> = LIMIT_NAMES.iter().copied().collect();
        assert_eq!((names.len(), LIMITS.len()), (constants.len(), constants.len()));
        let mut product = String::new();
        read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut product);
        for constant in constants {
            let counts = format!("limits::{constant}.reached()");
            assert!(product.contains(&counts), "{constant}");
        }
    }

    fn read(folder: &Path, product: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, product);
            } else if !path.ends_with("limits.rs") {
                product.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}
