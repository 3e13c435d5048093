//! `renew`: the SVID in a directory, if it is due.

mod holder;

use std::path::{Path, PathBuf};

use api::{Attestation, BootstrapToken, IssuedCertificate, ProblemType, Secret};
use clap::Args;
use countersign::svid_folder::{Lock, SvidFolder};
use countersign::{AuthorityClient, Error as LibraryError};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::process::Command;

use self::holder::{Holder, Place};
use super::issue::{self, Attest};
use crate::bundle_file;
use crate::clock;
use crate::context;
use crate::crl_file;
use crate::error::{Error, Refused, exit_of};
use crate::exit::Exit;
use crate::installation::Installation;
use crate::pending::Line;
use crate::renewal::Due;
use crate::report;
use crate::seen_log::SeenLog;
use crate::session::Session;
use crate::svid_folder::{self, Remains};
use crate::svid_record::Wish;
use crate::table;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
#[command(after_help = "\
Made for timers: exits 0 also when it is not due. It is due at a moment within
the window that the CA names, the same one at each call. After a failure, run
it again. crl.pem is fetched anew each time.

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
            Some(exit_of(&error)).filter(|exit| *exit != Exit::Failed).unwrap_or(Exit::Usage)
        }));
    }
    renew(arguments, session).await?;
    Ok(Exit::Done)
}

async fn check(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let now = clock::now();
    let holder = Holder::open(SvidFolder::at(&arguments.directory)?, session)?;
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
    let directory = SvidFolder::at(&arguments.directory)?;
    let renewal = Renewal { arguments, session, now: clock::now() };
    if let Err(cause) = Holder::open(directory.clone(), session)
        && (!directory.exists() || renewal.may_attest_again(&cause).is_none())
    {
        return Err(cause);
    }
    let lock = directory.lock()?;
    // Read again: another process may have renewed it while this one waited for the lock.
    let holder = match Holder::open(directory.clone(), session) {
        Ok(holder) => holder,
        Err(cause) => return renewal.begin_again(&directory, cause, lock).await,
    };
    bundle_file::restore(&holder.directory, holder.held.state(), session.output, &lock)?;
    if holder.record.key_elsewhere {
        return renewal.of_key_elsewhere(holder).await;
    }
    if arguments.attest == Attest::Token {
        let holder = holder.with_newest_trust(session).await;
        return renewal.attest_again(holder.place(session), lock).await;
    }
    match renewal.by_svid(&holder, &lock).await {
        Ok(Step::Done(client)) => {
            drop(lock);
            renewal.finish(&holder.directory, &client).await
        }
        Ok(Step::NotDue(client)) => {
            drop(lock);
            renewal.leave(&holder, &client).await
        }
        Err(cause) => match renewal.may_attest_again(&cause) {
            None => {
                drop(lock);
                renewal.fetch_crl_of_refused(&holder, &cause).await;
                Err(cause)
            }
            Some(_) => {
                renewal.told(&cause);
                let holder = holder.with_newest_trust(session).await;
                renewal.attest_again(holder.place(session), lock).await
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
        context::pair(&holder.directory, || holder.again(session))?;
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
        match self.install(&holder.place(session), lock, &client, Line::Next, attestation).await {
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
            Error::NoSvid { .. } | Error::UnusableRecord { .. } | Error::UnusableTrust { .. } => {
                true
            }
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
        let is_there = token_file == Path::new("-") || token_file.try_exists().unwrap_or(true);
        if !is_there {
            let path = token_file.display();
            self.session.output.warn(format!("there is no token in {path} to attest again by"));
        }
        is_there.then_some(token_file)
    }

    fn told(&self, cause: &Error) {
        let token_file = self.arguments.token_file.as_deref().unwrap_or_else(|| Path::new("-"));
        let by = token_file.display();
        self.session.output.warn(format!("{cause}: attesting again by the token in {by}"));
    }

    /// Where what tells the CA, or what is asked for, is lost: the token's pin, the URL that is given
    /// and the certificate's name are enough for another.
    async fn begin_again(
        &self,
        directory: &SvidFolder,
        cause: Error,
        lock: Lock,
    ) -> Result<(), Error> {
        if self.may_attest_again(&cause).is_none() {
            return Err(cause);
        }
        let session = self.session;
        let (wish, url) = match svid_folder::record(directory) {
            // Whoever has the key makes the next request.
            Ok(Some(record)) if record.key_elsewhere => return Err(cause),
            Ok(Some(record)) => (record.wish, Some(record.url)),
            Err(error) if !matches!(error, Error::UnusableRecord { .. }) => return Err(error),
            Ok(None) | Err(_) => {
                let remains = Remains::of(directory);
                let Some(spiffe_id) = remains.spiffe_id else { return Err(cause) };
                (Wish::only(spiffe_id), remains.url)
            }
        };
        let Some(url) = session.options.url.clone().or(url) else { return Err(Error::NoUrl) };
        self.told(&cause);
        let place = Place { directory: directory.clone(), held: None, url, wish };
        self.attest_again(place, lock).await
    }

    async fn attest_again(&self, place: Place, lock: Lock) -> Result<(), Error> {
        let session = self.session;
        let path = self.arguments.token_file.as_deref().expect("there is one");
        issue::warn_of_readers(path, session);
        let text = issue::read_token(path)?;
        let unusable = |why| {
            let spiffe_id = place.wish.spiffe_id.clone();
            Error::Token { path: path.to_owned(), why, spiffe_id }
        };
        let token: BootstrapToken = text.parse().map_err(unusable)?;
        let held = match place.held {
            Some(held) => held,
            None => HeldTrust::fetch(&place.url, token.pin()).await?,
        };
        let client = AuthorityClient::new(&place.url, held.trust.clone(), None)?;
        SeenLog::load(&place.directory, held.state(), session.output)?.show(&client);
        let attestation = Attestation::Token { token: Secret::new(text.trim()) };
        let place = Place { held: Some(held), ..place };
        self.install(&place, &lock, &client, Line::First, attestation).await?;
        session.output.note("attested again by the token: a new key, in a line of its own");
        drop(lock);
        self.finish(&place.directory, &client).await
    }

    async fn install(
        &self,
        place: &Place,
        lock: &Lock,
        client: &AuthorityClient,
        line: Line,
        attestation: Attestation,
    ) -> Result<(), Error> {
        let (Place { directory, url, wish, .. }, session) = (place, self.session);
        // Persisted before the files are replaced: a crash, or a command that fails, is made good by
        // the next run, else software would serve the old certificate until it expires.
        if self.arguments.exec.is_some() {
            directory.write(UNFINISHED, b"")?;
        }
        let installation = Installation { directory, lock, url, client, line };
        let held = place.held.clone().expect("a client was made by it");
        let issued = installation.run(wish, attestation, held, self.now).await;
        let issued = issued.map_err(|error| error.about(&wish.spiffe_id))?;
        let renewed = Outcome::Renewed(Box::new(issued.clone()));
        session.output.show(&renewed, |_| issue::summary(&issued, directory.path()))
    }

    /// After the files were replaced. The lock is free by now: the command may take its time, or be a
    /// `countersign` itself.
    async fn finish(&self, directory: &SvidFolder, client: &AuthorityClient) -> Result<(), Error> {
        let output = self.session.output;
        let crl = crl_file::keep(directory, client, output, self.now).await;
        execute(self.arguments, directory).await?;
        crl
    }

    async fn leave(&self, holder: &Holder, client: &AuthorityClient) -> Result<(), Error> {
        if holder.directory.read(UNFINISHED)?.is_some() {
            return self.finish(&holder.directory, client).await;
        }
        crl_file::keep(&holder.directory, client, self.session.output, self.now).await
    }

    /// The CRL is anybody's: the service that is refused goes on, and looks whom it may trust. A CA
    /// that is away, or not believed, is not asked twice.
    async fn fetch_crl_of_refused(&self, holder: &Holder, cause: &Error) {
        if cause.exit() == Exit::Unreachable || cause.is_of_who_answers() {
            return;
        }
        let Ok(stranger) = holder.stranger(self.session) else { return };
        let output = self.session.output;
        // What refuses the SVID is the error of this run.
        if let Err(stale) = crl_file::keep(&holder.directory, &stranger, output, self.now).await {
            output.warn(stale.with_causes());
        }
    }

    /// Whoever has the key makes the next request: all that can be done here is to say when, whether
    /// it was revoked, and to fetch the CRL.
    async fn of_key_elsewhere(&self, holder: Holder) -> Result<(), Error> {
        let session = self.session;
        let client = holder.stranger(session)?;
        let refused = match holder.require_unexpired(self.now) {
            Ok(()) => holder.shown(session).listed_by_crl().await,
            Err(expired) => Some(expired),
        };
        if let Some(refused) = refused {
            self.fetch_crl_of_refused(&holder, &refused).await;
            return Err(refused);
        }
        let due = holder.named_window(self.now);
        let Some(due_at) = due.later().filter(|_| self.arguments.attest == Attest::Auto) else {
            let directory = holder.directory.path().to_owned();
            let no_key = Error::NoKey { directory, repair: holder.again(session) };
            self.fetch_crl_of_refused(&holder, &no_key).await;
            return Err(no_key);
        };
        session.output.show(&Outcome::NotDue { due: false, due_at }, |_| not_due(due_at))?;
        crl_file::keep(&holder.directory, &client, session.output, self.now).await
    }
}

async fn execute(arguments: &Arguments, directory: &SvidFolder) -> Result<(), Error> {
    let Some(command) = &arguments.exec else { return Ok(()) };
    let status = Command::new("sh")
        .args(["-c", command])
        .status()
        .await
        .map_err(|source| Error::Read { path: "sh".into(), source })?;
    if !status.success() {
        return Err(Error::Exec { command: command.clone(), status });
    }
    Ok(directory.remove(UNFINISHED)?)
}

fn not_due(due_at: OffsetDateTime) -> String {
    format!("not due until {}", table::time(due_at))
}

/// Says that `--exec` has not succeeded since the files were replaced.
const UNFINISHED: &str = "svid.exec.next";
