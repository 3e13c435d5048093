//! The dashboard and the alert rules that ship, against what `/metrics` really serves, and what
//! Prometheus' own tool thinks of all three.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use certified::made;
use serde_json::Value;
use system_tests::{Environment, PATIENCE, Settings, pause};

#[path = "../interop/certified.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod certified;

/// A metric's labels, and the values that each was seen with.
type Labels = BTreeMap<String, BTreeSet<String>>;

#[test]
fn dashboard_and_alerts_name_only_what_is_served() {
    let served = served(&exercised());
    let library = told_by_the_library();
    let alerts = read("alerts.yaml");
    let mut used = uses(&alerts);
    for expression in expressions(&serde_json::from_str(&read("dashboard.json")).unwrap()) {
        used.extend(uses(&expression));
    }
    assert!(used.len() > 60, "{used:?}");
    let known = |name: &str| served.contains_key(name) || library.contains_key(name);
    let unknown: Vec<_> = used.iter().filter(|used| !known(&used.name)).collect();
    assert!(unknown.is_empty(), "nobody serves these: {unknown:?}");
    for Used { name, labels } in &used {
        for (label, values) in labels {
            // What a scrape adds.
            if label == "instance" {
                continue;
            }
            let of_ca = served.get(name).and_then(|labels| labels.get(label));
            let of_library = library.get(name).is_some_and(|labels| labels.contains(label));
            assert!(of_ca.is_some() || of_library, "{name} has no label {label}");
            let seen = of_ca.filter(|_| !OPEN.contains(&label.as_str()));
            for value in seen.iter().flat_map(|seen| values.iter().filter(|it| !seen.contains(*it)))
            {
                assert!(of_library, "{name} has no {label} {value:?}");
            }
        }
    }
    // `…_bytes` of the README is the rest of a name that stands before it.
    let readme = folder().join("../../README.md");
    for Used { name, .. } in uses(&fs::read_to_string(readme).unwrap()) {
        assert!(known(&name), "nobody serves {name}, which the README names");
    }
    // What is told of an alert comes from labels, too.
    let every_label: BTreeSet<&str> =
        served.values().flat_map(BTreeMap::keys).map(|it| &**it).collect();
    for label in alerts.split("$labels.").skip(1) {
        let label = label.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        assert!(label == "instance" || every_label.contains(label), "$labels.{label}");
    }
}

/// The other way round: whoever adds a metric says how somebody is woken by it, or why nobody is.
#[test]
fn each_metric_of_the_ca_has_an_alert_or_a_reason_and_is_seen() {
    let served: BTreeSet<String> = families(&exercised());
    let in_alerts: BTreeSet<String> = uses(&read("alerts.yaml")).into_iter().map(family).collect();
    let dashboard = expressions(&serde_json::from_str(&read("dashboard.json")).unwrap());
    let on_dashboard: BTreeSet<String> =
        dashboard.iter().flat_map(|text| uses(text)).map(family).collect();
    let silent: BTreeSet<String> = SILENT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let without: Vec<_> = served
        .iter()
        .filter(|name| !in_alerts.contains(*name) && !silent.contains(*name))
        .collect();
    assert!(without.is_empty(), "neither an alert nor a reason: {without:?}");
    let needless: Vec<_> =
        silent.iter().filter(|name| in_alerts.contains(*name) || !served.contains(*name)).collect();
    assert!(needless.is_empty(), "these have one, or are served no more: {needless:?}");
    let unseen: Vec<_> = served.difference(&on_dashboard).collect();
    assert!(unseen.is_empty(), "not on the dashboard: {unseen:?}");
}

#[test]
fn each_alert_says_what_happened_and_names_a_command_that_can_be_typed() {
    let environment = Environment::prepare(&Settings::default());
    let alerts = read("alerts.yaml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 30);
    for rule in rules {
        let name = rule.lines().next().unwrap();
        let field = |field: &str| {
            let line = rule.lines().find_map(|line| line.trim().strip_prefix(field));
            let text = line.unwrap_or_else(|| panic!("{name} has no {field}"));
            text.trim().trim_matches('"').to_owned()
        };
        assert!(["critical", "warning", "info"].contains(&&*field("severity:")), "{name}");
        let (summary, description) = (field("summary:"), field("description:"));
        assert!(summary.len() > 10 && description.len() > 20, "{name}");
        let command = field("command:");
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some("countersign"), "{name}: {command}");
        let names: Vec<&str> =
            words.take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect();
        let options = command.split(' ').filter(|word| word.starts_with("--"));
        let help = environment.countersign(&[&names[..], &["--help"]].concat()).success().stdout;
        for option in options {
            assert!(help.contains(option), "{name}: {command}");
        }
    }
}

#[test]
fn prometheus_own_tool_finds_nothing() {
    let metrics = exercised();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), metrics).unwrap();
    let mut check = promtool(&["check", "metrics"]);
    clean(check.stdin(File::open(file.path()).unwrap()));
    clean(
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"])
            .stdin(Stdio::null()),
    );
    clean(promtool(&["test", "rules", "alerts-test.yaml"]).stdin(Stdio::null()));
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("600").arg(made("promtool")).args(arguments).current_dir(folder());
    command
}

fn clean(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    // What is only advice ends with 0, too.
    let is_advice = |line: &&str| line.contains("countersign_");
    assert_eq!(said.lines().find(is_advice), None, "{said}");
}

/// What a CA serves after it issued, refused, revoked, made a CRL and told its feed.
fn exercised() -> String {
    let environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    environment.issue_with("/prod/unknown", "unknown", &[]);
    let status = environment.countersign(&["--json", "status"]).success().json();
    let id = environment.id("/prod/reports");
    environment.countersign(&["revoke", &id, "--reason", "superseded", "--yes"]).success();
    let issuer = status["issuers"][0]["id"].as_str().unwrap();
    environment.curl(&format!("/crl/{issuer}"), &["--fail", "-o", "/dev/null"]).success();
    // A newcomer is told the whole state.
    environment.curl("/v1/feed", &["--max-time", "10", "-o", "/dev/null"]);
    let begun = Instant::now();
    loop {
        let metrics = environment.admin("/metrics");
        let metrics = metrics.split_once("\r\n\r\n").unwrap().1.to_owned();
        // Some are looked at now and then.
        let is_complete = LOOKED_AT.iter().all(|part| metrics.contains(part));
        if is_complete || begun.elapsed() > PATIENCE {
            return metrics;
        }
        pause();
    }
}

/// Every series' name with its labels.
fn served(metrics: &str) -> BTreeMap<String, Labels> {
    let mut served: BTreeMap<String, Labels> = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("countersign_")) {
        for Used { name, labels } in uses(line) {
            let known = served.entry(name).or_default();
            for (label, values) in labels {
                known.entry(label).or_default().extend(values);
            }
        }
    }
    served
}

/// The names after `# TYPE`: of a histogram one.
fn families(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn family(used: Used) -> String {
    let parts = ["_bucket", "_sum", "_count"];
    let name = parts.iter().find_map(|part| used.name.strip_suffix(part));
    name.map_or_else(|| used.name.clone(), str::to_owned)
}

/// What the library's documentation lists: name and labels.
fn told_by_the_library() -> BTreeMap<String, BTreeSet<String>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/sidecar/src/lib.rs");
    let source = fs::read_to_string(source).unwrap();
    let mut told = BTreeMap::new();
    for row in source.lines().filter(|line| line.starts_with("//! | `countersign_")) {
        for name in row.split('`').filter(|part| part.starts_with("countersign_")) {
            let (name, label) = name.split_once('{').unwrap_or((name, ""));
            let labels = label.trim_end_matches('}').split(',').filter(|it| !it.is_empty());
            told.insert(name.to_owned(), labels.map(str::to_owned).collect());
        }
    }
    assert!(told.len() > 10, "{told:?}");
    told
}

/// A metric as an expression, or a line of `/metrics`, names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    name: String,
    labels: Labels,
}

fn uses(text: &str) -> BTreeSet<Used> {
    let mut found = BTreeSet::new();
    for part in text.split("countersign_").skip(1) {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let labels = rest.strip_prefix('{').map(labels).unwrap_or_default();
        found.insert(Used { name: format!("countersign_{name}"), labels });
    }
    found
}

/// `of=~"root|issuer",who="x"}…`
fn labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut rest = text;
    while let Some((label, after)) = rest.split_once('=').filter(|_| !rest.starts_with('}')) {
        let (value, after) =
            after.trim_start_matches('~').trim_start_matches('"').split_once('"').unwrap();
        let label = label.trim_matches([',', ' ', '!']).to_owned();
        labels.entry(label).or_default().extend(value.split('|').map(str::to_owned));
        rest = after;
    }
    labels
}

/// Every `expr`, and every query of a variable.
fn expressions(dashboard: &Value) -> Vec<String> {
    match dashboard {
        Value::Object(fields) => {
            let is_expression = |key: &str| key == "expr" || key == "query";
            let own = fields.iter().filter(|(key, _)| is_expression(key));
            let own = own.filter_map(|(_, value)| value.as_str().map(str::to_owned));
            own.chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform/monitoring")
}

/// What is looked at every few seconds only.
const LOOKED_AT: &[&str] = &[
    "countersign_certificate_life_seconds{of=\"own\"}",
    "countersign_certificate_life_seconds{of=\"operators-last\"}",
    "countersign_checkpoint_size ",
    "countersign_feed_heartbeat_timestamp_seconds ",
    "countersign_halted 0",
    "countersign_ready 1",
];
/// Labels of which more values come up in time.
const OPEN: &[&str] = &["route", "version", "le", "outcome", "status"];
/// What nobody is woken by, and why.
const SILENT: &[(&str, &str)] = &[
    ("countersign_bodies_bytes", "it has limits, and whoever is refused hears of it"),
    ("countersign_bodies_refused_total", "whoever sends them hears of it; floods show elsewhere"),
    ("countersign_build_info", "it is what it is"),
    ("countersign_checkpoint_size", "its age has an alert"),
    ("countersign_commit_members", "it tells how busy the CA is"),
    ("countersign_completions_open", "who finds no room is told, and refusals have an alert"),
    ("countersign_connections_closed_total", "that is what a revocation is for"),
    ("countersign_connections_cut_total", "places and refusals have alerts"),
    ("countersign_connections_open", "those with a certificate and strangers have alerts"),
    ("countersign_feed_snapshot_bytes", "its chunks have an alert"),
    ("countersign_feed_subscribers", "services tell themselves when they hear nothing"),
    ("countersign_http_two_not_offered_total", "over HTTP/1.1 everything is served"),
    ("countersign_issued_total", "it tells how busy the CA is"),
    ("countersign_limits_reached_total", "whoever meets one is told it, and what to do"),
    ("countersign_log_entries", "the checkpoint's age has an alert"),
    ("countersign_logged_total", "it tells how busy the CA is"),
    ("countersign_open_files_limit", "places have an alert"),
    ("countersign_refusals_untold_total", "refusals have an alert"),
    ("countersign_reports_doubted_total", "`revoke --wait` names whose they are"),
    ("countersign_reports_refused_total", "they move nothing, and are told in the diagnostics"),
    ("countersign_requests_not_begun_total", "whoever does not read hears of it"),
    ("countersign_requests_repeated_total", "that is what their names are for"),
    ("countersign_revoked_certificates", "CRL and snapshot have alerts"),
];
