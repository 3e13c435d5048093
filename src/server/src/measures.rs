//! What `/metrics` tells: a table, which the recorder is told of before anything is measured.
//!
//! Counters stand at 0 from the start, with each value of their labels that is known beforehand: what
//! has never happened is told, too, and an alert on it works before it does. Names follow Prometheus'
//! conventions; times are in seconds, sizes in bytes.

use std::sync::Arc;
use std::time::Duration;

use authority::Authority;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use time::OffsetDateTime;

use crate::diagnostics::DURATION;
use crate::readiness::Readiness;

/// One recorder a process; a second service in it shares the first's.
pub(crate) fn install() -> Option<PrometheusHandle> {
    let recorder = builder().expect("the buckets are not empty").build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    describe();
    Some(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_members".to_owned()), MEMBERS)
}

fn describe() {
    for (name, help, label, values) in COUNTERS {
        describe_counter!(*name, *help);
        match (*label, *values) {
            ("", _) => counter!(*name).increment(0),
            (label, values) => {
                for value in values {
                    counter!(*name, label => *value).increment(0);
                }
            }
        }
    }
    for (name, unit, help) in GAUGES {
        describe_gauge!(*name, *unit, *help);
    }
    for (name, unit, help) in HISTOGRAMS {
        describe_histogram!(*name, *unit, *help);
    }
    gauge!("countersign_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// What is known only by looking, now and then.
pub(crate) async fn look(authority: Arc<Authority>, readiness: Readiness) {
    for looks in 0_u64.. {
        if looks.is_multiple_of(LOOKS_FOR_OPERATORS) {
            look_for_operators(&authority).await;
        }
        gauge!("countersign_halted").set(f64::from(u8::from(authority.view.halted().is_some())));
        gauge!("countersign_completions_open").set(authority.writer.completing() as f64);
        gauge!("countersign_strangers_open").set(readiness.places.handshaking() as f64);
        if let Ok(size) = authority.view.log_size().await {
            gauge!("countersign_log_entries").set(size as f64);
        }
        let (begin, end) = readiness.own.validity();
        let lives = authority.rotation.lives().into_iter();
        let lives = lives.map(|(key, begin, end)| (key.to_string(), begin, end));
        for (of, begin, end) in lives.chain([("own".to_owned(), begin, end)]) {
            tell_life(of, begin, end);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who can act, and until when the first and the last of them can: not one series for each, because how
/// many there are is the table's to say.
async fn look_for_operators(authority: &Authority) {
    let lives = match authority.operations.lives_of_operators().await {
        Ok(lives) => lives,
        Err(error) => {
            tracing::warn!(%error, "cannot tell when operators' certificates end");
            return;
        }
    };
    gauge!("countersign_operators_able").set(lives.len() as f64);
    let first = lives.iter().min_by_key(|(_, end)| *end);
    let last = lives.iter().max_by_key(|(_, end)| *end);
    for (of, life) in [("operators-first", first), ("operators-last", last)] {
        if let Some((begin, end)) = life {
            tell_life(of, *begin, *end);
        }
    }
}

fn tell_life(of: impl Into<String>, begin: OffsetDateTime, end: OffsetDateTime) {
    let of = of.into();
    gauge!(EXPIRY, "of" => of.clone()).set(end.unix_timestamp() as f64);
    gauge!(LIFE, "of" => of).set((end - begin).as_seconds_f64());
}

type Counter = (&'static str, &'static str, &'static str, &'static [&'static str]);

const COUNTERS: &[Counter] = &[
    ("countersign_accept_errors_total", "No file or memory was left for a connection", "", &[]),
    (
        "countersign_bodies_refused_total",
        "Bodies of requests that were not read to their end, by reason",
        "reason",
        &["busy", "ended", "no-room", "slow", "too-large"],
    ),
    (
        "countersign_budget_refusals_total",
        "What a line of renewals asked for beyond its budget of an hour",
        "budget",
        &["issues", "renewals", "revocations"],
    ),
    (
        "countersign_commits_failed_total",
        "Commits that the store did not take: nothing is issued while it does not",
        "",
        &[],
    ),
    (
        "countersign_connections_closed_total",
        "Connections closed because their peer is no longer welcome, by rule",
        "reason",
        &["denied", "expired", "revoked"],
    ),
    (
        "countersign_connections_cut_total",
        "Connections cut for what their peer did, or (share) for another peer",
        "reason",
        &["frames", "header", "share", "unread"],
    ),
    ("countersign_feed_dropped_total", "Subscribers that read too slowly", "", &[]),
    (
        "countersign_foreign_rows_total",
        "Rows ahead of the log that somebody else wrote to the database, and that were deleted",
        "",
        &[],
    ),
    (
        "countersign_handshakes_refused_total",
        "Clients refused in or after their handshake: a rule, or what there was no place for",
        "reason",
        &["denied", "expired", "places", "revoked", "share", "slow", "source", "timeout", "tls"],
    ),
    (
        "countersign_http_two_not_offered_total",
        "Newcomers that were offered HTTP/1.1 alone: enough strangers had HTTP/2",
        "",
        &[],
    ),
    ("countersign_issued_total", "Certificates signed and stored", "", &[]),
    (
        "countersign_kept_files_rewritten_total",
        "Files beside the database that say what the log is, written anew since somebody removed or \
         replaced them while the CA ran",
        "file",
        &["checkpoint", "head"],
    ),
    (
        "countersign_limits_reached_total",
        "What a limit has refused or cut, by the limit that `countersign config check` shows",
        "limit",
        authority::LIMIT_NAMES,
    ),
    ("countersign_logged_total", "Certificates logged", "", &[]),
    (
        "countersign_own_certificate_refused_total",
        "How often others refused the CA's own certificate",
        "by",
        &["client", "server"],
    ),
    ("countersign_rate_limited_total", "Requests beyond their caller's rate", "", &[]),
    (
        "countersign_requests_not_begun_total",
        "Requests of HTTP/2 refused: too much unread, or in headers",
        "",
        &[],
    ),
    (
        "countersign_refusals_untold_total",
        "Refusals and failures too many in a second to be told each",
        "",
        &[],
    ),
    (
        "countersign_refused_total",
        "Requests for a certificate that were refused, by who asked",
        "who",
        &["attested", "stranger"],
    ),
    (
        "countersign_reports_doubted_total",
        "Reports of more closed connections than their sender ever said to have open",
        "",
        &[],
    ),
    ("countersign_reports_refused_total", "Reports that say what cannot be", "", &[]),
    ("countersign_requests_repeated_total", "Requests answered as before, by their name", "", &[]),
    (
        "countersign_requests_total",
        "Requests answered, by class of status",
        "status",
        &["2xx", "3xx", "4xx", "5xx"],
    ),
    ("countersign_revocations_total", "Revocations and denials", "", &[]),
];

const GAUGES: &[(&str, Unit, &str)] = &[
    (
        "countersign_bodies_bytes",
        Unit::Bytes,
        "Memory of requests' bodies that are not whole yet, by who sends them",
    ),
    ("countersign_build_info", Unit::Count, "1, with the version as label"),
    (
        EXPIRY,
        Unit::Seconds,
        "When a certificate ends, since 1970: `of` is own, issuer, root (the first to end), and of \
         operators able to act operators-first and operators-last",
    ),
    (LIFE, Unit::Seconds, "How long the same certificate lives in all"),
    (
        "countersign_checkpoint_size",
        Unit::Count,
        "Entries that the newest signed checkpoint covers",
    ),
    (
        "countersign_checkpoint_timestamp_seconds",
        Unit::Seconds,
        "When a signed checkpoint last covered the whole log, since 1970",
    ),
    ("countersign_clock_steady", Unit::Count, "1 while the clock runs as the machine does"),
    (
        "countersign_completions_open",
        Unit::Count,
        "Certificates and revocations on their way into the log and out of it; 4,096 at most",
    ),
    ("countersign_connections_limit", Unit::Count, "Connections taken at most, by port and kind"),
    ("countersign_connections_open", Unit::Count, "Connections that serve HTTP"),
    ("countersign_crl_entries", Unit::Count, "Certificates that the newest CRL lists"),
    (
        "countersign_feed_heartbeat_timestamp_seconds",
        Unit::Seconds,
        "When subscribers of the feed were last told that they have heard of everything, since 1970",
    ),
    ("countersign_feed_snapshot_bytes", Unit::Bytes, "Size of the newest snapshot of revocations"),
    (
        "countersign_feed_snapshot_chunks",
        Unit::Count,
        "Chunks of the newest snapshot of revocations",
    ),
    ("countersign_feed_subscribers", Unit::Count, "Who hears the feed"),
    (
        "countersign_halted",
        Unit::Count,
        "1 while nothing is issued because the log was found to be another",
    ),
    ("countersign_keys_absent", Unit::Count, "Active keys that could not be opened"),
    ("countersign_log_entries", Unit::Count, "Entries of the log"),
    (
        "countersign_lost_rows",
        Unit::Count,
        "Certificates that the log holds and that may still be used, whose rows the database has lost",
    ),
    ("countersign_open_files_limit", Unit::Count, "Files that the process may open (ulimit -n)"),
    (
        "countersign_operators_able",
        Unit::Count,
        "Operators who may change the policy set and have a certificate that is good",
    ),
    ("countersign_peer_connections_open", Unit::Count, "Connections with a certificate"),
    ("countersign_ready", Unit::Count, "1 while /readyz says so"),
    (
        "countersign_revoked_certificates",
        Unit::Count,
        "Revoked certificates that may still be valid",
    ),
    ("countersign_store_waiting", Unit::Count, "Reads and commits that wait for a thread"),
    (
        "countersign_strangers_open",
        Unit::Count,
        "Connections in their handshake or without a certificate",
    ),
];

const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    ("countersign_commit_duration_seconds", Unit::Seconds, "How long a commit took, disk included"),
    ("countersign_commit_members", Unit::Count, "Requests that shared a commit"),
    (
        DURATION,
        Unit::Seconds,
        "How long a request took to its answer's first byte, by route and outcome",
    ),
];

const EXPIRY: &str = "countersign_certificate_expiry_timestamp_seconds";
const LIFE: &str = "countersign_certificate_life_seconds";
/// Each minute: it reads the records of each.
const LOOKS_FOR_OPERATORS: u64 = 12;
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From a policy decision to a disk that does not answer.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const MEMBERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names() -> Vec<&'static str> {
        let counters = COUNTERS.iter().map(|(name, ..)| *name);
        let gauges = GAUGES.iter().map(|(name, ..)| *name);
        counters.chain(gauges).chain(HISTOGRAMS.iter().map(|(name, ..)| *name)).collect()
    }

    /// <https://prometheus.io/docs/practices/naming/>
    #[test]
    fn names_follow_the_conventions() {
        for name in names() {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.starts_with("countersign_") && name.chars().all(is_plain), "{name}");
            let is_counter = COUNTERS.iter().any(|(it, ..)| *it == name);
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        }
        let distinct: BTreeSet<_> = names().into_iter().collect();
        assert_eq!(distinct.len(), names().len());
        for (name, unit, _) in GAUGES.iter().chain(HISTOGRAMS) {
            let suffix = match unit {
                Unit::Seconds => "_seconds",
                Unit::Bytes => "_bytes",
                _ => continue,
            };
            assert!(name.ends_with(suffix), "{name}");
        }
    }

    /// Whatever the CA's crates measure stands in the table: what nobody describes, nobody finds.
    #[test]
    fn every_metric_that_the_ca_measures_is_described() {
        let mut measured = BTreeSet::new();
        for folder in ["src", "../authority/src"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            read(&folder, &mut measured);
        }
        let described: BTreeSet<String> = names().into_iter().map(str::to_owned).collect();
        let missing: Vec<_> = measured.difference(&described).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    fn read(folder: &std::path::Path, measured: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, measured);
            } else if path.file_name().unwrap() != "measures.rs" {
                let text = std::fs::read_to_string(&path).unwrap();
                let parts = text.split("\"countersign_").skip(1);
                measured.extend(parts.map(|part| {
                    let name = part.split('"').next().unwrap();
                    format!("countersign_{name}")
                }));
            }
        }
    }
}
