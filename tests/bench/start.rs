//! How long `serve` takes until it is ready, with few and with many stored certificates.

use std::time::{Duration, Instant};

use system_tests::{Environment, Process};

use crate::filling;
use crate::table::{Bound, verdict};

/// Starts a new CA again, fills its store, and starts it again.
pub(crate) fn measure(certificates: usize) -> anyhow::Result<()> {
    let mut environment = Environment::start();
    environment.issue(filling::TEMPLATE, "template");
    println!(
        "\nstart, from spawn to /readyz 200 (median of {STARTS}; sealed keys are opened, too)"
    );
    starts(&mut environment, "few certificates");
    environment.stop();
    let begun = Instant::now();
    filling::fill(&environment, certificates)?;
    let took = begun.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(environment.path("state/countersign.db"))?.len();
    println!(
        "generated {certificates} certificates in {took:.0} s ({:.0} a second), {:.1} GiB",
        certificates as f64 / took,
        bytes as f64 / f64::from(1 << 30)
    );
    let ready = starts(&mut environment, &format!("{certificates} certificates"));
    verdict("start in s", ready.as_secs_f64(), Bound::AtMost(5.0));
    let memory = Process(environment.server_pid()).memory();
    verdict("peak RSS after start in MiB", memory.highest, Bound::AtMost(60.0));
    environment.issue(filling::TEMPLATE, "afterwards");
    Ok(())
}

/// The median time to be ready; the last one started is left running.
fn starts(environment: &mut Environment, what: &str) -> Duration {
    let mut times: Vec<Duration> = (0..STARTS)
        .map(|_| {
            environment.stop();
            let begun = Instant::now();
            environment.serve();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[STARTS / 2];
    println!(
        "{what:<24} {:.2} s ({:.2} to {:.2})",
        median.as_secs_f64(),
        times[0].as_secs_f64(),
        times[STARTS - 1].as_secs_f64()
    );
    median
}

const STARTS: usize = 5;
