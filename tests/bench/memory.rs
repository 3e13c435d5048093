//! The server's memory over many issues.

use system_tests::{Requests, Target};

use crate::load::{Until, run};

/// Issues in ten parts, and prints after each what the server holds.
pub(crate) fn measure(target: &Target, requests: &Requests, issues: usize) -> anyhow::Result<()> {
    println!("\nmemory over {issues} issues, 16 clients (target: 60 MiB at most, and flat)");
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>9}",
        "issued", "RSS MiB", "peak MiB", "cert/s", "failures"
    );
    let before = target.process.memory();
    println!("{:>10} {:>10.1} {:>10.1}", 0, before.now, before.highest);
    for part in 1..=PARTS {
        let run = run(target, requests, 16, Until::Issued(issues / PARTS))?;
        println!(
            "{:>10} {:>10.1} {:>10.1} {:>10.0} {:>9}",
            part * issues / PARTS,
            run.memory.now,
            run.memory.highest,
            run.rate(),
            run.failures
        );
    }
    Ok(())
}

const PARTS: usize = 10;
