//! The passphrases of a new CA: what they have to be is told before they are typed.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use system_tests::{Environment, Settings};

const INIT: [&str; 3] = ["init", "--config", "ca.toml"];
const ONE: &str = "the passphrase of this test";
const TWO: &str = "another passphrase of this test";

/// Without these settings of the configuration.
fn prepared_without(settings: &[&str]) -> Environment {
    let environment = Environment::prepare(&Settings::default());
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    let is_kept = |line: &&str| !settings.iter().any(|it| line.starts_with(&format!("{it} ")));
    let kept: Vec<&str> = config.lines().filter(is_kept).collect();
    environment.write("ca.toml", &kept.join("\n"));
    environment
}

#[test]
fn the_rules_stand_before_the_first_prompt_and_what_breaks_one_is_asked_for_again() {
    let environment = prepared_without(&["passphrase_file", "offline_passphrase_file"]);
    let typed = [
        ("keys, new: ", "short"),
        ("fewer than 12 characters", ONE),
        ("keys, again: ", "what was not meant"),
        ("typed differ", ONE),
        ("keys, again: ", ONE),
        ("(root, trust), new: ", ONE),
        ("has the root, too", TWO),
        ("(root, trust), again: ", TWO),
    ];
    let shown = environment.on_terminal(80, &typed, &INIT).success().stdout;
    let (rules, prompt) =
        (shown.find("12 characters or more").unwrap(), shown.find("new: ").unwrap());
    assert!(rules < prompt, "{shown}");
    assert!(!shown.contains(ONE) && !shown.contains(TWO), "{shown}");
    // Each opens what it is for.
    environment.write("ca.toml", &{
        let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
        let files = ["passphrase", "offline-passphrase"].map(|name| environment.path(name));
        let [online, offline] = files;
        format!("{config}\npassphrase_file = {online:?}\noffline_passphrase_file = {offline:?}\n")
    });
    environment.countersign(&["rotate", "--config", "ca.toml"]).exits(4).says("serve");
    environment.countersign(&[&INIT[..], &["--recover"]].concat()).success();
}

#[test]
fn equal_ones_are_refused_from_files_and_nothing_is_made() {
    let environment = Environment::prepare(&Settings::default());
    environment.write("offline-passphrase", &format!("{ONE}\r\n"));
    for command in [&INIT[..], &["config", "check", "--config", "ca.toml"]] {
        let refused = environment.countersign(command).exits(2).says("has the root, too");
        assert!(refused.stderr.contains("offline_passphrase_file: "), "{}", refused.stderr);
        assert!(refused.stderr.contains("openssl rand"), "{}", refused.stderr);
        assert!(!refused.stderr.contains(ONE), "{}", refused.stderr);
    }
    assert!(!environment.path("state").exists());
    environment.write("offline-passphrase", TWO);
    environment.countersign(&["config", "check", "--config", "ca.toml"]).success();
    environment.countersign(&INIT).success();
}

#[test]
fn one_file_for_both_is_the_owners_word_and_warned_of() {
    let environment = prepared_without(&["offline_passphrase_file"]);
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    let online = config.lines().find_map(|line| line.strip_prefix("passphrase_file")).unwrap();
    environment.write("ca.toml", &format!("{config}\noffline_passphrase_file{online}\n"));
    for command in [&["config", "check", "--config", "ca.toml"][..], &INIT] {
        environment.countersign(command).success().says("are one file").says("has the root, too");
    }
    environment.countersign(&["rotate", "--config", "ca.toml"]).exits(4).says("serve");
}

/// What the file's first lines tell a developer to do.
#[test]
fn the_development_ca_that_ships_is_made_by_the_lines_on_top_of_its_configuration() {
    let environment = Environment::prepare(&Settings::default());
    let folder = environment.path("certs-dev");
    std::fs::create_dir(&folder).unwrap();
    for file in ["countersign.toml", "workloads.json"] {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../certs-dev/");
        std::fs::copy(format!("{shipped}{file}"), folder.join(file)).unwrap();
    }
    environment.write("certs-dev/passphrase", ONE);
    let config = ["--config", "certs-dev/countersign.toml"];
    environment.countersign(&[&["config", "check"], &config[..]].concat()).success();
    environment.countersign(&[&["init"], &config[..]].concat()).success();
}

#[test]
fn short_ones_are_refused_from_files_and_from_systemd() {
    let environment = Environment::prepare(&Settings::default());
    for (file, setting) in
        [("passphrase", "passphrase_file"), ("offline-passphrase", "offline_passphrase_file")]
    {
        let good = std::fs::read_to_string(environment.path(file)).unwrap();
        for short in ["", "\n", "elf Zeichen", "            "] {
            environment.write(file, short);
            let refused = environment.countersign(&INIT).exits(2).says("fewer than 12 characters");
            assert!(refused.stderr.contains(&format!("error: {setting}: ")), "{}", refused.stderr);
        }
        environment.write(file, &good);
    }
    let environment = prepared_without(&["passphrase_file"]);
    environment.write("countersign-passphrase", "short");
    let mut init = environment.command(&INIT);
    let folder = environment.folder();
    system_tests::program(init.env("CREDENTIALS_DIRECTORY", folder))
        .exits(2)
        .says("countersign-passphrase: it has fewer");
    environment.write("countersign-passphrase", TWO);
    let mut init = environment.command(&INIT);
    system_tests::program(init.env("CREDENTIALS_DIRECTORY", folder)).exits(2).says("serve");
}

#[test]
fn without_a_terminal_the_settings_are_named() {
    let environment = prepared_without(&["passphrase_file"]);
    environment.countersign(&INIT).exits(2).says("`passphrase_file`").says("no terminal");
}

#[test]
fn who_types_no_passphrase_is_told_so_on_a_line_of_its_own() {
    let environment = Environment::prepare(&Settings::default());
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();
    let lines = config.lines().filter(|line| !line.contains("passphrase_file"));
    environment.write("ca.toml", &lines.map(|line| format!("{line}\n")).collect::<String>());
    // Ctrl-D, then the line break that the terminal's script types.
    let shown = environment.on_terminal(80, &[("new: ", "\u{4}")], &INIT);
    assert_eq!(shown.code, 2, "{}", shown.stdout);
    let error = shown.stdout.lines().find(|line| line.contains("error: ")).unwrap();
    assert!(error.starts_with("error: ") && error.contains("nothing was typed"), "{error:?}");
    assert!(!shown.stdout.contains("no terminal"), "{}", shown.stdout);
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "{}", shown.stdout);
    let mut without = environment.in_time(&INIT);
    let without = system_tests::program(without.stdin(std::process::Stdio::null())).exits(2);
    without.says("no terminal to ask on");
}
