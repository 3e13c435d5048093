//! Operators come and go while the CA runs, each with a key of their own machine.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use system_tests::{Environment, Outcome, program};

/// Somebody's own machine: a home of their own.
struct Machine<'a> {
    environment: &'a Environment,
    home: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(environment: &'a Environment, name: &str) -> Self {
        let home = environment.path(name);
        fs::create_dir(&home).unwrap();
        Self { environment, home }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.environment.command(arguments);
        program(command.env("HOME", &self.home).current_dir(&self.home).stdin(Stdio::null()))
    }

    fn join(&self, name: &str, token: &str) -> Outcome {
        self.environment.write("handed-over", token);
        let (url, file) = (self.environment.url(), self.environment.path("handed-over"));
        let file = file.to_str().unwrap();
        self.run(&["operator", "join", name, "--url", &url, "--token-file", file])
    }

    fn folder(&self) -> PathBuf {
        self.home.join(".config/countersign/pay.example")
    }
}

/// The token by which somebody joins.
fn added(environment: &Environment, arguments: &[&str]) -> String {
    let add = [&["operator", "add"][..], arguments].concat();
    environment.countersign(&add).success().stdout.trim().to_owned()
}

fn row(listed: &Outcome, name: &str) -> String {
    let row = listed.stdout.lines().find(|line| line.starts_with(&format!("{name} ")));
    row.unwrap_or_else(|| panic!("{}", listed.stdout)).to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_operator_types_one_line_where_they_are_and_acts() {
    let environment = Environment::start();
    let add = environment.countersign(&["operator", "add", "bob"]).success();
    let (token, url) = (add.stdout.trim(), environment.url());
    assert!(
        add.stderr.contains(&format!("operator join bob \\\n    --url {url}")),
        "{}",
        add.stderr
    );
    assert!(row(&environment.countersign(&["operator", "list"]), "bob").contains("invited"));

    // As it is printed, on a terminal, which asks for the token and does not show it.
    let bob = Machine::new(&environment, "bob");
    let typed = [("The token that you were given: ", token)];
    let mut join = environment.terminal(80, &typed, &["operator", "join", "bob", "--url", &url]);
    let shown = program(join.env("HOME", &bob.home)).success().stdout;
    assert!(!shown.contains(token), "{shown}");
    assert!(shown.contains("countersign status"), "{shown}");

    bob.run(&["status"]).success();
    assert_eq!(mode(&bob.folder().join("svid.key")), 0o600);
    let listed = bob.run(&["operator", "list"]).success();
    let told = row(&listed, "bob");
    // Within the second in which they joined, the whole week is left.
    let ends = ["in 7d", "in 6d 23h"].iter().any(|ends| told.contains(ends));
    assert!(told.contains("able") && ends && told.contains(" admin "), "{told}");
    assert!(told.contains("spiffe://pay.example/countersign/operator/bob"), "{told}");
    bob.run(&["token", "create", &environment.id("/prod/batch")]).success();
    assert!(environment.log().contains("operator added"), "{}", environment.log());
    bob.run(&["operator", "add", "carol", "--out", "token"]).success();
    assert_eq!(mode(&bob.home.join("token")), 0o600);
}

#[test]
fn a_token_for_a_key_is_good_for_that_key_alone() {
    let environment = Environment::start();
    let (bob, eve) = (Machine::new(&environment, "bob"), Machine::new(&environment, "eve"));
    let (url, pin) = (environment.url(), environment.pin());
    let request = ["operator", "request", "bob", "--url", &url, "--trust-pin", &pin];
    let asked = bob.run(&request).success();
    let key = asked.stdout.trim();
    assert_eq!(bob.run(&request).success().stdout.trim(), key, "twice is once");
    let (pending, line) =
        (bob.folder().join("svid.key.next"), format!("add bob \\\n    --key {key}"));
    assert_eq!(mode(&pending), 0o600);
    assert!(asked.stderr.contains(&line), "{}", asked.stderr);
    let token = added(&environment, &["bob", "--key", key]);
    eve.join("bob", &token).exits(3).says("for another key");
    bob.join("bob", &token).success();
    bob.run(&["list"]).success();
    bob.join("bob", &token).exits(3).says("used already");
    bob.run(&["list"]).success();
    environment
        .countersign(&["operator", "add", "carol", "--key", "ab"])
        .exits(2)
        .says("64 digits");
}

#[test]
fn a_denied_operator_comes_back_by_the_steps_that_are_told() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    let id = environment.id("/countersign/operator/bob");
    environment.countersign(&["operator", "remove", "bob"]).success();
    let allow = format!("`countersign allow {id}`, by another operator");
    // What others type has their own context.
    let refused = bob.run(&["status", "--context", "pay.example"]).exits(3).says(&allow);
    refused
        .says("`countersign denial list`, by another operator")
        .says("`countersign operator add bob --again`, by another operator");
    let again = ["bob", "--again"];
    environment.countersign(&[&["operator", "add"], &again[..]].concat()).exits(1).says("denied");
    environment.countersign(&["allow", &id]).success();
    bob.join("bob", &added(&environment, &again)).success();
    bob.run(&["status"]).success();
}

#[test]
fn nobody_takes_the_place_of_another() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    environment.countersign(&["operator", "add", "bob"]).exits(1).says("has a certificate");
    environment.countersign(&["operator", "add", "bob", "--again"]).exits(1).says("revoke");
    // A second operator on one machine has a context of their own.
    let key = fs::read(bob.folder().join("svid.key")).unwrap();
    bob.join("carol", &added(&environment, &["carol"])).success().says("pay.example-carol");
    assert_eq!(fs::read(bob.folder().join("svid.key")).unwrap(), key);
    bob.run(&["operator", "list"]).success();
    bob.run(&["operator", "list", "--context", "pay.example-carol"]).success();
    // What was lost is revoked first.
    let id = environment.id("/countersign/operator/bob");
    environment.countersign(&["revoke", &id, "--reason", "superseded"]).success();
    bob.run(&["list"]).exits(3).says("countersign operator add bob --again");
    environment.countersign(&["operator", "add", "bob"]).exits(1).says("--again");
    bob.join("bob", &added(&environment, &["bob", "--again"])).success();
    bob.run(&["list"]).success();
}

#[test]
fn an_operator_is_removed_by_name_and_the_last_one_is_not() {
    let environment = Environment::start();
    let remove = |name| environment.countersign(&["operator", "remove", name]);
    let longest = "b".repeat(64);
    environment.countersign(&["operator", "add", &format!("{longest}b")]).exits(1).says("64");
    environment.countersign(&["operator", "add", &longest]).success();
    remove("bbo").exits(1).says("known: admin, ");
    remove("admin").exits(1).says("last operator able to act");
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    let dry = environment.countersign(&["operator", "remove", "bob", "--dry-run"]).success();
    assert!(dry.stdout.contains("and revoke 1 certificate"), "{}", dry.stdout);
    remove("bob").success().says("countersign allow");
    remove("bob").success().says("denied already");
    bob.run(&["status"]).exits(3).says("denied");
    assert!(row(&environment.countersign(&["operator", "list"]), "bob").contains("denied"));
    environment.countersign(&["operator", "add", "bob"]).exits(1).says("countersign allow");
    environment.countersign(&["allow", &environment.id("/countersign/operator/bob")]).success();
    bob.join("bob", &added(&environment, &["bob", "--again"])).success();
    // Who was added removes the adder, and hears what they did.
    let removed = bob.run(&["operator", "remove", "admin", "--json"]).success();
    assert!(removed.stdout.contains("operator.create"), "{}", removed.stdout);
    assert!(removed.stderr.contains("review what they did"), "{}", removed.stderr);
}

/// A slip, in most cases: whoever acts is asked by name, and without a terminal not obeyed unasked.
#[test]
fn who_takes_the_right_to_act_from_themselves_is_told_and_asked() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    let id = environment.id("/countersign/operator/admin");
    let serial = environment.countersign(&["--json", "list", "--id", &id]).success().json();
    let serial = serial["serial_number"].as_str().unwrap().to_owned();
    let because = ["--reason", "superseded"];
    let acts = [
        vec!["operator", "remove", "admin"],
        [&["deny", &id][..], &because].concat(),
        [&["revoke", &id][..], &because].concat(),
        [&["revoke", &serial][..], &because].concat(),
    ];
    for act in &acts {
        environment.countersign(act).exits(2).says("That is you").says("with --yes");
        let asked = environment.on_terminal(80, &[("Type yes", "no")], act);
        asked.exits(1).says("That is you");
    }
    environment.countersign(&["status"]).success();
    environment.countersign(&[&acts[3][..], &["--yes"]].concat()).success();
    environment.countersign(&["status"]).exits(3);
}

#[test]
fn a_run_that_was_ended_before_its_context_is_finished_by_the_same_line() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    let token = added(&environment, &["bob"]);
    bob.join("bob", &token).success();
    fs::remove_file(bob.home.join(".config/countersign/contexts.toml")).unwrap();
    bob.join("bob", &token).success();
    bob.run(&["status"]).success();
}

/// Whose machine went to a thief is revoked, and joins again whatever is left of the folder.
#[test]
fn what_is_left_of_a_revoked_operator_is_no_reason_to_leave_a_good_token_unused() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    let key = fs::read(bob.folder().join("svid.key")).unwrap();
    let id = environment.id("/countersign/operator/bob");
    environment.countersign(&["revoke", &id, "--reason", "key-compromise"]).success();
    fs::remove_file(bob.home.join(".config/countersign/contexts.toml")).unwrap();
    bob.join("bob", &added(&environment, &["bob", "--again"])).success();
    bob.run(&["status"]).success();
    assert_ne!(fs::read(bob.folder().join("svid.key")).unwrap(), key);
}

/// `init --recover` alone would certify another operator.
#[test]
fn whoever_has_lost_key_or_certificate_is_told_how_they_come_back() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    bob.join("bob", &added(&environment, &["bob"])).success();
    let id = environment.id("/countersign/operator/bob");
    let (folder, other) = (bob.folder(), environment.path(".config/countersign/pay.example"));
    let at = |name: &str| folder.join(name);
    let put = |name: &str, bytes: &[u8]| {
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), bytes).unwrap();
    };
    let losses: [(&str, &dyn Fn()); 5] = [
        ("no key", &|| fs::remove_file(at("svid.key")).unwrap()),
        ("another's key", &|| put("svid.key", &fs::read(other.join("svid.key")).unwrap())),
        ("no certificate", &|| fs::remove_file(at("svid.pem")).unwrap()),
        ("an empty certificate", &|| put("svid.pem", b"")),
        ("no folder", &|| fs::remove_dir_all(&folder).unwrap()),
    ];
    for (loss, lose) in losses {
        lose();
        let (id_told, name) = match loss {
            "no folder" => ("SPIFFE_ID", "NAME"),
            _ => (&*id, "bob"),
        };
        let steps = [
            format!("countersign revoke {id_told} --reason superseded`, by another operator"),
            format!("countersign operator add {name} --again`, by another operator"),
            format!("countersign init --recover --operator {name}` on the CA's host"),
        ];
        let told = bob.run(&["status"]).exits(1);
        steps.iter().for_each(|step| assert!(told.stderr.contains(step), "{loss}: {told:?}"));
        if folder.exists() {
            let told = bob.run(&["renew", folder.to_str().unwrap(), "--url", &environment.url()]);
            steps.iter().for_each(|step| assert!(told.stderr.contains(step), "{loss}: {told:?}"));
        }
        environment.countersign(&["revoke", &id, "--reason", "superseded"]).success();
        if folder.exists() {
            let told = bob.run(&["renew", folder.to_str().unwrap()]);
            assert!(!told.stderr.contains("--token-file"), "{loss}: {told:?}");
        }
        bob.join("bob", &added(&environment, &["bob", "--again"])).success();
        bob.run(&["status"]).success();
    }
}

#[test]
fn what_is_no_token_is_refused_and_never_repeated() {
    let environment = Environment::start();
    let bob = Machine::new(&environment, "bob");
    let said = bob.join("bob", "not-a-token").exits(2).says("countersign operator add NAME");
    assert!(!said.stderr.contains("not-a-token"), "{}", said.stderr);
    let url = environment.url();
    bob.run(&["operator", "join", "bob"]).exits(2).says("--url");
    let none = bob.run(&["operator", "join", "bob", "--url", &url, "--token-file", "nowhere"]);
    none.exits(1).says("nowhere");
    let other = added(&environment, &["carol"]);
    bob.join("bob", &other).exits(3).says("not for spiffe://");
    assert!(!bob.folder().join("svid.pem").exists());
}
