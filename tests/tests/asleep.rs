//! `dev` on a laptop that sleeps: the clock on the wall goes on, and that of the processor does not.
//! libfaketime turns the first, as the sleep of a night and of a weekend does.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use system_tests::{Environment, Outcome, program};

/// A `dev` by a clock that the test turns, beside a CA of the same user's.
struct Laptop {
    environment: Environment,
    dev: Child,
}

impl Laptop {
    fn start() -> Self {
        let environment = Environment::start();
        environment.write("offset", "+0");
        fs::create_dir(environment.path("temporary")).unwrap();
        let log = fs::File::create(environment.path("dev.log")).unwrap();
        let mut command = environment.command(&["dev", "--tour", "off"]);
        command.env("TMPDIR", environment.path("temporary"));
        command.stderr(log.try_clone().unwrap()).stdout(log);
        let dev = by_offset(&environment, command).spawn().unwrap();
        let laptop = Self { environment, dev };
        laptop.until("dev is there", |it| it.said().contains("Ctrl-C stops"));
        laptop
    }

    fn sleep(&self, since_the_start: &str) {
        self.environment.write("offset", since_the_start);
    }

    /// A command of the same user's, by the same clock.
    fn types(&self, arguments: &[&str]) -> Outcome {
        program(&mut by_offset(&self.environment, self.environment.in_time(arguments)))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.environment.path("dev.log")).unwrap()
    }

    /// The word behind this one.
    fn said_behind(&self, word: &str) -> String {
        let said = self.said();
        said.split_whitespace().skip_while(|it| *it != word).nth(1).unwrap().to_owned()
    }

    /// A value of the metrics of `dev`; 0 where it has none.
    fn metric(&self, name: &str) -> f64 {
        let url = format!("{}/metrics", self.said_behind("admin"));
        let metrics = program(Command::new("curl").args(["-sf", &url])).success().stdout;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// How many of the services have a certificate that counts now.
    fn awake(&self) -> usize {
        let listed = self.types(&["--json", "list"]).stdout;
        let is_valid = |path: &str| {
            let id = format!("\"spiffe://dev.internal{path}\"");
            listed.lines().any(|it| it.contains(&id) && it.contains("\"state\":\"valid\""))
        };
        SERVICES.into_iter().filter(|path| is_valid(path)).count()
    }

    /// By the certificate in a folder.
    fn calls_monolith(&self, folder: &str) {
        let url = format!("{}/api/data/reports", self.said_behind("monolith"));
        let mut curl = Command::new("curl");
        curl.current_dir(self.environment.folder());
        // The demo services have no names but their SPIFFE IDs.
        curl.args(["-sSfk", "--cert", &format!("{folder}/svid.pem")]);
        curl.args(["--key", &format!("{folder}/svid.key"), &url]);
        program(&mut by_offset(&self.environment, curl)).success();
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        drop(self.dev.kill());
        drop(self.dev.wait());
    }
}

fn by_offset(environment: &Environment, mut command: Command) -> Command {
    static LIBRARY: LazyLock<String> = LazyLock::new(library);
    command
        .env("LD_PRELOAD", &*LIBRARY)
        .env("FAKETIME_TIMESTAMP_FILE", environment.path("offset"))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// What `faketime` preloads. It fails where one of its process id was killed before.
fn library() -> String {
    let print = ["-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"];
    let mut tries = (0..10).map(|_| program(Command::new("faketime").args(print)));
    let printed = tries.find(|it| it.code == 0).expect("faketime starts a shell");
    printed.stdout.trim().to_owned()
}

#[test]
fn a_dev_that_slept_over_a_night_and_a_weekend_is_as_it_was() {
    let mut laptop = Laptop::start();
    let state = laptop.said_behind("state");
    laptop.until("the services have certificates", |it| it.awake() == SERVICES.len());
    laptop.until("the services speak", |it| it.metric(OPEN) >= SPEAKING);
    laptop.types(&["dev", "env", "/orders"]).success();
    for (slept, has_ended) in [("+16h", false), ("+64h", true), ("+8d", true)] {
        laptop.sleep(slept);
        laptop.until(slept, |it| it.awake() == SERVICES.len());
        // Those who speak to each other do so again, with certificates that count.
        laptop.until(slept, |it| !has_ended || it.metric(EXPIRED) > 0.0);
        laptop.until(slept, |it| it.metric(OPEN) >= SPEAKING);
        // Context and folders: the developer's own certificate counts again, too.
        laptop.types(&["status"]).success();
        laptop.types(&["trust", "show"]).success().says("dev.internal");
        laptop.types(&["verify", &format!("{state}/operator/svid.pem")]).success();
        laptop.types(&["issue", "spiffe://dev.internal/orders", "--out", slept]).success();
        laptop.calls_monolith(slept);
    }
    assert!(laptop.said().contains("attesting again"), "{}", laptop.said());
    // Whoever stops it finds nothing of it, and his other CA's context.
    program(Command::new("kill").args(["-INT", &laptop.dev.id().to_string()])).success();
    assert_eq!(laptop.dev.wait().unwrap().code(), Some(0), "{}", laptop.said());
    assert!(!fs::exists(&state).unwrap());
    let shown = laptop.environment.countersign(&["trust", "show"]).success().stdout;
    assert!(shown.contains("pay.example"), "{shown}");
}

const SERVICES: [&str; 4] = ["/gateway", "/reports", "/monolith", "/batch"];
/// The CA's ends of five feeds, and both ends of what the services tell each other: a stream, reports
/// that are asked for, and those that are fetched.
const SPEAKING: f64 = 11.0;
const OPEN: &str = "countersign_peer_connections_open ";
const EXPIRED: &str = "countersign_connections_closed_total{reason=\"expired\"} ";
/// For what a busy machine takes long for.
const PATIENCE: Duration = Duration::from_secs(120);
