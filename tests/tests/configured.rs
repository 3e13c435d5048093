//! What is wrong with a configuration is told at once, in the words that every command uses.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;

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
    let told = told.says("      passphrase_file: ").says("      offline_passphrase_file: ");
    assert_eq!(told.stderr.matches("next: ").count(), 1, "{}", told.stderr);
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
