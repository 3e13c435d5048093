//! What is seen of the CA from outside while something happens.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::{Environment, Process};

use crate::honest::{Answers, Honest};

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answers: Answers,
    pub(crate) revocations: Vec<Revoked>,
    pub(crate) ready: Ready,
    /// Files that the CA had open at most.
    pub(crate) files: usize,
    /// Its resident memory at most, in MiB.
    pub(crate) resident: f64,
    /// Its processor time in per cent of a core.
    pub(crate) cpu: f64,
    /// Bytes and lines that it wrote to its diagnostics, and those that somebody else made up.
    pub(crate) log: Log,
}

/// One `countersign revoke SERIAL --wait`.
#[derive(Debug)]
pub(crate) struct Revoked {
    pub(crate) took: Duration,
    /// What the command said where it did not end with 0, in a few words.
    pub(crate) failure: Option<String>,
}

/// What `/readyz` said.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) ok: usize,
    pub(crate) not_ready: usize,
    pub(crate) silent: usize,
    pub(crate) longest: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) bytes: usize,
    pub(crate) forged: usize,
}

/// Watches while something happens on this thread.
pub(crate) fn during<T>(
    environment: &Environment,
    honest: &Honest,
    happening: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Seen)> {
    let over = AtomicBool::new(false);
    let process = Process(environment.server_pid());
    let (begun, cpu) = (Instant::now(), process.cpu());
    let logged = environment.log().len();
    let (happened, answers, revocations, ready, (files, resident)) = thread::scope(|scope| {
        let answers = scope.spawn(|| honest.ask(&over));
        let revocations = scope.spawn(|| revoke(environment, honest, &over));
        let ready = scope.spawn(|| probe(environment.admin_address(), &over));
        let usage = scope.spawn(|| highest(process, &over));
        let happened = happening();
        over.store(true, Ordering::Relaxed);
        let ended = (join(answers), join(revocations), join(ready), join(usage));
        (happened, ended.0, ended.1, ended.2, ended.3)
    });
    let log = log(&environment.log()[logged..]);
    let cpu = (process.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let answers = answers?;
    Ok((happened?, Seen { answers, revocations, ready, files, resident, cpu, log }))
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// An operator revokes a certificate now and then, and waits until the verifier has it.
fn revoke(environment: &Environment, honest: &Honest, over: &AtomicBool) -> Vec<Revoked> {
    let mut all = Vec::new();
    let mut due = Instant::now() + REVOKE_EVERY / 2;
    while !over.load(Ordering::Relaxed) {
        if Instant::now() < due {
            thread::sleep(SAMPLE_EVERY);
            continue;
        }
        due = Instant::now() + REVOKE_EVERY;
        let serial_number = honest.newest();
        if serial_number.is_empty() {
            continue;
        }
        let begun = Instant::now();
        let arguments = ["revoke", &serial_number, "--reason", "superseded", "--wait", "10s"];
        let outcome = environment.countersign(&arguments);
        let said = outcome.stderr.lines().chain(outcome.stdout.lines().skip(1)).next();
        let said: String = said.unwrap_or_default().chars().take(WORDS).collect();
        let failure = (outcome.code != 0).then(|| format!("exit {}: {said}", outcome.code));
        all.push(Revoked { took: begun.elapsed(), failure });
    }
    all
}

fn probe(admin: SocketAddr, over: &AtomicBool) -> Ready {
    let mut ready = Ready::default();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match readyz(admin).as_deref() {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => ready.ok += 1,
            Ok(answer) if answer.starts_with("HTTP/1.1 503") => ready.not_ready += 1,
            _ => ready.silent += 1,
        }
        ready.longest = ready.longest.max(begun.elapsed());
        thread::sleep(PROBE_EVERY);
    }
    ready
}

/// As a load balancer asks: by a connection of its own, and not for long.
fn readyz(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PROBE_PATIENCE)?;
    stream.set_read_timeout(Some(PROBE_PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Open files and resident memory at their highest.
fn highest(process: Process, over: &AtomicBool) -> (usize, f64) {
    let (mut files, mut resident) = (0, 0.0_f64);
    while !over.load(Ordering::Relaxed) {
        files = files.max(open_files(process));
        resident = resident.max(process.memory().now);
        thread::sleep(SAMPLE_EVERY);
    }
    (files, resident)
}

/// The files that a process has open: its connections, and some more.
pub(crate) fn open_files(process: Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.0)).map_or(0, Iterator::count)
}

/// A line that no diagnostics begin with, or that a terminal obeys, was made up by somebody else.
fn log(said: &str) -> Log {
    let forged = said.lines().filter(|line| line.starts_with(crate::refusals::FORGED));
    let obeyed = said.matches('\x1b').count();
    Log { bytes: said.len(), forged: forged.count() + obeyed }
}

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
const REVOKE_EVERY: Duration = Duration::from_millis(1500);
/// Of what a command says.
const WORDS: usize = 90;
const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
