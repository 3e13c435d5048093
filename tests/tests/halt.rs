//! An older database is put back, and whoever has seen more says so.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use system_tests::{Client, Door, Environment, Outcome, PATIENCE, Settings, TRUST_DOMAIN, Target};
use system_tests::{openssl, post};

#[test]
fn a_halted_ca_starts_and_says_why_until_the_newest_database_is_back() {
    let mut environment = Environment::start();
    let (older, newest) = older_and_newest(&mut environment);
    put(&environment, &older);
    environment.serve_until("503");
    environment.curl("/v1/status", &["-H", &seen(&environment)]).success();
    assert!(environment.admin("/readyz").contains("an older database was put back"));
    environment.stop();

    environment.serve_until("503");
    assert!(environment.admin("/readyz").contains("an older database was put back"));
    let status = environment.countersign(&["status"]).success();
    let config = environment.path("ca.toml").display().to_string();
    let status = status
        .says("an older database was put back")
        .says(&format!("init --recover --lift-halt --config {config}"));
    assert!(
        !status.stderr.contains("countersign status"),
        "it is no way out of itself: {status:?}"
    );
    let token = ["token", "create", "spiffe://pay.example/prod/reports"];
    let token = environment.countersign(&token).success().stdout;
    environment.write("token", &token);
    let url = environment.url();
    let id = environment.id("/prod/reports");
    let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--out", "refused"];
    assert_ne!(environment.countersign(&issue).code, 0);
    let deny = ["deny", "spiffe://pay.example/prod/batch", "--reason", "key-compromise"];
    environment.countersign(&deny).success();
    environment.stop();

    put(&environment, &newest);
    environment.serve();
    environment.issue("/prod/reports", "reports");
}

#[tokio::test]
async fn strangers_fill_no_disk_while_the_ca_is_halted_and_hide_no_operators_line() {
    let mut environment = Environment::start();
    let (older, _) = older_and_newest(&mut environment);
    put(&environment, &older);
    environment.serve_until("503");
    environment.curl("/v1/status", &["-H", &seen(&environment)]).success();
    let id = environment.id("/prod/reports");
    let asked = serde_json::json!({
        "csr": "", "spiffe_id": id, "attestation": { "type": "token", "token": "" }
    });
    let mut operator = Client::connect(&Target::of(&environment).unwrap().door).await.unwrap();
    let begun = Instant::now();
    let (mut untold, of_each) = (0, 80);
    for last in 1..=8 {
        let door = stranger(&environment).from(Ipv4Addr::new(127, 0, 7, last).into());
        let request = post("/v1/certificates", &asked.to_string(), &door.host());
        let mut client = Client::connect(&door).await.unwrap();
        for _ in 0..of_each {
            untold += usize::from(client.exchange(&request).await.unwrap() == 503);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(untold, 8 * of_each, "each was refused by the halt");
    let nothing = post("/v1/denials", "{}", &environment.address().to_string());
    for _ in 0..10 {
        assert_eq!(operator.exchange(&nothing).await.unwrap(), 400);
    }

    let log = environment.log();
    let told = log.lines().filter(|it| it.contains("request failed") && !it.contains(" who="));
    let told = told.count();
    assert!(told as f64 <= 100.0 * (1.0 + seconds) + 1.0, "{told} in {seconds} s");
    let counted = environment.admin("/metrics");
    let counted =
        counted.lines().find_map(|it| it.strip_prefix("countersign_refusals_untold_total "));
    assert_eq!(counted.unwrap().parse::<usize>().unwrap(), untold - told, "{log}");
    let of_operator = log.lines().filter(|it| it.contains("status=400") && it.contains(" who="));
    assert_eq!(of_operator.count(), 10, "{log}");
}

fn stranger(environment: &Environment) -> Door {
    let bundle = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}/bundle.pem"));
    Door::of_stranger(environment.address(), &fs::read(bundle).unwrap()).unwrap()
}

#[test]
fn an_operator_lifts_a_halt_by_name_and_not_in_passing() {
    let mut environment = Environment::start();
    let (older, _) = older_and_newest(&mut environment);
    put(&environment, &older);
    environment.serve_until("503");
    environment.curl("/v1/status", &["-H", &seen(&environment)]).success();
    environment.stop();

    recover(&environment, &[]).exits(1).says("an older database was put back").says("--lift-halt");
    environment.serve_until("503");
    environment.stop();
    recover(&environment, &["--lift-halt"]).success().says("lifted: this CA kept");
    environment.serve();
    environment.curl("/v1/status", &["-H", &seen(&environment)]).success();
    environment.issue("/prod/reports", "reports");
    environment.stop();
    recover(&environment, &["--lift-halt"]).success().says("had not halted");
}

#[test]
fn a_checkpoint_that_the_log_did_not_sign_is_named_set_aside_and_hides_no_later_loss() {
    let mut environment = Environment::start();
    let (older, _) = older_and_newest(&mut environment);
    let file = environment.path("state/checkpoint");
    let kept = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = kept.split('\n').collect();
    lines[1] = "99999999999";
    for damaged in ["", &kept[..kept.len() / 2], "no checkpoint", &lines.join("\n")] {
        fs::write(&file, damaged).unwrap();
        for command in [&["serve", "--config", "ca.toml"][..], &RECOVER] {
            let said = environment.countersign(command).exits(1);
            let said = said.says(&file.display().to_string()).says("the newest checkpoint: ");
            said.says("countersign init --recover --lift-halt");
        }
        assert!(!environment.path("state/halted").exists());
        let said = recover(&environment, &["--lift-halt"]).success();
        let said = said.says("was neither sealed nor signed by this CA").says("checkpoint.aside-");
        assert!(!said.stderr.contains("lifted"), "{said:?}");
    }
    environment.serve();
    environment.stop();
    put(&environment, &older);
    // Whoever put the older one there took the files with them; a client has seen more.
    fs::remove_file(&file).unwrap();
    fs::remove_file(environment.path("state/head")).unwrap();
    environment.serve();
    assert!(environment.log().contains("beside its database is gone"), "{}", environment.log());
    environment.curl("/v1/status", &["-H", &seen(&environment)]).success();
    assert!(environment.admin("/readyz").contains("an older database was put back"));
}

#[test]
fn files_beside_the_database_that_are_removed_under_it_are_back_within_seconds() {
    let environment = Environment::start();
    let stale = fs::read(environment.path("state/head")).unwrap();
    environment.issue("/prod/reports", "reports");
    for (file, shown) in [("head", "file=\"head\"} 2"), ("checkpoint", "file=\"checkpoint\"} 2")] {
        let path = environment.path(&format!("state/{file}"));
        for replaced in [None, Some(&stale)] {
            fs::remove_file(&path).unwrap();
            replaced.map_or(Ok(()), |stale| fs::write(&path, stale)).unwrap();
            let begun = Instant::now();
            while !fs::read(&path).is_ok_and(|it| it != stale) {
                assert!(begun.elapsed() < PATIENCE, "{file} is not written anew");
                system_tests::pause();
            }
        }
        let told = format!("countersign_kept_files_rewritten_total{{{shown}");
        let begun = Instant::now();
        while !environment.admin("/metrics").contains(&told) {
            assert!(begun.elapsed() < PATIENCE, "{file} is not counted: {told}");
            system_tests::pause();
        }
        assert!(environment.log().contains("was removed or replaced while this process"));
        let status = environment.countersign(&["status"]).success();
        status.says(&format!("removed or replaced STATE/{file}"));
    }
    environment.issue("/prod/batch", "batch");
}

#[test]
fn a_halt_of_an_earlier_version_halts_until_an_operator_sets_it_aside() {
    let mut environment = Environment::start();
    environment.stop();
    let root = "uoW8j4uVjNERgmWhJfE1NHm+71UQrvxPYOZ50QXSs8w=";
    let halted = format!("the log went back\n\n{TRUST_DOMAIN}/log\n1000000\n{root}\n");
    environment.write("state/halted", &halted);
    environment.serve_until("503");
    assert!(environment.admin("/readyz").contains("the log went back"));
    let status = environment.countersign(&["status"]).success();
    status.says("the log went back").says("init --recover --lift-halt");
    environment.stop();
    recover(&environment, &[]).exits(1).says("the log went back").says("--lift-halt");
    recover(&environment, &["--lift-halt"]).success().says("halted.aside-");
    environment.serve();
    environment.issue("/prod/reports", "reports");
}

#[test]
fn init_names_what_another_ca_left_before_it_writes_anything() {
    let other = Environment::start();
    let environment = Environment::prepare(&Settings::default());
    fs::create_dir_all(environment.path("state")).unwrap();
    for file in ["head", "checkpoint"] {
        let (from, to) = (format!("state/{file}"), environment.path(&format!("state/{file}")));
        fs::copy(other.path(&from), &to).unwrap();
        let init = || environment.countersign(&["init", "--config", "ca.toml"]);
        init()
            .exits(1)
            .says(&to.display().to_string())
            .says("tells of another CA's log")
            .says("mv ");
        let left: Vec<_> = fs::read_dir(environment.path("state")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_file(to).unwrap();
    }
    environment.countersign(&["init", "--config", "ca.toml"]).success();
}

/// The database of a while ago, and the one of now; a client has seen a checkpoint of the latter.
fn older_and_newest(environment: &mut Environment) -> (Database, Database) {
    environment.stop();
    let older = database(environment);
    environment.serve();
    let checkpoint = || environment.curl("/log/checkpoint", &[]).success().stdout;
    let (before, begun) = (checkpoint(), Instant::now());
    environment.issue("/prod/batch", "batch");
    let mut seen = checkpoint();
    while seen == before {
        assert!(begun.elapsed() < PATIENCE, "nothing new is signed");
        seen = checkpoint();
    }
    environment.write("seen", &seen);
    environment.stop();
    (older, database(environment))
}

/// The header by which clients show what they have seen.
fn seen(environment: &Environment) -> String {
    let checkpoint = openssl(environment.folder(), &["base64", "-A", "-in", "seen"]).success();
    format!("{}: {}", api::paths::CHECKPOINT_HEADER, checkpoint.stdout.trim())
}

/// A database of a CA that has stopped: the file, and what is still to be moved into it.
type Database = [Vec<u8>; 2];

fn database(environment: &Environment) -> Database {
    FILES.map(|file| fs::read(environment.path(file)).unwrap())
}

fn put(environment: &Environment, database: &Database) {
    // An index of the second file, which SQLite makes anew.
    let _ = fs::remove_file(environment.path("state/countersign.db-shm"));
    for (file, bytes) in FILES.iter().zip(database) {
        fs::write(environment.path(file), bytes).unwrap();
    }
}

const FILES: [&str; 2] = ["state/countersign.db", "state/countersign.db-wal"];

fn recover(environment: &Environment, options: &[&str]) -> Outcome {
    environment.countersign(&[&RECOVER[..], options].concat())
}

const RECOVER: [&str; 4] = ["init", "--config", "ca.toml", "--recover"];
