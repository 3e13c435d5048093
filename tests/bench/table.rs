//! What is printed.

use std::fs;
use std::time::Duration;

use crate::floor::Floor;
use crate::load::Run;

/// The machine, and how busy it is before anything is measured.
pub(crate) fn machine() {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name)
        .collect();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let model = models.first().unwrap_or(&"unknown");
    println!("machine     {} x {model}, load average before: {}", models.len(), load.join(" "));
}

/// The loads, medians of their rounds.
pub(crate) fn load(runs: &[Vec<Run>], floor: &Floor) {
    let (fastest, slowest) = floor.range();
    println!(
        "floor       {:.1} µs: one P-256 verification and two signatures ({:.1} to {:.1})",
        micros(floor.median()),
        micros(fastest),
        micros(slowest)
    );
    println!("\nPOST /v1/certificates, P-256, keep-alive TLS 1.3, SQLite synchronous=FULL");
    println!(
        "{:>7} {:>8} {:>10} {:>8} {:>8} {:>12} {:>8} {:>12} {:>8} {:>8} {:>8}",
        "clients",
        "cert/s",
        "x 1/floor",
        "p50 ms",
        "p99 ms",
        "server µs",
        "x floor",
        "client µs",
        "failures",
        "RSS MiB",
        "peak MiB"
    );
    for rounds in runs {
        row(rounds, floor);
    }
    verdicts(runs, floor);
}

fn row(rounds: &[Run], floor: &Floor) {
    let rate = median(rounds, Run::rate);
    let of = |value: fn(&Run) -> Duration| median(rounds, |run| micros(value(run)));
    let cpu = of(Run::server_cpu_each);
    println!(
        "{:>7} {rate:>8.0} {:>10.2} {:>8.2} {:>8.2} {cpu:>12.1} {:>8.2} {:>12.1} {:>8} {:>8.1} {:>8.1}",
        rounds[0].clients,
        rate * floor.median().as_secs_f64(),
        of(|run| run.p50) / 1000.0,
        of(|run| run.p99) / 1000.0,
        cpu / micros(floor.median()),
        of(Run::client_cpu_each),
        failures(rounds),
        median(rounds, |run| run.memory.now),
        median(rounds, |run| run.memory.highest),
    );
}

/// Each target beside what was measured.
fn verdicts(runs: &[Vec<Run>], floor: &Floor) {
    let with = |clients: usize| runs.iter().find(|rounds| rounds[0].clients == clients);
    println!();
    if let Some(one) = with(1) {
        let p99 = median(one, |run| micros(run.p99)) / 1000.0;
        verdict("1 client: p99 in ms", p99, Bound::AtMost(2.0));
    }
    if let Some(sixteen) = with(16) {
        let multiple = median(sixteen, |run| floor.multiple(run.server_cpu_each()));
        verdict("16 clients: server CPU a certificate x floor", multiple, Bound::AtMost(2.1));
        let rate = median(sixteen, Run::rate);
        let share = rate * floor.median().as_secs_f64();
        verdict("16 clients: rate x floor", share, Bound::AtLeast(0.65));
        if let Some(many) = with(128) {
            let relative = median(many, Run::rate) / rate;
            verdict("128 clients: throughput against 16", relative, Bound::AtLeast(1.0));
            verdict("128 clients: failures", failures(many) as f64, Bound::AtMost(0.0));
        }
    }
    let highest = runs.iter().flatten().map(|run| run.memory.highest).fold(0.0, f64::max);
    verdict("peak RSS in MiB", highest, Bound::AtMost(60.0));
}

/// What a figure should be.
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Prints a figure, its target, and whether it is met.
pub(crate) fn verdict(what: &str, figure: f64, bound: Bound) {
    let (met, sign, limit) = match bound {
        Bound::AtLeast(limit) => (figure >= limit, ">=", limit),
        Bound::AtMost(limit) => (figure <= limit, "<=", limit),
    };
    let word = if met { "met" } else { "MISSED" };
    println!("{what:<46} {figure:>8.2}  target {sign} {limit:<6} {word}");
}

fn failures(rounds: &[Run]) -> usize {
    rounds.iter().map(|run| run.failures).sum()
}

fn median<T>(of: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = of.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
