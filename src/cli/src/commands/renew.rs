//! `renew`: the SVID in a directory, if it is due.

use std::path::{Path, PathBuf};

use api::{Attestation, BootstrapToken, IssuedCertificate, ProblemType, Secret};
use clap::Args;
use countersign::{AuthorityClient, Error as LibraryError};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::process::Command;

use super::Session;
use super::issue::{self, Attest};
use crate::clock;
use crate::context;
use crate::crl_file;
use crate::error::{Error, Refused};
use crate::exit::Exit;
use crate::files::{self, Lock};
use crate::installation::Installation;
use crate::pending::Line;
use crate::refused_svid::{Owner, ShownSvid, again_by_request, again_by_token};
use crate::renewal::Due;
use crate::report;
use crate::seen_log::SeenLog;
use crate::svid_directory::{CHAIN, KEY, RECORD, SvidDirectory};
use crate::svid_record::SvidRecord;
use crate::table;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
#[command(after_help = "\
Made for timers: exits 0 also when it is not due. It is due at a moment within
the window that the CA names, the same one at each call. After a failure, run
it again. crl.pem is refreshed each time.

An SVID that has expired, was revoked or lost its key renews nothing: where a
token's file is given, the identity attests again by it, with a new key; one
that is denied does not.")]
pub(crate) struct Arguments {
    /// Where `issue` put svid.pem, svid.key and svid.json
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only say whether it is due: 0 due, 1 not due, 2 or more failed
    #[arg(long)]
    check: bool,
    /// Run this by `sh -c` after the files were replaced
    #[arg(long, value_name = "CMD", conflicts_with = "check")]
    exec: Option<String>,
    /// How to prove who asks: by the SVID, and by the token if that cannot be; or by the token
    #[arg(long, value_enum, default_value_t = Attest::Auto, hide_possible_values = true)]
    #[arg(value_name = "auto|token")]
    attest: Attest,
    /// The one-time token's file, by which to attest again; - is stdin
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TOKEN_FILE", hide_env_values = true)]
    #[arg(required_if_eq("attest", "token"))]
    token_file: Option<PathBuf>,
}

/// What `--json` shows.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    NotDue {
        due: bool,
        #[serde(with = "time::serde::rfc3339")]
        due_at: OffsetDateTime,
    },
    Due {
        due: bool,
    },
    Renewed(Box<IssuedCertificate>),
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    if arguments.check {
        let due = check(arguments, session).await;
        return Ok(due.unwrap_or_else(|error| {
            report::error(&error);
            // 1 says "not due" here.
            Some(Exit::of(&error)).filter(|exit| *exit != Exit::Failed).unwrap_or(Exit::Usage)
        }));
    }
    renew(arguments, session).await?;
    Ok(Exit::Done)
}

async fn check(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let now = clock::now();
    let holder = Holder::open(SvidDirectory::at(&arguments.directory))?;
    if holder.record.not_after < now {
        session.output.note(format!("it expired at {}", table::time(holder.record.not_after)));
        session.output.show(&Outcome::Due { due: true }, |_| "due".to_owned())?;
        return Ok(Exit::Done);
    }
    let due = match holder.record.key_elsewhere {
        true => holder.named_window(now),
        false => {
            let client = holder.client(session)?;
            let mut seen = holder.seen_log(&client, session)?;
            holder.due(&client, &mut seen, session, now).await?
        }
    };
    match due {
        Due::Later(due_at) => {
            session.output.show(&Outcome::NotDue { due: false, due_at }, |_| not_due(due_at))?;
            Ok(Exit::Failed)
        }
        Due::Now => {
            session.output.show(&Outcome::Due { due: true }, |_| "due".to_owned())?;
            Ok(Exit::Done)
        }
    }
}

async fn renew(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let directory = SvidDirectory::at(&arguments.directory);
    Holder::open(directory.clone())?;
    let lock = directory.lock()?;
    // Read again: another process may have renewed it while this one waited for the lock.
    let holder = Holder::open(directory)?;
    let renewal = Renewal { arguments, session, now: clock::now() };
    if holder.record.key_elsewhere {
        return renewal.of_key_elsewhere(holder).await;
    }
    if arguments.attest == Attest::Token {
        let holder = holder.with_newest_trust(session).await;
        return renewal.attest_again(&holder, lock).await;
    }
    match renewal.by_svid(&holder, &lock).await {
        Ok(Step::Done(client)) => {
            drop(lock);
            renewal.finish(&holder, &client).await
        }
        Ok(Step::NotDue(client)) => {
            drop(lock);
            renewal.leave(&holder, &client).await
        }
        Err(cause) => match renewal.may_attest_again(&cause) {
            None => Err(cause),
            Some(token_file) => {
                session.output.warn(format!(
                    "{cause}: attesting again by the token in {}",
                    token_file.display()
                ));
                let holder = holder.with_newest_trust(session).await;
                renewal.attest_again(&holder, lock).await
            }
        },
    }
}

/// One run of `renew`.
struct Renewal<'a> {
    arguments: &'a Arguments,
    session: &'a Session,
    now: OffsetDateTime,
}

/// What came of asking with the SVID.
enum Step {
    /// Another is in place.
    Done(AuthorityClient),
    /// The same is good for longer.
    NotDue(AuthorityClient),
}

impl Renewal<'_> {
    async fn by_svid(&self, holder: &Holder, lock: &Lock) -> Result<Step, Error> {
        let session = self.session;
        holder.require_unexpired(self.now)?;
        // Whether it can be shown at all is known without asking anybody.
        context::pair(&holder.directory, &holder.again(session))?;
        let holder = &holder.clone().with_newest_trust(session).await;
        let client = holder.client(session)?;
        let mut seen = holder.seen_log(&client, session)?;
        let due = holder.due(&client, &mut seen, session, self.now).await?;
        seen.keep(session.output);
        if let Due::Later(due_at) = due {
            session.output.show(&Outcome::NotDue { due: false, due_at }, |_| not_due(due_at))?;
            return Ok(Step::NotDue(client));
        }
        let attestation = Attestation::Svid {};
        match self.install(holder, lock, &client, Line::Next, attestation).await {
            Err(Error::Library(error)) => Err(holder.explain(error, session).await),
            Err(error) => Err(error),
            Ok(()) => Ok(Step::Done(client)),
        }
    }

    /// Where a token is to be had, and proves what the SVID does not any more. Who is denied is
    /// denied with a token, too.
    fn may_attest_again(&self, cause: &Error) -> Option<&Path> {
        let may = match cause {
            Error::Expired { .. } | Error::BrokenPair { .. } => true,
            Error::NoSvid { missing, .. } => [CHAIN, KEY].contains(missing),
            Error::RefusedSvid { refused, .. } => *refused == Refused::Certificate,
            // It was revoked meanwhile, or its line was renewed twice. Who was denied meanwhile is told
            // who allows it.
            Error::Library(LibraryError::Authority(problem)) => {
                let next = problem.next_step.as_deref().unwrap_or_default();
                problem.problem_type == ProblemType::AttestationRefused && !next.contains(" allow ")
            }
            _ => false,
        };
        let token_file = self.arguments.token_file.as_deref().filter(|_| may)?;
        // The path of a service's environment, where a token was at its first start.
        (token_file == Path::new("-") || token_file.exists()).then_some(token_file)
    }

    async fn attest_again(&self, holder: &Holder, lock: Lock) -> Result<(), Error> {
        let session = self.session;
        let path = self.arguments.token_file.as_deref().expect("there is one");
        issue::warn_of_readers(path, session);
        let text = issue::read_token(path)?;
        let _: BootstrapToken =
            text.parse().map_err(|why| Error::Token { path: path.to_owned(), why })?;
        let client = holder.stranger(session)?;
        holder.seen_log(&client, session)?;
        let attestation = Attestation::Token { token: Secret::new(text.trim()) };
        self.install(holder, &lock, &client, Line::First, attestation).await?;
        session.output.note("attested again by the token: a new key, in a line of its own");
        drop(lock);
        self.finish(holder, &client).await
    }

    async fn install(
        &self,
        holder: &Holder,
        lock: &Lock,
        client: &AuthorityClient,
        line: Line,
        attestation: Attestation,
    ) -> Result<(), Error> {
        let (directory, session) = (&holder.directory, self.session);
        // Persisted before the files are replaced: a crash, or a command that fails, is made good by
        // the next run, else software would serve the old certificate until it expires.
        if self.arguments.exec.is_some() {
            files::replace(&directory.join(UNFINISHED), b"")?;
        }
        let url = holder.url(session);
        let installation = Installation { directory, lock, url, client, line };
        let (wish, held) = (&holder.record.wish, holder.held.clone());
        let issued = installation.run(wish, attestation, held, self.now).await?;
        let renewed = Outcome::Renewed(Box::new(issued.clone()));
        session.output.show(&renewed, |_| issue::summary(&issued, directory.path()))
    }

    /// After the files were replaced. The lock is free by now: the command may take its time, or be a
    /// `countersign` itself.
    async fn finish(&self, holder: &Holder, client: &AuthorityClient) -> Result<(), Error> {
        let (directory, output) = (&holder.directory, self.session.output);
        let crl = crl_file::keep(directory, client, output, self.now).await;
        execute(self.arguments, directory).await?;
        crl
    }

    async fn leave(&self, holder: &Holder, client: &AuthorityClient) -> Result<(), Error> {
        if holder.directory.read(UNFINISHED)?.is_some() {
            return self.finish(holder, client).await;
        }
        crl_file::keep(&holder.directory, client, self.session.output, self.now).await
    }

    /// Whoever has the key makes the next request: all that can be done here is to say when, whether
    /// it was revoked, and to refresh the CRL.
    async fn of_key_elsewhere(&self, holder: Holder) -> Result<(), Error> {
        let session = self.session;
        holder.require_unexpired(self.now)?;
        let client = holder.stranger(session)?;
        if let Some(listed) = holder.shown(session).listed_by_crl().await {
            return Err(listed);
        }
        let due = holder.named_window(self.now);
        let Some(due_at) = due.later().filter(|_| self.arguments.attest == Attest::Auto) else {
            let directory = holder.directory.path().to_owned();
            return Err(Error::NoKey { directory, repair: holder.again(session) });
        };
        session.output.show(&Outcome::NotDue { due: false, due_at }, |_| not_due(due_at))?;
        crl_file::keep(&holder.directory, &client, session.output, self.now).await
    }
}

async fn execute(arguments: &Arguments, directory: &SvidDirectory) -> Result<(), Error> {
    let Some(command) = &arguments.exec else { return Ok(()) };
    let status = Command::new("sh")
        .args(["-c", command])
        .status()
        .await
        .map_err(|source| Error::Read { path: "sh".into(), source })?;
    if !status.success() {
        return Err(Error::Exec { command: command.clone(), status });
    }
    files::remove_if_there(&directory.join(UNFINISHED))
}

/// An SVID that is there, and what is needed to renew it.
#[derive(Clone)]
struct Holder {
    directory: SvidDirectory,
    record: SvidRecord,
    held: HeldTrust,
}

impl Holder {
    fn open(directory: SvidDirectory) -> Result<Self, Error> {
        let record = directory.record()?.ok_or_else(|| Error::NoSvid {
            directory: directory.path().to_owned(),
            missing: RECORD,
            repair: format!(
                "countersign issue SPIFFE_ID --out {}",
                crate::shell::quoted(directory.path())
            ),
        })?;
        let held = HeldTrust::load(&directory, &record.trust_pin, &record.url)?;
        Ok(Self { directory, record, held })
    }

    fn url<'a>(&'a self, session: &'a Session) -> &'a str {
        session.options.url.as_deref().unwrap_or(&self.record.url)
    }

    /// The newest trust state that can be had.
    async fn with_newest_trust(mut self, session: &Session) -> Self {
        let url = self.url(session).to_owned();
        self.held = self.held.newest(&url, session.output).await;
        self
    }

    fn client(&self, session: &Session) -> Result<AuthorityClient, Error> {
        let credentials = context::pair(&self.directory, &self.again(session))?;
        let trust = self.held.trust.clone();
        Ok(AuthorityClient::new(self.url(session), trust, Some(credentials))?)
    }

    /// As somebody without an SVID.
    fn stranger(&self, session: &Session) -> Result<AuthorityClient, Error> {
        Ok(AuthorityClient::new(self.url(session), self.held.trust.clone(), None)?)
    }

    fn require_unexpired(&self, now: OffsetDateTime) -> Result<(), Error> {
        if self.record.not_after >= now {
            return Ok(());
        }
        Err(Error::Expired {
            directory: self.directory.path().to_owned(),
            not_after: self.record.not_after,
            repair: self.again_by(&self.record.url),
        })
    }

    /// What to type for another SVID.
    fn again(&self, session: &Session) -> String {
        self.again_by(self.url(session))
    }

    fn again_by(&self, url: &str) -> String {
        let (spiffe_id, directory) = (&self.record.wish.spiffe_id, &self.directory);
        match self.record.key_elsewhere {
            true => again_by_request(spiffe_id, directory, url),
            false => again_by_token(spiffe_id, directory, url),
        }
    }

    fn shown<'a>(&'a self, session: &'a Session) -> ShownSvid<'a> {
        let (directory, held, url) = (&self.directory, &self.held, self.url(session));
        ShownSvid { directory, held, url }
    }

    /// What the CA has against the SVID, if that is what an error says.
    async fn explain(&self, error: LibraryError, session: &Session) -> Error {
        self.shown(session).explain(error, Owner::Workload).await
    }

    fn named_window(&self, now: OffsetDateTime) -> Due {
        Due::within(&self.record.renewal, &self.record.serial_number, now)
    }

    /// What was seen of the CA's log, shown to it from now on.
    fn seen_log(&self, client: &AuthorityClient, session: &Session) -> Result<SeenLog, Error> {
        let seen = SeenLog::load(&self.directory, self.held.state(), session.output)?;
        seen.show(client);
        Ok(seen)
    }

    /// The CA may have pulled the window forward since; while it is away, the one it named when it
    /// issued the SVID stands. Whatever else it says is told: to be content until the window would
    /// hide a revocation for hours.
    async fn due(
        &self,
        client: &AuthorityClient,
        seen: &mut SeenLog,
        session: &Session,
        now: OffsetDateTime,
    ) -> Result<Due, Error> {
        let serial_number = &self.record.serial_number;
        let named = self.named_window(now);
        let asked = async {
            seen.compare(client, self.held.state(), session.output).await?;
            match named {
                Due::Now => Ok(named),
                Due::Later(_) => {
                    let window = client.renewal(serial_number).await?;
                    Ok(Due::within(&window, serial_number, now))
                }
            }
        };
        match asked.await {
            Ok(due) => Ok(due),
            Err(error) if is_away(&error) => {
                if named != Due::Now {
                    let what = "the CA was not asked for its newest window";
                    session.output.warn(format!("{what}: {error}"));
                }
                Ok(named)
            }
            Err(error) => Err(self.explain(error, session).await),
        }
    }
}

/// Whether nothing was said about the SVID.
fn is_away(error: &LibraryError) -> bool {
    match error {
        LibraryError::UnexpectedAnswer { status, .. } => *status >= 500,
        error => Exit::of_library(error) == Exit::Unreachable,
    }
}

fn not_due(due_at: OffsetDateTime) -> String {
    format!("not due until {}", table::time(due_at))
}

/// Says that `--exec` has not succeeded since the files were replaced.
const UNFINISHED: &str = "svid.exec.next";
