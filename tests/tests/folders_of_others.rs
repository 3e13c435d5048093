//! Root works in folders of others: a timer renews a service's SVID, an operator puts a token there.
//! Whatever the service does to its folder, nothing of root's is read into it or written outside of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use system_tests::{Environment, Outcome};

const BATCH: &str = "/prod/batch";
const SERVICE: u32 = 65_534;
const SECRET: &str = "a secret that root alone reads";

/// A service's folder with an SVID, below a folder of the service's; a secret of root's.
struct Service {
    environment: Environment,
    home: PathBuf,
    folder: PathBuf,
    secret: PathBuf,
}

fn service() -> Option<Service> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: only root works in folders of others");
        return None;
    }
    let environment = Environment::start();
    let home = environment.path("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = environment.issue(BATCH, "home/svid");
    give(&home);
    environment.write("secret", SECRET);
    let secret = environment.path("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    Some(Service { environment, home, folder, secret })
}

/// All below is the service's from now on.
fn give(path: &Path) {
    lchown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

impl Service {
    fn run(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.environment.countersign(arguments);
        assert!(
            !outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET),
            "{outcome:?}"
        );
        self.holds_no_secret(&self.home);
        assert_eq!(fs::read_to_string(&self.secret).unwrap(), SECRET);
        outcome
    }

    fn holds_no_secret(&self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is = path.symlink_metadata().unwrap();
            if is.is_dir() {
                self.holds_no_secret(&path);
            } else if is.is_file() && is.ino() != fs::metadata(&self.secret).unwrap().ino() {
                let bytes = fs::read(&path).unwrap();
                assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", path.display());
            }
        }
    }
}

/// `renew` writes a lost bundle anew, and carries what else the set has into the next one.
#[test]
fn a_link_to_a_file_of_roots_is_read_by_no_command() {
    for name in ["svid.key", "svid.pem", "trust.note", "svid.json", "crl.pem", "svid.checkpoint"] {
        for is_hard in [false, true] {
            let Some(service) = service() else { return };
            let at = service.folder.join(name);
            fs::remove_file(service.folder.join("bundle.pem")).unwrap();
            drop(fs::remove_file(&at));
            match is_hard {
                true => fs::hard_link(&service.secret, &at).unwrap(),
                false => symlink(&service.secret, &at).unwrap(),
            }
            for command in ["renew", "verify", "inspect"] {
                let told = service.run(&[command, "home/svid"]);
                if command == "renew" && !["crl.pem", "svid.checkpoint"].contains(&name) {
                    assert_ne!(told.code, 0, "{name}: {told:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_read_for_whose_it_is_has_a_next_step() {
    let Some(service) = service() else { return };
    let key = service.folder.join("svid.key");
    fs::remove_file(&key).unwrap();
    symlink(&service.secret, &key).unwrap();
    let told = service.run(&["renew", "home/svid"]).exits(1);
    for said in ["svid.key", "look who put it there"] {
        assert!(told.stderr.contains(said), "{said}: {}", told.stderr);
    }
}

#[test]
fn a_folder_that_is_a_services_link_to_somebody_elses_is_not_worked_in() {
    let Some(service) = service() else { return };
    let other = service.environment.issue("/prod/reports", "other");
    let before = fs::read(other.join("svid.json")).unwrap();
    fs::rename(&service.folder, service.home.join("moved")).unwrap();
    symlink(&other, &service.folder).unwrap();
    lchown(&service.folder, Some(SERVICE), None).unwrap();
    fs::remove_file(other.join("bundle.pem")).unwrap();
    for folder in ["home/svid", "home/svid/"] {
        let told = service.run(&["renew", folder]).exits(1);
        assert!(told.stderr.contains("somebody else's link"), "{}", told.stderr);
    }
    assert!(!other.join("bundle.pem").exists());
    assert_eq!(fs::read(other.join("svid.json")).unwrap(), before);
    // To a folder of its own it may lead.
    fs::remove_file(&service.folder).unwrap();
    symlink("moved", &service.folder).unwrap();
    lchown(&service.folder, Some(SERVICE), None).unwrap();
    service.run(&["renew", "home/svid"]).success().says("not due");
}

#[test]
fn what_root_puts_into_a_services_folder_is_the_services_and_goes_through_no_link() {
    let Some(service) = service() else { return };
    let id = service.environment.id(BATCH);
    let out = service.home.join("token");
    service.run(&["token", "create", &id, "--out", "home/token"]).success();
    let is = fs::metadata(&out).unwrap();
    assert_eq!((is.uid(), is.gid(), is.mode() & 0o777), (SERVICE, SERVICE, 0o600));
    fs::remove_file(&out).unwrap();
    symlink(&service.secret, &out).unwrap();
    for yes in [&["--yes"][..], &[]] {
        let create = ["token", "create", &id, "--out", "home/token"];
        let told = service.run(&[&create[..], yes].concat()).exits(1);
        assert!(told.stderr.contains("it is a link to"), "{}", told.stderr);
    }
    // The trust state, beside an SVID and alone.
    let (url, pin) = (service.environment.url(), service.environment.pin());
    for note in ["home/svid/trust.note", "home/trust.note", "home/state"] {
        let fetch = ["trust", "fetch", &url, "--pin", &pin, "--out", note];
        service.run(&fetch).success();
        let is = fs::metadata(service.environment.path(note)).unwrap();
        assert_eq!((is.uid(), is.mode() & 0o777), (SERVICE, 0o600), "{note}");
        let at = service.environment.path(note);
        fs::remove_file(&at).unwrap();
        symlink(&service.secret, &at).unwrap();
        service.run(&fetch).exits(1);
        fs::remove_file(&at).unwrap();
    }
    // A first SVID in a folder that is there.
    let new = service.home.join("new");
    fs::create_dir(&new).unwrap();
    chown(&new, Some(SERVICE), Some(SERVICE)).unwrap();
    service.environment.issue(BATCH, "home/new");
    for name in ["svid.key", "svid.pem", ".current", "crl.pem"] {
        assert_eq!(fs::metadata(new.join(name)).unwrap().uid(), SERVICE, "{name}");
    }
}

#[test]
fn a_ca_in_a_folder_of_somebody_elses_is_warned_of() {
    let Some(service) = service() else { return };
    let state = service.environment.path("state");
    let config = fs::read_to_string(service.environment.path("ca.toml")).unwrap();
    let inside =
        config.replace(&*state.to_string_lossy(), &service.home.join("state").to_string_lossy());
    assert_ne!(inside, config);
    service.environment.write("inside.toml", &inside);
    let warned = service.run(&["config", "check", "--config", "inside.toml"]);
    for said in ["is user 65534's", "chown root"] {
        assert!(warned.stderr.contains(said), "{said}: {}", warned.stderr);
    }
    let told = service.run(&["config", "check", "--config", "ca.toml"]).success();
    assert!(!told.stderr.contains("is user"), "{}", told.stderr);
}
