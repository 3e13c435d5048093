//! What goes wrong on this side of the network: in words, by exit code. What to type next is
//! `next_step`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use countersign::svid_folder::FolderError;
use identity::{Refusal, SerialNumber, SpiffeId, TextFault, TrustDomain};
use time::OffsetDateTime;

use crate::clock;
use crate::exit::Exit;
use crate::other_file::OtherFile;
use crate::passphrase_rules::{Fault, From as PassphraseFrom};
use crate::table;

/// What went wrong on this side of the network. The CA's problems are [`countersign::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The address is that of the CA's admin port.
    #[error(
        "{address} is the CA's admin port (/livez, /readyz, /metrics), without TLS: the API is {api}"
    )]
    AdminPort { address: String, api: String, instead: String },
    /// The CA answered with something other than what was asked for.
    #[error("the CA's answer is not for this request: {0}")]
    Answer(&'static str),
    /// The list of contexts has another form.
    #[error("{} cannot be read: {why}", path.display())]
    BrokenContexts { path: PathBuf, why: String, forgotten: Vec<String> },
    /// The certificate and the key of a directory are of no use together.
    #[error("the certificate and the key in {} cannot be used together", directory.display())]
    BrokenPair { directory: PathBuf, source: Box<countersign::Error>, repair: String },
    /// A serial number is that of a CA's own certificate.
    #[error(
        "{serial} is the certificate of this CA's {key}, and not one that it issued to anybody"
    )]
    CaCertificate { serial: SerialNumber, key: &'static str },
    /// Stdout was closed, and what is to go there is shown once.
    #[error("stdout is closed: nobody would have what goes there, and nothing was made")]
    ClosedStdout,
    /// A subject of `inspect` or `verify` holds no certificate.
    #[error("{subject} holds no certificate: {why}")]
    Certificate { subject: String, why: String },
    /// The service's configuration cannot be used.
    #[error("{}", configuration(path, source))]
    Configuration { path: PathBuf, source: Box<server::ConfigError> },
    /// A file that the configuration names cannot be used.
    #[error("{key}: {}: {fault}", path.display())]
    ConfiguredFile { key: &'static str, path: PathBuf, fault: ConfiguredFault },
    /// A context's name becomes a folder's.
    #[error("{0:?} is no context's name: 1 to 255 letters, digits and . _ -, no . or - first")]
    ContextName(String),
    /// Key and SVID of somebody else are where an operator's would go.
    #[error("the context {name:?} is {whose}")]
    ContextTaken { name: String, directory: PathBuf, whose: String },
    /// The command after `--exec` failed.
    #[error("the SVID was renewed, but `{command}` failed with {status}")]
    Exec { command: String, status: ExitStatus },
    /// A secret's file is open to others, or no file.
    #[error("{setting}: {}: {why}", path.display())]
    Exposed { setting: &'static str, path: PathBuf, why: String },
    /// An SVID has expired, so that it can renew nothing.
    #[error(
        "the SVID in {} expired at {}; by this machine's clock it is {}",
        directory.display(), table::time(*not_after), table::time(clock::now())
    )]
    Expired { directory: PathBuf, not_after: OffsetDateTime, repair: String },
    /// The folder of an SVID, or another of ours.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Something stands where a file of ours would.
    #[error("{} cannot be replaced: {why}", path.display())]
    InTheWay { path: PathBuf, why: String },
    /// The list does not name a context whose folder is there.
    #[error("no context is called {0:?}, but one was: its folder is there")]
    ForgottenContext(String),
    /// rcgen could not make a key or a request.
    #[error("no key or request can be made: {0}")]
    Key(rcgen::Error),
    /// Errors of the library: the network, the CA's problems, trust.
    #[error(transparent)]
    Library(#[from] countersign::Error),
    /// A file of ours has another form.
    #[error("{} cannot be read: {why}", path.display())]
    Malformed { path: PathBuf, why: String },
    /// No identity like this has a certificate.
    #[error("no certificate was issued to {0}")]
    NoCertificateOf(SpiffeId),
    /// There is no context to take the CA and the operator from; folders of some may be there.
    #[error("no context says which CA to ask, and who you are")]
    NoContext { forgotten: Vec<String> },
    /// None of the contexts is the current one: that was removed.
    #[error("no context is the current one, and none was named; known: {known}")]
    NoCurrentContext { known: String },
    /// Neither `XDG_CONFIG_HOME` nor `HOME` is set.
    #[error("there is no place for contexts: neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
    /// No temporary folder can be made.
    #[error("no folder can be made in {}", folder.display())]
    NoTemporary { folder: PathBuf, source: io::Error },
    /// A step needs the root or trust keys, and their folder is kept elsewhere.
    #[error("{} is not there: root and trust keys are in it", .0.display())]
    NoOfflineKeys(PathBuf),
    /// A policies folder has nothing in it.
    #[error("{} has no policy files (*.cedar, schema.cedarschema, workloads.json, profiles.json)", .0.display())]
    NoPolicies(PathBuf),
    /// An SVID was certified for a request, and whoever made that has its key.
    #[error("{} has no key: its SVID was issued for a request (--csr)", directory.display())]
    NoKey { directory: PathBuf, repair: String },
    /// A directory holds no SVID of ours.
    #[error("{} holds no SVID: there is no {missing}", directory.display())]
    NoSvid { directory: PathBuf, missing: &'static str, repair: String },
    /// What takes something away is wanted by nobody: there is no terminal to ask at, and no `--yes`.
    #[error("{what} Nobody was asked, because stdin is no terminal: nothing was done")]
    NobodyAsked { what: String },
    /// Nothing is made whose operator would have no place.
    #[error("no CA was made: there is no place for its operator's context {context:?}")]
    NoPlace { context: String, source: Box<Self> },
    /// What was made did not reach whom it is for.
    #[error("{made}, but {lost}")]
    NotHandedOver {
        made: String,
        lost: &'static str,
        #[source]
        source: anyhow::Error,
        repair: String,
    },
    /// The path of an operator's ID cannot bear this name.
    #[error("{0:?} is no operator's name: letters, digits and . _ -, one at least, and no / in it")]
    OperatorName(String),
    /// A CA that is given another port each time it starts.
    #[error("{0} names no port: `listen` of that CA has port 0, so that `serve` takes a free one")]
    NoPort(String),
    /// A context leads to a folder, and TOML is UTF-8.
    #[error("{} is not UTF-8: contexts.toml can name no folder there", path.display())]
    NoText { path: PathBuf },
    /// A token names no CA.
    #[error("which CA? a bootstrap token does not carry its URL")]
    NoUrl,
    /// The token of a new operator cannot be had, or has another form. It is never repeated.
    #[error("the token: {why}")]
    OperatorToken { why: String },
    /// Two files are to come from stdin.
    #[error("the token and the request cannot both come from stdin")]
    OneStdin,
    /// A trust state is older than one that was held before.
    #[error("{} is older than the trust state that was held", path.display())]
    OldTrust { path: PathBuf, source: identity::Error, repair: String },
    /// The configuration is one CA's, and the context another's.
    #[error("{} is the configuration of {ca}, but the context {context:?} is of {other}", config.display())]
    OtherCa { config: PathBuf, ca: String, context: String, other: String, fitting: Option<String> },
    /// A subject of `inspect` or `verify` is something else than a certificate.
    #[error("{subject} holds no certificate: it is {what}")]
    OtherFile { subject: String, what: OtherFile },
    /// A folder is for something else than a CA for development.
    #[error("{} is {used}: no `dev` begins there", directory.display())]
    NotForDev { directory: PathBuf, used: &'static str },
    /// A file of another kind stands where a result would.
    #[error("{} is there already, and is neither {wanted} nor empty: it stays", path.display())]
    NotOurs { path: PathBuf, wanted: OtherFile },
    /// The key in a directory is not that of the request.
    #[error("{} is another key than the request's", path.display())]
    OtherKey { path: PathBuf },
    /// An identity is another CA's.
    #[error("{id} is not in trust domain {ours}")]
    OtherDomain { id: SpiffeId, ours: TrustDomain },
    /// A directory is for something else than an SVID.
    #[error("{} is {used}: no SVID is kept there", directory.display())]
    OtherUse { directory: PathBuf, used: &'static str },
    /// The directory holds the SVID of somebody else.
    #[error("{} holds the SVID of {held} already", directory.display())]
    OtherIdentity { directory: PathBuf, held: SpiffeId },
    /// A file cannot be read.
    #[error("cannot read {}", named(path))]
    Read { path: PathBuf, source: io::Error },
    /// The CA takes an SVID no more.
    #[error("the CA refuses the SVID in {}: {why}", directory.display())]
    RefusedSvid { directory: PathBuf, refused: Refused, why: String, repair: String },
    /// The certificate request of `--csr`, or a trust state, breaks a rule.
    #[error(transparent)]
    Request(#[from] issuance::Error),
    /// A file that holds no certificate request as it must be.
    #[error("{}: {source}", path.display())]
    RequestFile { path: PathBuf, holds: Held, source: issuance::Error },
    /// The file of a new passphrase holds one that breaks a rule.
    #[error("{setting}: {}: {fault}", path.display())]
    NewPassphrase { setting: &'static str, path: PathBuf, fault: Fault },
    /// The file of a passphrase that keys were sealed by holds one that never sealed any.
    #[error("{setting}: {}: {fault}", path.display())]
    KnownPassphrase { setting: &'static str, path: PathBuf, fault: Fault },
    /// A passphrase cannot be had, or breaks a rule.
    #[error("{0}")]
    Passphrase(String),
    /// A server could not be reached for its certificate.
    #[error("no TLS handshake with {address}: {why}")]
    Server { address: String, why: String, speaks_tls: bool },
    /// No service is called so.
    #[error("{typed:?} is no path of a service: {why}")]
    ServicePath { typed: String, why: String },
    /// Several of them, found at once.
    #[error("{} faults\n{}", .0.len(), lines(.0))]
    Several(Vec<Self>),
    /// The CRLs beside an SVID have ended, and no newer ones can be had.
    #[error("{} ended at {}: by it, software accepts nobody", path.display(), table::time(*ended))]
    StaleCrl { path: PathBuf, ended: OffsetDateTime, source: Box<Self> },
    /// Stdout cannot be written.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// The text of a bootstrap token has another form. It is never repeated.
    #[error("{}: {why}", path.display())]
    Token { path: PathBuf, why: String, spiffe_id: SpiffeId },
    /// A trust state does not verify.
    #[error(transparent)]
    Trust(#[from] identity::Error),
    /// A file that holds no trust state of the pin.
    #[error("{}: {source}", path.display())]
    TrustFile { path: PathBuf, source: Box<Self> },
    /// A certificate from the CA fails the verification that peers will make.
    #[error("the new certificate was not installed, because peers would refuse it: {0}")]
    Unacceptable(#[from] Refusal),
    /// The context named is not there.
    #[error("there is no context {name:?}; known: {known}")]
    UnknownContext { name: String, known: String },
    /// No operator is called so.
    #[error("there is no operator {name:?}; known: {known}")]
    UnknownOperator { name: String, known: String },
    /// `svid.json` is not what was written.
    #[error("{} is not what countersign wrote: {why}", path.display())]
    UnusableRecord { path: PathBuf, why: String, repair: String },
    /// `trust.note` holds no trust state of the CA's.
    #[error("{} cannot be used: {why}", path.display())]
    UnusableTrust { path: PathBuf, why: String, repair: String },
    /// A passphrase opens none of the keys that it is for.
    #[error("key file {key} does not open with {from}")]
    WrongPassphrase { key: String, from: PassphraseFrom },
    /// A file cannot be written.
    #[error("cannot write {}", named(path))]
    Write { path: PathBuf, source: io::Error },
}

/// What is wrong with a file, or a folder, that the configuration names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfiguredFault {
    /// What stands in it cannot be used.
    #[error("{0}")]
    Contents(String),
    /// It is something else than a file of a secret's size, or than a folder.
    #[error("{0}")]
    Kind(String),
    /// It cannot be read.
    #[error("{0}")]
    Read(io::Error),
    /// It is in another encoding.
    #[error("{0}")]
    Text(TextFault),
}

/// What a file has in a certificate request's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Base64 without the lines that make PEM of it.
    Base64,
    /// A certificate.
    Certificate,
    /// A part of PEM, or of a request in DER.
    CutOff,
    /// Nothing.
    Empty,
    /// A private key.
    Key,
    /// Text in another encoding.
    Text(TextFault),
    /// Something else, or a request that breaks a rule.
    Unknown,
}

/// Whom the CA takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// This certificate: the identity may attest again.
    Certificate,
    /// The identity, until it is allowed again.
    Identity,
}

impl Error {
    /// What happened, and why, in a line: for warnings, which end no command.
    pub(crate) fn with_causes(&self) -> String {
        let mut told = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let why = error.to_string();
            if !told.contains(&why) {
                told = format!("{told}: {why}");
            }
            cause = error.source();
        }
        told
    }

    /// Whether nobody answered who is believed: whatever is asked next fares no better.
    pub(crate) fn is_of_who_answers(&self) -> bool {
        use countersign::Error::{Peer, Unreachable};
        matches!(self, Self::Library(Peer { .. } | Unreachable { .. }))
    }

    /// The same, about a workload: where a step of the CA's says SPIFFE_ID, that is whom it means.
    pub(crate) fn about(self, spiffe_id: &SpiffeId) -> Self {
        let Self::Library(countersign::Error::Authority(mut problem)) = self else { return self };
        let step = problem.next_step.take();
        problem.next_step = step.map(|step| step.replace("SPIFFE_ID", spiffe_id.as_str()));
        Self::Library(countersign::Error::Authority(problem))
    }

    /// The exit code that it ends the process with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Library(error) => Exit::of_library(error),
            Self::StaleCrl { source, .. } | Self::TrustFile { source, .. } => source.exit(),
            Self::AdminPort { .. }
            | Self::ClosedStdout
            | Self::Configuration { .. }
            | Self::BrokenContexts { .. }
            | Self::ConfiguredFile { .. }
            | Self::ContextName(_)
            | Self::ContextTaken { .. }
            | Self::Exposed { .. }
            | Self::Malformed { .. }
            | Self::ForgottenContext(_)
            | Self::NoContext { .. }
            | Self::NoCurrentContext { .. }
            | Self::NoHome
            | Self::NoPolicies(_)
            | Self::NotForDev { .. }
            | Self::NotOurs { .. }
            | Self::NoPort(_)
            | Self::NoText { .. }
            | Self::NoUrl
            | Self::NobodyAsked { .. }
            | Self::OperatorName(_)
            | Self::OneStdin
            | Self::OtherCa { .. }
            | Self::OtherIdentity { .. }
            | Self::OtherUse { .. }
            | Self::OperatorToken { .. }
            | Self::KnownPassphrase { .. }
            | Self::NewPassphrase { .. }
            | Self::ServicePath { .. }
            | Self::Several(_)
            | Self::OtherKey { .. }
            | Self::Passphrase(_)
            | Self::Request(_)
            | Self::RequestFile { .. }
            | Self::Token { .. }
            | Self::UnknownContext { .. } => Exit::Usage,
            Self::RefusedSvid { .. } => Exit::Refused,
            Self::Folder(error) => Exit::of_folder(error),
            Self::Server { .. } => Exit::Unreachable,
            Self::Answer(_)
            | Self::OldTrust { .. }
            | Self::Trust(_)
            | Self::Unacceptable(_)
            | Self::UnusableTrust { .. } => Exit::Unverified,
            _ => Exit::Failed,
        }
    }
}

/// A path; also one that nobody would see.
fn named(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "''".to_owned(),
        false => path.display().to_string(),
    }
}

/// Each on a line, by the number that its step has, too.
fn lines(errors: &[Error]) -> String {
    let numbered = errors.iter().zip(1..).map(|(error, n)| format!("{n}: {}", error.with_causes()));
    numbered.collect::<Vec<_>>().join("\n")
}

/// One that cannot be read is named by its own error.
fn configuration(path: &Path, source: &server::ConfigError) -> String {
    match source {
        server::ConfigError::Read { .. } => source.to_string(),
        _ => format!("{}: {source}", path.display()),
    }
}

/// The exit code of a failure: that of the innermost cause which has one.
pub(crate) fn exit_of(failure: &anyhow::Error) -> Exit {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<Error>() {
        Some(error) => Some(error.exit()),
        None => {
            let of_folder = || cause.downcast_ref().map(Exit::of_folder);
            cause.downcast_ref().map(Exit::of_library).or_else(of_folder)
        }
    };
    failure.chain().filter_map(of_cause).last().unwrap_or(Exit::Failed)
}

/// The library's error in a chain, whether or not one of ours holds it.
pub(crate) fn library_error(error: &anyhow::Error) -> Option<&countersign::Error> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Error>() {
        Some(Error::Library(library)) => Some(library),
        _ => cause.downcast_ref::<countersign::Error>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Problem, ProblemType};
    use countersign::Error as LibraryError;

    fn problem(problem_type: ProblemType) -> anyhow::Error {
        LibraryError::Authority(Box::new(Problem {
            problem_type,
            title: "title".into(),
            status: problem_type.status(),
            detail: "detail".into(),
            request_id: "1".into(),
            next_step: None,
            policies: vec![],
            rule: None,
        }))
        .into()
    }

    #[test]
    fn each_problem_of_the_ca_has_its_exit_code() {
        for &(kind, name, status) in ProblemType::ALL {
            let expected = match status {
                401 | 403 => Exit::Refused,
                429 | 503 => Exit::Unreachable,
                _ => Exit::Failed,
            };
            assert_eq!(exit_of(&problem(kind)), expected, "{name}");
        }
    }

    #[test]
    fn our_own_errors_keep_their_exit_code_below_context() {
        let error =
            anyhow::Error::new(Error::NoContext { forgotten: vec![] }).context("while listing");
        assert_eq!(exit_of(&error), Exit::Usage);
        assert_eq!(exit_of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }

    #[test]
    fn what_does_not_verify_exits_5() {
        let expired = Refusal::NoCertificate;
        assert_eq!(exit_of(&Error::Unacceptable(expired).into()), Exit::Unverified);
        let trust = LibraryError::from(identity::Error::PinSyntax);
        assert_eq!(exit_of(&trust.into()), Exit::Unverified);
    }
}
