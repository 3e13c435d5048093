//! What stands in a folder that is named to put something there, and is somebody else's.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]
#![allow(dead_code, reason = "each test file uses its own part of the environment")]

mod environment;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use environment::{Environment, Log};
use rcgen::{CertificateParams, KeyPair, SanType};

/// A key and a certificate for it that another program made: of no SPIFFE ID, or of one.
fn pair(spiffe_id: Option<&str>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        spiffe_id.map(|id| SanType::URI(id.try_into().unwrap())).into_iter().collect();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn contents(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| !path.ends_with(".countersign.lock"));
    let mut all: Vec<_> = files
        .map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn what_countersign_did_not_write_stays_and_the_token_with_it() {
    let environment = Environment::new().await;
    let folder = environment.path("svid");
    let (own, of_nobody) = (pair(Some("spiffe://pay.example/reports")), pair(None));
    let (unlogged, key) = environment.authority.svid_by("/reports", 0, Log::NotAsked);
    let files: [&[(&str, &str)]; 9] = [
        &[("svid.pem", &of_nobody.0), ("svid.key", &of_nobody.1)],
        &[("svid.pem", &own.0), ("svid.key", &own.1)],
        &[("svid.pem", &unlogged), ("svid.key", &key)],
        &[("svid.key", &of_nobody.1)],
        &[("svid.pem", &of_nobody.0)],
        &[("bundle.pem", &of_nobody.0)],
        &[("crl.pem", "somebody's")],
        &[("svid.json", "{\"another\": \"program's\"}")],
        &[("trust.note", "whom I trust")],
    ];
    for files in files {
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let before = contents(&folder);
        let token = environment.token();
        for more in ["", "--yes"] {
            let line = format!(
                "issue spiffe://pay.example/reports --out svid --url {} --token-file {} {more}",
                environment.url,
                token.display()
            );
            let refused = environment.run(&line).await.expect(2).stderr;
            assert!(refused.contains("did not write, and it stays"), "{refused}");
            for (name, _) in files {
                assert!(refused.contains(&format!("svid/{name}")), "{name}: {refused}");
            }
        }
        assert_eq!(contents(&folder), before);
        assert_eq!(environment.authority.issued(), 0, "the token is as good as before");
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[tokio::test]
async fn the_step_that_is_printed_moves_strangers_aside() {
    let environment = Environment::new().await;
    let folder = environment.path("svid");
    fs::create_dir(&folder).unwrap();
    let (certificate, key) = pair(None);
    fs::write(folder.join("svid.pem"), &certificate).unwrap();
    fs::write(folder.join("svid.key"), &key).unwrap();
    let refused = environment.issue().await.expect(2).stderr;
    let step = refused.split_once("aside what is there: ").unwrap().1.replace('\n', " ");
    environment.shell(&step).await.expect(0);
    environment.issue().await.expect(0);
    assert_eq!(environment.read("svid/before/svid.key"), key);
    assert_eq!(environment.read("svid/before/svid.pem"), certificate);
}

#[tokio::test]
async fn what_countersign_wrote_is_replaced_whatever_became_of_its_form() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let folder = environment.path("svid");
    let copy = environment.path("copy");
    // Plain files, as `cp -L` and archives have them; then without the record, too.
    fs::create_dir(&copy).unwrap();
    for name in ["svid.pem", "svid.key", "svid.json", "bundle.pem", "trust.note"] {
        fs::copy(folder.join(name), copy.join(name)).unwrap();
    }
    for lost in ["svid.json", "trust.note", "bundle.pem"] {
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(&copy).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let before = environment.read("svid/svid.key");
        environment.issue().await.expect(0);
        assert_ne!(environment.read("svid/svid.key"), before);
        fs::remove_file(copy.join(lost)).unwrap();
    }
    // What the same set brings, and what is empty, is no loss.
    let bundle = environment.read("svid/bundle.pem");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("bundle.pem"), bundle).unwrap();
    fs::write(folder.join("trust.note"), environment.authority.trust_note()).unwrap();
    fs::write(folder.join("svid.key"), "\n").unwrap();
    environment.issue().await.expect(0);
}

#[tokio::test]
async fn no_svid_is_put_into_a_folder_that_has_another_use() {
    let environment = Environment::new().await;
    for (name, used) in [
        ("countersign.db", "the state folder of a CA"),
        ("countersign.toml", "the folder of a CA's configuration"),
        ("contexts.toml", "the folder of all contexts"),
        ("workloads.json", "a folder of policies"),
        ("own.cedar", "a folder of policies"),
    ] {
        let folder = environment.path("svid");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
        let refused = environment.issue().await.expect(2).stderr;
        assert!(refused.contains(used), "{refused}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing was written there");
        fs::remove_dir_all(&folder).unwrap();
    }
    // Of a CA's state folder, by a link, too.
    let state = environment.path("state");
    fs::create_dir_all(state.join("keys")).unwrap();
    fs::write(state.join("countersign.db"), "").unwrap();
    symlink(state.join("keys"), environment.path("svid")).unwrap();
    let refused = environment.issue().await.expect(2).stderr;
    assert!(refused.contains("a folder of a CA's keys"), "{refused}");
    assert_eq!(environment.authority.issued(), 0);

    // An SVID that is there goes on: a policy set beside it takes no service down.
    fs::remove_file(environment.path("svid")).unwrap();
    environment.issue().await.expect(0);
    fs::write(environment.path("svid/workloads.json"), "").unwrap();
    environment.issue().await.expect(0);
}

#[tokio::test]
async fn a_trust_state_takes_no_strangers_place() {
    let environment = Environment::new().await;
    let fetch = format!(
        "trust fetch {} --pin {} --out svid/trust.note",
        environment.url,
        environment.authority.pin()
    );
    fs::create_dir(environment.path("svid")).unwrap();
    fs::write(environment.path("svid/trust.note"), "whom I trust").unwrap();
    let refused = environment.run(&fetch).await.expect(2).stderr;
    assert!(refused.contains("neither a trust state nor empty"), "{refused}");
    assert_eq!(environment.read("svid/trust.note"), "whom I trust");
    environment.run(&format!("{fetch} --yes")).await.expect(0);
    environment.issue().await.expect(0);
    fs::write(environment.path("svid/trust.note"), "broken").unwrap();
    environment.run(&fetch).await.expect(0);
}
