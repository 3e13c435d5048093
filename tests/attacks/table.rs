//! What is printed: a row an attack, and beneath it what was missed.

use std::fs;
use std::time::Duration;

use crate::attacker::Achieved;
use crate::honest::Latencies;
use crate::siege::Row;

pub(crate) fn header() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{processors} processors, load average before: {}", load.join(" "));
    println!(
        "issue: by one connection, by a new one each, and by a stranger with a token; p99 in ms, quiet > attacked. RSS: MiB, of 60 + 25 KiB a connection.\n"
    );
    println!(
        "{:<20} {:>5} {:>6} {:>13} {:>15} {:>15} {:>15} {:>12} {:>9} {:>14} {:>9} {:>5}  achieved",
        "attack",
        "s",
        "conn",
        "RSS / bound",
        "issue kept",
        "issue new",
        "issue first",
        "trust p99",
        "revoke s",
        "readyz ok/all",
        "CA %",
        "atk%"
    );
}

/// Prints a row; false if it missed a target.
pub(crate) fn row(row: &Row<'_>) -> bool {
    let Row { attack, quiet, attacked, achieved, .. } = row;
    let (before, now) = (&quiet.answers, &attacked.answers);
    let ready = &attacked.ready;
    let missed = missed(row);
    println!(
        "{:<20} {:>5.0} {:>6} {:>13} {:>15} {:>15} {:>15} {:>12} {:>9} {:>14} {:>9} {:>5.0}  {}",
        attack.name,
        row.took.as_secs_f64(),
        row.connections,
        format!("{:.0} / {:.0}", attacked.resident, most_resident(row)),
        format!("{} > {}", p99(&before.kept), p99(&now.kept)),
        format!("{} > {}", p99(&before.fresh), p99(&now.fresh)),
        format!("{} > {}", p99(&before.first), p99(&now.first)),
        format!("{} > {}", p99(&before.trust), p99(&now.trust)),
        longest(row).map_or_else(
            || "none".to_owned(),
            |longest| { format!("{:.2}", longest.as_secs_f64()) }
        ),
        format!(
            "{}/{} {:.0} ms",
            ready.ok,
            ready.ok + ready.not_ready + ready.silent,
            ready.longest.as_secs_f64() * 1e3
        ),
        format!("{:.0} > {:.0}", quiet.cpu, attacked.cpu),
        row.attacker_cpu,
        told(achieved, row),
    );
    if !missed.is_empty() {
        println!("{:<20} MISSED: {}", "", missed.join("; "));
    }
    missed.is_empty()
}

/// Each target that was not met, in words.
fn missed(row: &Row<'_>) -> Vec<String> {
    let Row { attack, quiet, attacked, .. } = row;
    let (before, now) = (&quiet.answers, &attacked.answers);
    let mut missed = Vec::new();
    let mut require = |is_met: bool, what: String| {
        if !is_met {
            missed.push(what);
        }
    };
    let (most, resident) = (most_resident(row), attacked.resident);
    require(resident <= most, format!("RSS {resident:.0} MiB, at most {most:.0}"));
    for (what, before, now) in [
        ("one connection", &before.kept, &now.kept),
        ("new ones", &before.fresh, &now.fresh),
        ("strangers with a token", &before.first, &now.first),
    ] {
        let is_met = match (before.quantile(0.99), now.quantile(0.99)) {
            (Some(before), Some(now)) => now <= before * TIMES_QUIET,
            _ => false,
        };
        let (failed, all) = (now.failed, now.count());
        require(
            is_met,
            format!(
                "issue p99 by {what} {} > {} x {TIMES_QUIET}, {failed} of {all} failed",
                p99(now),
                p99(before)
            ),
        );
    }
    let longest = longest(row).unwrap_or(Duration::MAX);
    require(longest <= REVOKED_WITHIN, "revoke --wait within 2 s".to_owned());
    let mut failures = attacked.revocations.iter().filter_map(|revoked| revoked.failure.as_ref());
    if let Some(failure) = failures.next() {
        let (failed, all) = (failures.count() + 1, attacked.revocations.len());
        require(false, format!("{failed} of {all} revoke --wait failed ({failure})"));
    }
    let ready = &attacked.ready;
    require(ready.silent == 0, format!("/readyz silent {} times", ready.silent));
    let deaf = now.fresh.failed * 2 > now.fresh.count();
    require(!deaf || ready.not_ready > 0, "/readyz said ok while nobody got in".to_owned());
    if let Some(most) = attack.most_cpu {
        require(
            attacked.cpu - quiet.cpu <= most,
            format!("CPU {:.0} % above {:.0} %, at most {most:.0} % more", attacked.cpu, quiet.cpu),
        );
    }
    let forged = attacked.log.forged;
    require(forged == 0, format!("{forged} lines or escapes in the log were written by others"));
    missed
}

/// MiB: what an idle CA may have, and each connection.
fn most_resident(row: &Row<'_>) -> f64 {
    60.0 + row.connections as f64 * 25.0 / 1024.0
}

/// The longest revocation; none if none was made.
fn longest(row: &Row<'_>) -> Option<Duration> {
    row.attacked.revocations.iter().map(|revoked| revoked.took).max()
}

fn told(achieved: &Achieved, row: &Row<'_>) -> String {
    let Achieved { connected, refused, ended, sent, answers } = achieved;
    let [done, redirected, denied, failed, limited] = answers;
    let seconds = row.took.as_secs_f64();
    let mut told = format!(
        "{connected} connected, {refused} refused, {ended} ended, {sent} sent ({:.0}/s)",
        *sent as f64 / seconds
    );
    if answers.iter().any(|count| *count > 0) {
        let others = denied + redirected;
        told += &format!("; 2xx {done}, 4xx {others}, 429 {limited}, 5xx {failed}");
    }
    told + &format!("; log {:.1} KB/s", row.attacked.log.bytes as f64 / 1e3 / seconds)
}

fn p99(of: &Latencies) -> String {
    of.quantile(0.99)
        .map_or_else(|| "none".to_owned(), |p99| format!("{:.1}", p99.as_secs_f64() * 1e3))
}

const TIMES_QUIET: u32 = 5;
const REVOKED_WITHIN: Duration = Duration::from_secs(2);
