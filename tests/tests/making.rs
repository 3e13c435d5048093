//! `init` looks at everything before it makes anything.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use system_tests::{Environment, Outcome, Settings, binary, program};

const INIT: [&str; 3] = ["init", "--config", "ca.toml"];

/// The configuration with another line in the place of the one of this key.
fn configure(environment: &Environment, key: &str, line: &str) {
    let text = fs::read_to_string(environment.path("ca.toml")).unwrap();
    let is_it = |line: &&str| line.split(' ').next() == Some(key);
    let others: Vec<&str> = text.lines().filter(|line| !is_it(line)).collect();
    environment.write("ca.toml", &format!("{line}\n{}\n", others.join("\n")));
}

fn set_mode(environment: &Environment, name: &str, mode: u32) {
    fs::set_permissions(environment.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// As somebody who may read the configuration and not the state.
fn init_as_another(environment: &Environment) -> Outcome {
    set_mode(environment, ".", 0o755);
    set_mode(environment, "ca.toml", 0o644);
    let is_root = program(Command::new("id").arg("-u")).stdout.trim() == "0";
    let mut command = Command::new(if is_root { "setpriv" } else { "env" });
    if is_root {
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    } else {
        set_mode(environment, "state", 0);
    }
    command.arg(binary()).args(INIT).current_dir(environment.folder()).stdin(Stdio::null());
    let outcome = program(command.env_clear().env("HOME", environment.path("home")));
    set_mode(environment, "state", 0o700);
    outcome
}

#[test]
fn what_is_no_folder_or_somebody_elses_is_not_taken_for_a_part_of_a_ca() {
    let environment = Environment::prepare(&Settings::default());
    let file = environment.path("a-file");
    fs::write(&file, "").unwrap();
    for state in ["/dev/null", file.to_str().unwrap(), &format!("{}/below", file.display())] {
        configure(&environment, "state", &format!("state = {state:?}"));
        let refused = environment.countersign(&INIT).exits(1).says("no folder").says(state);
        assert!(!refused.stderr.contains("mv "), "{}", refused.stderr);
    }
    let state = environment.path("state");
    configure(&environment, "state", &format!("state = {state:?}"));
    environment.countersign(&INIT).success();
    let refused = init_as_another(&environment).exits(1).says("permission denied");
    assert!(!refused.stderr.contains("mv "), "{}", refused.stderr);
    refused.says("run it as the owner");
}
