//! What an operator does wrong, and the documented command that repairs it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use system_tests::{Environment, Settings, program};

const INIT: [&str; 3] = ["init", "--config", "ca.toml"];
const RECOVER: [&str; 4] = ["init", "--config", "ca.toml", "--recover"];

#[test]
fn a_killed_init_is_repaired_by_the_command_that_it_names() {
    let begun = Instant::now();
    drop(start_uninterrupted());
    let whole = begun.elapsed();
    for part in 0..10 {
        let environment = Environment::prepare(&Settings::default());
        let mut command = environment.command(&INIT);
        let mut init = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < whole * part / 10 {
            std::thread::yield_now();
        }
        init.kill().unwrap();
        init.wait().unwrap();
        let again = environment.countersign(&INIT);
        if !again.stderr.is_empty() && again.stderr.contains("countersign init --recover") {
            environment.countersign(&RECOVER).success();
        } else {
            again.success();
        }
        assert_eq!(environment.pin().len(), 52);
        assert!(!environment.path("state/init-unfinished").exists());
    }
}

fn start_uninterrupted() -> Environment {
    let environment = Environment::prepare(&Settings::default());
    environment.countersign(&INIT).success();
    environment
}

#[test]
fn an_init_that_meets_a_full_disk_leaves_nothing_and_is_done_again() {
    let environment = Environment::prepare(&Settings::default());
    for blocks in [0, 1, 8, 60] {
        let limited = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec \"{}\" init --config ca.toml",
            system_tests::binary().display()
        );
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &limited]).current_dir(environment.folder()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", environment.folder());
        program(command.stdin(Stdio::null())).exits(1).says("no CA was made").says("next: ");
        // The operator's place is looked at before there is a state folder.
        let left: Vec<_> = fs::read_dir(environment.path("state")).into_iter().flatten().collect();
        assert!(left.len() <= 1, "only its lock: {left:?}");
    }
    environment.countersign(&INIT).success().says("trust pin");
    environment.countersign(&INIT).exits(1).says("countersign init --recover");
}

#[test]
fn the_first_cas_operator_survives_the_second_ca() {
    let mut environment = Environment::start();
    let path = environment.path(".config/countersign/pay.example/svid.key");
    let key = || fs::read(&path).unwrap();
    let (before, config) = (key(), fs::read_to_string(environment.path("ca.toml")).unwrap());
    let second = config.replace("/state\"", "/second\"");
    environment.write("second.toml", &second);
    let init = ["init", "--config", "second.toml"];
    environment.countersign(&init).exits(2).says("--context NAME");
    assert!(!environment.path("second").exists(), "nothing was made");
    for name in ["../up", "a/b", ".hidden", ""] {
        let named = [&init[..], &["--context", name]].concat();
        environment.countersign(&named).exits(2);
    }
    let named = [&init[..], &["--context", "test"]].concat();
    environment.countersign(&named).success().says("context    test");
    assert_eq!(key(), before);
    let contexts = environment.countersign(&["context", "list"]).success().stdout;
    assert!(contexts.contains("*  pay.example") && contexts.contains("test"), "{contexts}");
    let recover = ["init", "--config", "second.toml", "--recover"];
    environment.countersign(&recover).exits(2).says("another CA's");
    let recover = [&recover[..], &["--context", "test"]].concat();
    environment.countersign(&recover).success();
    environment.countersign(&["status"]).success();
    assert_eq!(key(), before);
    // Whoever forgets a context keeps its key.
    environment.countersign(&["context", "remove", "pay.example"]).success();
    environment.write("third.toml", &config.replace("/state\"", "/third\""));
    let third = ["init", "--config", "third.toml"];
    environment.countersign(&third).exits(2).says("forgotten");
    environment.stop();
    environment.countersign(&RECOVER).success();
    assert_ne!(key(), before, "it is his own");
}

#[test]
fn another_operator_has_a_place_of_his_own() {
    let mut environment = Environment::start();
    let folder = |name: &str| environment.path(&format!(".config/countersign/{name}"));
    let (admin, bob) = (folder("pay.example"), folder("pay.example-second"));
    let before = fs::read(admin.join("svid.key")).unwrap();
    environment.stop();
    let recover = |operator: &str| [&RECOVER[..], &["--operator", operator]].concat().join(" ");
    let recovered = |operator: &str, options: &[&str]| {
        let command = recover(operator);
        let command: Vec<&str> = command.split(' ').chain(options.iter().copied()).collect();
        environment.countersign(&command)
    };
    recovered("second", &[]).success().says("context    pay.example-second");
    let first = fs::read(bob.join("svid.key")).unwrap();
    recovered("second", &[]).success();
    assert_ne!(fs::read(bob.join("svid.key")).unwrap(), first, "once more, in the same place");
    recovered("second", &["--context", "pay.example"]).exits(2).says("operator/admin");
    let eve = recovered("eve", &["--context", "hers"]).success();
    eve.says("/countersign/operator/eve").says("policy apply");
    assert_eq!(fs::read(admin.join("svid.key")).unwrap(), before);
    environment.serve();
    environment.countersign(&["status"]).success();
    environment.countersign(&["status", "--context", "pay.example-second"]).success();
    assert_eq!(fs::read(admin.join("svid.key")).unwrap(), before);
}

#[test]
fn a_copy_of_the_stopped_cas_folder_is_a_backup() {
    let mut environment = Environment::start();
    environment.issue("/prod/reports", "before");
    environment.stop();
    let (state, copy) = (environment.path("state"), environment.path("copy"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        program(std::process::Command::new("cp").arg("-a").args([from, to])).success();
    };
    copied(&state, &copy);
    fs::remove_dir_all(&state).unwrap();
    environment.countersign(&["serve", "--config", "ca.toml"]).exits(1);
    copied(&copy, &state);
    environment.serve();
    environment.countersign(&["verify", "before/svid.pem"]).success();
    environment.issue("/prod/reports", "after");
}
