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

#[test]
fn an_operator_without_a_place_keeps_a_ca_from_being_made() {
    let environment = Environment::prepare(&Settings::default());
    // Nothing can be made in these, whoever one is.
    for home in ["/proc", "/dev/null"] {
        let mut init = environment.in_time(&INIT);
        let refused = program(init.env("HOME", home)).exits(1).says("no CA was made");
        refused.says(".config/countersign").says("countersign init --config ca.toml");
        assert!(!environment.path("state").exists(), "{home}");
    }
    environment.countersign(&INIT).success();
    environment.countersign(&INIT).exits(1).says("`countersign init --recover --config ca.toml`");
}

#[test]
fn a_ca_whose_operator_got_nothing_is_told_with_the_command_that_goes_on() {
    let environment = Environment::prepare(&Settings::default());
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut init = environment.in_time(&INIT);
    let child = init.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let outcome = Outcome::from(child.wait_with_output().unwrap()).exits(1);
    outcome.says("is made and whole").says("countersign init --recover --config ca.toml");
    environment.countersign(&["init", "--recover", "--config", "ca.toml"]).success();
}

#[test]
fn a_name_that_no_operator_can_have_is_told_by_its_rule() {
    let environment = Environment::prepare(&Settings::default());
    for name in ["", "a b", "a/b", "..", "/", "ä"] {
        for options in [&[][..], &["--recover"]] {
            let init = [&INIT[..], &["--operator", name], options].concat();
            let refused = environment.countersign(&init).exits(2).says("is no operator's name");
            refused.says("next: ");
        }
    }
    assert!(!environment.path("state").exists());
}

#[test]
fn a_disk_that_fills_up_is_told_with_the_folder_and_what_became_of_it() {
    let environment = Environment::prepare(&Settings::default());
    let limited = format!(
        "trap '' XFSZ; ulimit -f 60; exec \"{}\" init --config ca.toml",
        binary().display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &limited]).current_dir(environment.folder()).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", environment.folder());
    let full = program(command.stdin(Stdio::null())).exits(1);
    let state = environment.path("state").display().to_string();
    full.says(&format!("no CA was made in {state}"))
        .says("no part of one is left there")
        .says("next: make room");
    environment.countersign(&INIT).success();
}

#[test]
fn a_port_that_is_chosen_anew_is_told_with_the_option_that_names_it() {
    let mut environment = Environment::prepare(&Settings::default());
    configure(&environment, "listen", "listen = \"127.0.0.1:0\"");
    environment
        .countersign(&INIT)
        .success()
        .says("countersign status --url https://127.0.0.1:PORT");
    environment.serve();
    let begun = std::time::Instant::now();
    while !environment.log().contains("--url https://127.0.0.1:") {
        assert!(begun.elapsed().as_secs() < 30, "{}", environment.log());
        std::thread::yield_now();
    }
    let unnamed = environment.countersign(&["status"]).exits(2);
    unnamed.says("names no port").says("add --url https://127.0.0.1:PORT");
    let log = environment.log();
    let url = log.split("--url ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    environment.countersign(&["status", "--url", url]).success();
}
