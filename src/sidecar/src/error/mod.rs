//! What goes wrong in the library, told by whose fault it is, with what a person needs to act.

pub(crate) mod cause;
pub(crate) mod obstacle;

use std::io;
use std::path::PathBuf;

use api::{Problem, UNSURE};
use identity::{Refusal, SerialNumber, SpiffeId};
use rustls::AlertDescription;

use crate::error::cause::{
    BoxError, OtherServer, RefusedPeer, RefusedUs, find, refusal_by_peer, refused_peer, tls_error,
    verdict,
};
use crate::error::obstacle::{Obstacle, questions};

/// What went wrong, by whose fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CA refused the request, and says why.
    #[error("{}: {}{}", .0.title, .0.detail, next_step(.0))]
    Authority(Box<Problem>),
    /// What the caller gave cannot be used.
    #[error(transparent)]
    Configuration(ConfigurationFault),
    /// There is no connection, or no longer one, and no verdict on anybody.
    #[error(
        "the connection with {peer} failed: is it running, and does the network let you through?"
    )]
    Connection {
        /// The address or URL that was asked for.
        peer: String,
        /// Why.
        source: BoxError,
    },
    /// The CA ended the feed of revocations.
    #[error("the CA ended the feed of revocations; it is heard again in a moment")]
    FeedEnded,
    /// The feed of revocations cannot be believed.
    #[error(transparent)]
    Feed(#[from] identity::feed::FeedError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was kept of revocations does not verify, and is not used.
    #[error("the revocations kept in {} are not believed: {why}; they are asked for anew", path.display())]
    Kept {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// We cannot listen there.
    #[error("cannot listen on {address}: choose another address")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The files of an SVID are still those that were to be replaced.
    #[error(
        "nobody has renewed the files in {path} yet: is `countersign renew {path}` run?",
        path = directory.display()
    )]
    NotRenewed {
        /// Where they are.
        directory: PathBuf,
    },
    /// The new certificate names somebody else than the workload is.
    #[error("the new certificate is {found}'s, but this workload is {expected}: it is not used")]
    OtherIdentity {
        /// Who the workload is.
        expected: SpiffeId,
        /// Whom the certificate names.
        found: SpiffeId,
    },
    /// Our own certificate would be refused by our peers, so it is not shown to them.
    #[error("our own new certificate would be refused by our peers, so it is not used: {refusal}")]
    OwnCertificate {
        /// Why.
        refusal: Refusal,
    },
    /// The peer failed our verification. If it was connected already, it was cut off then.
    #[error(
        "{peer} is not to be trusted, and nothing is sent to it: {refusal}{}",
        advice(.refusal, .peer)
    )]
    Peer {
        /// Why.
        refusal: Refusal,
        /// The address or URL that led to it.
        peer: String,
    },
    /// The server refused our certificate; a TLS alert says no more than this.
    #[error("{url} refused our certificate: {}{}", refused_by(.alert), see_own(.serial_number.as_ref()))]
    Refused {
        /// The address or URL that led to it.
        url: String,
        /// The alert.
        alert: AlertDescription,
        /// The certificate that was refused, where it is known.
        serial_number: Option<SerialNumber>,
    },
    /// A trust state cannot be believed.
    #[error(transparent)]
    Trust(#[from] identity::Error),
    /// Something answered, but not as the CA does: perhaps a proxy, or another version.
    #[error("{url} answered with status {status}, but {fault}{}", doubt(*status))]
    UnexpectedAnswer {
        /// What was asked.
        url: String,
        /// The HTTP status of the answer.
        status: u16,
        /// What is wrong with it.
        fault: AnswerFault,
    },
    /// The server is another workload of ours: it received no request.
    #[error(
        "the server at {url} is {found}, not {expected}, and nothing was sent to it: correct the URL"
    )]
    UnexpectedServer {
        /// The URL that led to it.
        url: String,
        /// Who was to answer.
        expected: SpiffeId,
        /// Who did.
        found: SpiffeId,
    },
    /// No answer came: try again later.
    #[error("no answer from {url}: {}", questions(source.as_ref()))]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// The body of a peer's answer is of no use to whoever asked.
    #[error("the answer of {url} cannot be used: {fault}")]
    UnusableReply {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        fault: ReplyFault,
    },
}

/// What of the caller's input cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationFault {
    /// A chain of certificates cannot be parsed.
    #[error("the chain is no PEM of certificates")]
    Chain,
    /// A chain and a key do not belong together, or one of them is of no use.
    #[error("certificate and private key cannot be used together: {0}")]
    Credentials(rustls::Error),
    /// A value cannot stand in an HTTP header.
    #[error("{name} has a character that no HTTP header can carry: use letters and digits")]
    Header {
        /// Which header.
        name: &'static str,
    },
    /// A setting without default is missing.
    #[error("{variable} is not set, and a workload cannot start without it")]
    Missing {
        /// Its environment variable; the builder has a function for it.
        variable: &'static str,
    },
    /// No peers are named, and there is no default.
    #[error(
        "no peers are named: set COUNTERSIGN_PEERS to SPIFFE IDs separated by commas; one that ends \
         in / stands for all below it"
    )]
    NoPeers,
    /// A peer is not named by a whole SPIFFE ID.
    #[error("peers are whole SPIFFE IDs, such as spiffe://pay.example/prod/reports: {0}")]
    Peers(identity::Error),
    /// A group of peers has another form.
    #[error(
        "{given:?} is not spiffe://TRUST-DOMAIN/PATH/ with the slash at its end; to accept a whole \
         trust domain, say allow_whole_trust_domain"
    )]
    PeersBelow {
        /// What was given.
        given: String,
    },
    /// A setting has a value of another form.
    #[error("{variable} is {given:?}: {why}")]
    Malformed {
        /// Its environment variable.
        variable: &'static str,
        /// What it is set to.
        given: String,
        /// What it is to be.
        why: String,
    },
    /// A file holds no PEM, or not the PEM expected.
    #[error("{} is not the PEM file expected: {why}", path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The machine gives no randomness, so no key can be made.
    #[error("no key can be made: the machine gives no randomness")]
    Randomness,
    /// The TLS library refuses our configuration.
    #[error("TLS cannot be configured: {0}")]
    Tls(rustls::Error),
    /// An address or URL of a peer has another form.
    #[error("{given:?} cannot be connected to: {why}")]
    Target {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The URL of the CA has another form.
    #[error("{url:?} is not the URL of a CA, such as https://ca.pay.internal:8443: {why}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerFault {
    /// A failure without a problem of ours in it.
    #[error("without saying why in application/problem+json")]
    NoProblem,
    /// A web page: somebody else's server, or a proxy's own words.
    #[error("with a web page, of which the CA has none")]
    Page,
    /// It sends us elsewhere; the CA never does, and we do not go.
    #[error("sends us elsewhere, as the CA never does")]
    Redirect,
    /// A body of another form than the API's.
    #[error("its body has another form than this version of the API")]
    Shape,
    /// A body above the limit.
    #[error("its body is larger than 8 MiB")]
    TooLarge,
}

/// What is wrong with the body of a peer's answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyFault {
    /// No JSON, or not of the type wanted.
    #[error("its body is not the JSON expected: {0}")]
    NotJson(serde_json::Error),
    /// No text.
    #[error("its body is not UTF-8")]
    NotText,
    /// More than the caller takes.
    #[error("its body is larger than the {limit} bytes that are read; see Reply::with_limit")]
    TooLarge {
        /// How much is read.
        limit: usize,
    },
}

impl Error {
    /// Why nothing answered, where that is what went wrong and it is known.
    pub fn obstacle(&self) -> Option<Obstacle<'_>> {
        match self {
            Self::Unreachable { source, .. } | Self::Connection { source, .. } => {
                Obstacle::of(source.as_ref())
            }
            _ => None,
        }
    }

    /// Whether what was asked for may be done, and is asked for again: the answer was lost with the
    /// connection, or the CA waits for its disk. Whoever waited until time ran out decides themselves.
    pub(crate) fn leaves_unknown(&self) -> bool {
        match self {
            Self::Authority(problem) => problem.rule.as_deref() == Some(UNSURE),
            // What was never connected has no error of HTTP's.
            Self::Unreachable { source, .. } => {
                let exchange = find::<hyper::Error>(source.as_ref());
                exchange.is_some_and(|error| !error.is_timeout())
            }
            _ => false,
        }
    }

    /// Whether the same may succeed later: the CA is away, busy or in trouble.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Authority(problem) => problem.status == 429 || problem.status >= 500,
            Self::UnexpectedAnswer { status, .. } => *status >= 500,
            Self::Unreachable { .. } | Self::FeedEnded => true,
            // Our clock is behind the CA's; it is set, or time passes.
            Self::OwnCertificate { refusal: Refusal::NotYetValid { .. } } => true,
            _ => false,
        }
    }

    /// Explains why an exchange with the CA came to nothing.
    pub(crate) fn of_exchange(url: &str, source: BoxError) -> Self {
        let url = url.to_owned();
        match Self::of_handshake(&url, source.as_ref()) {
            Some(error) => error,
            None => Self::Unreachable { url, source },
        }
    }

    /// Explains why a connection with a peer came to nothing.
    pub(crate) fn of_connection(peer: String, source: BoxError) -> Self {
        match Self::of_handshake(&peer, source.as_ref()) {
            Some(error) => error,
            None => Self::Connection { peer, source },
        }
    }

    /// The verdict in an error: our verifier's words, or the other end's alert.
    fn of_handshake(peer: &str, source: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(&RefusedUs { alert, serial_number }) = find(source) {
            return Some(Self::Refused { url: peer.to_owned(), alert, serial_number });
        }
        let (error, peer) = (tls_error(source)?, peer.to_owned());
        if let Some(alert) = refusal_by_peer(error) {
            return Some(Self::Refused { url: peer, alert, serial_number: None });
        }
        if let Some(RefusedPeer { refusal, .. }) = refused_peer(error) {
            return Some(Self::Peer { refusal: refusal.clone(), peer });
        }
        let OtherServer { expected, found } = verdict(error)?;
        let (expected, found) = (expected.clone(), found.clone());
        Some(Self::UnexpectedServer { url: peer, expected, found })
    }
}

/// A failure of a server is told by a proxy, for one whom it cannot reach; the CA tells its own as
/// problems.
fn doubt(status: u16) -> &'static str {
    match status {
        500.. => {
            ": that is no answer of Countersign, but of what stands before it, a proxy perhaps"
        }
        _ => "; is it really the CA?",
    }
}

/// Who trusts another CA than the peer's has an old trust state, or is deceived.
fn advice(refusal: &Refusal, peer: &str) -> String {
    match refusal {
        // It is not the peer that is to be looked at.
        Refusal::StaleRevocations { .. } => {
            "; the log of this workload says why nothing is heard, or that it is cut off itself"
                .to_owned()
        }
        Refusal::UnknownAuthority(_) | Refusal::NotCountersigned(_) => {
            ". If the CA is new, compare the trust pin with the one that its operator names"
                .to_owned()
        }
        _ => {
            let address = peer.strip_prefix("https://").unwrap_or(peer);
            let address = address.split('/').next().unwrap_or(address);
            format!("; `countersign verify {address}` prints each rule")
        }
    }
}

/// RFC 8446 §6.2: what an alert says. Servers of ours name the rule where there is an alert for it.
fn refused_by(alert: &AlertDescription) -> String {
    let rule = match alert {
        AlertDescription::AccessDenied => "its identity is denied, or not among the peers there",
        AlertDescription::CertificateExpired => {
            "it has expired, or begins only later, by the clock there"
        }
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::UnknownCA => "it is of a CA that is not trusted there",
        _ => {
            return format!(
                "it may be revoked, expired or of another CA, or its identity not be among the \
                 peers there (TLS alert {alert:?}); the other end's diagnostics name the rule"
            );
        }
    };
    format!("{rule} (TLS alert {alert:?})")
}

fn see_own(serial_number: Option<&SerialNumber>) -> String {
    let see = |serial_number| {
        format!("; `countersign show {serial_number}` tells what the CA knows of the certificate")
    };
    serial_number.map(see).unwrap_or_default()
}

fn next_step(problem: &Problem) -> String {
    problem.next_step.as_ref().map(|step| format!("\n{step}")).unwrap_or_default()
}
