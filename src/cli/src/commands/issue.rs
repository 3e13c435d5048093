//! `issue`: a certificate for a SPIFFE ID.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::{
    Attestation, BootstrapToken, IssueRequest, IssuedCertificate, RenewalWindow, Secret, Ttl,
};
use clap::{ArgGroup, Args, ValueEnum};
use countersign::AuthorityClient;
use countersign::svid_folder::{CHAIN, KEY, Lock, RECORD, SvidFolder};
use identity::{SpiffeId, TrustPin};
use issuance::DnsName;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::acceptance::{Asked, accept};
use crate::chain;
use crate::clock;
use crate::context;
use crate::crl_file;
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::installation::{Installation, idempotency_key};
use crate::output::require_stdout;
use crate::own_svid::BACKDATED;
use crate::pending::Line;
use crate::private_key;
use crate::session::Session;
use crate::svid_folder::{self, Remains};
use crate::svid_record::{SvidRecord, Wish};
use crate::table;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("destination").required(true).multiple(true))]
#[command(after_help = "\
Writes svid.pem, svid.key, bundle.pem, crl.pem, trust.note and svid.json (0600).
If the answer was lost, run the same command again: the CA gives the same
certificate. With --csr the key stays where it is, and the chain goes to stdout,
or with --out into the folder, with all but the key.")]
pub(crate) struct Arguments {
    /// Who the certificate names, spiffe://TRUST-DOMAIN/PATH
    spiffe_id: SpiffeId,
    /// Make a new key here, and put key and certificate here; with --csr the certificate
    #[arg(long, value_name = "DIR", group = "destination")]
    out: Option<PathBuf>,
    /// Certify the key of this request (PKCS#10, PEM or DER; - is stdin)
    #[arg(long, value_name = "FILE", group = "destination")]
    csr: Option<PathBuf>,
    /// How to prove who asks: with a token if one is given, else as the context's operator
    #[arg(long, value_enum, default_value_t = Attest::Auto, hide_possible_values = true)]
    #[arg(value_name = "auto|token")]
    attest: Attest,
    /// The one-time token's file; - is stdin
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TOKEN_FILE", hide_env_values = true)]
    #[arg(required_if_eq("attest", "token"))]
    token_file: Option<PathBuf>,
    /// Names the CA's trust keys; else the token's pin, or the context's
    #[arg(long, value_name = "PIN", env = "COUNTERSIGN_TRUST_PIN", hide_env_values = true)]
    trust_pin: Option<TrustPin>,
    /// A DNS name beside the SPIFFE ID; may be repeated. Without any, and without --ip, those of the
    /// identity's row
    #[arg(long, value_name = "NAME", value_parser = DnsName::parse)]
    dns: Vec<DnsName>,
    /// An IP address beside the SPIFFE ID; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ip: Vec<IpAddr>,
    /// No DNS name and no IP address, whatever the identity's row lists
    #[arg(long, conflicts_with_all = ["dns", "ip"])]
    no_names: bool,
    /// The profile; else the CA's default
    #[arg(long)]
    profile: Option<String>,
    /// How long it shall be valid, such as 12h; else the profile's
    #[arg(long)]
    ttl: Option<Ttl>,
}

/// How to prove who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attest {
    Auto,
    Token,
}

/// An address as it may stand in a certificate: what one host calls its network means nothing there.
fn address(text: &str) -> Result<IpAddr, String> {
    match text.contains('%') {
        true => Err("zone ids (%eth0) are not supported: no certificate has one".to_owned()),
        false => text.parse().map_err(|error: std::net::AddrParseError| error.to_string()),
    }
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let is_stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    if is_stdin(&arguments.csr) && is_stdin(&arguments.token_file) {
        return Err(Error::OneStdin.into());
    }
    let asker = Asker::find(&arguments, session).await?;
    let Arguments { spiffe_id, dns, ip, no_names: nameless, profile, ttl, out, csr, .. } =
        arguments;
    let wish = Wish { spiffe_id, dns, ip, nameless, profile, ttl };
    let done = match (csr, out) {
        (Some(csr), out) => asker.certify(&csr, out.as_deref(), &wish, session).await,
        (None, out) => {
            let out = out.expect("clap demands one of --out and --csr");
            asker.install(&out, &wish, session).await
        }
    };
    done.map_err(|error| error.about(&wish.spiffe_id))?;
    Ok(Exit::Done)
}

/// Who asks which CA.
struct Asker {
    client: AuthorityClient,
    held: HeldTrust,
    attestation: Attestation,
    url: String,
}

impl Asker {
    async fn find(arguments: &Arguments, session: &Session) -> Result<Self, Error> {
        match &arguments.token_file {
            Some(path) => Self::with_token(path, arguments, session).await,
            None => Self::as_operator(arguments.trust_pin, session).await,
        }
    }

    /// URL and token are enough: the pin comes with the token, the trust state with the pin, and
    /// only a CA that it vouches for is shown the token.
    async fn with_token(
        path: &Path,
        Arguments { spiffe_id, trust_pin, .. }: &Arguments,
        session: &Session,
    ) -> Result<Self, Error> {
        let url = session.options.url.clone().ok_or(Error::NoUrl)?;
        warn_of_readers(path, session);
        let text = read_token(path)?;
        let unusable = |why| {
            let (path, spiffe_id) = (path.to_owned(), spiffe_id.clone());
            Error::Token { path, why, spiffe_id }
        };
        let token: BootstrapToken = text.parse().map_err(unusable)?;
        let pin = trust_pin.unwrap_or_else(|| *token.pin());
        let held = HeldTrust::fetch(&url, &pin).await?;
        let client = AuthorityClient::new(&url, held.trust.clone(), None)?;
        let attestation = Attestation::Token { token: Secret::new(text.trim()) };
        Ok(Self { client, held, attestation, url })
    }

    /// A pin given beside the context's must name the same keys.
    async fn as_operator(trust_pin: Option<TrustPin>, session: &Session) -> Result<Self, Error> {
        if let Some(pin) = &trust_pin {
            HeldTrust::from_note(context::trust(session)?.note, pin)?;
        }
        let open = context::open(session).await?;
        Ok(Self {
            client: open.client,
            held: open.held,
            attestation: Attestation::Svid {},
            url: open.url,
        })
    }

    async fn install(self, out: &Path, wish: &Wish, session: &Session) -> Result<(), Error> {
        let (directory, lock) = place(out, wish, session)?;
        let installation = Installation {
            directory: &directory,
            lock: &lock,
            url: &self.url,
            client: &self.client,
            line: Line::First,
        };
        let now = clock::now();
        let issued = installation.run(wish, self.attestation, self.held, now).await?;
        session.output.show(&issued, |issued| summary(issued, out))?;
        crl_file::begin(&directory, &self.client, session.output).await;
        session
            .output
            .note(format!("renew it with: countersign renew {}", crate::shell::quoted(out)));
        Ok(())
    }

    /// Certifies a key that stays with its owner.
    async fn certify(
        self,
        csr: &Path,
        out: Option<&Path>,
        wish: &Wish,
        session: &Session,
    ) -> Result<(), Error> {
        if out.is_none() {
            require_stdout()?;
        }
        let request = files::read_request(csr)?;
        for wish in request.unheeded() {
            note_unheeded(wish, session);
        }
        let place = out.map(|out| place(out, wish, session)).transpose()?;
        if let Some((directory, lock)) = &place {
            let mut written = self.held.contents();
            written.extend(own_key(directory, request.public_key())?.map(|key| (KEY, key)));
            directory.require_room(lock, &written)?;
        }
        let body = IssueRequest {
            // What stood around it in the file, a key perhaps, stays here.
            csr: identity::pem("CERTIFICATE REQUEST", request.der()),
            spiffe_id: Some(wish.spiffe_id.clone()),
            dns: (!wish.dns.is_empty() || wish.nameless)
                .then(|| wish.dns.iter().map(ToString::to_string).collect()),
            ip: Some(wish.ip.clone()).filter(|ip| !ip.is_empty()),
            profile: wish.profile.clone(),
            ttl: wish.ttl,
            attestation: self.attestation,
        };
        let now = clock::now();
        let issued = ask(&self.client, &body, now, session).await?;
        let sequence = issued.trust_sequence;
        let held = self.held.follow(sequence, &self.url).await?;
        let asked = Asked { spiffe_id: &wish.spiffe_id, public_key: request.public_key() };
        accept(&issued, &asked, &held.trust, now)?;
        if let Some(subject) = request.subject().filter(|it| subject_of(&issued) != *it) {
            note_unheeded(&format!("subject {subject}"), session);
        }
        let Some((directory, lock)) = place else {
            let shown = session.output.show(&issued, |issued| issued.chain.clone());
            return shown.map_err(|source| not_handed_over(&issued, source));
        };
        let record = SvidRecord::new(&issued, &wish.with(request.names()), &self.url, held.pin());
        let key_elsewhere = directory.read(KEY)?.map(Zeroizing::new).is_none();
        let record = SvidRecord { key_elsewhere, ..record };
        let mut contents = held.contents();
        contents.insert(CHAIN, Zeroizing::new(issued.chain.clone().into_bytes()));
        contents.insert(RECORD, Zeroizing::new(record.to_json()));
        directory.replace(contents, &lock)?;
        session.output.show(&issued, |issued| summary(issued, directory.path()))?;
        crl_file::begin(&directory, &self.client, session.output).await;
        Ok(())
    }
}

/// The log has it; whoever asked has not.
fn not_handed_over(issued: &IssuedCertificate, source: Error) -> Error {
    let IssuedCertificate { serial_number, spiffe_id, .. } = issued;
    Error::NotHandedOver {
        made: format!("the certificate {serial_number} of {spiffe_id} was issued"),
        lost: "did not get out of here",
        source: source.into(),
        repair: format!(
            "the same command again is given the same certificate; if nobody wants it: countersign \
             revoke {serial_number} --reason cessation-of-operation"
        ),
    }
}

/// The same request is answered alike for a day, so that a lost answer costs nothing. Once the
/// certificate that it was answered with is to be renewed, this is another wish for one.
async fn ask(
    client: &AuthorityClient,
    body: &IssueRequest,
    now: OffsetDateTime,
    session: &Session,
) -> Result<IssuedCertificate, Error> {
    let mut issued = client.issue(body, Some(&idempotency_key(body, None))).await?;
    let is_token = matches!(body.attestation, Attestation::Token { .. });
    for _ in 0..RENEWALS_A_DAY {
        let Some(at) = issued_at(&issued) else { break };
        match Answer::of(at, &issued.renewal, now) {
            Answer::New => break,
            // A token is good for one.
            Answer::Outdated if !is_token => {
                let key = idempotency_key(body, Some(&issued.serial_number));
                let next = client.issue(body, Some(&key)).await?;
                // It was issued once the one before was to be renewed; else it is this clock that is ahead.
                let is_later = issued_at(&next).is_some_and(|at| at >= issued.renewal.start);
                issued = next;
                if !is_later {
                    break;
                }
            }
            Answer::Given | Answer::Outdated => {
                session.output.note(format!(
                    "this is the certificate that was issued {} for this very request; the same \
                     command gets another from {} on, and a request with a new key at once",
                    table::distance(at, now),
                    table::time(issued.renewal.start),
                ));
                break;
            }
        }
    }
    Ok(issued)
}

/// What the certificate is that a request was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The answer to the same request before.
    Given,
    /// Issued now.
    New,
    /// The answer to the same request before, and to be renewed.
    Outdated,
}

impl Answer {
    fn of(issued_at: OffsetDateTime, renewal: &RenewalWindow, now: OffsetDateTime) -> Self {
        match () {
            () if now <= issued_at + CLOCKS_DIFFER => Self::New,
            () if now < renewal.start => Self::Given,
            () => Self::Outdated,
        }
    }
}

fn note_unheeded(wish: &str, session: &Session) {
    let why = "and certificates of this CA have none: its profile decides";
    session.output.note(format!("the request asks for {wish}, {why}"));
}

/// When a certificate was issued.
fn issued_at(issued: &IssuedCertificate) -> Option<OffsetDateTime> {
    let certificates = chain::parse(issued.chain.as_bytes()).ok()?;
    let leaf = chain::read(certificates.first()?).ok()?;
    Some(leaf.validity().not_before.to_datetime() + BACKDATED)
}

fn subject_of(issued: &IssuedCertificate) -> String {
    let certificates = chain::parse(issued.chain.as_bytes()).unwrap_or_default();
    let leaf = certificates.first().and_then(|der| chain::read(der).ok());
    leaf.map(|leaf| leaf.subject().to_string()).unwrap_or_default()
}

/// The folder for an SVID of this identity, held against others.
fn place(out: &Path, wish: &Wish, session: &Session) -> Result<(SvidFolder, Lock), Error> {
    let directory = svid_folder::create(out)?;
    let lock = directory.lock()?;
    // What is lost is made anew; whose it was still stands in the certificate.
    let held = match svid_folder::record(&directory) {
        Ok(Some(record)) => Some(record.wish.spiffe_id),
        Ok(None) | Err(Error::UnusableRecord { .. }) => Remains::of(&directory).spiffe_id,
        Err(error) => return Err(error),
    };
    if let Some(held) = held.filter(|held| *held != wish.spiffe_id && !session.options.yes) {
        return Err(Error::OtherIdentity { directory: out.to_owned(), held });
    }
    Ok((directory, lock))
}

/// A key that is there is the request's, or else certificate and key would not match. It stays.
fn own_key(directory: &SvidFolder, public_key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let Some(pem) = directory.read(KEY)?.map(Zeroizing::new) else { return Ok(None) };
    match private_key::public_key(&pem) {
        Ok(own) if own == public_key => Ok(Some(pem)),
        _ => Err(Error::OtherKey { path: directory.join(KEY) }),
    }
}

/// A token is never an argument: those are seen by every process of the host.
pub(crate) fn read_token(path: &Path) -> Result<Zeroizing<String>, Error> {
    let bytes = Zeroizing::new(files::read_or_stdin(path)?);
    files::text(&bytes, path).map(str::to_owned).map(Zeroizing::new)
}

/// A token counts once, for a short time, and a shell writes it with the mode that it has: whoever
/// could read it is told of, and not refused.
pub(crate) fn warn_of_readers(path: &Path, session: &Session) {
    let Ok(metadata) = path.metadata() else { return };
    if metadata.is_file() && metadata.mode() & 0o007 != 0 {
        session.output.warn(format!(
            "others on this host can read the token: chmod 600 {}, or umask 077 before",
            crate::shell::quoted(path)
        ));
    }
}

/// What was issued, and where it is.
pub(crate) fn summary(issued: &IssuedCertificate, directory: &Path) -> String {
    table::fields(&[
        ("SPIFFE ID", issued.spiffe_id.to_string()),
        ("names", names(issued)),
        ("serial", issued.serial_number.to_string()),
        ("valid until", table::time(issued.not_after)),
        ("renew from", table::time(issued.renewal.start)),
        ("log index", issued.log_index.to_string()),
        ("files", directory.display().to_string()),
    ])
}

/// The names beside the SPIFFE ID: by them clients know a server that speak no SPIFFE.
fn names(issued: &IssuedCertificate) -> String {
    let certificates = chain::parse(issued.chain.as_bytes()).unwrap_or_default();
    let leaf = certificates.first().and_then(|der| chain::read(der).ok());
    let names = leaf.as_ref().map(chain::names).unwrap_or_default();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The CA answers the same request alike for a day. A certificate of an hour is renewed some 36 times.
const RENEWALS_A_DAY: u32 = 48;
/// What was issued longer ago than clocks differ was not issued now.
const CLOCKS_DIFFER: Duration = Duration::MINUTE;

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn an_answer_of_before_stands_until_its_certificate_is_to_be_renewed() {
        let at = datetime!(2026-01-01 0:00 UTC);
        let start = at + Duration::hours(12);
        let window = RenewalWindow { start, end: at + Duration::hours(16) };
        for (now, expected) in [
            (at - Duration::hours(1), Answer::New),
            (at + Duration::MINUTE, Answer::New),
            (at + Duration::minutes(2), Answer::Given),
            (start - Duration::SECOND, Answer::Given),
            (start, Answer::Outdated),
            (at + Duration::hours(30), Answer::Outdated),
        ] {
            assert_eq!(Answer::of(at, &window, now), expected, "{now}");
        }
        // Of a life so short that it is to be renewed at once, one is enough.
        let window = RenewalWindow { start: at, end: at };
        assert_eq!(Answer::of(at, &window, at + Duration::SECOND), Answer::New);
    }
}
