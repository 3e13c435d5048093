//! Whatever file of an SVID's folder is lost or broken: a command that is documented puts it right.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::{Environment, Outcome, binary, program};

const BATCH: &str = "/prod/batch";
/// `.current` leads to all of them.
const FILES: [&str; 8] = [
    "svid.pem",
    "svid.key",
    "svid.json",
    "trust.note",
    "bundle.pem",
    "crl.pem",
    "svid.checkpoint",
    ".current",
];

/// What happens to a file.
type Loss = (&'static str, fn(&Path));
const LOSSES: [Loss; 3] = [
    ("removed", |path| drop(fs::remove_file(path))),
    ("emptied", |path| write(path, b"")),
    ("overwritten", |path| write(path, b"\xffno such file\0")),
];

fn write(path: &Path, bytes: &[u8]) {
    // `.current` leads to a folder: it is the link that is lost.
    drop(fs::remove_file(path));
    fs::write(path, bytes).unwrap();
}

/// A folder for each file and loss, whose SVID has been used once.
fn broken(environment: &Environment) -> Vec<(String, PathBuf)> {
    let mut folders = Vec::new();
    for file in FILES {
        for (loss, does) in LOSSES {
            let name = format!("{}-{loss}", file.trim_start_matches('.'));
            let folder = environment.issue(BATCH, &name);
            environment.countersign(&["renew", &name]).success();
            does(&folder.join(file));
            folders.push((name, folder));
        }
    }
    folders
}

fn accepted(environment: &Environment, name: &str) {
    environment.countersign(&["verify", name]).success().says("passed  bundle.pem");
    let openssl = ["verify", "-CAfile", "bundle.pem", "-crl_check", "-CRLfile", "crl.pem"];
    let svid = ["-untrusted", "svid.pem", "svid.pem"];
    let folder = environment.path(name);
    system_tests::openssl(&folder, &[&openssl[..], &svid].concat()).success();
    environment.countersign(&["renew", name]).success().says("not due");
}

/// Types a next step, as far as it is commands.
fn types(environment: &Environment, step: &str) -> Outcome {
    let bin = environment.path("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(binary(), bin.join("countersign")).unwrap();
    }
    let mut bash = Command::new("bash");
    bash.args(["-ec", step]).env_clear().current_dir(environment.folder());
    bash.env("HOME", environment.folder());
    program(bash.env("PATH", format!("{}:/usr/bin:/bin", bin.display())))
}

#[test]
fn renew_repairs_it_or_names_the_command_that_does() {
    let environment = Environment::start();
    let id = environment.id(BATCH);
    for (name, _) in broken(&environment) {
        if name.starts_with("bundle") {
            environment.countersign(&["verify", &name]).exits(5).says("FAILED  bundle.pem");
        }
        let renewed = environment.countersign(&["renew", &name]);
        if renewed.code != 0 {
            assert!(renewed.stderr.contains(&name), "{name}: {renewed:?}");
            let next = renewed.stderr.split("  next: ").nth(1).expect(&renewed.stderr);
            let next = next.split_whitespace().collect::<Vec<_>>().join(" ");
            let next = next.split('`').find(|it| it.contains("--out")).unwrap_or(&next).to_owned();
            environment.write("FILE", &environment.token(BATCH));
            let next = next.replace("https://CA:8443", &environment.url());
            assert!(!next.contains("SPIFFE_ID"), "{name}: {next}");
            types(&environment, &next).success();
        }
        accepted(&environment, &name);
        let inspected = environment.countersign(&["inspect", &name]).success();
        assert!(inspected.stdout.contains(&id), "{name}: {inspected:?}");
    }
}

#[test]
fn renew_attests_again_by_a_token_where_it_cannot_go_on() {
    let environment = Environment::start();
    let url = environment.url();
    for (name, _) in broken(&environment) {
        environment.write("token", &environment.token(BATCH));
        let renew = ["renew", &name, "--token-file", "token", "--url", &url];
        environment.countersign(&renew).success();
        accepted(&environment, &name);
    }
}

#[test]
fn issue_makes_another_in_its_place() {
    let environment = Environment::start();
    let id = environment.id(BATCH);
    for (name, _) in broken(&environment) {
        environment.countersign(&["issue", &id, "--out", &name]).success();
        accepted(&environment, &name);
    }
}

#[test]
fn an_operators_folder_is_repaired_as_its_step_says() {
    let mut environment = Environment::start();
    let folder = environment.path(".config/countersign/pay.example");
    environment.countersign(&["status"]).success();
    for (loss, does) in LOSSES {
        for file in FILES {
            does(&folder.join(file));
            let told = environment.countersign(&["status"]);
            if told.code != 0 {
                assert!(told.stderr.contains("pay.example"), "{file} {loss}: {told:?}");
                let next = told.stderr.split("  next: ").nth(1).expect(&told.stderr);
                let next = next.split_whitespace().collect::<Vec<_>>().join(" ");
                match next.split_once("; then the same command again") {
                    Some((repair, _)) => drop(types(&environment, repair).success()),
                    None if next.contains("init --recover") => {
                        environment.stop();
                        assert!(next.contains("countersign operator add admin --again"), "{next}");
                        let recover = ["init", "--config", "ca.toml", "--recover"];
                        let recover = [&recover[..], &["--operator", "admin"]].concat();
                        environment.countersign(&recover).success();
                        environment.serve();
                    }
                    None => drop(types(&environment, &next).success()),
                }
            }
            environment.countersign(&["status"]).success();
            let bundle = fs::read_to_string(folder.join("bundle.pem")).unwrap();
            assert!(bundle.contains("BEGIN CERTIFICATE"), "{file} {loss}");
        }
    }
}

#[test]
fn what_is_left_tells_whose_folder_it_is() {
    let environment = Environment::start();
    let reports = environment.id("/prod/reports");
    for (name, _) in broken(&environment) {
        let issue = ["issue", &reports, "--out", &name];
        environment.countersign(&issue).exits(2).says("holds the SVID of");
    }
}
