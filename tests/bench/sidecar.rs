//! What a service weighs that only listens through the library.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use system_tests::{Environment, Process, example};

use crate::table::{Bound, verdict};

/// Starts the example of plain TCP beside a CA, leaves it alone, and looks at it.
pub(crate) fn measure() -> anyhow::Result<()> {
    let environment = Environment::start();
    println!("\nan idle listener by the library, {} s after its start", IDLE.as_secs());
    let listener = Listener::start(&environment)?;
    std::thread::sleep(IDLE);
    let memory = Process(listener.0.id()).memory();
    verdict("idle listener: RSS in MiB", memory.now, Bound::AtMost(15.0));
    verdict("idle listener: peak RSS in MiB", memory.highest, Bound::AtMost(15.0));
    Ok(())
}

/// A process, ended when dropped.
struct Listener(Child);

impl Listener {
    /// Returns once it listens: then it has its certificate and has heard the feed.
    fn start(environment: &Environment) -> anyhow::Result<Self> {
        environment.write("listener.token", &environment.token("/prod/monolith"));
        let child = Command::new(example("tcp_echo"))
            .arg("127.0.0.1:0")
            .env_clear()
            .env("COUNTERSIGN_URL", environment.url())
            .env("COUNTERSIGN_TRUST_PIN", environment.pin())
            .env("COUNTERSIGN_TOKEN_FILE", environment.path("listener.token"))
            .env("COUNTERSIGN_PEERS", environment.id("/prod/batch"))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut listener = Self(child);
        let said = listener.0.stdout.as_mut().context("its stdout is ours")?;
        for line in BufReader::new(said).lines() {
            if line?.contains(" on 127.0.0.1:") {
                return Ok(listener);
            }
        }
        anyhow::bail!("it did not start")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Some heartbeats and a report.
const IDLE: Duration = Duration::from_secs(30);
