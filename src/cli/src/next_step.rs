//! What to type next: every error of this program that has a next step, in one place. Those of the CA
//! come with its problems.
//!
//! A step is another command, or says what to do before the same one. The test below reads the steps
//! of the whole workspace, the CA's included, and parses each command in them.

mod files;

use std::path::Path;

use countersign::{ConfigurationFault, Error as LibraryError, Obstacle};
use identity::{CountersignatureRule, Refusal};

use self::files::{
    in_configuration, in_the_way, instead_of_request, of_configuration, of_folder, unread,
    unwritten,
};
use crate::clock;
use crate::error::{Error, library_error};
use crate::passphrase_rules::From;
use crate::shell::quoted;
use crate::table;

/// What to type next after an error.
pub(crate) fn of(error: &anyhow::Error) -> Option<String> {
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let of_the_engine = || match error.downcast_ref::<authority::Error>()? {
        authority::Error::Halted(_) => Some(authority::HALTED_NEXT_STEP.to_owned()),
        authority::Error::Invalid { next_step, .. } => next_step.clone(),
        authority::Error::Unproven { .. } => Some(UNPROVEN.to_owned()),
        authority::Error::Unmade { .. } => Some(
            "make room there, or name another `state` in the configuration; then the same command \
             again: countersign init"
                .to_owned(),
        ),
        _ => None,
    };
    let of_the_service = || match error.downcast_ref::<server::ServerError>()? {
        server::ServerError::FewFiles { .. } => Some(MORE_FILES.to_owned()),
        server::ServerError::Listen { key, source, .. } => Some(elsewhere(key, source)),
        _ => None,
    };
    let of_the_folder = || of_folder(error.chain().find_map(|cause| cause.downcast_ref())?);
    let ours = ours.and_then(Error::next_step).or_else(of_the_folder);
    let ours = ours.or_else(of_the_engine).or_else(of_the_service);
    ours.or_else(|| match library_error(error)? {
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
        LibraryError::Trust(identity::Error::Sequence { .. }) => Some(PIN.to_owned()),
        LibraryError::Authority(problem) if problem.next_step.is_none() => {
            let known = NOT_FOUND.iter().find(|(what, _)| problem.detail.starts_with(what));
            known.map(|(_, step)| (*step).to_owned())
        }
        // Everybody else says so by `Error::RefusedSvid`, with what is known.
        LibraryError::Refused { .. } => {
            Some("`countersign show SERIAL`, by another operator".to_owned())
        }
        _ => None,
    })
}

/// What to do where an address cannot be listened on.
fn elsewhere(key: &str, source: &std::io::Error) -> String {
    use std::io::ErrorKind::{AddrNotAvailable, PermissionDenied};
    match source.kind() {
        AddrNotAvailable => format!(
            "`ip address` shows the addresses that this host has: choose one of them for `{key}` in \
             the configuration, or 0.0.0.0"
        ),
        PermissionDenied => format!(
            "choose another `{key}` in the configuration, with a port from 1024 on; or let the service \
             have CAP_NET_BIND_SERVICE"
        ),
        _ => format!("`ss -ltnp` shows who has it; or choose another `{key}` in the configuration"),
    }
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

/// What gets a file out of the way that only looks like the CA's.
pub(crate) const UNPROVEN: &str = "find out who wrote it, and compare the log with a checkpoint held \
    elsewhere (a workload's, svid.checkpoint); then, with `serve` stopped, `countersign init --recover \
    --lift-halt` sets it aside, which is logged";

impl Error {
    /// What to type next.
    pub(crate) fn next_step(&self) -> Option<String> {
        let step = match self {
            Self::CaCertificate { key: "root", .. } => {
                "`countersign key list` shows its key; where others may know that, another takes its \
                 place: countersign key prepare root"
            }
            Self::CaCertificate { .. } => {
                "`countersign key list` shows its key; where others may know that, another takes its \
                 place: countersign key prepare issuer"
            }
            Self::Certificate { .. } => A_CERTIFICATE,
            Self::ClosedStdout => "let stdout go where it is read, or name a place: --out",
            Self::NoTemporary { .. } => {
                "export TMPDIR=/FOLDER, one that is there and can be written; or name one that stays: \
                 countersign dev --state DIR"
            }
            Self::ServicePath { .. } => {
                "`countersign dev env /orders`, with the path of your service in the place of /orders"
            }
            Self::AdminPort { instead, .. } => {
                return Some(format!("the same command with {instead}"));
            }
            Self::ConfiguredFile { path, fault, .. } => return Some(in_configuration(path, fault)),
            Self::ContextName(_) => "--context NAME, such as the trust domain",
            Self::ContextTaken { name, directory, .. } => {
                let folder = quoted(directory);
                return Some(format!(
                    "keep it, and name another: the same command with --context NAME\nor, if nobody \
                     needs it: countersign context remove {name}; mv {folder} {folder}.before"
                ));
            }
            Self::Folder(error) => return of_folder(error),
            Self::InTheWay { path, .. } => return Some(in_the_way(path)),
            Self::Configuration { path, source } => return Some(of_configuration(path, source)),
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
                return Some(numbered(errors));
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
            Self::BrokenContexts { path, forgotten, .. } => {
                let path = quoted(path);
                let aside = format!("correct it, or: mv {path} {path}.before");
                return Some(match remembered(forgotten) {
                    Some(step) => format!("{aside}; then {step}"),
                    None => format!("{aside}; on the CA's host: countersign init --recover"),
                });
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
                    "`countersign list --id 'spiffe://{}/*'` shows who has one",
                    id.trust_domain()
                ));
            }
            Self::ForgottenContext(name) => return Some(format!("countersign context use {name}")),
            Self::NoContext { forgotten } if !forgotten.is_empty() => return remembered(forgotten),
            Self::NoContext { .. } => {
                "`countersign init` on the CA's host makes a context, and where there is a CA already \
                 `countersign init --recover`; `--url` and a token file need none"
            }
            Self::NoCurrentContext { .. } => {
                "`countersign context list` shows where each leads; choose one: countersign context use NAME"
            }
            Self::NoHome => "export HOME",
            Self::NoOfflineKeys(_) => {
                "put that folder back from where it is kept, and run the same command again"
            }
            Self::NoPolicies(folder) => {
                return Some(format!(
                    "`countersign policy shipped > {}` begins one with the policies that ship; beside \
                     it workloads.json says who may be whom",
                    quoted(&folder.join("countersign.cedar"))
                ));
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
            Self::NobodyAsked { .. } => "if that is wanted, the same command with --yes",
            Self::NoPlace { .. } => {
                "make room there, or name another place; then the same command again: \
                 XDG_CONFIG_HOME=/FOLDER countersign init"
            }
            Self::NoPort(url) => {
                let url = url.trim_end_matches('0');
                return Some(format!("add --url {url}PORT, as `countersign serve` printed it"));
            }
            Self::NoText { .. } => {
                "name a folder in UTF-8: export XDG_CONFIG_HOME=/FOLDER, and TMPDIR for a `dev`; then the \
                 same command again"
            }
            Self::OperatorName(_) => "the same command with another name, such as admin",
            Self::NotForDev { .. } => {
                "name another folder, or one that is not there yet: countersign dev --state DIR"
            }
            Self::NotOurs { .. } => "choose another --out, or replace that file with --yes",
            Self::OtherFile { subject, what } => {
                let step = what.next_step(Path::new(subject));
                return step.or_else(|| Some(A_CERTIFICATE.to_owned()));
            }
            Self::OtherKey { .. } => "choose another --out, or make the request with that key",
            Self::OtherIdentity { .. } => "choose another --out, or replace it with --yes",
            Self::OtherDomain { id, ours } => {
                return Some(format!(
                    "name one of it: {}{}; or ask the CA of that trust domain: --context NAME, which \
                     `countersign context list` shows",
                    ours.id(),
                    id.path()
                ));
            }
            Self::OtherUse { .. } => {
                "name another folder; nothing was asked for, and a token is as good as before"
            }
            Self::Read { path, source } => return Some(unread(path, source)),
            Self::RequestFile { path, holds, .. } => return Some(instead_of_request(path, *holds)),
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
            Self::Token { spiffe_id, .. } => {
                return Some(format!("countersign token create {spiffe_id} --out FILE"));
            }
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
            Self::Write { path, source } => return unwritten(path, source),
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

/// What takes up the folders again that contexts were of.
fn remembered(forgotten: &[String]) -> Option<String> {
    match forgotten {
        [] => None,
        [name] => Some(format!("`countersign context use {name}`: its folder is there")),
        names => Some(format!(
            "`countersign context use NAME` for each whose folder is there: {}",
            names.join(", ")
        )),
    }
}

/// What to do about each of several errors, by its number.
fn numbered(errors: &[Error]) -> String {
    let mut steps: Vec<(String, String)> = Vec::new();
    for (error, number) in errors.iter().zip(1..) {
        let Some(step) = error.next_step() else { continue };
        match steps.iter_mut().find(|(_, known)| *known == step) {
            Some((numbers, _)) => numbers.push_str(&format!(", {number}")),
            None => steps.push((number.to_string(), step)),
        }
    }
    let lines = steps.into_iter().map(|(numbers, step)| format!("{numbers}: {step}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Where something else was named.
const A_CERTIFICATE: &str = "name a file that holds one: PEM, with -----BEGIN CERTIFICATE----- on a \
                             line of its own, or DER";

const PIN: &str = "compare it with what an operator of that CA is shown: countersign trust pin";

const MORE_FILES: &str = "let it open 1024 or more, by whatever starts it: `LimitNOFILE=` of its systemd unit, \
    `--ulimit nofile=` of its container, /etc/security/limits.conf; then the same command again";

/// What the CA does not have, and where the right one is to be seen.
const NOT_FOUND: [(&str, &str); 3] = [
    ("there is no certificate", "`countersign list` shows the serial number of each"),
    ("there is no token", "`countersign token list` shows the id of each"),
    ("there is no trust state of that pin", PIN),
];

#[cfg(test)]
mod tests;
