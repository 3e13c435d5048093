//! What stands in an SVID's folder: the CRLs, fetched anew; a certificate without its key; and how one that
//! renews nothing any more comes to another.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use system_tests::{Environment, Outcome, openssl};

const BATCH: &str = "/prod/batch";

fn revoke(environment: &Environment, folder: &str) {
    let serial = record(environment, folder)["serial_number"].as_str().unwrap().to_owned();
    environment.countersign(&["revoke", &serial, "--reason", "key-compromise"]).success();
}

fn record(environment: &Environment, folder: &str) -> serde_json::Value {
    serde_json::from_str(&read(environment, &format!("{folder}/svid.json"))).unwrap()
}

fn read(environment: &Environment, name: &str) -> String {
    fs::read_to_string(environment.path(name)).unwrap()
}

/// By the files of one folder, the certificate of another.
fn checked(by: &Path, svid: &str) -> Outcome {
    let arguments = ["verify", "-crl_check", "-CAfile", "bundle.pem", "-untrusted", svid];
    openssl(by, &[&arguments[..], &["-CRLfile", "crl.pem", svid]].concat())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A request with a key of its own in `own.key`.
fn request(environment: &Environment) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
    let rest = ["own.key", "-subj", "/", "-out", "own.csr"];
    openssl(environment.folder(), &[&["req", "-new"], &key[..], &rest].concat()).success();
}

fn write_token(environment: &Environment, path: &str, name: &str) {
    environment.write(name, &environment.token(path));
}

#[test]
fn openssl_refuses_a_revoked_certificate_by_the_crl_that_renew_fetched() {
    let environment = Environment::start();
    let reports = environment.issue("/prod/reports", "reports");
    environment.issue(BATCH, "batch");
    let crl = reports.join("crl.pem");
    assert_eq!(fs::metadata(&crl).unwrap().mode() & 0o777, 0o600);
    checked(&reports, "../batch/svid.pem").success();

    revoke(&environment, "batch");
    checked(&reports, "../batch/svid.pem").success();
    set_mode(&crl, 0o640);
    environment.countersign(&["renew", "reports"]).success().says("not due");
    checked(&reports, "../batch/svid.pem").exits(2).says("certificate revoked");
    checked(&reports, "svid.pem").success();
    assert_eq!(fs::metadata(&crl).unwrap().mode() & 0o777, 0o640);

    // One that was lost has the bundle's mode; one that is a link is somebody's.
    fs::remove_file(&crl).unwrap();
    set_mode(&reports.join("bundle.pem"), 0o644);
    environment.countersign(&["renew", "reports"]).success();
    assert_eq!(fs::metadata(&crl).unwrap().mode() & 0o777, 0o644);
    environment.write("elsewhere", "somebody's");
    fs::remove_file(&crl).unwrap();
    std::os::unix::fs::symlink(environment.path("elsewhere"), &crl).unwrap();
    let warned = environment.countersign(&["renew", "reports"]).success();
    assert!(warned.stderr.contains("it is a link to"), "{warned:?}");
    assert_eq!(read(&environment, "elsewhere"), "somebody's");
}

#[test]
fn the_crl_is_fetched_for_an_svid_that_is_refused() {
    let environment = Environment::start();
    let batch = environment.issue(BATCH, "batch");
    request(&environment);
    let id = environment.id("/prod/monolith");
    environment.countersign(&["issue", &id, "--csr", "own.csr", "--out", "own"]).success();
    for folder in ["batch", "own"] {
        checked(&environment.path(folder), "svid.pem").success();
        revoke(&environment, folder);
        environment.countersign(&["renew", folder]).exits(3).says("is revoked since 20");
        checked(&environment.path(folder), "svid.pem").exits(2).says("certificate revoked");
    }
    environment.countersign(&["deny", &id, "--reason", "superseded"]).success();
    fs::remove_file(batch.join("crl.pem")).unwrap();
    environment.countersign(&["renew", "batch"]).exits(3);
    checked(&batch, "svid.pem").exits(2).says("certificate revoked");
}

#[test]
fn a_bundle_with_an_anchor_of_somebody_elses_is_not_believed_and_written_anew() {
    let environment = Environment::start();
    let batch = environment.issue(BATCH, "batch");
    let bundle = read(&environment, "batch/bundle.pem");
    let issuer = read(&environment, "batch/svid.pem");
    let root = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let root = [&root[..], &["-subj", "/CN=foreign", "-keyout", "/dev/null", "-out", "foreign"]];
    openssl(environment.folder(), &root.concat()).success();
    let foreign = read(&environment, "foreign");
    for more in [format!("{bundle}{foreign}"), format!("# ours, too\n{issuer}{bundle}")] {
        fs::write(batch.join("bundle.pem"), &more).unwrap();
        let verified = environment.countersign(&["verify", "batch"]).exits(5);
        verified.says("holds an anchor that is none of the CA's").says("countersign renew");
        environment.countersign(&["renew", "batch"]).success().says("written anew");
        assert_eq!(read(&environment, "batch/bundle.pem"), bundle);
        environment.countersign(&["verify", "batch"]).success();
    }
    // A comment adds nobody.
    let commented = format!("# of pay.example\n{bundle}{bundle}");
    fs::write(batch.join("bundle.pem"), &commented).unwrap();
    environment.countersign(&["verify", "batch"]).success();
    environment.countersign(&["renew", "batch"]).success();
    assert_eq!(read(&environment, "batch/bundle.pem"), commented);
    fs::write(batch.join("bundle.pem"), &issuer).unwrap();
    environment.countersign(&["verify", "batch"]).exits(5).says("lacks an anchor of the CA's");
    environment.countersign(&["renew", "batch"]).success().says("written anew");
    assert_eq!(read(&environment, "batch/bundle.pem"), bundle);
}

#[test]
fn the_crl_of_a_services_folder_that_root_renews_is_the_services() {
    const SERVICE: u32 = 65_534;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let environment = Environment::start();
    let batch = environment.issue(BATCH, "batch");
    let owned = Some(SERVICE);
    for name in [".", "crl.pem", "bundle.pem", "svid.pem", "svid.key", "svid.json", "trust.note"] {
        std::os::unix::fs::chown(batch.join(name), owned, owned).unwrap();
    }
    let crl = batch.join("crl.pem");
    for is_there in [true, false] {
        match is_there {
            true => fs::write(&crl, "").unwrap(),
            false => fs::remove_file(&crl).unwrap(),
        }
        environment.countersign(&["renew", "batch"]).success();
        let metadata = fs::metadata(&crl).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (SERVICE, SERVICE));
        assert!(metadata.len() > 0 && metadata.mode() & 0o777 == 0o600);
    }
}

#[test]
fn the_crl_has_a_list_for_each_issuer_and_stays_while_the_ca_is_away() {
    let mut environment = Environment::start();
    let batch = environment.issue(BATCH, "batch");
    for step in ["prepare", "activate"] {
        environment.countersign(&["issuer", step, "--config", "ca.toml"]).success();
    }
    environment.countersign(&["renew", "batch"]).success();
    let lists = read(&environment, "batch/crl.pem").matches("BEGIN X509 CRL").count();
    assert_eq!(lists, 2);
    environment.issue("/prod/monolith", "monolith");
    for svid in ["svid.pem", "../monolith/svid.pem"] {
        checked(&batch, svid).success();
    }

    let before = read(&environment, "batch/crl.pem");
    environment.stop();
    environment.countersign(&["renew", "batch"]).success().says("crl.pem stays as it was");
    assert_eq!(read(&environment, "batch/crl.pem"), before);
}

#[test]
fn a_certificate_for_a_request_stands_in_a_folder_without_a_key() {
    let environment = Environment::start();
    request(&environment);
    let id = environment.id("/prod/reports");
    let issue = ["issue", &id, "--csr", "own.csr", "--out", "own"];
    environment.countersign(&issue).success().says("localhost, 127.0.0.1");
    let names = fs::read_dir(environment.path("own")).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(names, ["bundle.pem", "crl.pem", "svid.json", "svid.pem", "trust.note"]);
    checked(&environment.path("own"), "svid.pem").success();

    // It is looked after as far as it can be without the key, and the rest is said.
    environment.countersign(&["renew", "own"]).success().says("not due");
    environment.countersign(&["renew", "own", "--check"]).exits(1);
    write_token(&environment, "/prod/reports", "token");
    let by_token = ["renew", "own", "--token-file", "token"];
    let told = environment.countersign(&[&by_token[..], &["--attest", "token"]].concat());
    let told = told.exits(1).says("own has no key");
    assert!(told.stderr.contains("--csr FILE --out own"), "{}", told.stderr);
    environment.countersign(&by_token).success().says("not due");
    revoke(&environment, "own");
    environment.countersign(&["renew", "own"]).exits(3).says("is revoked since 20");
    environment.countersign(&by_token).exits(3).says("is revoked since 20");
    // The token was spent by none of them.
    let url = environment.url();
    let issue = ["issue", &id, "--out", "other", "--token-file", "token", "--url", &url];
    environment.countersign(&issue).success();
}

#[test]
fn no_folder_ends_with_a_certificate_for_another_key_than_it_has() {
    let environment = Environment::start();
    environment.issue(BATCH, "batch");
    request(&environment);
    let before = read(&environment, "batch/svid.pem");
    let id = environment.id(BATCH);
    write_token(&environment, BATCH, "token");
    let url = environment.url();
    let by_token = ["--token-file", "token", "--url", &url];
    let issue = ["issue", &id, "--csr", "own.csr", "--out", "batch"];
    let refused = environment.countersign(&[&issue[..], &by_token].concat()).exits(2);
    assert!(refused.stderr.contains("another key than the request's"), "{}", refused.stderr);
    assert_eq!(read(&environment, "batch/svid.pem"), before);

    // The token was not spent, and a key that is the request's stays and renews.
    fs::create_dir(environment.path("mine")).unwrap();
    fs::copy(environment.path("own.key"), environment.path("mine/svid.key")).unwrap();
    let issue = ["issue", &id, "--csr", "own.csr", "--out", "mine"];
    environment.countersign(&[&issue[..], &by_token].concat()).success();
    assert_eq!(read(&environment, "mine/svid.key"), read(&environment, "own.key"));
    environment.countersign(&["renew", "mine"]).success().says("not due");
    let both = ["issue", &id, "--csr", "-", "--token-file", "-", "--url", &url];
    environment.countersign(&both).exits(2).says("cannot both come from stdin");
}

#[test]
fn the_same_request_for_something_else_is_another_request() {
    let environment = Environment::start();
    request(&environment);
    let id = environment.id("/prod/reports");
    let issue = ["--json", "issue", &id, "--csr", "own.csr"];
    let serial = |options: &[&str]| {
        let issued = environment.countersign(&[&issue[..], options].concat()).success();
        issued.json()["serial_number"].as_str().unwrap().to_owned()
    };
    let first = serial(&[]);
    assert_eq!(serial(&[]), first, "a lost answer is answered again");
    let mut serials = vec![first, serial(&["--ttl", "2h"]), serial(&["--no-names"])];
    serials.push(serial(&["--dns", "localhost"]));
    serials.push(serial(&["--profile", "short-lived"]));
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 5, "{serials:?}");
    write_token(&environment, "/prod/reports", "token");
    let url = environment.url();
    let by_token = ["--token-file", "token", "--url", &url];
    let by_token = || serial(&by_token);
    let certified = by_token();
    assert!(!serials.contains(&certified));
    assert_eq!(by_token(), certified);
}

#[test]
fn what_a_request_says_that_no_certificate_has_is_told() {
    let environment = Environment::start();
    environment.write(
        "csr.conf",
        "[req]\ndistinguished_name = name\nattributes = more\nprompt = no\n[name]\n\
         CN = evil.example\n[more]\nchallengePassword = a secret password\n\
         unstructuredName = who cares\n",
    );
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
    let rest = ["own.key", "-config", "csr.conf", "-out", "own.csr"];
    openssl(environment.folder(), &[&["req", "-new"], &key[..], &rest].concat()).success();
    let id = environment.id("/prod/reports");
    let issued = environment.countersign(&["issue", &id, "--csr", "own.csr"]).success();
    let words = issued.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    for asked in ["subject CN=evil.example", "the attribute challengePassword", "unstructuredName"]
    {
        assert!(words.contains(asked), "{asked}: {words}");
    }
    assert!(!words.contains("secret"), "{words}");
    // Of one that says nothing, nothing is told.
    request(&environment);
    let issued = environment.countersign(&["issue", &id, "--csr", "own.csr"]).success();
    assert!(!issued.stderr.contains("the request asks"), "{}", issued.stderr);
}

/// Answered with what was issued before, this clock takes it for one that is to be renewed.
#[test]
fn a_clock_that_is_ahead_has_a_request_certified_twice_at_most() {
    let environment = Environment::start();
    request(&environment);
    let id = environment.id("/prod/reports");
    for ahead in ["+20h", "+21h", "+22h"] {
        let mut command = Command::new("faketime");
        command.args(["-f", ahead]).arg(system_tests::binary());
        command.args(["issue", &id, "--csr", "own.csr"]).current_dir(environment.folder());
        command.env("HOME", environment.folder());
        system_tests::program(&mut command).success();
    }
    let listed = environment.countersign(&["--json", "list", "--id", &id]).success().stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

#[test]
fn a_request_comes_from_stdin_too() {
    let environment = Environment::start();
    request(&environment);
    let id = environment.id(BATCH);
    let mut command = environment.command(&["issue", &id, "--csr", "-", "--out", "own"]);
    command.stdin(fs::File::open(environment.path("own.csr")).unwrap());
    system_tests::program(&mut command).success();
    checked(&environment.path("own"), "svid.pem").success();
}

#[test]
fn a_revoked_svid_attests_again_by_a_token_with_a_fresh_key() {
    let environment = Environment::start();
    environment.issue(BATCH, "batch");
    revoke(&environment, "batch");
    environment.countersign(&["renew", "batch"]).exits(3).says("countersign token create");
    let by_token = ["renew", "batch", "--token-file", "again"];
    // No token is there yet, as where the first one was removed.
    let told = environment.countersign(&by_token).exits(3).says("is revoked since 20");
    assert!(told.stderr.contains("there is no token in again"), "{}", told.stderr);
    let key = read(&environment, "batch/svid.key");

    write_token(&environment, BATCH, "again");
    let exec = [&by_token[..], &["--exec", "cp batch/svid.pem reloaded"]].concat();
    let renewed = environment.countersign(&exec).success();
    for said in ["is revoked since 20", "attesting again by the token in again", "a new key"] {
        assert!(renewed.stderr.contains(said), "{said}: {}", renewed.stderr);
    }
    assert_ne!(read(&environment, "batch/svid.key"), key);
    assert_eq!(read(&environment, "batch/svid.pem"), read(&environment, "reloaded"));
    environment.countersign(&by_token).success().says("not due");

    // The same token does it once.
    revoke(&environment, "batch");
    let used = environment.countersign(&by_token).exits(3);
    for said in ["is revoked since 20", "the token was used already", "countersign token create"] {
        assert!(used.stderr.contains(said), "{said}: {}", used.stderr);
    }
}

#[test]
fn a_lost_key_is_had_anew_and_what_the_environment_names_is_as_good_as_an_option() {
    let environment = Environment::start();
    environment.issue(BATCH, "batch");
    for lost in ["batch/svid.key", "batch/svid.pem"] {
        fs::remove_file(environment.path(lost)).unwrap();
        environment.countersign(&["renew", "batch"]).exits(1).says("--attest token");
        write_token(&environment, BATCH, "token");
        let mut renew = environment.command(&["renew", "batch"]);
        renew.env("COUNTERSIGN_TOKEN_FILE", "token");
        system_tests::program(&mut renew).success().says("attested again");
        environment.countersign(&["renew", "batch"]).success().says("not due");
    }
    // One that is well is asked to attest again, too.
    write_token(&environment, BATCH, "token");
    let serial = record(&environment, "batch")["serial_number"].clone();
    let again = ["renew", "batch", "--attest", "token", "--token-file", "token"];
    environment.countersign(&again).success().says("attested again");
    assert_ne!(record(&environment, "batch")["serial_number"], serial);
}

#[test]
fn who_is_denied_does_not_attest_again_and_keeps_the_token() {
    let environment = Environment::start();
    environment.issue(BATCH, "batch");
    write_token(&environment, BATCH, "before");
    let id = environment.id(BATCH);
    environment.countersign(&["deny", &id, "--reason", "superseded"]).success();
    write_token(&environment, BATCH, "token");
    let by_token = ["renew", "batch", "--token-file", "token"];
    let denied = environment.countersign(&by_token).exits(3).says("is denied");
    assert!(!denied.stderr.contains("attesting again"), "{}", denied.stderr);
    environment.countersign(&["allow", &id]).success();
    // Whoever was denied may have lost the one of before.
    let by_old = ["renew", "batch", "--token-file", "before"];
    environment.countersign(&by_old).exits(3).says("the token counts no more").says("token create");
    environment.countersign(&by_token).success().says("attested again");
}

/// Puts something there that is no file.
fn obstruct(path: &Path, what: &str) {
    drop(fs::remove_file(path));
    match what {
        "device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "folder" => fs::create_dir(path).unwrap(),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        _ => {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }
    }
}

#[test]
fn what_stands_in_a_files_place_is_named_with_its_step_and_nobody_waits_for_it() {
    let environment = Environment::start();
    let batch = environment.issue(BATCH, "batch");
    let mut took = Vec::new();
    let files =
        ["bundle.pem", "trust.note", "svid.json", "svid.pem", "svid.key", "svid.checkpoint"];
    for what in ["device", "folder", "pipe", "socket"] {
        let begun = Instant::now();
        for file in files {
            let (path, aside) = (batch.join(file), batch.join("aside"));
            fs::rename(&path, &aside).unwrap();
            obstruct(&path, what);
            let said = environment.countersign(&["renew", "batch"]);
            assert_ne!(said.code, 0, "{file}, {what}: {said:?}");
            let said = said.says(&format!("batch/{file} cannot be replaced: "));
            said.says(&format!("next: look who put it there, move batch/{file} away"));
            fs::rename(&path, batch.join("moved")).unwrap();
            fs::rename(&aside, &path).unwrap();
            drop(fs::remove_file(batch.join("moved")));
            drop(fs::remove_dir(batch.join("moved")));
            environment.countersign(&["renew", "batch"]).success();
        }
        let crl = batch.join("crl.pem");
        obstruct(&crl, what);
        let said = environment.countersign(&["renew", "batch"]).success();
        let said = said.says("crl.pem stays as it was: batch/crl.pem cannot be replaced: ");
        said.says("next: look who put it there, move batch/crl.pem away");
        environment.countersign(&["inspect", "batch"]).success().says("batch/crl.pem cannot be");
        match what {
            "folder" => fs::remove_dir(&crl).unwrap(),
            _ => fs::remove_file(&crl).unwrap(),
        }
        environment.countersign(&["renew", "batch"]).success();
        checked(&batch, "svid.pem").success();
        took.push(begun.elapsed());
    }
    let [device, folder, pipe, socket] = took[..] else { unreachable!("four kinds") };
    let others = device.max(folder).max(socket);
    assert!(pipe < 2 * others + A_WRITER, "{took:?}");
}

/// Less than what is waited for a single writer of a pipe.
const A_WRITER: Duration = Duration::from_secs(20);
