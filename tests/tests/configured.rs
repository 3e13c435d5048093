//! What is wrong with a configuration is told at once, in the words that every command uses.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use system_tests::{Environment, Settings};

#[test]
fn every_command_tells_all_lines_that_are_wrong() {
    let environment = Environment::prepare(&Settings::default());
    let lines = "trust_domain = \"Pay\"\nlisten = 3\nnames = [\"a:1\"]\nfoo = 1\nlissten = 2\n";
    environment.write("broken.toml", lines);
    for command in [&["config", "check"][..], &["init"], &["serve"], &["rotate"]] {
        let told =
            environment.countersign(&[command, &["--config", "broken.toml"]].concat()).exits(2);
        let told = told.says("5 faults").says("countersign config check --config broken.toml");
        let told = (1..=5).fold(told, |told, line| told.says(&format!("\n      line {line}: ")));
        told.says("`lissten`: did you mean `listen`?");
    }
}

#[test]
fn config_check_tells_every_file_that_cannot_be_used() {
    let environment = Environment::prepare(&Settings::default());
    for name in ["passphrase", "offline-passphrase"] {
        fs::remove_file(environment.path(name)).unwrap();
    }
    fs::remove_dir_all(environment.path("policies")).unwrap();
    environment.write("state", "no folder");
    let told = environment.countersign(&["config", "check", "--config", "ca.toml"]).exits(2);
    let told = told.says("4 faults").says("state: ").says("it is no folder").says("policies: ");
    let told =
        told.says("\n      3: passphrase_file: ").says("\n      4: offline_passphrase_file: ");
    assert_eq!(told.stderr.matches("next: ").count(), 1, "{}", told.stderr);
    told.says("next: 1: look what it is, and name another").says("2, 3, 4: put it there");
}

#[test]
fn each_of_several_faults_says_where_it_is_and_what_ends_it() {
    let environment = Environment::prepare(&Settings::default());
    fs::remove_file(environment.path("policies/workloads.json")).unwrap();
    fs::set_permissions(environment.path("passphrase"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(environment.path("offline-passphrase")).unwrap();
    let told = environment.countersign(&["config", "check", "--config", "ca.toml"]).exits(2);
    let path = |name: &str| environment.path(name).display().to_string();
    for (fault, step) in [
        (
            format!("1: {} has no policy files", path("policies")),
            "1: `countersign policy shipped > ",
        ),
        (format!("2: passphrase_file: {}: it has mode 0644", path("passphrase")), "2: chmod 600 "),
        (
            format!("3: offline_passphrase_file: {}: ", path("offline-passphrase")),
            "3: put it there",
        ),
    ] {
        for said in [&*fault, step] {
            assert!(told.stderr.contains(said), "{said}: {}", told.stderr);
        }
    }
    // As the first step says.
    let shipped = environment.countersign(&["policy", "shipped"]).success().stdout;
    environment.write("policies/countersign.cedar", &shipped);
    environment.write("policies/workloads.json", r#"{"workloads": []}"#);
    environment.countersign(&["policy", "check", "policies"]).success();
    let told = environment.countersign(&["config", "check", "--config", "ca.toml"]).exits(2);
    told.says("2 faults").says("1: passphrase_file: ");
}

#[test]
fn a_short_passphrase_is_refused_in_the_same_words_before_and_after() {
    let environment = Environment::prepare(&Settings::default());
    let good = fs::read_to_string(environment.path("passphrase")).unwrap();
    let told = |command: &[&str]| {
        let told = environment.countersign(&[command, &["--config", "ca.toml"]].concat()).exits(2);
        told.stderr
    };
    environment.write("passphrase", "too short");
    let path = environment.path("passphrase");
    let words =
        format!("error: passphrase_file: {}: it has fewer than 12 characters\n", path.display());
    for command in [&["init"][..], &["config", "check"], &["serve"]] {
        assert!(told(command).starts_with(&words), "{command:?}: {}", told(command));
    }
    environment.write("passphrase", &good);
    environment.countersign(&["init", "--config", "ca.toml"]).success();
    environment.write("passphrase", "too short");
    for command in [&["serve"][..], &["init", "--recover"], &["config", "check"]] {
        let told = told(command);
        assert!(told.starts_with(&words), "{command:?}: {told}");
        assert!(told.contains("which the keys were sealed by at `init`"), "{told}");
    }
}
