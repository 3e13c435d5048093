//! `init`: with a parent elsewhere, and repairing what expired; `dev` with a state that stays.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use system_tests::{Environment, PATIENCE, Settings, openssl, pause, program};

#[test]
fn a_ca_elsewhere_certifies_the_issuer_by_hand() {
    let mut environment = Environment::prepare(&Settings::default());
    let folder = environment.folder().to_owned();
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    openssl(&folder, &["req", "-in", &request, "-noout", "-verify"]).success();
    environment.countersign(&["serve", "--config", "ca.toml"]).exits(1).says("countersign init");
    // Nothing is wrong with the configuration, and that is not all there is to say.
    let check = ["config", "check", "--config", "ca.toml"];
    let step = format!("have {request} certified");
    let checked = environment.countersign(&check).success().says(&step);
    checked.says("then: countersign init --certificate FILE --config ca.toml");

    make_parent(&environment);
    sign(&environment, &request, "basicConstraints=critical,CA:FALSE\n", "leaf.pem");
    sign(&environment, &request, ISSUER_EXTENSIONS, "issuer.pem");
    let finish =
        |file: &str| environment.countersign(&[&init[..], &["--certificate", file]].concat());
    finish("chain-leaf.pem").exits(1).says("cA=true");
    finish("issuer.pem").exits(1).says("it ends before a root: that of");
    finish("parent.pem").exits(1);
    finish("chain-issuer.pem").success().says("trust pin");
    let checked = environment.countersign(&check).success();
    assert!(!checked.stderr.contains("--certificate"), "{}", checked.stderr);

    environment.serve();
    let svid = environment.issue("/prod/reports", "reports");
    let verify = [
        "verify",
        "-x509_strict",
        "-CAfile",
        "../parent.pem",
        "-untrusted",
        "svid.pem",
        "svid.pem",
    ];
    openssl(&svid, &verify).success();
    environment.countersign(&["verify", "reports/svid.pem"]).success();

    // Keys of ours are replaced; the issuer is the parent's to certify again, by the same request.
    let rotate = ["rotate", "--config", "ca.toml"];
    environment.countersign(&rotate).success().says("nothing is due");
    environment.countersign(&["key", "prepare", "log", "--config", "ca.toml"]).success();
    let rotated = environment.countersign(&rotate).success().stdout;
    assert!(rotated.contains("activate log"), "{rotated}");
    let prepare = ["issuer", "prepare", "--config", "ca.toml"];
    environment.countersign(&prepare).exits(1).says("parent is elsewhere");
    let keys = fs::read_dir(environment.path("state/keys")).unwrap();
    let keys = keys.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "key");
    assert_eq!(keys.count(), 6, "no key was made that nobody certifies");
    environment.stop();
    sign(&environment, &request, ISSUER_EXTENSIONS, "again.pem");
    finish_again(&environment, "chain-again.pem");
    environment.serve();
    let svid = environment.issue("/prod/reports", "again");
    openssl(&svid, &verify).success();
    environment.countersign(&["verify", "again/svid.pem"]).success();
}

#[test]
fn an_issuers_certificate_is_renewed_by_a_later_one_and_nothing_else_changes() {
    let mut environment = Environment::prepare(&Settings::default());
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    make_parent(&environment);
    for (file, days) in [("first.pem", "60"), ("older.pem", "30"), ("later.pem", "90")] {
        sign_for(&environment, &request, ISSUER_EXTENSIONS, file, days);
    }
    let finish = |environment: &Environment, file: &str, more: &[&str]| {
        environment.countersign(&[&init[..], &["--certificate", file], more].concat())
    };
    let finished = finish(&environment, "chain-first.pem", &[]).success();
    finished.says("offline holds the trust key:");
    let operator = environment.path(".config/countersign/pay.example/svid.key");
    let key = fs::read(&operator).unwrap();
    let log = fs::read(environment.path("state/checkpoint")).unwrap();
    finish(&environment, "chain-first.pem", &[]).success().says("nothing changed");
    let json = finish(&environment, "chain-first.pem", &["--json"]).success().json();
    assert_eq!(json["changed"], "nothing");
    let refused = finish(&environment, "chain-older.pem", &[]).exits(1);
    refused.says("chain-older.pem: ").says("before the one in use").says("--allow-earlier-end");
    assert_eq!(fs::read(environment.path("state/checkpoint")).unwrap(), log, "nothing was logged");
    let renewed = finish(&environment, "chain-later.pem", &[]).success();
    renewed.says("renewed, for the same key").says("operators and trust stay as they are");
    finish(&environment, "chain-first.pem", &["--allow-earlier-end"]).success().says("renewed");
    assert_eq!(fs::read(&operator).unwrap(), key);
    environment.serve();
    environment.countersign(&["status"]).success().says("59d");
}

#[test]
fn an_answer_that_cannot_be_used_is_refused_with_a_step_that_helps() {
    let environment = Environment::prepare(&Settings::default());
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    make_parent(&environment);
    let ca = ISSUER_EXTENSIONS;
    let (theirs, san) = ("subjectAltName=URI:spiffe://other", "subjectAltName=URI:spiffe://pay");
    for (file, extensions) in [
        ("good.pem", ca.to_owned()),
        ("client.pem", format!("{ca}extendedKeyUsage=clientAuth\n")),
        ("critical.pem", format!("{ca}1.2.3.4=critical,ASN1:NULL\n")),
        ("theirs.pem", ca.replace(san, theirs)),
    ] {
        sign(&environment, &request, &extensions, file);
    }
    let folder = environment.folder();
    for (file, form) in [("pem.p7b", "PEM"), ("der.p7b", "DER")] {
        let boxed = ["crl2pkcs7", "-nocrl", "-certfile", "chain-good.pem", "-outform", form];
        openssl(folder, &[&boxed[..], &["-out", file]].concat()).success();
    }
    let good = fs::read_to_string(environment.path("chain-good.pem")).unwrap();
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_be_bytes).collect();
    fs::write(environment.path("utf16.pem"), utf16).unwrap();
    environment.write("cut.pem", &good[..good.len() - 100]);
    environment.write("empty.pem", "");
    let certified = "have state/issuer.csr certified as it is";
    for (file, found, step) in [
        ("chain-client.pem", "the extended key usage of a CA of the path has no ", certified),
        ("chain-critical.pem", "has a critical extension that is not known here", certified),
        ("chain-theirs.pem", "certificate 1 has the URI name spiffe://other.example", certified),
        ("utf16.pem", "this is UTF-16BE", "iconv -f UTF-16BE -t UTF-8 FILE"),
        ("cut.pem", "no END: is the file cut off?", "copy it again"),
        ("empty.pem", "it is empty", "give one file"),
        ("pem.p7b", "it is PKCS #7", "openssl pkcs7 -in FILE -print_certs"),
        ("der.p7b", "it is PKCS #7", "openssl pkcs7 -inform DER -in FILE -print_certs"),
    ] {
        let refused = environment.countersign(&[&init[..], &["--certificate", file]].concat());
        let refused = refused.exits(1).says(found).says(step);
        let is_one_chain = step == certified && refused.stderr.contains("give one file");
        assert!(!is_one_chain && !refused.stderr.contains("NotFound"), "{}", refused.stderr);
    }
    for file in ["pem.p7b", "der.p7b"] {
        let named = environment.countersign(&["inspect", file]).exits(1);
        named.says("it is a PKCS #7 file").says(&format!("-in {file} -print_certs"));
    }
}

#[test]
fn no_issuer_is_certified_on_a_log_that_went_back() {
    let mut environment = Environment::prepare(&Settings::default());
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    make_parent(&environment);
    sign(&environment, &request, ISSUER_EXTENSIONS, "issuer.pem");
    let file = |name: &str| environment.path(&format!("state/{name}"));
    let database = || fs::read(file("countersign.db")).unwrap();
    let finish = [&init[..], &["--certificate", "chain-issuer.pem"]].concat();
    let awaiting = database();
    environment.countersign(&finish).success().says("trust pin");
    let finished = database();
    environment.serve();
    environment.issue("/prod/reports", "reports");
    environment.stop();

    let file = |name: &str| environment.path(&format!("state/{name}"));
    let pin = fs::read(file("trust.pin")).unwrap();
    let beside = || ["head", "checkpoint"].map(|name| fs::read(file(name)).unwrap());
    let kept = beside();
    for older in [&awaiting, &finished] {
        for has_pin in [false, true] {
            for part in ["-wal", "-shm"] {
                drop(fs::remove_file(file(&format!("countersign.db{part}"))));
            }
            fs::write(file("countersign.db"), older).unwrap();
            fs::write(file("trust.pin"), &pin).unwrap();
            if !has_pin {
                fs::remove_file(file("trust.pin")).unwrap();
            }
            let refused = environment.countersign(&finish).exits(1);
            refused.says("an older database was put back").says("--lift-halt --config ca.toml");
            assert_eq!(beside(), kept, "what speaks against it stays");
            assert_eq!(file("trust.pin").exists(), has_pin);
        }
    }
    // Whoever accepts the loss goes on with what is there.
    let lift = [&init[..], &["--recover", "--lift-halt"]].concat();
    environment.countersign(&lift).says("lifted: this CA kept");
    environment.countersign(&finish).success().says("trust pin");
    environment.serve();
}

/// As the first time; the trust state stays as it is.
fn finish_again(environment: &Environment, file: &str) {
    let before = environment.countersign(&["trust", "show"]).success().stdout;
    let finish = ["init", "--config", "ca.toml", "--certificate"];
    let other = environment.countersign(&[&finish[..], &["parent.pem"]].concat());
    other.exits(1).says("not for this CA's issuer key");
    let renewed = environment.countersign(&[&finish[..], &[file]].concat()).success();
    renewed.says("renewed, for the same key");
    let after = environment.countersign(&["trust", "show"]).success().stdout;
    assert_eq!(before, after);
}

/// The parent certifies the request; its own certificate stands behind the new one.
fn sign(environment: &Environment, request: &str, extensions: &str, out: &str) {
    sign_for(environment, request, extensions, out, "30");
}

fn sign_for(environment: &Environment, request: &str, extensions: &str, out: &str, days: &str) {
    environment.write("ext", extensions);
    let arguments = [
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        "parent.pem",
        "-CAkey",
        "parent.key",
        "-days",
        days,
        "-extfile",
        "ext",
        "-out",
        out,
    ];
    openssl(environment.folder(), &arguments).success();
    let parent = fs::read_to_string(environment.path("parent.pem")).unwrap();
    let issuer = fs::read_to_string(environment.path(out)).unwrap();
    environment.write(&format!("chain-{out}"), &format!("{issuer}{parent}"));
}

fn make_parent(environment: &Environment) {
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "rsa:3072",
        "-nodes",
        "-keyout",
        "parent.key",
        "-out",
        "parent.pem",
        "-days",
        "365",
        "-subj",
        "/O=Elsewhere/CN=Parent",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ];
    openssl(environment.folder(), &arguments).success();
}

const ISSUER_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\n\
    keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
    authorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://pay.example\n";

#[test]
fn a_lost_operator_is_repaired_on_the_host() {
    let mut environment = Environment::start();
    let operator = environment.path(".config/countersign/pay.example");
    fs::remove_dir_all(&operator).unwrap();
    environment.countersign(&["status"]).exits(1);
    environment
        .countersign(&["init", "--config", "ca.toml", "--recover"])
        .exits(1)
        .says("another process");
    environment.stop();
    environment.countersign(&["init", "--config", "ca.toml", "--recover"]).success();
    environment.serve();
    environment.countersign(&["status"]).success();
}

#[test]
fn nothing_is_logged_for_an_operator_whose_context_is_anothers() {
    let mut environment = Environment::start();
    environment.stop();
    let recover = ["init", "--config", "ca.toml", "--recover", "--operator", "eve"];
    let taken = environment.countersign(&[&recover[..], &["--context", "pay.example"]].concat());
    assert!(!taken.stderr.contains("registered"), "{}", taken.stderr);
    taken.exits(2).says("is that of spiffe://pay.example/countersign/operator/admin");
    fs::create_dir(environment.path("file")).unwrap();
    fs::write(environment.path("file/.config"), "no folder").unwrap();
    let mut nowhere = environment.command(&recover);
    let nowhere = program(nowhere.env("HOME", environment.path("file"))).exits(1);
    assert!(!nowhere.stderr.contains("registered"), "{}", nowhere.stderr);
    environment.serve();
    let listed = environment.countersign(&["operator", "list"]).success().stdout;
    assert!(!listed.contains("eve"), "{listed}");
}

#[test]
fn a_home_that_is_no_text_is_found_out_before_anything_is_made() {
    let environment = Environment::prepare(&Settings::default());
    let home = environment.folder().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&home).unwrap();
    let mut init = environment.command(&["init", "--config", "ca.toml"]);
    let told = program(init.env("HOME", &home)).exits(2);
    told.says("is not UTF-8").says("XDG_CONFIG_HOME=/FOLDER");
    assert!(!environment.path("state/trust.pin").exists());
    init.env("XDG_CONFIG_HOME", environment.path("here"));
    program(&mut init).success();
}

#[test]
fn a_kept_development_state_opens_again() {
    let environment = Environment::prepare(&Settings::default());
    let pin = |environment: &Environment| {
        fs::read_to_string(environment.path("kept/state/trust.pin")).unwrap()
    };
    let mut pins = Vec::new();
    for _ in 0..2 {
        let log = fs::File::create(environment.path("dev.log")).unwrap();
        let mut command = environment.command(&["dev", "--state", "kept", "--tour", "off"]);
        let mut dev = command.stdout(log).spawn().unwrap();
        let begun = std::time::Instant::now();
        while !fs::read_to_string(environment.path("dev.log")).unwrap().contains("Ctrl-C stops") {
            assert!(begun.elapsed() < PATIENCE);
            pause();
        }
        environment.countersign(&["status"]).success();
        let id = dev.id().to_string();
        program(std::process::Command::new("kill").args(["-INT", &id])).success();
        assert_eq!(dev.wait().unwrap().code(), Some(0));
        pins.push(pin(&environment));
    }
    assert_eq!(pins[0], pins[1]);
}

/// Whoever names the folder of something else for it has mistaken it.
#[test]
fn a_dev_begins_in_no_folder_that_is_for_something_else() {
    let mut environment = Environment::start();
    environment.issue("/prod/reports", "svid");
    environment.stop();
    let context = ".config/countersign/pay.example";
    let listed = || {
        let find = ["-c", "find . -path ./state -prune -o -print0 | sort -z; ls -laR state"];
        let mut shell = std::process::Command::new("sh");
        program(shell.args(find).current_dir(environment.folder())).success().stdout
    };
    let before = listed();
    for (folder, what) in [
        ("state", "the state folder of a CA"),
        ("state/keys", "a folder of a CA's keys"),
        (".", "where another CA has its state"),
        ("svid", "the folder of an SVID"),
        (context, "the folder of an SVID"),
        (".config/countersign", "the folder of all contexts"),
    ] {
        let dev = ["dev", "--state", folder, "--tour", "off"];
        let mut command = environment.in_time(&dev);
        let refused = program(&mut command).exits(2);
        assert!(refused.stderr.contains(what), "{folder}: {refused:?}");
        refused.says("next: name another folder");
        assert_eq!(listed(), before, "{folder}");
    }
}
