//! The examples of the library as a newcomer runs them, beside `countersign dev`.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use api::Secret;
use countersign::{Peers, Workload};
use system_tests::{Environment, PATIENCE, Settings, binary, example, pause, program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A running `dev`, and examples that take part in it.
struct Dev {
    environment: Environment,
    running: Vec<Child>,
}

impl Dev {
    fn start() -> Self {
        let environment = Environment::prepare(&Settings::default());
        // A name that a shell must be told as it is.
        let state = "it's a state of dev's";
        let command = environment.command(&["dev", "--tour", "off", "--state", state]);
        let mut dev = Self { environment, running: Vec::new() };
        dev.run(command, "dev");
        dev.until("dev", |said| said.contains("Ctrl-C stops it"));
        dev
    }

    /// An example as a newcomer starts it: in a shell, with what `dev env` prints for a path.
    fn example(&self, call: &str, path: &str, peer: Option<&str>) -> Command {
        let (name, arguments) = call.split_once(' ').unwrap();
        let (countersign, example) = (binary(), example(name));
        let (countersign, example) = (countersign.display(), example.display());
        let peer = peer.map(|peer| format!("COUNTERSIGN_PEERS={}", id(peer))).unwrap_or_default();
        let script = format!(
            "set -u\neval \"$('{countersign}' dev env {path})\"\n\
             {peer} exec '{example}' {arguments}\n"
        );
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).current_dir(self.environment.folder()).env_clear();
        for (variable, value) in self.environment.command(&[]).get_envs() {
            command.env(variable, value.unwrap());
        }
        command
    }

    /// A workload in this process.
    async fn workload(&self, path: &str) -> Workload {
        let said = self.environment.countersign(&["dev", "env", path]).success().stdout;
        let of = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
            line.unwrap().to_owned()
        };
        let token = self.environment.countersign(&["token", "create", &id(path)]).success().stdout;
        let workload =
            Workload::builder().url(of("COUNTERSIGN_URL")).trust_pin(of("COUNTERSIGN_TRUST_PIN"));
        workload.token(Secret::new(token.trim())).start().await.unwrap()
    }

    /// Where an example says that it listens.
    fn address(&self, name: &str, path: &str) -> String {
        let listens = format!("{path} on ");
        let said = self.until(name, |said| said.contains(&format!("{listens}127.0.0.1:")));
        said.split(&listens).nth(1).unwrap().lines().next().unwrap().to_owned()
    }

    /// Starts a program whose output is kept under a name.
    fn run(&mut self, mut command: Command, name: &str) -> usize {
        let log = File::create(self.environment.path(name)).unwrap();
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.running.push(command.spawn().unwrap());
        self.running.len() - 1
    }

    /// Revokes what an identity has, and waits until everybody has it.
    fn revoke(&self, path: &str, connections_closed: u64) {
        let id = id(path);
        let revoke = ["--json", "revoke", "--yes", &id, "--reason", "superseded", "--wait", "60s"];
        let told = self.environment.countersign(&revoke).success().json();
        assert_eq!(told["reach"]["connections_closed"], connections_closed, "{told}");
    }

    /// The exit code of a program, once it has ended.
    fn wait(&mut self, program: usize) -> Option<i32> {
        soon("its end", || self.running[program].try_wait().unwrap()).code()
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

/// Waits until there is an answer, [`PATIENCE`] at most.
fn soon<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let in_time = || assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
    let look = || {
        pause();
        answer()
    };
    std::iter::repeat_with(look).inspect(|_| in_time()).find_map(|answer| answer).unwrap()
}

fn id(path: &str) -> String {
    format!("spiffe://dev.internal{path}")
}

#[test]
fn a_client_that_streams_from_a_service_is_cut_off_and_others_are_not() {
    let mut dev = Dev::start();
    let server = dev.example("axum_server 127.0.0.1:0", "/orders", None);
    dev.run(server, "server");
    let address = dev.address("server", "/orders");

    let stream = format!("client https://{address}/stream");
    let client = dev.example(&stream, "/tools", Some("/orders"));
    let client = dev.run(client, "client");
    dev.until("client", |said| said.contains(&format!("2 {}", id("/tools"))));
    dev.revoke("/tools", 1);
    assert_eq!(dev.wait(client), Some(1));

    for name in ["client", "reqwest_client"] {
        let data = format!("{name} https://{address}/api/data/reports");
        let mut other = dev.example(&data, "/monolith", Some("/orders"));
        program(&mut other).success().says(&format!("hello {}", id("/monolith")));
    }
}

/// The test itself is the peer: no example is a client of plain TCP.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_plain_tcp_sends_back_what_a_peer_sends_until_it_is_revoked() {
    let mut dev = Dev::start();
    let server = dev.example("tcp_echo 127.0.0.1:0", "/orders", Some("/tools"));
    dev.run(server, "server");
    let address = dev.address("server", "/orders");
    let tools = dev.workload("/tools").await;
    let orders = Peers::one_of([id("/orders")]).unwrap();
    let connect = async || tools.connect(&address, orders.clone()).await.unwrap();

    let (mut first, mut answer) = (connect().await, String::new());
    first.write_all(b"hello").await.unwrap();
    first.shutdown().await.unwrap();
    first.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hello");
    dev.until("server", |said| said.contains(&format!("{} was sent 5 bytes", id("/tools"))));

    let mut second = connect().await;
    second.write_all(b"h").await.unwrap();
    assert_eq!(second.read_u8().await.unwrap(), b'h');
    dev.revoke("/tools", 1);
    assert!(second.read_u8().await.is_err(), "it is cut off");
    dev.until("server", |said| said.contains(&format!("{}: ", id("/tools"))));
    tools.stop().await;
}

#[test]
fn a_service_of_a_newcomers_own_calls_the_monolith_until_it_is_revoked() {
    let mut dev = Dev::start();
    let client = dev.example("client \"$MONOLITH_URL/stream\"", "/orders", None);
    let client = dev.run(client, "client");
    dev.until("client", |said| said.contains(&format!("2 {}", id("/orders"))));
    dev.revoke("/orders", 1);
    assert_eq!(dev.wait(client), Some(1));

    // Another certificate of its own is as good as the first was.
    let data = "client \"$MONOLITH_URL/api/data/reports\"";
    let mut again = dev.example(data, "/orders", None);
    program(&mut again).success().says(&id("/orders")).says(&id("/monolith"));
}

#[test]
fn dev_finishes_what_is_open_when_it_is_stopped() {
    let mut dev = Dev::start();
    let client = dev.example("client \"$MONOLITH_URL/stream\"", "/orders", None);
    let client = dev.run(client, "client");
    dev.until("client", |said| said.contains(&format!("2 {}", id("/orders"))));
    program(Command::new("kill").arg("-INT").arg(dev.running[0].id().to_string())).success();
    assert_eq!(dev.wait(0), Some(0));
    assert_eq!(dev.wait(client), Some(0), "its stream has come to its end");

    let said = dev.until("dev", |_| true);
    let (drained, kept) = said.lines().last().unwrap().split_once(" connections, kept ").unwrap();
    let drained: u32 = drained.strip_prefix("  drained ").unwrap().parse().unwrap();
    assert!(drained >= 3, "gateway to reports, batch and orders to monolith: {said}");
    assert!(kept.ends_with("it's a state of dev's"), "{said}");
}
