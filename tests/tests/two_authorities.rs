//! Two CAs on one machine: what is done with the keys of one is asked of that one.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;

use system_tests::{Environment, Outcome, Settings};

/// Another CA, whose operator is at home where the first one's is; not served yet.
fn second(first: &Environment, domain: &str, context: &str) -> (Environment, String) {
    let environment = Environment::prepare(&Settings::default());
    let config = fs::read_to_string(environment.path("ca.toml")).unwrap();
    let named = "trust_domain = \"pay.example\"";
    environment.write("ca.toml", &config.replace(named, &format!("trust_domain = \"{domain}\"")));
    let config = environment.path("ca.toml").display().to_string();
    first.countersign(&["init", "--config", &config, "--context", context]).success();
    (environment, config)
}

fn keys(environment: &Environment) -> usize {
    fs::read_dir(environment.path("state/keys")).unwrap().count()
}

fn run(environment: &Environment, line: &str) -> Outcome {
    environment.countersign(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn a_configuration_chooses_the_context_of_its_ca_and_another_is_refused() {
    let first = Environment::start();
    let (mut other, config) = second(&first, "tty.example", "tty");
    other.serve();
    run(&first, "context list").success().says("*  pay.example");
    let before = (keys(&first), keys(&other));

    for command in ["rotate", "rotate --dry-run", "key prepare feed", "issuer prepare"] {
        let refused = run(&first, &format!("{command} --config {config} --context pay.example"));
        let refused =
            refused.exits(2).says("tty.example (trust pin ").says("pay.example (trust pin ");
        refused.says("next: the same command with --context tty");
    }
    assert_eq!((keys(&first), keys(&other)), before, "no key was made");

    run(&first, &format!("key prepare feed --config {config}")).success();
    assert_eq!((keys(&first), keys(&other)), (before.0, before.1 + 1));
    run(&first, &format!("rotate --config {config} --context tty")).success().says("activate feed");
    let own = run(&first, "key list").success().stdout;
    assert_eq!(own.matches("active").count(), 6, "{own}");
    run(&first, "rotate --config ca.toml").success().says("nothing is due");

    run(&first, "context remove tty").success();
    let refused = run(&first, &format!("rotate --config {config}")).exits(2);
    refused.says("tty.example (trust pin ").says(&format!("init --recover --config {config}"));
    assert_eq!(keys(&first), before.0);
}

#[test]
fn a_ca_of_the_same_name_is_told_by_its_trust_keys_those_of_later_too() {
    let first = Environment::start();
    let (mut other, config) = second(&first, "pay.example", "test");
    other.serve();
    let refused = run(&first, &format!("rotate --config {config} --context pay.example"));
    refused.exits(2).says("--context test");

    for step in ["prepare", "activate"] {
        run(&first, &format!("key {step} trust --config {config}")).success();
    }
    // The context of today begins with the keys of today, and the folder with those of the first day.
    run(&first, "context remove test").success();
    other.stop();
    run(&first, &format!("init --recover --config {config} --context later")).success();
    other.serve();
    run(&first, &format!("rotate --config {config}")).success().says("context later");
    run(&first, "rotate --config ca.toml --context later").exits(2).says("--context pay.example");
}
