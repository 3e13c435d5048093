//! What is damaged in the state folder is named, with what is wrong and what repairs it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;

use system_tests::{Environment, Outcome, Settings};

const SERVE: [&str; 3] = ["serve", "--config", "ca.toml"];
const RECOVER: [&str; 4] = ["init", "--recover", "--config", "ca.toml"];

/// A CA that nobody serves, and without a certificate to start with while a key is missing.
fn stopped() -> Environment {
    let mut environment = Environment::start();
    environment.stop();
    let own = environment.path("state/keys/own-certificate.sealed");
    fs::remove_file(own).unwrap();
    environment
}

/// What a command says while a file holds something else.
fn with(environment: &Environment, file: &str, contents: &[u8], command: &[&str]) -> Outcome {
    let path = environment.path(file);
    let kept = fs::read(&path).unwrap();
    fs::write(&path, contents).unwrap();
    let said = environment.countersign(command);
    fs::write(&path, kept).unwrap();
    said
}

/// What a key's file may hold instead, and what is said of it.
fn damages(key: &Path) -> Vec<(Vec<u8>, &'static str)> {
    let whole = fs::read(key).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let garbled = text.replacen("MI", "!!", 1);
    let other = text.replace("ENCRYPTED PRIVATE KEY", "CERTIFICATE");
    vec![
        (Vec::new(), "it is empty"),
        (b"\n".to_vec(), "it is empty"),
        (whole[..whole.len() / 2].to_vec(), "it is cut off"),
        (vec![0xff, 0xd8, 0, 7, 0x80], "it holds no text"),
        (b"no key\n".to_vec(), "it is no key file"),
        (garbled.into_bytes(), "what it holds is garbled"),
        (other.into_bytes(), "it holds another kind of PEM"),
    ]
}

#[test]
fn a_damaged_key_file_is_named_with_what_is_wrong_and_what_repairs_it() {
    let environment = stopped();
    let path = |key: &str| environment.path(key);
    for (contents, wrong) in damages(&path("state/keys/issuer.key")) {
        let said = with(&environment, "state/keys/issuer.key", &contents, &SERVE).exits(1);
        let file = path("state/keys/issuer.key").display().to_string();
        let said = said.says(&file).says(wrong).says("restore it from a backup");
        let said = said.says("countersign init --recover --replace-lost-issuer");
        let text = said.stdout + &said.stderr;
        for misleading in ["passphrase", "iconv"] {
            assert!(!text.contains(misleading), "{wrong}: {text}");
        }
    }
    for key in ["head", "log", "countersignature"] {
        let file = format!("state/keys/{key}.key");
        with(&environment, &file, b"", &SERVE).exits(1).says(&file).says("it is empty");
    }
}

#[test]
fn a_key_of_another_passphrase_among_the_others_is_named() {
    let environment = stopped();
    let other = Environment::prepare(&Settings::default());
    other.write("passphrase", "the passphrase of another CA");
    other.countersign(&["init", "--config", "ca.toml"]).success();
    let foreign = fs::read(other.path("state/keys/issuer.key")).unwrap();
    with(&environment, "state/keys/issuer.key", &foreign, &SERVE)
        .exits(1)
        .says("issuer.key does not open with the passphrase that opens those beside it");
}

#[test]
fn a_damaged_issuer_is_replaced_once_its_file_is_moved_away() {
    let mut environment = stopped();
    let key = environment.path("state/keys/issuer.key");
    fs::write(&key, "").unwrap();
    let replace = [&RECOVER[..], &["--replace-lost-issuer"]].concat();
    environment.countersign(&replace).exits(1).says("move the file away");
    fs::rename(&key, environment.path("damaged")).unwrap();
    environment.countersign(&replace).success();
    environment.serve();
    environment.issue("/prod/reports", "reports");
}

#[test]
fn a_passphrase_that_opens_nothing_is_blamed_where_it_came_from() {
    let environment = stopped();
    let config = fs::read_to_string(environment.path("ca.toml")).unwrap();
    let in_file = |name: &str, of: &[&str]| {
        environment.write(name, "the passphrase of another CA");
        let said = environment.countersign(of).exits(1);
        said.says(&environment.path(name).display().to_string())
    };
    in_file("passphrase", &SERVE).says("check `passphrase_file`");
    in_file("passphrase", &RECOVER).says("check `passphrase_file`");

    let typed: String = config
        .lines()
        .filter(|it| !it.starts_with("passphrase_file"))
        .map(|it| format!("{it}\n"))
        .collect();
    environment.write("ca.toml", &typed);
    let answers = [("Passphrase", "the passphrase of another CA")];
    for command in [&SERVE[..], &RECOVER[..]] {
        let said = environment.on_terminal(200, &answers, command).exits(1);
        let said = said.says("the passphrase that you typed");
        assert!(!said.stdout.contains("passphrase_file"), "{}", said.stdout);
    }
    let mut as_credential = environment.in_time(&SERVE);
    environment.write("countersign-passphrase", "the passphrase of another CA");
    as_credential.env("CREDENTIALS_DIRECTORY", environment.folder());
    let said = system_tests::program(&mut as_credential).exits(1);
    said.says(&environment.path("countersign-passphrase").display().to_string());
}

#[test]
fn a_damaged_pin_is_named_with_what_is_wrong_and_how_it_comes_back() {
    let environment = stopped();
    let kept = fs::read_to_string(environment.path("state/trust.pin")).unwrap();
    let other = format!("{}{}", if kept.starts_with('A') { "B" } else { "A" }, &kept[1..]);
    for (contents, wrong) in [
        (&b""[..], "trust.pin cannot be used: it is empty"),
        (b"\n\n", "trust.pin cannot be used: it is empty"),
        (b"\xff\x80\x07", "trust.pin cannot be used: it holds no text"),
        (b"no pin", "trust.pin cannot be used: a trust pin is 52"),
        (&kept.as_bytes()[..20], "trust.pin cannot be used: a trust pin is 52"),
        (other.as_bytes(), "`trust.pin` in the state folder is another CA's"),
    ] {
        for command in [&SERVE[..], &RECOVER[..]] {
            let said = with(&environment, "state/trust.pin", contents, command).exits(1);
            said.says(wrong).says("countersign trust pin");
        }
    }
    let again = environment.countersign(&["trust", "pin"]).success().stdout;
    assert_eq!(again.trim(), kept.trim());
}

/// What `serve` says of the database after this was done to it.
fn after(environment: &Environment, damage: impl FnOnce(&Path)) -> Outcome {
    let database = environment.path("state/countersign.db");
    let kept = fs::read(&database).unwrap();
    damage(&database);
    let said = environment.countersign(&SERVE).exits(1);
    drop(fs::remove_file(environment.path("state/countersign.db-wal")));
    drop(fs::remove_file(environment.path("state/countersign.db-shm")));
    fs::write(&database, kept).unwrap();
    said.says("restore a backup")
}

#[test]
fn a_damaged_database_is_named_with_what_is_wrong_and_what_to_restore() {
    let environment = stopped();
    let file = environment.path("state/countersign.db").display().to_string();
    let all = rusqlite::Connection::open(&file).unwrap();
    all.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(all);
    let whole = fs::read(&file).unwrap();
    let mut garbled = whole.clone();
    garbled[4096..].fill(0xa5);
    for (contents, wrong) in [
        (&b""[..], "it is empty"),
        (b"no database", "file is not a database"),
        (&whole[..whole.len() / 2], "malformed"),
        (&garbled, "malformed"),
    ] {
        let said = after(&environment, |database| fs::write(database, contents).unwrap());
        said.says(&format!("{file} is damaged: ")).says(wrong);
    }
    for (statement, wrong) in [
        ("DELETE FROM meta", "the table `meta` has lost its row"),
        ("DELETE FROM head", "the table `head` has lost its row"),
        ("DROP TABLE meta", "no such table: meta"),
        ("DROP TABLE tokens", "the table `tokens` is gone"),
        ("DROP TABLE crl_numbers", "the table `crl_numbers` is gone"),
        ("UPDATE head SET edge = 'no bytes'", "Invalid column type"),
        ("UPDATE issuers SET certificate = 'no bytes'", "Invalid column type"),
        ("DELETE FROM issuers", "the certificate of the active issuer is gone"),
        ("DELETE FROM trust_states", "trust state 1 is gone"),
    ] {
        let said = after(&environment, |database| {
            rusqlite::Connection::open(database).unwrap().execute_batch(statement).unwrap();
        });
        said.says(wrong);
    }
    environment.countersign(&RECOVER).success();
}

#[test]
fn folders_in_which_others_may_write_are_named() {
    let mut environment = Environment::start();
    environment.stop();
    let mode = |folder: &str, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(environment.path(folder), mode).unwrap();
    };
    let check = || environment.countersign(&["config", "check", "--config", "ca.toml"]).success();
    assert_eq!(check().stderr, "");
    for folder in ["state", "state/keys", "state/offline"] {
        for open in [0o777, 0o730, 0o702] {
            mode(folder, open);
            let path = environment.path(folder).display().to_string();
            let said = check().says(&format!("{path} has mode {open:04o}"));
            said.says(&format!("next: chmod go-w {path}"));
            mode(folder, 0o700);
        }
    }
    mode("state/keys", 0o777);
    environment.serve();
    assert!(environment.log().contains("state/keys has mode 0777"), "{}", environment.log());
}
