//! Folders on file systems that cannot do what others can: no fsync of a directory (CIFS), no symbolic
//! links (FAT, SMB), no locks (NFS without its daemon). strace makes the system calls fail.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;
use std::process::Command;

use system_tests::{Environment, Outcome, Settings, program};

/// Runs a command of `countersign` whose calls fail so, below one folder where that matters.
fn where_fails(
    call: &str,
    errno: &str,
    folders: &[&Path],
    environment: &Environment,
    arguments: &[&str],
) -> Outcome {
    let countersign = environment.in_time(arguments);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120", "strace", "-f", "-y", "-qq", "-o"]);
    command.arg(environment.path("calls"));
    for folder in folders {
        command.arg("-P").arg(folder);
    }
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}"));
    command.args(["-e", &trace, "-e", &inject]);
    // Past `timeout` and its options.
    command.args(countersign.get_args().skip(2));
    command.current_dir(environment.folder()).env_clear();
    for (name, value) in countersign.get_envs() {
        command.env(name, value.unwrap());
    }
    program(&mut command)
}

/// How often a call failed because we made it.
fn failed(environment: &Environment, folder: &Path) -> usize {
    let calls = fs::read_to_string(environment.path("calls")).unwrap();
    let of_folder = format!("<{}>)", folder.display());
    calls.lines().filter(|it| it.ends_with("(INJECTED)") && it.contains(&of_folder)).count()
}

fn issue(environment: &Environment, folder: &str) -> Vec<String> {
    environment.write("token", &environment.token("/prod/batch"));
    let (id, url) = (environment.id("/prod/batch"), environment.url());
    ["issue", &id, "--url", &url, "--token-file", "token", "--out", folder]
        .map(str::to_owned)
        .into()
}

/// The same token is good elsewhere.
fn still_good(environment: &Environment, folder: &str) {
    let (id, url) = (environment.id("/prod/batch"), environment.url());
    let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--out", folder];
    environment.countersign(&issue).success();
}

fn verifies(environment: &Environment, folder: &str) {
    let svid = format!("{folder}/svid.pem");
    environment.countersign(&["verify", &svid]).success();
}

#[test]
fn a_directory_that_cannot_be_synced_is_no_reason_to_fail() {
    let environment = Environment::start();
    for (number, errno) in ["EINVAL", "EOPNOTSUPP", "ENOSYS"].into_iter().enumerate() {
        let name = format!("share-{number}");
        let share = environment.path(&name);
        let set = |set: &str| share.join(set);
        let folders = [share.clone(), set(".svid-try"), set(".svid-1"), set(".svid-2")];
        let folders: Vec<&Path> = folders.iter().map(|it| &**it).collect();
        let asked = issue(&environment, &name);
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        where_fails("fsync", errno, &folders, &environment, &asked).success();
        for folder in &folders[..3] {
            assert!(failed(&environment, folder) > 0, "{errno}: {}", folder.display());
        }
        verifies(&environment, &name);
        environment.write("token", &environment.token("/prod/batch"));
        let renew = ["renew", &name, "--attest", "token", "--token-file", "token"];
        where_fails("fsync", errno, &folders, &environment, &renew).success().says("attested");
        assert!(failed(&environment, folders[3]) > 0, "{errno}");
        verifies(&environment, &name);
        let out = format!("{name}/token");
        let create = ["token", "create", &environment.id("/prod/batch"), "--out", &out];
        where_fails("fsync", errno, &folders, &environment, &create).success();
        assert!(failed(&environment, folders[0]) > 0, "{errno}");
    }
}

#[test]
fn a_directory_whose_sync_fails_for_another_reason_is_told_and_the_token_is_kept() {
    let environment = Environment::start();
    let (share, tried) = (environment.path("share"), environment.path("share/.svid-try"));
    let asked = issue(&environment, "share");
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let refused = where_fails("fsync", "EIO", &[&share, &tried], &environment, &asked).exits(1);
    assert!(refused.stderr.contains("share"), "{}", refused.stderr);
    still_good(&environment, "elsewhere");
}

#[test]
fn a_ca_is_made_and_served_where_directories_cannot_be_synced() {
    let mut environment = Environment::prepare(&Settings::default());
    let contexts = environment.path(".config/countersign");
    let operator = contexts.join("pay.example");
    let set = [operator.join(".svid-try"), operator.join(".svid-1")];
    let state = environment.path("state");
    let folders = [&state, &contexts, &operator, &set[0], &set[1]].map(|it| &**it);
    let init = ["init", "--config", "ca.toml"];
    where_fails("fsync", "EINVAL", &folders, &environment, &init).success();
    for folder in folders {
        assert!(failed(&environment, folder) > 0, "{}", folder.display());
    }
    environment.serve();
    environment.issue("/prod/batch", "batch");
}

#[test]
fn where_there_are_no_symbolic_links_the_token_is_kept_and_the_reason_told() {
    let environment = Environment::start();
    for errno in ["EPERM", "EOPNOTSUPP", "ENOSYS"] {
        let asked = issue(&environment, "share");
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        // There are two of them, and one only on other machines than x86.
        let refused = where_fails("?symlink,symlinkat", errno, &[], &environment, &asked).exits(1);
        for said in ["share", "no symbolic links", "next: ", "another folder"] {
            assert!(refused.stderr.contains(said), "{errno}, {said}: {}", refused.stderr);
        }
        let left: Vec<_> = fs::read_dir(environment.path("share")).unwrap().collect();
        assert!(left.len() <= 1, "{left:?}");
        still_good(&environment, &format!("elsewhere-{errno}"));
    }
    // One that has an SVID keeps it, and its renewal, too.
    let batch = environment.issue("/prod/batch", "batch");
    let before = fs::read(batch.join("svid.pem")).unwrap();
    environment.write("token", &environment.token("/prod/batch"));
    let renew = ["renew", "batch", "--attest", "token", "--token-file", "token"];
    let refused = where_fails("?symlink,symlinkat", "EPERM", &[], &environment, &renew);
    refused.exits(1).says("no symbolic links");
    assert_eq!(fs::read(batch.join("svid.pem")).unwrap(), before);
    still_good(&environment, "elsewhere");
    environment.countersign(&["renew", "batch"]).success().says("not due");
}

#[test]
fn where_there_are_no_locks_the_token_is_kept_and_the_reason_told() {
    let environment = Environment::start();
    let asked = issue(&environment, "share");
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let refused = where_fails("flock", "ENOLCK", &[], &environment, &asked).exits(1);
    for said in ["share", "no locks", "another folder"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    still_good(&environment, "elsewhere");
}

#[test]
fn where_nothing_can_be_written_the_folder_is_named_and_a_step() {
    let environment = Environment::start();
    let share = environment.issue("/prod/batch", "share");
    let asked = issue(&environment, "share");
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let token = ["token", "create", &environment.id("/prod/batch"), "--out", "share/token"];
    let due = ["renew", "share", "--attest", "token", "--token-file", "token"];
    // What writes opens files so, and what reads does not.
    let creates = |line: &[&str]| where_fails("openat", "EROFS", &[&share], &environment, line);
    for line in [&asked[..], &token, &due] {
        let refused = creates(line).exits(1);
        let named = refused.stderr.lines().next().unwrap();
        assert!(named.starts_with("error: cannot") && named.contains("share"), "{refused:?}");
        assert!(!refused.stderr.contains(".tmp") && !named.contains(".lock"), "{refused:?}");
        assert!(refused.stderr.contains("next: "), "{refused:?}");
    }
    still_good(&environment, "elsewhere");
}

#[test]
fn a_key_that_finds_no_room_says_what_to_do() {
    let environment = Environment::start();
    let keys = || fs::read_dir(environment.path("state/keys")).unwrap().count();
    let before = keys();
    let prepare = ["key", "prepare", "feed", "--config", "ca.toml"];
    let renames = "rename,renameat,renameat2";
    for (errno, step) in [("ENOSPC", "free space there"), ("EDQUOT", "free space there")] {
        let failed = where_fails(renames, errno, &[], &environment, &prepare);
        assert_ne!(failed.code, 0, "{failed:?}");
        assert!(failed.stderr.contains(step), "{}", failed.stderr);
        assert_eq!(keys(), before, "nothing is left of it");
    }
    environment.countersign(&prepare).success();
}
