//! README's "A CA that stays", typed line by line as it stands there, with nothing but the binary,
//! a shell, openssl and curl.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use system_tests::{Outcome, PATIENCE, Port, binary, openssl, readme};

#[test]
fn a_ca_that_stays_is_made_as_the_readme_says() {
    follow(Passphrases::InFiles);
}

#[test]
fn a_ca_that_stays_is_made_by_who_types_the_passphrases() {
    follow(Passphrases::Typed);
}

/// Without it they would look in /etc/countersign, where README's own reader has none.
#[test]
fn each_command_of_the_readme_that_takes_a_configuration_names_one() {
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    let mut named = 0;
    for command in readme::named_commands() {
        let words: Vec<&str> = command.split(' ').skip(1).take_while(is_name).collect();
        let help = Command::new(binary()).args(&words).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        if help.contains("default: /etc/countersign/countersign.toml") {
            named += 1;
            assert!(command.contains("--config "), "{command}");
        }
    }
    assert!(named > 0, "README names no such command");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Passphrases {
    InFiles,
    Typed,
}

/// Every line, whichever it is, ends with 0; what README says of it is so.
fn follow(passphrases: Passphrases) {
    let mut reader = Reader::new(passphrases);
    let commands = readme::commands("A CA that stays");
    for (written, _) in reader.substitutions() {
        let found = commands.iter().any(|command| command.contains(written));
        assert!(found, "{written:?} is substituted, and README has it no more");
    }
    let mut told = vec![false; TOLD.len()];
    for command in &commands {
        if command.starts_with("countersign serve") {
            reader.serve(command);
            continue;
        }
        let outcome = reader.types(command).success();
        for (told, (begin, says)) in told.iter_mut().zip(TOLD) {
            if command.starts_with(begin) {
                *told = true;
                outcome.clone().says(says);
            }
        }
        reader.finds_it_so(command, &outcome);
    }
    assert!(told.iter().all(|told| *told), "README has no such command: {told:?}");
}

/// What each command says, where it does what README says of it.
const TOLD: [(&str, &str); 7] = [
    ("countersign init ", "trust pin"),
    ("countersign token create ", "token"),
    ("countersign issue ", "renew it with: countersign renew"),
    ("countersign renew ", "not due until"),
    ("countersign revoke ", "revoked 1 certificate of spiffe://pay.example/prod/reports"),
    ("countersign deny ", "countersign allow spiffe://pay.example/prod/reports"),
    ("countersign rotate ", "nothing is due"),
];

/// Somebody with an empty home, the binary, and ports that are not others'.
struct Reader {
    folder: tempfile::TempDir,
    ports: [Port; 2],
    passphrases: Passphrases,
    server: Option<Child>,
}

impl Reader {
    fn new(passphrases: Passphrases) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(binary(), folder.path().join("bin/countersign")).unwrap();
        for name in PASSPHRASE_FILES {
            let path = folder.path().join(name);
            fs::write(&path, format!("what opens {name}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let ports = [Port::reserve(), Port::reserve()];
        Self { folder, ports, passphrases, server: None }
    }

    /// All that is not typed as it stands there: places that need root, a name that needs DNS, and
    /// ports that somebody else may have.
    fn substitutions(&self) -> Vec<(&'static str, String)> {
        let [api, admin] = [0, 1].map(|port: usize| self.ports[port].address());
        let mut settings = format!("listen = \"{api}\"\nadmin_listen = \"{admin}\"\n");
        if self.passphrases == Passphrases::InFiles {
            for name in PASSPHRASE_FILES {
                settings += &format!("{name} = {:?}\n", self.path(name));
            }
        }
        let comment = "# passphrase_file, offline_passphrase_file";
        let path = |name: &str| self.path(name).display().to_string();
        vec![
            ("/etc/countersign", path("etc")),
            ("/var/lib/countersign", path("state")),
            ("/run/svid", path("svid")),
            ("ca.pay.internal", "localhost".to_owned()),
            (":8443", format!(":{}", api.port())),
            (comment, settings + comment),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, written: &str) -> Command {
        let mut typed = written.to_owned();
        for (written, instead) in self.substitutions() {
            typed = typed.replace(written, &instead);
        }
        let asks = ["init", "serve", "rotate"];
        let asks = asks.iter().any(|it| typed.starts_with(&format!("countersign {it}")));
        let mut shell = match self.passphrases == Passphrases::Typed && asks {
            true => Command::new("script"),
            false => Command::new("bash"),
        };
        match shell.get_program() == "script" {
            true => shell.args(["-qec", &typed, "/dev/null"]),
            false => shell.args(["-ec", &typed]),
        };
        shell.current_dir(self.folder.path()).env_clear();
        shell.env("HOME", self.path("home")).stdin(Stdio::piped());
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        shell
    }

    /// Types a line to its end, and the passphrases where a terminal asks.
    fn types(&self, written: &str) -> Outcome {
        let mut shell = self.shell(written);
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        self.answer(&mut shell);
        shell.wait_with_output().unwrap().into()
    }

    fn serve(&mut self, written: &str) {
        let log = fs::File::create(self.path("serve.log")).unwrap();
        let mut shell = self.shell(written);
        let mut server = shell.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.answer(&mut server);
        self.server = Some(server);
        let begun = Instant::now();
        let ready = format!("curl -sf http://{}/readyz", self.ports[1].address());
        while self.types(&ready).code != 0 {
            let log = fs::read_to_string(self.path("serve.log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "{log}");
        }
    }

    /// Whoever types gives each passphrase as often as it is asked for; a shell reads none of it.
    fn answer(&self, shell: &mut Child) {
        if self.passphrases == Passphrases::Typed {
            let online = "the passphrase that is typed\n".repeat(2);
            let offline = "another that is typed\n".repeat(2);
            // One that asks for nothing may have ended before.
            let _ = shell.stdin.as_mut().unwrap().write_all((online + &offline).as_bytes());
        }
    }

    /// What README says of a command, looked at with openssl and curl.
    fn finds_it_so(&self, command: &str, outcome: &Outcome) {
        let svid = self.path("svid");
        if command.starts_with("countersign init ") {
            if self.passphrases == Passphrases::Typed {
                for asked in ["Passphrase of the CA's keys", "Passphrase of the offline keys"] {
                    outcome.clone().says(asked);
                }
            }
            each_file(&self.path("state"), &|path| {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{} is others', too", path.display());
            });
        } else if command.starts_with("countersign token create ") {
            let mode = fs::metadata(self.path("token")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        } else if command.starts_with("countersign issue ") {
            let verify = ["verify", "-x509_strict", "-CAfile", "bundle.pem", "-untrusted"];
            openssl(&svid, &[&verify[..], &["svid.pem", "svid.pem"]].concat()).success();
            self.asks_as_reports().success().says("spiffe://pay.example/prod/reports");
        } else if command.starts_with("countersign revoke ") {
            assert_ne!(self.asks_as_reports().code, 0, "a revoked certificate is taken");
            self.types("countersign list --revoked").success().says("/prod/reports");
        } else if command.starts_with("countersign deny ") {
            self.types("countersign denial list").success().says("/prod/reports");
        }
    }

    /// A call over mutual TLS, with the files that `issue` wrote and no program of ours.
    fn asks_as_reports(&self) -> Outcome {
        let serial = "$(openssl x509 -noout -serial -in svid.pem | cut -d= -f2 | tr A-F a-f)";
        self.types(&format!(
            "cd /run/svid; curl -sS --fail-with-body --cacert bundle.pem --cert svid.pem \
             --key svid.key https://ca.pay.internal:8443/v1/certificates/{serial}"
        ))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // A terminal that closes is a hangup for what runs in it.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn each_file(folder: &Path, look: &dyn Fn(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => each_file(&path, look),
            false => look(&path),
        }
    }
}

const PASSPHRASE_FILES: [&str; 2] = ["passphrase_file", "offline_passphrase_file"];
