//! How long a newcomer waits, once everything is built: from README's first command to a call over
//! mutual TLS with a certificate of one's own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use system_tests::{Environment, Settings, binary, example, program};

use crate::table::{Bound, verdict};

/// Once by `dev` and the library, once by a CA that stays and curl.
pub(crate) fn measure() -> anyhow::Result<()> {
    println!("\na newcomer, from the first command to a call with a certificate of one's own");
    let begun = Instant::now();
    by_dev()?;
    let took = begun.elapsed().as_secs_f64();
    verdict("dev, dev env, the example: s", took, Bound::AtMost(A_MINUTE));
    let begun = Instant::now();
    by_a_ca_that_stays()?;
    let took = begun.elapsed().as_secs_f64();
    verdict("init, serve, token, issue, curl: s", took, Bound::AtMost(A_MINUTE));
    Ok(())
}

/// `dev`, and from another terminal what README has a newcomer type.
fn by_dev() -> anyhow::Result<()> {
    let environment = Environment::prepare(&Settings::default());
    let mut dev = environment.command(&["dev"]);
    let mut dev = Ended(dev.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let said = dev.0.stdout.take().context("its stdout is ours")?;
    let mut lines = BufReader::new(said).lines();
    loop {
        let line = lines.next().context("dev has ended")??;
        if line.contains("Ctrl-C stops it") {
            break;
        }
    }
    let script = format!(
        "eval \"$('{}' dev env /orders)\"; exec '{}' \"$MONOLITH_URL/api/data/reports\"",
        binary().display(),
        example("client").display()
    );
    let mut shell = Command::new("bash");
    shell.args(["-euc", &script]).current_dir(environment.folder()).env_clear();
    shell.env("HOME", environment.folder()).env("PATH", "/usr/bin:/bin");
    let answered = program(&mut shell).success();
    ensure!(answered.stdout.contains("/orders"), "{}", answered.stdout);
    Ok(())
}

fn by_a_ca_that_stays() -> anyhow::Result<()> {
    let environment = Environment::start();
    let svid = environment.issue("/prod/reports", "svid");
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--cacert", "bundle.pem", "--cert", "svid.pem", "--key", "svid.key"]);
    let serial = environment.countersign(&["--json", "list", "--id", "*/prod/reports"]).success();
    let serial = serial.json();
    let serial = serial["serial_number"].as_str().context("a serial number")?.to_owned();
    curl.arg(format!("{}/v1/certificates/{serial}", environment.url())).current_dir(svid);
    program(&mut curl).success().says("/prod/reports");
    Ok(())
}

/// A process, ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const A_MINUTE: f64 = 60.0;
