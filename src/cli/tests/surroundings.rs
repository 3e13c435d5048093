//! Files, folders and variables as they are in the world: other people's editors, owners and shares.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]
#![allow(dead_code, reason = "each test file uses its own part of the environment")]

mod environment;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Stdio;

use countersign::Credentials;
use environment::{Ended, Environment, Fault};
use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A request for `/reports`, PEM.
fn request() -> String {
    let mut params = CertificateParams::default();
    let uri = SanType::URI("spiffe://pay.example/reports".try_into().unwrap());
    params.subject_alt_names = vec![uri];
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    ["\u{feff}", text].concat().encode_utf16().flat_map(u16::to_le_bytes).collect()
}

async fn certify(environment: &Environment, request: &str) -> Ended {
    let token = environment.token();
    let line = format!(
        "issue spiffe://pay.example/reports --csr {request} --url {} --token-file {}",
        environment.url,
        token.display()
    );
    environment.run(&line).await
}

#[tokio::test]
async fn a_request_is_certified_however_it_was_saved_and_a_key_beside_it_stays_here() {
    let environment = Environment::new().await;
    let pem = request();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())
        .map(|csr: rustls_pki_types::CertificateSigningRequestDer<'_>| csr.to_vec())
        .unwrap();
    for bytes in [
        ["\u{feff}", &pem].concat().into_bytes(),
        [b"Subject: O=M\xfcller\n", pem.as_bytes(), b"\xe9nd"].concat(),
        pem.replace('\n', "\r\n").into_bytes(),
        [&key, &*pem].concat().into_bytes(),
        der.clone(),
    ] {
        fs::write(environment.path("csr"), &bytes).unwrap();
        let certified = certify(&environment, "csr").await.expect(0);
        assert!(certified.stdout.contains("BEGIN CERTIFICATE"), "{}", certified.stdout);
    }
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let unmarked: Vec<u8> = pem.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let anew = "csr > csr.new; then the same command with csr.new";
    let iconv = |encoding: &str| format!("iconv -f {encoding} -t UTF-8 {anew}");
    let (cut, other) = ("copy it again, whole".to_owned(), "openssl req -in csr".to_owned());
    for (bytes, found, step) in [
        (utf16(&pem), "this is UTF-16LE; save it as UTF-8", iconv("UTF-16")),
        (unmarked, "this is UTF-16BE; save it as UTF-8", iconv("UTF-16BE")),
        ([&*pem, &request()].concat().into_bytes(), "several requests", other),
        (pem.replace("-----END", "").into_bytes(), "block 1", cut.clone()),
        (pem.as_bytes()[..pem.len() / 2].to_vec(), "cut off", cut.clone()),
        (der[..der.len() - 1].to_vec(), "1 bytes are missing", cut),
        (base64.into_bytes(), "no PEM block", format!("base64 -di {anew}")),
        (key.into_bytes(), "PRIVATE KEY", "openssl req -new -key csr".to_owned()),
        (b"".to_vec(), "empty", "`openssl req -new` makes one".to_owned()),
    ] {
        fs::write(environment.path("csr"), &bytes).unwrap();
        let refused = certify(&environment, "csr").await.expect(2);
        assert!(refused.stderr.contains(found), "{found}: {}", refused.stderr);
        assert!(refused.stderr.contains(&step), "{step}: {}", refused.stderr);
        assert!(!refused.stderr.contains("not a PKCS#10"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn what_a_configuration_names_and_cannot_be_read_has_a_step_that_helps() {
    let environment = Environment::new().await;
    let path = |name: &str| environment.path(name);
    let configuration = format!(
        "trust_domain = \"pay.example\"\nnames = [\"localhost\"]\nstate = {:?}\n\
         passphrase_file = {:?}\noffline_passphrase_file = {:?}\npolicies = {:?}\n",
        path("state"),
        path("one"),
        path("two"),
        path("policies"),
    );
    let secret = |name: &str, text: &[u8]| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let check = async |step: &str| {
        let refused = environment.run("config check --config c.toml").await.expect(2);
        assert!(refused.stderr.contains(step), "{step}: {}", refused.stderr);
        assert!(!refused.stderr.contains("put it there"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("correct it,"), "{}", refused.stderr);
    };
    fs::create_dir(path("policies")).unwrap();
    fs::write(path("policies/workloads.json"), "{\"workloads\": []}").unwrap();
    secret("one", &utf16("a passphrase in UTF-16"));
    secret("two", b"a passphrase of its own");
    fs::write(path("c.toml"), &configuration).unwrap();
    check("(umask 077; iconv -f UTF-16 -t UTF-8 ").await;
    fs::remove_file(path("one")).unwrap();
    fs::create_dir(path("one")).unwrap();
    check("ls -l").await;
    fs::remove_dir(path("one")).unwrap();
    secret("one", b"a passphrase that is one");
    fs::write(path("policies/workloads.json"), "[]").unwrap();
    check("correct what is named there").await;
    fs::write(path("policies/workloads.json"), "{\"workloads\": []}").unwrap();
    environment.run("config check --config c.toml").await.expect(0);
    fs::write(path("c.toml"), utf16(&configuration)).unwrap();
    check("iconv -f UTF-16 -t UTF-8 c.toml > c.toml.utf8").await;
    fs::remove_file(path("c.toml")).unwrap();
    fs::create_dir(path("c.toml")).unwrap();
    check("name a file: ls -l c.toml").await;
}

#[tokio::test]
async fn a_request_may_come_from_stdin() {
    let environment = Environment::new().await;
    let token = environment.token();
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(["issue", "spiffe://pay.example/reports", "--csr", "-", "--url"]);
    command.arg(&environment.url).arg("--token-file").arg(token).env_clear();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request().as_bytes()).await.unwrap();
    let ended: Ended = child.wait_with_output().await.unwrap().into();
    assert!(ended.expect(0).stdout.contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn a_wish_that_no_certificate_grants_is_told() {
    let environment = Environment::new().await;
    let mut params = CertificateParams::default();
    params.key_usages =
        vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    fs::write(environment.path("csr"), request).unwrap();
    let certified = certify(&environment, "csr").await.expect(0);
    assert!(certified.stderr.contains("keyUsage keyEncipherment"), "{}", certified.stderr);
}

#[tokio::test]
async fn a_token_file_may_have_a_mark_and_line_ends_of_windows() {
    let environment = Environment::new().await;
    let token = environment.token();
    let text = fs::read_to_string(&token).unwrap();
    let line = format!(
        "issue spiffe://pay.example/reports --out svid --url {} --token-file {}",
        environment.url,
        token.display()
    );
    fs::write(&token, utf16(&text)).unwrap();
    let refused = environment.run(&line).await.expect(2);
    assert!(refused.stderr.contains("UTF-16"), "{}", refused.stderr);
    fs::write(&token, format!("\u{feff}{}\r\n", text.trim())).unwrap();
    environment.run(&line).await.expect(0);
}

#[tokio::test]
async fn what_is_verified_is_the_first_certificate_of_a_file_or_none() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let (chain, note) = (environment.read("svid/svid.pem"), environment.read("svid/trust.note"));
    fs::write(environment.path("trust.note"), format!("\u{feff}{}", note.replace('\n', "\r\n")))
        .unwrap();
    let pin = environment.authority.pin();
    let verify = format!("verify chain.pem --trust-note trust.note --trust-pin {pin}");
    for text in [format!("\u{feff}{chain}"), chain.replace('\n', "\r\n")] {
        fs::write(environment.path("chain.pem"), text).unwrap();
        environment.run(&verify).await.expect(0);
    }
    for text in [chain.replacen("MI", "M!", 1), chain.replacen("-----END CERTIFICATE", "", 1)] {
        fs::write(environment.path("chain.pem"), text).unwrap();
        let refused = environment.run(&verify).await.expect(1);
        assert!(refused.stderr.contains("block 1, line"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn tables_and_policies_may_have_a_mark_and_another_encoding_is_named() {
    let environment = Environment::new().await;
    let folder = environment.path("policies");
    fs::create_dir(&folder).unwrap();
    let table = r#"{"workloads": [{"id": "/prod/a"}]}"#;
    let policy = "permit(principal, action, resource);";
    fs::write(folder.join("workloads.json"), format!("\u{feff}{table}\r\n")).unwrap();
    fs::write(folder.join("all.cedar"), format!("\u{feff}{policy}\r\n")).unwrap();
    environment.run("policy check policies").await.expect(0);
    for (name, text) in [("workloads.json", table), ("all.cedar", policy)] {
        fs::write(folder.join(name), utf16(text)).unwrap();
        let refused = environment.run("policy check policies").await.expect(2);
        assert!(refused.stderr.contains("UTF-16"), "{}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        fs::write(folder.join(name), text).unwrap();
    }
    fs::write(folder.join("all.cedar"), b"// M\xfcller\n").unwrap();
    let refused = environment.run("policy check policies").await.expect(2);
    assert!(refused.stderr.contains("line 1 is not UTF-8"), "{}", refused.stderr);
}

/// As `docker compose` sets what has no value.
#[tokio::test]
async fn an_empty_variable_is_as_good_as_none() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let run = async |line: &str, variable: &str| -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(line.split_whitespace())
            .current_dir(environment.path(""))
            .env_clear()
            .env("HOME", environment.path(""))
            .env(variable, "")
            .stdin(Stdio::null())
            .output();
        output.await.unwrap().into()
    };
    for variable in ["XDG_CONFIG_HOME", "HOME", "COUNTERSIGN_URL", "COUNTERSIGN_TRUST_PIN"] {
        let idle = run("renew svid", variable).await.expect(0);
        assert!(idle.stdout.starts_with("not due"), "{variable}: {}", idle.stdout);
    }
    let line = format!(
        "issue spiffe://pay.example/reports --out other --url {} --token-file {}",
        environment.url,
        environment.token().display()
    );
    run(&line, "COUNTERSIGN_TRUST_PIN").await.expect(0);
    let said = run("issue spiffe://pay.example/a --out x", "COUNTERSIGN_TOKEN_FILE").await;
    assert!(said.expect(2).stderr.contains("no context"));
    let said = run("list", "HOME").await.expect(2);
    assert!(said.stderr.contains("neither XDG_CONFIG_HOME nor HOME"), "{}", said.stderr);
    let said = run("config check", "COUNTERSIGN_CONFIG").await.expect(2);
    assert!(said.stderr.contains("/etc/countersign/countersign.toml"), "{}", said.stderr);
}

#[tokio::test]
async fn an_address_with_a_zone_id_is_said_not_to_work() {
    let environment = Environment::with_operator(0).await;
    for line in [
        "--url https://[fe80::1%25lo]:8443 status",
        "--url https://[fe80::1%lo]:8443 status",
        "issue spiffe://pay.example/a --out x --ip fe80::1%eth0",
        "inspect [fe80::1%lo]:8443",
        "verify [fe80::1%25lo]:8443",
        "trust fetch https://[fe80::1%25lo]:8443 --pin AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let refused = environment.run(line).await.expect(2);
        assert!(refused.stderr.contains("zone ids"), "{line}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn what_leads_to_no_server_is_a_slip_and_no_server_that_is_away() {
    let environment = Environment::with_operator(0).await;
    let token = environment.token();
    let pin = environment.authority.pin();
    for host in ["127.1:9", "a..b:9", "*:9", "2130706433:9", "-a:9", "[localhost]:9", "a:0"] {
        for line in [
            format!("--url https://{host} status"),
            format!("trust fetch https://{host} --pin {pin}"),
            format!(
                "issue spiffe://pay.example/a --out x --url https://{host} --token-file {}",
                token.display()
            ),
            format!("inspect {host}"),
            format!("verify {host}"),
            format!("lint {host}"),
        ] {
            let refused = environment.run(&line).await.expect(2);
            assert!(refused.stderr.contains("error: "), "{line}: {}", refused.stderr);
        }
    }
    for line in ["inspect ::1", "inspect bücher:1", "verify https://localhost:1"] {
        environment.run(line).await.expect(2);
    }
    environment.run("inspect 127.0.0.1:9").await.expect(4);
}

#[tokio::test]
async fn steps_name_what_was_named() {
    let environment = Environment::new().await;
    let (crl, key) = (environment.authority.crl(1), KeyPair::generate().unwrap());
    let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
    fs::write(environment.path("a crl"), crl).unwrap();
    fs::write(environment.path("key"), key.serialize_pem()).unwrap();
    fs::write(environment.path("cert"), certificate).unwrap();
    fs::create_dir(environment.path("ca")).unwrap();
    fs::write(environment.path("ca/countersign.db"), "").unwrap();
    let token = environment.token();
    let csr = |file: &str| {
        format!(
            "countersign issue spiffe://pay.example/a --url {} --token-file {} --csr {file}",
            environment.url,
            token.display()
        )
    };
    for (line, step) in [
        ("countersign inspect 'a crl'".to_owned(), "openssl crl -in 'a crl' -noout"),
        ("countersign inspect key".to_owned(), "countersign inspect ."),
        (csr("cert"), "openssl x509 -in cert -noout"),
        (csr("key"), "openssl req -new -key key"),
        (format!("echo | {}", csr("-")), "give it a request"),
        (format!("echo a | {}", csr("-")), "given the same"),
        ("countersign inspect ca".to_owned(), "the state folder of a CA"),
        ("countersign renew ca".to_owned(), "the state folder of a CA"),
        ("countersign renew /".to_owned(), "name the folder that"),
        ("head -c 20000000 /dev/zero | countersign inspect -".to_owned(), "name a file"),
    ] {
        let refused = environment.shell(&line).await.stderr;
        let words = refused.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(step), "{line}: {refused}");
        assert!(!words.contains("stdin shows") && !words.contains("-lL stdin"), "{refused}");
    }
}

#[tokio::test]
async fn a_folder_that_takes_no_svid_is_found_out_before_the_token_is_spent() {
    let environment = Environment::new().await;
    let path = |name: &str| environment.path("svid").join(name);
    fs::create_dir(environment.path("svid")).unwrap();
    type Obstacle<'a> = (&'a dyn Fn(), &'a dyn Fn(), &'a str);
    let obstacles: [Obstacle<'_>; 4] = [
        (
            &|| fs::create_dir(path("svid.key")).unwrap(),
            &|| fs::remove_dir(path("svid.key")).unwrap(),
            "svid.key cannot be replaced",
        ),
        (
            &|| symlink("/etc/hostname", path("svid.pem")).unwrap(),
            &|| fs::remove_file(path("svid.pem")).unwrap(),
            "it is a link to /etc/hostname",
        ),
        (
            &|| symlink("../elsewhere/bundle.pem", path("bundle.pem")).unwrap(),
            &|| fs::remove_file(path("bundle.pem")).unwrap(),
            "it is a link to ../elsewhere",
        ),
        (
            &|| fs::create_dir(path(".link.new")).unwrap(),
            &|| fs::remove_dir(path(".link.new")).unwrap(),
            "cannot write",
        ),
    ];
    for (put, remove, found) in obstacles {
        put();
        let refused = environment.issue().await.expect(1);
        assert!(refused.stderr.contains(found), "{}", refused.stderr);
        assert_eq!(environment.authority.issued(), 0, "the token is as good as before");
        remove();
    }
    environment.issue().await.expect(0);
    let names = fs::read_dir(environment.path("svid")).unwrap();
    let left: Vec<_> = names
        .map(|it| it.unwrap().file_name())
        .filter(|it| it.to_string_lossy().contains("try"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    fs::write(environment.path("file"), "").unwrap();
    let line = format!(
        "issue spiffe://pay.example/reports --out file --url {} --token-file {}",
        environment.url,
        environment.token().display()
    );
    let refused = environment.run(&line).await.expect(1);
    assert!(refused.stderr.contains("a folder is wanted"), "{}", refused.stderr);
}

/// Whatever an owner did: either the run fails, or a pair stands there that belongs together, and is
/// the new one.
#[tokio::test]
async fn no_renewal_that_succeeds_leaves_a_pair_that_does_not_match() {
    let sh = |folder: &Path, script: &str| {
        let done =
            std::process::Command::new("sh").args(["-ec", script]).current_dir(folder).status();
        assert!(done.unwrap().success(), "{script}");
    };
    for (script, exit) in [
        (
            "cp -rL . ../copy; rm -rf .svid-* .current svid.* bundle.pem trust.note; cp -r ../copy/. .",
            0,
        ),
        (
            "for f in svid.* bundle.pem trust.note; do cp --remove-destination $(readlink -f $f) $f; done",
            0,
        ),
        ("cp --remove-destination $(readlink -f svid.pem) svid.pem", 0),
        ("cp --remove-destination $(readlink -f svid.key) svid.key", 0),
        ("ln -sfn .svid-1/svid.pem svid.pem", 0),
        ("ln -sfn $PWD/.svid-1/svid.key svid.key", 0),
        ("rm .current; cp -r .svid-1 .current", 0),
        (
            "rm .current; cp -r .svid-1 .current; cp --remove-destination .current/svid.key svid.key",
            0,
        ),
        ("ln -f $(readlink -f svid.key) hard; ln -f hard svid.key", 0),
        ("cp svid.key ../key; ln -sf ../key svid.key", 1),
        ("rm svid.key", 1),
        ("rm -rf .svid-1", 1),
        ("rm svid.pem; mkdir svid.pem", 1),
        ("rm trust.note; ln -s /etc/hostname trust.note", 5),
    ] {
        let environment = Environment::new().await;
        environment.issue().await.expect(0);
        let folder = environment.path("svid");
        let before = environment.read("svid/svid.pem");
        sh(&folder, script);
        environment.authority.pull_windows_forward();
        let ended = environment.run("renew svid").await;
        assert_eq!(ended.exit == 0, exit == 0, "{script}: {}{}", ended.stdout, ended.stderr);
        if ended.exit == 0 {
            Credentials::load(&folder).unwrap();
            assert_ne!(environment.read("svid/svid.pem"), before, "{script}");
            environment.run("renew svid").await.expect(0);
            Credentials::load(&folder).unwrap();
        } else {
            assert_eq!(environment.authority.issued(), 1, "{script}: nothing was asked for");
        }
    }
}

/// Root's timer renews what a service reads.
#[tokio::test]
async fn a_renewal_keeps_owner_group_and_mode() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    if fs::metadata(environment.path("svid")).unwrap().uid() != 0 {
        return;
    }
    let path = |name: &str| environment.path("svid").join(name);
    chown(path(""), Some(4711), Some(4712)).unwrap();
    for name in ["svid.pem", "svid.key", "bundle.pem", "trust.note", "svid.json", ".current"] {
        lchown(path(name), Some(4711), Some(4712)).unwrap();
        chown(path(name), Some(4711), Some(4712)).unwrap();
    }
    let set_mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    chown(path("svid.key"), Some(4711), Some(4713)).unwrap();
    set_mode("svid.key", 0o640);
    set_mode("svid.pem", 0o644);
    set_mode(".current", 0o750);
    let is = |name: &str| {
        let metadata = fs::metadata(path(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
    };
    let shown = || ["svid.key", "svid.pem", "svid.json", ".current", ""].map(is);
    let before = shown();
    assert_eq!(before[0], (4711, 4713, 0o640));
    environment.authority.pull_windows_forward();
    // One whose answer is lost leaves what his own next run must be able to read.
    environment.authority.fail_next(Fault::AnswerLost);
    environment.run("renew svid").await.expect(4);
    for name in ["svid.key.next", "svid.csr.next", ".countersign.lock"] {
        assert_eq!(is(name), (4711, 4712, 0o600), "{name}");
    }
    let old = environment.read("svid/svid.pem");
    environment.run("renew svid").await.expect(0);
    assert_ne!(environment.read("svid/svid.pem"), old);
    assert_eq!(shown(), before);
    // A first set in his folder is his, too.
    fs::create_dir(environment.path("new")).unwrap();
    chown(environment.path("new"), Some(4711), Some(4712)).unwrap();
    let line = format!(
        "issue spiffe://pay.example/reports --out new --url {} --token-file {}",
        environment.url,
        environment.token().display()
    );
    environment.run(&line).await.expect(0);
    let key = fs::metadata(environment.path("new/svid.key")).unwrap();
    assert_eq!((key.uid(), key.gid(), key.mode() & 0o777), (4711, 4712, 0o600));
}
