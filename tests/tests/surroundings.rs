//! Configuration, terminals, caches and parents as they are in the world.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use system_tests::{Environment, PATIENCE, Settings, openssl, pause, program};

#[test]
fn names_and_files_of_the_configuration_are_looked_at_before_anything_is_made() {
    let environment = Environment::prepare(&Settings::default());
    let configuration = fs::read_to_string(environment.path("ca.toml")).unwrap();
    let check = ["config", "check", "--config", "ca.toml"];
    let init = ["init", "--config", "ca.toml"];
    environment.countersign(&check).success();
    for name in ["localhost:8443", "ca_1.pay.internal", "CA.pay.internal", "https://ca", "[::1]"] {
        let names = format!("names = [\"localhost\", {name:?}]");
        let changed = configuration.replace("names = [\"127.0.0.1\", \"localhost\"]", &names);
        environment.write("ca.toml", &changed);
        environment.countersign(&check).exits(2).says("names: ");
        environment.countersign(&init).exits(2).says("names: ");
        assert!(!environment.path("state").exists());
    }
    environment.write("ca.toml", &configuration);
    for (file, key) in [
        ("passphrase", "passphrase_file"),
        ("offline-passphrase", "offline_passphrase_file"),
        ("policies", "policies"),
    ] {
        fs::rename(environment.path(file), environment.path("away")).unwrap();
        environment.countersign(&check).exits(2).says(&format!("{key}: "));
        environment.countersign(&init).exits(2).says(&format!("{key}: "));
        assert!(!environment.path("state").exists(), "{key}");
        fs::rename(environment.path("away"), environment.path(file)).unwrap();
    }
    environment.write("policies/workloads.json", "{");
    environment.countersign(&check).exits(2).says("policies: ");
    environment.write("policies/workloads.json", "{\"workloads\": []}");
    let utf16: Vec<u8> = "a long passphrase".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(environment.path("passphrase"), utf16).unwrap();
    environment.countersign(&check).exits(2).says("UTF-16");
    environment.write("passphrase", "\u{feff}the passphrase of this test\r\n");
    environment.countersign(&init).success();
    // Typed, or saved otherwise, it is the same; that of the offline keys is kept elsewhere now.
    environment.write("passphrase", "the passphrase of this test");
    fs::remove_file(environment.path("offline-passphrase")).unwrap();
    environment.countersign(&check).success();
    let mut environment = environment;
    environment.serve();
}

#[test]
fn caches_and_proxies_are_answered_as_http_has_it() {
    let environment = Environment::start();
    let status = |path: &str, header: &str| {
        let options = [
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %header{content-type} %header{vary}",
            "-H",
            header,
        ];
        environment.curl(path, &options).success().stdout
    };
    for path in ["/v1/trust", "/v1/policies"] {
        let etag =
            environment.curl(path, &["-o", "/dev/null", "-w", "%header{etag}"]).success().stdout;
        assert!(etag.starts_with('"'), "{etag}");
        for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let said = status(path, &format!("If-None-Match: {known}"));
            assert!(said.starts_with("304"), "{path} {known}: {said}");
        }
        let said = status(path, "If-None-Match: W/\"x\"");
        assert!(said.starts_with("200"), "{path}: {said}");
    }
    let json = "200 application/json accept";
    let pem = "200 application/pem-certificate-chain accept";
    for (accept, expected) in [
        ("*/*", json),
        ("APPLICATION/PEM-CERTIFICATE-CHAIN", pem),
        ("application/pem-certificate-chain;q=0, application/json", json),
        ("application/json;q=0.5, application/pem-certificate-chain", pem),
    ] {
        assert_eq!(status("/v1/bundle", &format!("Accept: {accept}")), expected, "{accept}");
    }
}

#[test]
fn a_closed_terminal_ends_serve_as_sigterm_does() {
    let mut environment = Environment::start();
    signal("HUP", environment.server_pid());
    let begun = Instant::now();
    while !environment.log().contains("drained") {
        assert!(begun.elapsed() < PATIENCE, "{}", environment.log());
        pause();
    }
    assert!(environment.log().contains("SIGHUP: finishing requests in flight"));
    environment.kill();
}

#[test]
fn serve_outlives_the_terminal_where_hangups_are_ignored() {
    let environment = Environment::start();
    let mut dev = dev_by_shell(&environment, "trap '' HUP", "nohup.log");
    wait_for(&environment, "nohup.log", "Ctrl-C stops");
    signal("HUP", dev.id());
    // It answers still: whatever a hangup does, it has done by then.
    environment.countersign(&["status"]).success();
    assert!(dev.try_wait().unwrap().is_none());
    signal("INT", dev.id());
    assert_eq!(dev.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_made_is_its_owners_to_use_and_nobody_elses_whatever_the_umask() {
    let environment = Environment::prepare(&Settings::default());
    for umask in ["0777", "0", "0277"] {
        let log = format!("{umask}.log");
        let mut dev = dev_by_shell(&environment, &format!("umask {umask}"), &log);
        let folder = folder_of_dev(&wait_for(&environment, &log, "Ctrl-C stops"));
        let mut left = vec![folder];
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_symlink() {
                continue;
            }
            let (mode, is_folder) = (metadata.permissions().mode(), metadata.is_dir());
            let own = if is_folder { 0o700 } else { 0o600 };
            assert_eq!(mode & own, own, "{umask}: {}: {mode:o}", path.display());
            if is_folder {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let is_key = path.extension().is_some_and(|extension| extension == "key");
            assert!(!is_key || mode & 0o077 == 0, "{umask}: {}: {mode:o}", path.display());
        }
        signal("INT", dev.id());
        assert_eq!(dev.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_dev_that_is_hung_up_or_killed_leaves_neither_keys_nor_a_context() {
    let environment = Environment::start();
    for name in ["HUP", "TERM", "KILL"] {
        let (mut dev, folder) = start_dev(&environment, &format!("{name}.log"));
        let shown = environment.countersign(&["trust", "show"]).success().stdout;
        assert!(shown.contains("dev.internal"), "{shown}");
        signal(name, dev.id());
        let ended = dev.wait().unwrap();
        assert_eq!(ended.code(), (name != "KILL").then_some(0));
        // Whoever comes next finds what was there before.
        let shown = environment.countersign(&["trust", "show"]).success().stdout;
        assert!(shown.contains("pay.example"), "{name}: {shown}");
        assert!(!folder.exists(), "{name}");
    }
}

#[test]
fn two_dev_at_once_do_not_take_each_others_context() {
    let environment = Environment::prepare(&Settings::default());
    let (mut first, first_folder) = start_dev(&environment, "first.log");
    let (mut second, second_folder) = start_dev(&environment, "second.log");
    let of = |context: &str| {
        environment.countersign(&["trust", "pin", "--context", context]).success().stdout
    };
    assert_ne!(of("dev"), of("dev-2"));
    signal("TERM", second.id());
    second.wait().unwrap();
    assert!(first_folder.exists() && !second_folder.exists());
    environment.countersign(&["status"]).success();
    let orders = "spiffe://dev.internal/orders";
    for typed in ["/orders", "orders", orders] {
        let env = environment.countersign(&["dev", "env", typed]).success();
        env.says("COUNTERSIGN_URL").says(&format!("COUNTERSIGN_SPIFFE_ID={orders}\n"));
    }
    for wrong in ["", "/", "a b", "/orders/", "spiffe://dev.internal", "/countersign/orders"] {
        let refused = environment.countersign(&["dev", "env", wrong]).exits(2);
        let refused = refused.says("is no path of a service").says("`countersign dev env /orders`");
        assert!(!refused.stderr.contains("spiffe://dev.internalspiffe"), "{refused:?}");
    }
    let other = environment.countersign(&["dev", "env", "spiffe://other.example/orders"]).exits(1);
    other.says("next: name one of it: spiffe://dev.internal/orders");
    signal("TERM", first.id());
    first.wait().unwrap();
    assert!(!first_folder.exists());
    environment.countersign(&["status"]).exits(2).says("no context");
}

#[test]
fn what_a_parent_certified_is_verified_as_peers_would_before_anything_is_written() {
    let mut environment = Environment::prepare(&Settings::default());
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    let finish = |environment: &Environment, certificates: &[&str]| {
        let read =
            |name: &&str| fs::read_to_string(environment.path(&format!("{name}.pem"))).unwrap();
        environment.write("chain.pem", &certificates.iter().map(read).collect::<String>());
        environment.countersign(&[&init[..], &["--certificate", "chain.pem"]].concat())
    };
    let ca = "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    let with = |constraints: &str, more: &str| {
        format!("basicConstraints=critical,CA:TRUE{constraints}\n{ca}{more}")
    };
    certify(&environment, "root", None, "root", &with("", ""), "365");
    certify(&environment, "narrow-root", None, "narrow-root", &with(",pathlen:1", ""), "365");
    for (name, parent, extensions, days) in [
        ("policy", "root", with("", ""), "365"),
        ("above", "policy", with("", ""), "365"),
        ("short", "policy", with(",pathlen:0", ""), "365"),
        ("over", "policy", with("", ""), "-1"),
        ("mail", "policy", with("", "extendedKeyUsage=emailProtection\n"), "365"),
        (
            "elsewhere",
            "policy",
            with("", "nameConstraints=critical,permitted;URI:.example.org\n"),
            "365",
        ),
        (
            "no-signer",
            "policy",
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign\n".to_owned(),
            "365",
        ),
        ("long", "narrow-root", with("", ""), "365"),
        ("longer", "long", with("", ""), "365"),
    ] {
        certify(&environment, name, None, parent, &extensions, days);
    }
    let issuer = with(
        ",pathlen:0",
        "authorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://pay.example\n",
    );
    for parent in ["above", "short", "over", "mail", "elsewhere", "no-signer", "longer"] {
        certify(&environment, &format!("by-{parent}"), Some(&request), parent, &issuer, "365");
    }
    for (chain, found) in [
        (&["by-over", "over", "policy", "root"][..], "peers would refuse"),
        (&["by-mail", "mail", "policy", "root"], "peers would refuse"),
        (&["by-elsewhere", "elsewhere", "policy", "root"], "peers would refuse"),
        (&["by-no-signer", "no-signer", "policy", "root"], "peers would refuse"),
        (&["by-longer", "longer", "long", "narrow-root"], "peers would refuse"),
        (&["by-short", "short", "policy", "root"], "peers would refuse"),
        (&["by-above", "above", "policy"], "ends before a root"),
        (&["by-above", "policy", "root"], "certificate 1 was issued by"),
        (&["root", "policy", "above", "by-above"], "not for this CA's issuer key"),
        (&["by-above"], "ends before a root"),
    ] {
        finish(&environment, chain).exits(1).says(found);
        environment.countersign(&["serve", "--config", "ca.toml"]).exits(1);
    }
    environment.write("broken.pem", "-----BEGIN CERTIFICATE-----\nMII\n");
    finish(&environment, &["broken", "by-above"])
        .exits(1)
        .says("chain.pem: its PEM")
        .says("block 1");
    let der = ["x509", "-in", "by-above.pem", "-outform", "DER", "-out", "chain.pem"];
    openssl(environment.folder(), &der).success();
    let der = environment.countersign(&[&init[..], &["--certificate", "chain.pem"]].concat());
    der.exits(1).says("chain.pem: it is DER").says("one file");
    // Text of other encodings around the blocks, as `openssl x509 -text` and Windows leave it.
    let policy = fs::read(environment.path("policy.pem")).unwrap();
    let marked = [&b"\xef\xbb\xbf"[..], &policy].concat();
    fs::write(environment.path("policy.pem"), marked).unwrap();
    finish(&environment, &["by-above", "above", "policy", "root"]).success().says("trust pin");
    environment.serve();
    let svid = environment.issue("/prod/reports", "reports");
    environment.countersign(&["verify", "reports/svid.pem"]).success();
    let verify = ["verify", "-CAfile", "bundle.pem", "-untrusted", "svid.pem", "svid.pem"];
    openssl(&svid, &verify).success();
}

#[test]
fn names_that_a_parent_does_not_permit_are_found_out_before_anything_is_written() {
    let settings = Settings::default();
    let outside = settings.workloads.replace("\"localhost\"", "\"localhost\", \"other.example\"");
    assert_ne!(outside, settings.workloads);
    let mut environment =
        Environment::prepare(&Settings { workloads: outside, ..settings.clone() });
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    let ca = |name: &str, parent: &str, more: &str| {
        let usual = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                     subjectKeyIdentifier=hash\n";
        certify(&environment, name, None, parent, &format!("{usual}{more}"), "365");
    };
    let constrained = |names: &str| format!("nameConstraints=critical,{names}\n");
    ca("root", "root", "");
    ca("foo-root", "foo-root", &constrained("permitted;DNS:foo.example"));
    ca("with-path", "root", "subjectAltName=URI:spiffe://corp.example/ca\n");
    ca(
        "corporate",
        "root",
        "subjectAltName=URI:spiffe://corp.example,URI:https://corp.example/ca\n",
    );
    let finish = |environment: &Environment, parents: &[&str], more: &str| {
        let usual = "basicConstraints=critical,CA:TRUE,pathlen:0\nsubjectKeyIdentifier=hash\n\
                     keyUsage=critical,keyCertSign,cRLSign\nauthorityKeyIdentifier=keyid\n";
        let extensions = format!("{usual}{more}");
        certify(environment, "issuer", Some(&request), parents[0], &extensions, "365");
        let read = |name: &&str| fs::read_to_string(environment.path(&format!("{name}.pem")));
        let chain = [&["issuer"], parents].concat();
        let chain: String = chain.iter().map(|name| read(name).unwrap()).collect();
        environment.write("chain.pem", &chain);
        environment.countersign(&[&init[..], &["--certificate", "chain.pem"]].concat())
    };
    let san = |uris: &str| format!("subjectAltName={uris}\n");
    let ours = san("URI:spiffe://pay.example");
    let refused: [(&[&str], String, &str); 11] = [
        (&["root"], constrained("permitted;DNS:foo.example"), "with the name localhost"),
        (&["root"], constrained("permitted;DNS:pay.internal"), "with the name localhost"),
        (&["root"], constrained("excluded;DNS:localhost"), "with the name localhost"),
        (&["root"], constrained("permitted;IP:10.0.0.0/255.0.0.0"), "with the name 127.0.0.1"),
        (&["foo-root"], ours.clone(), "with the name localhost"),
        (&["root"], san("URI:spiffe://pay.example/ca"), "URI name spiffe://pay.example/ca"),
        (&["root"], san("URI:spiffe://other"), "URI name spiffe://other"),
        (&["root"], san("URI:https://pay.example"), "URI name https://pay.example"),
        (&["root"], san("URI:spiffe://PAY.example"), "URI name spiffe://PAY.example"),
        (&["root"], san("URI:spiffe://pay.example,URI:spiffe://other"), "URI name spiffe://other"),
        (&["with-path", "root"], ours, "URI name spiffe://corp.example/ca"),
    ];
    for (parents, more, found) in &refused {
        finish(&environment, parents, more).exits(1).says(found).says("next:");
        environment.countersign(&["serve", "--config", "ca.toml"]).exits(1);
    }
    let permits = "permitted;DNS:localhost,permitted;IP:127.0.0.0/255.0.0.0";
    let finished = finish(&environment, &["corporate", "root"], &constrained(permits)).success();
    finished.says("row \"/prod/reports\": other.example lies outside").says("next:");
    environment.serve();
    environment.countersign(&["status"]).success();
    // A row that was there before, and one that is applied.
    let refused = environment.issue_with("/prod/reports", "reports", &[]).exits(3);
    refused
        .says("other.example lies outside the name constraints")
        .says("out of row /prod/reports");
    let (id, url) = (environment.id("/prod/reports"), environment.url());
    let again = ["issue", &id, "--url", &url, "--token-file", "reports.token", "--out", "reports"];
    environment.countersign(&[&again[..], &["--dns", "localhost"]].concat()).success();
    environment.countersign(&["verify", "reports/svid.pem"]).success();
    let apply = ["policy", "apply", "policies", "--yes"];
    for (row, name) in
        [("/prod/reports", "dns\": [\"other.example"), ("/prod/batch", "ip\": [\"10.0.0.1")]
    {
        let listed = format!("\"{row}\", \"{name}\"]");
        let table = format!("{{\"workloads\": [{{\"id\": {listed}}}]}}");
        environment.write("policies/workloads.json", &table);
        let refused = environment.countersign(&apply).exits(1);
        refused.says(&format!("row \"{row}\"")).says("lies outside").says("next:");
    }
    environment.write("policies/workloads.json", &settings.workloads);
    environment.countersign(&apply).success();
    environment.stop();
    // The same rules, where it is certified again.
    let (parents, more) = (["corporate", "root"], constrained("permitted;DNS:foo.example"));
    finish(&environment, &parents, &more).exits(1).says("with the name localhost");
    environment.serve();
    environment.countersign(&["status"]).success();
}

/// A certificate by a parent (itself, where the names are one), over a request or a new key.
fn certify(
    environment: &Environment,
    name: &str,
    request: Option<&str>,
    parent: &str,
    extensions: &str,
    days: &str,
) {
    let folder = environment.folder();
    environment.write("extensions", extensions);
    let (key, csr, out) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let subject = format!("/O=Elsewhere/CN={name}");
    if request.is_none() {
        let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let rest = ["-keyout", &key, "-out", &csr, "-subj", &subject];
        openssl(folder, &[&new[..], &rest].concat()).success();
    }
    let (parent_pem, parent_key) = (format!("{parent}.pem"), format!("{parent}.key"));
    let signer: &[&str] = match name == parent {
        true => &["-key", &parent_key],
        false => &["-CA", &parent_pem, "-CAkey", &parent_key],
    };
    let request = request.unwrap_or(&csr);
    let sign =
        ["x509", "-req", "-in", request, "-days", days, "-extfile", "extensions", "-out", &out];
    openssl(folder, &[&sign[..], signer].concat()).success();
}

/// Starts a `dev` with a temporary folder of its own; returns it, and that folder.
fn start_dev(environment: &Environment, log: &str) -> (Child, PathBuf) {
    let temporary = environment.path("temporary");
    fs::create_dir_all(&temporary).unwrap();
    let output = fs::File::create(environment.path(log)).unwrap();
    let mut command = environment.command(&["dev", "--tour", "off"]);
    let dev = command.env("TMPDIR", &temporary).stdout(output).spawn().unwrap();
    let folder = folder_of_dev(&wait_for(environment, log, "Ctrl-C stops"));
    assert!(folder.starts_with(temporary), "{}", folder.display());
    (dev, folder)
}

fn folder_of_dev(said: &str) -> PathBuf {
    said.split_whitespace().skip_while(|word| *word != "state").nth(1).unwrap().into()
}

/// Starts a `dev` by a shell that is told something first.
fn dev_by_shell(environment: &Environment, first: &str, log: &str) -> Child {
    let program = environment.command(&[]).get_program().to_owned();
    let output = fs::File::create(environment.path(log)).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" dev --tour off")]).arg(program);
    shell.current_dir(environment.folder()).stdout(output);
    shell.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", environment.folder());
    shell.spawn().unwrap()
}

fn wait_for(environment: &Environment, log: &str, text: &str) -> String {
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(environment.path(log)).unwrap_or_default();
        if said.contains(text) {
            return said;
        }
        assert!(begun.elapsed() < PATIENCE, "{said}");
        pause();
    }
}

fn signal(name: &str, process: u32) {
    program(Command::new("kill").args([&format!("-{name}"), &process.to_string()])).success();
}
