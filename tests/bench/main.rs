//! The benchmarks: issuing under load, memory over a million issues, start with a big store, how long
//! a revocation takes, a service that only listens, and how long a newcomer waits.
//!
//! Machines differ by a factor of two and more, so each figure is also told as a multiple of the
//! *floor*: one P-256 verification and two P-256 signatures, measured in the same run. Nothing
//! here is stubbed: the server is the release binary, the client speaks TLS 1.3 to it.
//!
//! Not in scope: comparing with other CAs, and failing. A missed target is told, not asserted.

mod filling;
mod floor;
mod load;
mod memory;
mod newcomer;
mod revocation;
mod revoked_peer;
mod sidecar;
mod start;
mod table;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use system_tests::{Environment, Requests, Target};

use crate::floor::Floor;

/// What to measure, and how long.
#[derive(Debug, Parser)]
#[command(name = "tests/bench/run", about = "Measures Countersign and prints one table")]
struct Arguments {
    /// Measure only this part (may be repeated); all but memory without it.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Concurrent clients, each with its own connection.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    clients: Vec<usize>,
    /// Seconds that each load lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each load and each revocation is repeated; of loads, medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Watch memory, too, over a million issues (some minutes).
    #[arg(long)]
    long: bool,
    /// How many issues `--long` makes.
    #[arg(long, default_value_t = 1_000_000)]
    issues: usize,
    /// How many stored certificates the start finds.
    #[arg(long, default_value_t = 1_000_000)]
    generate: usize,
    /// How many verifiers hear of a revocation.
    #[arg(long, default_value_t = 1000)]
    verifiers: usize,
    /// Said by `cargo bench` to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Load,
    Memory,
    Newcomer,
    Revocation,
    Sidecar,
    Start,
}

impl Arguments {
    fn has(&self, part: Part) -> bool {
        match part {
            Part::Memory if self.long => true,
            Part::Memory => self.only.contains(&part),
            _ => self.only.is_empty() || self.only.contains(&part),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut floor = Floor::default();
    floor.measure();
    table::machine();
    if arguments.has(Part::Load) || arguments.has(Part::Memory) {
        issue(&arguments, &mut floor)?;
    }
    if arguments.has(Part::Newcomer) {
        newcomer::measure()?;
    }
    if arguments.has(Part::Revocation) {
        revocation::measure(arguments.verifiers, arguments.rounds)?;
    }
    if arguments.has(Part::Sidecar) {
        sidecar::measure()?;
    }
    if arguments.has(Part::Start) {
        start::measure(arguments.generate)?;
    }
    Ok(())
}

/// Load and memory share a CA.
fn issue(arguments: &Arguments, floor: &mut Floor) -> anyhow::Result<()> {
    let environment = Environment::start();
    let target = Target::of(&environment)?;
    let requests = Requests::make(REQUESTS, &environment)?;
    eprintln!("server process {}", environment.server_pid());
    load::warm_up(&target, &requests)?;
    if arguments.has(Part::Load) {
        let length = Duration::from_secs(arguments.seconds);
        let runs =
            load::measure(&target, &requests, &arguments.clients, arguments.rounds, length, floor)?;
        table::load(&runs, floor);
    }
    if arguments.has(Part::Memory) {
        memory::measure(&target, &requests, arguments.issues)?;
    }
    Ok(())
}

/// Distinct requests, each for a key of its own; a longer run begins again with the first.
const REQUESTS: usize = 20_000;
