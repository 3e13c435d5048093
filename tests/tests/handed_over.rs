//! What a command makes reaches whom it is for, replaces nothing that is another's, and where it is
//! lost on the way that is said.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use system_tests::{Environment, Outcome, openssl, program};

/// With stdout on a disk that is full.
fn without_room(environment: &Environment, arguments: &[&str]) -> Outcome {
    let full = File::options().write(true).open("/dev/full").unwrap();
    program_with(environment, arguments, full)
}

fn program_with(environment: &Environment, arguments: &[&str], stdout: File) -> Outcome {
    let mut command = environment.in_time(arguments);
    let child = command.stdout(stdout).stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap().into()
}

/// The command that a step names, without what follows it.
fn step(outcome: &Outcome, command: &str) -> Vec<String> {
    let (_, rest) = outcome.stderr.split_once(command).unwrap();
    let end = rest.find([';', '\n']).unwrap_or(rest.len());
    format!("{command}{}", &rest[..end]).split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_result_replaces_no_file_of_another_kind() {
    let environment = Environment::start();
    let (id, url, pin) = (environment.id("/prod/batch"), environment.url(), environment.pin());
    let before = fs::read(environment.path("ca.toml")).unwrap();
    std::os::unix::fs::symlink("link-to-this", environment.path("link")).unwrap();
    for command in [
        &["token", "create", &id][..],
        &["operator", "add", "carl"],
        &["trust", "fetch", &url, "--pin", &pin],
    ] {
        let to = |out: &str| environment.countersign(&[command, &["--out", out]].concat());
        to("ca.toml").exits(2).says("--yes");
        to("link").exits(1).says("it is a link to link-to-this");
        assert_eq!(fs::read(environment.path("ca.toml")).unwrap(), before);
        to("/dev/null").success();
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
        environment.write("other", "something else");
        to("other").exits(2);
        let told = [command, &["--out", "other", "--yes"]].concat();
        environment.countersign(&told).success();
        to("other").success();
    }
    assert!(!environment.path("link-to-this").exists());
    let tokens = environment.countersign(&["token", "list"]).success().stdout;
    assert_eq!(tokens.matches(&id).count(), 3, "none was made for a refused place: {tokens}");
    let shown = environment.countersign(&["token", "create", &id, "--out", "/dev/stdout"]);
    assert!(shown.success().stdout.starts_with("ct1."));
}

#[test]
fn what_was_made_and_got_lost_is_told_with_the_way_back() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    for command in [&["token", "create", &id][..], &["operator", "add", "carl"]] {
        let full = without_room(&environment, command).exits(1).says("was made").says("next: ");
        let revoke = step(&full, "countersign token revoke ");
        environment.countersign(&revoke.iter().map(String::as_str).collect::<Vec<_>>()).success();
        let full = environment.countersign(&[command, &["--out", "/dev/full"]].concat());
        full.exits(1).says("was made").says("countersign token revoke ");
        assert!(Path::new("/dev/full").metadata().unwrap().file_type().is_char_device());
    }
    openssl(
        environment.folder(),
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "own.key"],
    )
    .success();
    openssl(
        environment.folder(),
        &["req", "-new", "-key", "own.key", "-subj", "/", "-out", "own.csr"],
    )
    .success();
    let issue = ["issue", &id, "--csr", "own.csr"];
    let full = without_room(&environment, &issue).exits(1).says("was issued").says("next: ");
    let chain = environment.countersign(&issue).success().stdout;
    environment.write("own.pem", &chain);
    let shown = environment.countersign(&["inspect", "own.pem"]).success().stdout;
    let is_serial = |word: &&str| word.len() > 20 && word.bytes().all(|it| it.is_ascii_hexdigit());
    let serial = shown.split_whitespace().find(is_serial).unwrap();
    assert!(full.stderr.contains(serial), "the same one: {shown}\n{}", full.stderr);
    let revoke = step(&full, "countersign revoke ");
    environment.countersign(&revoke.iter().map(String::as_str).collect::<Vec<_>>()).success();
    // Of anything else, nothing is known to be undone.
    let full = without_room(&environment, &["deny", &id, "--reason", "superseded"]).exits(1);
    full.says("what it was to do is done");
    program(environment.command(&["denial", "list"]).stdin(std::process::Stdio::null())).says(&id);
}

/// As a shell closes it by `>&-`. Whoever discards what is shown says so by `/dev/null`.
#[test]
fn what_is_shown_once_is_not_made_for_a_stdout_that_is_closed() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    openssl(environment.folder(), &["genrsa", "-out", "own.key", "2048"]).success();
    let request = ["req", "-new", "-key", "own.key", "-subj", "/", "-out", "own.csr"];
    openssl(environment.folder(), &request).success();
    let by_shell = |command: &[&str], redirected: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.env_clear().env("HOME", environment.folder()).current_dir(environment.folder());
        shell.args(["-c", &format!("\"$0\" \"$@\" {redirected}")]).arg(system_tests::binary());
        program(shell.args(command).stdin(std::process::Stdio::null()))
    };
    for command in [
        &["token", "create", &id][..],
        &["operator", "add", "carl", "--json"],
        &["issue", &id, "--csr", "own.csr"],
    ] {
        by_shell(command, ">&-")
            .exits(2)
            .says("stdout is closed")
            .says("next: let stdout go where");
        for list in [&["token", "list"][..], &["list", "--id", &id]] {
            let listed = environment.countersign(list).success().stdout;
            assert!(!listed.contains("spiffe://"), "{command:?}: {listed}");
        }
    }
    assert!(by_shell(&["token", "create", &id], ">/dev/null").success().stdout.is_empty());
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let environment = Environment::prepare(&system_tests::Settings::default());
    for arguments in [&["--help"][..], &["token", "create", "--help"], &["--version"]] {
        without_room(&environment, arguments).exits(1).says("cannot write to stdout");
    }
    environment.countersign(&["frobnicate"]).exits(2);
}

#[test]
fn what_changes_a_context_answers_programs_too() {
    let environment = Environment::prepare(&system_tests::Settings::default());
    environment.countersign(&["init", "--config", "ca.toml"]).success();
    for (act, state) in [("use", "current"), ("remove", "forgotten")] {
        let done = environment.countersign(&["--json", "context", act, "pay.example"]).success();
        assert_eq!(done.json(), serde_json::json!({ "name": "pay.example", "state": state }));
    }
}
