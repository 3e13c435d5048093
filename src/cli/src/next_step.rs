//! What to type next: every error of this program that has a next step, in one place. Those of the CA
//! come with its problems.
//!
//! A step is another command, or says what to do before the same one. The test below reads the steps
//! of the whole workspace, the CA's included, and parses each command in them.

use std::path::Path;

use countersign::{ConfigurationFault, Error as LibraryError, Obstacle};
use identity::{CountersignatureRule, Refusal};

use crate::clock;
use crate::error::Error;
use crate::passphrase::From;
use crate::report::library_error;
use crate::shell::quoted;
use crate::table;

/// What to type next after an error.
pub(crate) fn of(error: &anyhow::Error) -> Option<String> {
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let of_the_engine = || match error.downcast_ref::<authority::Error>()? {
        authority::Error::Halted(_) => Some(HALTED.to_owned()),
        authority::Error::Invalid { next_step, .. } => next_step.clone(),
        authority::Error::Unmade { .. } => Some(
            "make room there, or name another `state` in the configuration; then the same command \
             again: countersign init"
                .to_owned(),
        ),
        _ => None,
    };
    ours.and_then(Error::next_step).or_else(of_the_engine).or_else(|| match library_error(error)? {
        LibraryError::Peer { refusal, .. } if is_of_clocks(refusal) => Some(format!(
            "`date -u` here and on the CA's host: this machine's clock says {}. Set the wrong one \
             right; where both are right, the CA has no newer certificate: /readyz on its host \
             says why",
            table::time(clock::now())
        )),
        LibraryError::Peer { refusal, .. } => Some(of_a_stranger(refusal).to_owned()),
        error @ LibraryError::Unreachable { .. } => Some(past(error.obstacle()).to_owned()),
        LibraryError::UnexpectedAnswer { status, .. } => Some(match status {
            500.. => {
                "the same command again once the CA runs: something before it answers".to_owned()
            }
            _ => RIGHT_URL.to_owned(),
        }),
        LibraryError::Configuration(ConfigurationFault::Url { url, .. }) => {
            let host =
                url.strip_prefix("http://").map(|host| host.rsplit('@').next().unwrap_or(host));
            let host = host.filter(|host| !host.is_empty());
            host.map(|host| format!("--url https://{host}: its API speaks TLS alone"))
        }
        LibraryError::Authority(problem) if problem.next_step.is_none() => {
            let known = NOT_FOUND.iter().find(|(what, _)| problem.detail.starts_with(what));
            known.map(|(_, step)| (*step).to_owned())
        }
        // Everybody else says so by `Error::RefusedSvid`, with what is known.
        LibraryError::Refused { .. } => {
            Some("countersign show SERIAL, by another operator".to_owned())
        }
        _ => None,
    })
}

/// What to do about a server that is not believed.
fn of_a_stranger(refusal: &Refusal) -> &'static str {
    match refusal {
        // No key of a CA of ours signed that, old or new.
        Refusal::NotAnSvid(_) => RIGHT_URL,
        _ => {
            "if its trust keys are the same: countersign trust fetch URL --pin PIN --out \
             DIR/trust.note; if it is another server, name the CA itself: --url https://CA:8443; \
             `countersign context list` shows that of each context"
        }
    }
}

/// What to do where nothing answered.
fn past(obstacle: Option<Obstacle<'_>>) -> &'static str {
    match obstacle {
        Some(Obstacle::NoTls) => {
            "name the port of its API, `listen` in the CA's configuration: --url https://CA:8443; \
             `countersign context list` shows that of each context"
        }
        Some(Obstacle::Silence) => {
            "look at the address, and at the firewalls and security groups on the way; `countersign \
             context list` shows the URL of each context"
        }
        Some(Obstacle::Unresolved(_)) => {
            "correct the name: --url https://CA:8443, or COUNTERSIGN_URL; `countersign context list` \
             shows that of each context, and DNS or /etc/hosts has to know it"
        }
        _ => {
            "the same command again once the CA runs: `countersign serve` on its host, where /readyz \
             tells more; or correct the port: --url https://CA:8443"
        }
    }
}

const RIGHT_URL: &str = "name the CA itself: --url https://CA:8443; `countersign context list` shows \
                         that of each context";

/// Whether another clock would judge otherwise.
fn is_of_clocks(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Expired { .. }
            | Refusal::NotYetValid { .. }
            | Refusal::NotCountersigned(CountersignatureRule::Future)
    )
}

/// What ends a halt; README has more.
pub(crate) const HALTED: &str = "put the newest database back and restart the CA; where that is lost, \
    look first what was revoked and issued in the part that is gone, then stop it: countersign init \
    --recover --lift-halt";

impl Error {
    /// What to type next.
    pub(crate) fn next_step(&self) -> Option<String> {
        let step = match self {
            Self::Certificate { .. } => A_CERTIFICATE,
            Self::AdminPort { instead, .. } => {
                return Some(format!("the same command with {instead}"));
            }
            Self::ConfiguredFile { .. } => {
                "put it there, or name another in the configuration; then the same command again"
            }
            Self::ContextName(_) => "--context NAME, such as the trust domain",
            Self::ContextTaken { name, directory, .. } => {
                let folder = quoted(directory);
                return Some(format!(
                    "keep it, and name another: the same command with --context NAME\nor, if nobody \
                     needs it: countersign context remove {name}; mv {folder} {folder}.before"
                ));
            }
            Self::InTheWay { path, .. } => {
                return Some(format!(
                    "look who put it there, move {} away, and run the same command again",
                    quoted(path)
                ));
            }
            Self::NoRoom { .. } => {
                "nothing was asked for, and a token is as good as before: run it again as that user, \
                 or with another folder"
            }
            Self::NotInPlace { path } => {
                return Some(format!(
                    "countersign verify {}; then the same command again",
                    quoted(&path.with_file_name("svid.pem"))
                ));
            }
            Self::Configuration { path, source } if !is_missing(source) => {
                let path = quoted(path);
                return Some(format!("correct it, then: countersign config check --config {path}"));
            }
            Self::Configuration { .. } => {
                "write one, or name it with --config FILE; the least it needs: \
                 trust_domain = \"pay.example\", names = [\"ca.pay.internal\"], \
                 state = \"/var/lib/countersign\""
            }
            Self::NewPassphrase { path, .. } => {
                return Some(format!(
                    "write another into it, of 12 characters or more and not that of the other file; \
                     `openssl rand -base64 24 > {}` makes one; then: countersign config check",
                    quoted(path)
                ));
            }
            Self::KnownPassphrase { path, .. } => {
                return Some(format!(
                    "put that into it which the keys were sealed by at `init`, of 12 characters or \
                     more, or name another file in the configuration: {}",
                    quoted(path)
                ));
            }
            Self::Several(errors) => {
                let mut steps: Vec<String> = errors.iter().filter_map(Self::next_step).collect();
                steps.dedup();
                return Some(steps.join("\n"));
            }
            Self::Passphrase(_) => {
                "set `passphrase_file` in the configuration (at init \
                 `offline_passphrase_file` too), or type it on a terminal"
            }
            Self::Exposed { path, .. } => {
                return Some(format!(
                    "chmod 600 {}, and find out who read it (0400 and 0440 do, too; a container's \
                     secret: `mode: 0400` in Compose and Swarm, `defaultMode: 0400` in Kubernetes)",
                    quoted(path)
                ));
            }
            Self::Exec { .. } => {
                "repair it, and run the same command again: it tries the one that failed once more"
            }
            Self::BrokenContexts { path, .. } => {
                let path = quoted(path);
                return Some(format!(
                    "correct it, or: mv {path} {path}.before; on the CA's host: countersign init --recover"
                ));
            }
            Self::BrokenPair { repair, .. }
            | Self::Expired { repair, .. }
            | Self::NoKey { repair, .. }
            | Self::NoSvid { repair, .. }
            | Self::NotHandedOver { repair, .. }
            | Self::OldTrust { repair, .. }
            | Self::RefusedSvid { repair, .. }
            | Self::UnusableRecord { repair, .. }
            | Self::UnusableTrust { repair, .. } => repair,
            Self::Malformed { .. } => {
                "correct the file, or name another; then the same command again"
            }
            Self::NoCertificateOf(id) => {
                return Some(format!(
                    "countersign list --id 'spiffe://{}/*' shows who has one",
                    id.trust_domain()
                ));
            }
            Self::NoContext => {
                "`countersign init` on the CA's host makes a context, and where there is a CA already \
                 `countersign init --recover`; `--url` and a token file need none"
            }
            Self::NoHome => "export HOME",
            Self::NoLock(path) => {
                return Some(format!(
                    "look who put it there, remove {}, and run the same command again",
                    quoted(path)
                ));
            }
            Self::Taken(path) => {
                return Some(format!(
                    "fuser {} says who; then the same command again",
                    quoted(path)
                ));
            }
            Self::NoOfflineKeys(_) => {
                "put that folder back from where it is kept, and run the same command again"
            }
            Self::NoUrl => "add --url https://CA:8443, or export COUNTERSIGN_URL",
            Self::OperatorToken { .. } => {
                "type it on a terminal, or name its file: --token-file FILE; who added you prints \
                 another: countersign operator add NAME"
            }
            Self::OneStdin => "name a file for one of them: --token-file FILE, or --csr FILE",
            Self::OtherCa { config, fitting, .. } => {
                return Some(match fitting {
                    Some(name) => format!("the same command with --context {name}"),
                    None => format!(
                        "a context of that CA, with `serve` stopped: countersign init --recover \
                         --config {} --context NAME; or name the other CA's configuration",
                        quoted(config)
                    ),
                });
            }
            Self::NoPlace { .. } => {
                "make room there, or name another place; then the same command again: \
                 XDG_CONFIG_HOME=/FOLDER countersign init"
            }
            Self::NoPort(url) => {
                let url = url.trim_end_matches('0');
                return Some(format!("add --url {url}PORT, as `countersign serve` printed it"));
            }
            Self::OperatorName(_) => "the same command with another name, such as admin",
            Self::NotOurs { .. } => "choose another --out, or replace that file with --yes",
            Self::OtherFile { what, .. } => what.next_step().unwrap_or(A_CERTIFICATE),
            Self::OtherKey { .. } => "choose another --out, or make the request with that key",
            Self::OtherIdentity { .. } => "choose another --out, or replace it with --yes",
            Self::Read { path, source } => return Some(unread(path, source)),
            Self::RequestFile { path, .. } => {
                return Some(format!(
                    "openssl req -in {} -noout -text -verify shows what is in it, and `openssl req -new` \
                     makes another; a token is as good as before",
                    quoted(path)
                ));
            }
            Self::StaleCrl { path, .. } => {
                return Some(format!(
                    "the same command again once the CA answers; if nothing reads it: rm {}",
                    quoted(path)
                ));
            }
            Self::Stdout(_) => {
                "only what it says is lost, and what it was to do is done: let stdout go where there is \
                 room, and look before you do it again"
            }
            Self::Token { .. } => "countersign token create SPIFFE_ID --out FILE",
            Self::TrustFile { .. } => "countersign trust fetch URL --pin PIN --out FILE",
            Self::UnknownOperator { .. } => "countersign operator list",
            Self::Server { .. } => "name HOST:PORT of a server that speaks TLS and runs",
            Self::WrongPassphrase { from: From::Typed, .. } => {
                "the same command again, with the passphrase that was typed when the CA was made"
            }
            Self::WrongPassphrase { from: From::File { path, .. }, .. } => {
                return Some(format!(
                    "write the passphrase into {} that was there when the CA was made, or name its \
                     file in the configuration; then the same command again",
                    quoted(path)
                ));
            }
            Self::ZoneId(_) => "use an address that is not link-local, or a DNS name",
            Self::UnknownContext { name, .. } if name == "dev" => {
                "in another terminal: countersign dev; it makes that context while it runs"
            }
            Self::UnknownContext { .. } => {
                "choose one of them with --context NAME; `countersign context list` says where each leads"
            }
            _ => return None,
        };
        Some(step.to_owned())
    }
}

/// Where something else was named.
const A_CERTIFICATE: &str = "name a file that holds one: PEM, with -----BEGIN CERTIFICATE----- on a \
                             line of its own, or DER";

/// What the CA does not have, and where the right one is to be seen.
const NOT_FOUND: [(&str, &str); 3] = [
    ("there is no certificate", "countersign list shows the serial number of each"),
    ("there is no token", "countersign token list shows the id of each"),
    (
        "there is no trust state of that pin",
        "compare it with what an operator of that CA is shown: countersign trust pin",
    ),
];

/// About a file that was named and cannot be read.
fn unread(path: &Path, source: &std::io::Error) -> String {
    use std::io::ErrorKind::{IsADirectory, NotFound, PermissionDenied, TimedOut};
    let path = quoted(path);
    match source.kind() {
        IsADirectory => format!("name a file: ls -l {path}"),
        NotFound => "name a file that is there; then the same command again".to_owned(),
        PermissionDenied => format!("run it as a user who may read it: ls -l {path}"),
        TimedOut => {
            "start what writes into it, or name a file; then the same command again".to_owned()
        }
        _ => format!("look what it is, and name another: ls -lL {path}"),
    }
}

fn is_missing(source: &server::ConfigError) -> bool {
    let missing = std::io::ErrorKind::NotFound;
    matches!(source, server::ConfigError::Read { source, .. } if source.kind() == missing)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::args;
    use crate::passphrase::Fault;

    /// A step may have prose behind its command, but no option that the command does not know.
    #[test]
    fn every_command_that_is_named_to_users_can_be_typed() {
        let mut wrong = Vec::new();
        let mut seen = 0;
        for file in product_code() {
            for literal in literals(&fs::read_to_string(&file).unwrap()) {
                for command in commands_in(&literal) {
                    seen += 1;
                    if !can_be_typed(&command) {
                        wrong.push(format!("{}: {command}", file.display()));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(seen > 60, "only {seen} were found");
    }

    /// What is printed is typed again: a path is one word, whatever stands in it.
    #[test]
    fn every_path_in_a_step_is_one_word() {
        let path = || PathBuf::from("/a b/it's\n$HOME");
        let io = || std::io::Error::other("full");
        let errors = [
            Error::BrokenContexts { path: path(), why: String::new() },
            Error::Configuration {
                path: path(),
                source: Box::new(server::Config::parse("port = 7").unwrap_err()),
            },
            Error::ContextTaken { name: "a".into(), directory: path(), whose: "b".into() },
            Error::Exposed { path: path(), why: String::new() },
            Error::InTheWay { path: path(), why: String::new() },
            Error::KnownPassphrase { setting: "a", path: path(), fault: Fault::TooShort },
            Error::NewPassphrase { setting: "a", path: path(), fault: Fault::TooShort },
            Error::NoLock(path()),
            Error::NotInPlace { path: path().join("x") },
            Error::StaleCrl {
                path: path(),
                ended: time::OffsetDateTime::UNIX_EPOCH,
                source: Box::new(Error::Read { path: path(), source: io() }),
            },
            Error::Taken(path()),
        ];
        for error in errors {
            let step = error.next_step().unwrap();
            let word = r"$'/a b/it\'s\n$HOME";
            assert!(step.contains(word) && !step.contains("it's"), "{error:?}: {step}");
        }
    }

    /// What wakes somebody, and what they read then.
    #[test]
    fn every_command_of_the_alerts_and_of_the_readme_can_be_typed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (file, least) in [("README.md", 35), ("terraform/monitoring/alerts.yaml", 41)] {
            let text = fs::read_to_string(root.join(file)).unwrap().replace("\\\n", " ");
            let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default());
            let lines = lines.flat_map(|line| line.split(['"', '|', '{', '*', '…']));
            let commands: Vec<String> = lines.flat_map(commands_in).collect();
            assert!(commands.len() >= least, "{file}: only {} were found", commands.len());
            // A sentence may speak of a command by its name alone.
            let typed = commands.iter().filter(|command| command.contains(' '));
            let wrong: Vec<_> = typed.filter(|command| !can_be_typed(command)).collect();
            assert!(wrong.is_empty(), "{file}: {wrong:#?}");
        }
    }

    #[test]
    fn what_cannot_be_typed_is_found() {
        for (command, expected) in [
            ("rotate goes on with it", true),
            ("issue {} --out {} --attest token --token-file FILE --url {}", true),
            ("allow SPIFFE_ID", true),
            ("policy explain", false),
            ("revoke SERIAL", false),
            ("rotate --force", false),
            ("issuer prepare --config FILE, then", true),
        ] {
            assert_eq!(can_be_typed(command), expected, "{command}");
        }
        let text = "let a = \"see: `countersign status`; then countersign \\\n   rotate\";";
        let found: Vec<String> = literals(text).iter().flat_map(|it| commands_in(it)).collect();
        assert_eq!(found, ["status", "rotate"]);
    }

    /// Sources without tests; `dev` prints commands with the path of its executable.
    fn product_code() -> Vec<PathBuf> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut folders: Vec<PathBuf> = fs::read_dir(workspace)
            .unwrap()
            .map(|entry| entry.unwrap().path().join("src"))
            .filter(|path| path.is_dir())
            .collect();
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true if path.ends_with("dev") => {}
                    true => folders.push(path),
                    false if path.extension().is_some_and(|it| it == "rs") => files.push(path),
                    false => {}
                }
            }
        }
        files
    }

    /// The string literals before the tests of a file, with continued lines joined.
    fn literals(source: &str) -> Vec<String> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n").replace("'\"'", "' '");
        let mut found = Vec::new();
        let mut characters = code.chars().peekable();
        while let Some(c) = characters.next() {
            if c != '"' {
                continue;
            }
            let mut literal = String::new();
            while let Some(c) = characters.next().filter(|c| *c != '"') {
                match (c, characters.peek()) {
                    ('\\', Some('\n')) => {
                        while characters.next_if(|c| c.is_whitespace()).is_some() {}
                    }
                    ('\\', Some('n')) => {
                        characters.next();
                        literal.push('\n');
                    }
                    ('\\', Some(_)) => literal.extend(characters.next()),
                    (c, _) => literal.push(c),
                }
            }
            found.push(literal);
        }
        found
    }

    /// What stands behind `countersign`, where that is one of its commands, up to the end of the
    /// sentence or of the backticks.
    fn commands_in(text: &str) -> Vec<String> {
        let command = args::command();
        let behind = text.split("countersign ").skip(1);
        behind
            .filter(|rest| {
                let first =
                    rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
                command.find_subcommand(first).is_some()
            })
            .map(|rest| {
                let end = rest.find(['`', ';', ',', '(', ')', '\n']).unwrap_or(rest.len());
                let end = rest[..end].find(": ").unwrap_or(end);
                rest[..end].trim_end_matches([':', '.', ' ']).to_owned()
            })
            .collect()
    }

    fn can_be_typed(command: &str) -> bool {
        let command = command.split([',', ';']).next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        (1..=words.len()).rev().any(|length| {
            let (typed, prose) = words.split_at(length);
            !prose.iter().any(|word| word.starts_with("--")) && parses(typed)
        })
    }

    /// With something in the place of each word that stands for something.
    fn parses(words: &[&str]) -> bool {
        let open = words.iter().filter(|word| word.contains('{')).count();
        (0..CANDIDATES.len().pow(open as u32)).any(|mut chosen| {
            let words = words.iter().map(|word| match *word {
                "SPIFFE_ID" | "WHO" | "WHOM" => CANDIDATES[0],
                "SERIAL" => CANDIDATES[1],
                "DIR" | "FILE" => CANDIDATES[4],
                "NAME" => CANDIDATES[5],
                "PIN" => CANDIDATES[3],
                "URL" => CANDIDATES[2],
                word if word.contains('{') => {
                    let candidate = CANDIDATES[chosen % CANDIDATES.len()];
                    chosen /= CANDIDATES.len();
                    candidate
                }
                word => word.trim_matches('\''),
            });
            let line = std::iter::once("countersign").chain(words.collect::<Vec<_>>());
            args::command().try_get_matches_from(line).is_ok()
        })
    }

    const CANDIDATES: [&str; 7] = [
        "spiffe://pay.example/prod/a",
        "8f2c01",
        "https://ca.pay.internal:8443",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "some/path",
        "admin",
        "superseded",
    ];
}
