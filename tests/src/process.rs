//! What Linux says of a process.

use std::fs;
use std::time::Duration;

/// A process by its id.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// This one.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// User and system time of all its threads so far.
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // Behind the name, which may hold blanks: field 3 is the first, 14 and 15 are the times.
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * MILLISECONDS_A_TICK)
    }

    /// Memory now and at its highest, in MiB.
    pub fn memory(self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kibibytes.unwrap_or(0.0) / 1024.0
        };
        Memory { now: mebibytes("VmRSS:"), highest: mebibytes("VmHWM:") }
    }
}

/// Resident memory in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At its highest so far.
    pub highest: f64,
}

/// Linux tells times in hundredths of a second (USER_HZ), whatever its own clock.
const MILLISECONDS_A_TICK: u64 = 10;
