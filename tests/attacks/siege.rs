//! One attack, from a new CA to its row.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use system_tests::{Environment, Process, Settings};

use crate::attacker::{Achieved, FOLDER, IDENTITY, STANDING};
use crate::catalogue::Attack;
use crate::honest::Honest;
use crate::watch::{Seen, during, open_files};

/// How long each part takes.
pub(crate) struct Lengths {
    pub(crate) quiet: Duration,
    /// Until an attack stands, at most.
    pub(crate) ramp: Duration,
    /// From when it stands.
    pub(crate) attack: Duration,
}

/// What is told of an attack.
pub(crate) struct Row<'a> {
    pub(crate) attack: &'a Attack,
    pub(crate) quiet: Seen,
    pub(crate) attacked: Seen,
    pub(crate) achieved: Achieved,
    pub(crate) attacker_cpu: f64,
    /// Connections that the CA had at most.
    pub(crate) connections: usize,
    pub(crate) took: Duration,
}

/// Starts a CA, sees how it does, and then how it does while it is attacked.
pub(crate) fn lay<'a>(
    attack: &'a Attack,
    lengths: &Lengths,
    is_long: bool,
) -> anyhow::Result<Row<'a>> {
    let settings = Settings {
        configuration: attack.configuration.to_owned(),
        open_files: if is_long { attack.open_files_long } else { attack.open_files },
        ..Settings::default()
    };
    let environment = Environment::start_with(&settings);
    let without = open_files(Process(environment.server_pid()));
    environment.issue(IDENTITY, FOLDER);
    let honest = Honest::at(&environment, attack.strangers_from.into())?;
    honest.revoke(attack.revocations[usize::from(is_long)])?;
    let ((), quiet) = during(&environment, &honest, || {
        thread::sleep(lengths.quiet);
        Ok(())
    })?;
    let begun = Instant::now();
    let ((achieved, attacker_cpu), attacked) = during(&environment, &honest, || {
        let mut attacker = Attacking::start(attack, &environment, is_long)?;
        attacker.stands(lengths.ramp)?;
        thread::sleep(lengths.attack);
        let cpu = attacker.process().cpu().as_secs_f64() / begun.elapsed().as_secs_f64();
        Ok((attacker.end()?, cpu * 100.0))
    })?;
    let (took, connections) = (begun.elapsed(), attacked.files.saturating_sub(without));
    Ok(Row { attack, quiet, attacked, achieved, attacker_cpu, connections, took })
}

/// The attacker's process; killed when dropped.
struct Attacking {
    child: Child,
    said: Receiver<String>,
}

impl Attacking {
    /// It has what nobody else wants of the processors (`nice`).
    fn start(attack: &Attack, environment: &Environment, is_long: bool) -> anyhow::Result<Self> {
        let mut command = Command::new("nice");
        command
            .args(["-n", NICE])
            .arg(std::env::current_exe()?)
            .args(["--attack", attack.name])
            .arg(environment.address().to_string())
            .arg(environment.admin_address().to_string())
            .arg(environment.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if is_long {
            command.arg("--long");
        }
        let mut child = command.spawn()?;
        let said = lines(child.stdout.take().context("its stdout is ours")?);
        Ok(Self { child, said })
    }

    fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Waits until it has all that it wants, or for so long.
    fn stands(&self, patience: Duration) -> anyhow::Result<()> {
        match self.said.recv_timeout(patience) {
            Ok(line) if line == STANDING => Ok(()),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(line) => anyhow::bail!("the attacker says {line}"),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the attacker ended early"),
        }
    }

    /// Ends it, and learns what it achieved.
    fn end(&mut self) -> anyhow::Result<Achieved> {
        drop(self.child.stdin.take());
        loop {
            let line = self.said.recv_timeout(PATIENCE).context("the attacker says nothing")?;
            if line != STANDING {
                return Ok(serde_json::from_str(&line)?);
            }
        }
    }
}

impl Drop for Attacking {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, said) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    said
}

const NICE: &str = "10";
const PATIENCE: Duration = Duration::from_secs(10);
