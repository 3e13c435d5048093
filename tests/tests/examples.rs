//! The examples of the library as a newcomer runs them, beside `countersign dev`.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use system_tests::{Environment, Settings, example, program};

/// A running `dev`, and examples that take part in it.
struct Dev {
    environment: Environment,
    running: Vec<Child>,
}

impl Dev {
    fn start() -> Self {
        let environment = Environment::prepare(&Settings::default());
        let command = environment.command(&["dev", "--tour", "off", "--state", "dev-state"]);
        let mut dev = Self { environment, running: Vec::new() };
        dev.run(command, "dev");
        dev.until("dev", |said| said.contains("Ctrl-C stops it"));
        dev
    }

    /// An example with the environment that `dev env` prints for a path.
    fn example(&self, name: &str, arguments: &[&str], path: &str, peer: Option<&str>) -> Command {
        let printed = self.environment.countersign(&["dev", "env", path]).success().stdout;
        let mut command = Command::new(example(name));
        command.args(arguments).env_clear();
        for line in printed.lines() {
            let export = line.strip_prefix("export ").unwrap();
            let (variable, value) = export.split_once('=').unwrap();
            command.env(variable, value);
        }
        if let Some(peer) = peer {
            command.env("COUNTERSIGN_PEERS", id(peer));
        }
        command
    }

    /// Starts a program whose output is kept under a name.
    fn run(&mut self, mut command: Command, name: &str) -> usize {
        let log = File::create(self.environment.path(name)).unwrap();
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.running.push(command.spawn().unwrap());
        self.running.len() - 1
    }

    /// Waits until what was said is enough, and returns it.
    fn until(&self, name: &str, enough: impl Fn(&str) -> bool) -> String {
        let said = || fs::read_to_string(self.environment.path(name)).unwrap();
        soon(name, || Some(said()).filter(|said| enough(said)))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        for child in &mut self.running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Waits until there is an answer, 60 s at most.
fn soon<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let in_time = || assert!(begun.elapsed() < Duration::from_secs(60), "{what} takes too long");
    std::iter::repeat_with(answer).inspect(|_| in_time()).find_map(|answer| answer).unwrap()
}

fn id(path: &str) -> String {
    format!("spiffe://dev.internal{path}")
}

#[test]
fn a_client_that_streams_from_a_service_is_cut_off_and_others_are_not() {
    let mut dev = Dev::start();
    let server = dev.example("axum_server", &["127.0.0.1:0"], "/orders", None);
    dev.run(server, "server");
    let said = dev.until("server", |said| said.contains("/orders on 127.0.0.1:"));
    let address = said.split("/orders on ").nth(1).unwrap().lines().next().unwrap();
    let (stream, data) =
        (format!("https://{address}/stream"), format!("https://{address}/api/data/reports"));

    let client = dev.example("client", &[&stream], "/tools", Some("/orders"));
    let client = dev.run(client, "client");
    dev.until("client", |said| said.contains(&format!("2 {}", id("/tools"))));
    let revoke = ["--json", "revoke", "--yes", &id("/tools"), "--reason", "superseded"];
    let revoked = dev.environment.countersign(&[&revoke[..], &["--wait", "5s"]].concat());
    let told = revoked.success().json();
    assert_eq!(told["reach"]["connections_closed"], 1, "{told}");
    let ended = soon("the client", || dev.running[client].try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));

    for name in ["client", "reqwest_client"] {
        let mut other = dev.example(name, &[&data], "/monolith", Some("/orders"));
        program(&mut other).success().says(&format!("hello {}", id("/monolith")));
    }
}
