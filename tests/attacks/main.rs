//! What an adversary does to the CA, and what others notice of it: one row an attack.
//!
//! The CA is the release binary, on loopback. An attack is a process of its own, this program again,
//! at the lowest claim to a processor; operators, strangers and probes come from here meanwhile,
//! at a pace that does not depend on the answers.
//!
//! Not in scope: failing. A missed target is told, and ends the run with 1 only by `--strict`.

mod attacker;
mod catalogue;
mod crowd;
mod floods;
mod honest;
mod http2;
mod refusals;
mod renewals;
mod siege;
mod slow;
mod subscribers;
mod table;
mod unread;
mod waiting;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::attacker::Attacker;
use crate::catalogue::{ATTACKS, Attack};
use crate::siege::Lengths;

/// Which attacks, and how long.
#[derive(Debug, Parser)]
#[command(name = "tests/hostile", about = "Attacks a CA and prints what came of it")]
struct Arguments {
    /// Only attacks whose name has this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Longer, by more, and those that take long to prepare.
    #[arg(long)]
    long: bool,
    /// Seconds that each attack goes on once it stands; 6, or 30 with `--long`.
    #[arg(long)]
    seconds: Option<u64>,
    /// Ends with 1 if a target was missed.
    #[arg(long)]
    strict: bool,
    /// Names the attacks, and makes none.
    #[arg(long)]
    list: bool,
    /// This process is the attacker: what, and where the CA is.
    #[arg(long, hide = true, num_args = 4, value_names = ["NAME", "API", "ADMIN", "FOLDER"])]
    attack: Vec<String>,
    /// Said by `cargo bench` to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let [name, api, admin, folder] = arguments.attack.as_slice() {
        let (api, admin): (SocketAddr, SocketAddr) = (api.parse()?, admin.parse()?);
        let attacker = Attacker::new(api, admin, PathBuf::from(folder), arguments.long)?;
        attacker::attack(catalogue::named(name)?, attacker)?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = ATTACKS.iter().filter(|attack| is_chosen(attack, &arguments));
    if arguments.list {
        chosen.for_each(|attack| println!("{:<26} {}", attack.name, attack.what));
        return Ok(ExitCode::SUCCESS);
    }
    let is_met = run(chosen, &arguments);
    Ok(if is_met || !arguments.strict { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_chosen(attack: &Attack, arguments: &Arguments) -> bool {
    let mut only = arguments.only.iter();
    arguments.only.is_empty() || only.any(|name| attack.name.contains(name.as_str()))
}

/// Runs one after the other; false if any target was missed.
fn run<'a>(attacks: impl Iterator<Item = &'a Attack>, arguments: &Arguments) -> bool {
    let seconds = arguments.seconds.unwrap_or(if arguments.long { 30 } else { 6 });
    let lengths = Lengths {
        quiet: Duration::from_secs(if arguments.long { 10 } else { 4 }),
        ramp: Duration::from_secs(if arguments.long { 90 } else { 20 }),
        attack: Duration::from_secs(seconds),
    };
    table::header();
    let mut is_met = true;
    for attack in attacks {
        match siege::lay(attack, &lengths, arguments.long) {
            Ok(row) => is_met &= table::row(&row),
            Err(error) => {
                println!("{:<26} MISSED: could not be measured: {error:#}", attack.name);
                is_met = false;
            }
        }
    }
    is_met
}
