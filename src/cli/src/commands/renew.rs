//! `renew`: the SVID in a directory, if it is due.

use std::path::PathBuf;

use api::{Attestation, IssuedCertificate};
use clap::Args;
use countersign::{AuthorityClient, Error as LibraryError};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::process::Command;

use super::{Session, issue};
use crate::clock;
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::installation::Installation;
use crate::pending::Line;
use crate::refused_svid::{Owner, ShownSvid, again_by_token};
use crate::renewal::Due;
use crate::report;
use crate::seen_log::SeenLog;
use crate::svid_directory::{RECORD, SvidDirectory};
use crate::svid_record::SvidRecord;
use crate::table;
use crate::trust::HeldTrust;

#[derive(Debug, Args)]
#[command(after_help = "\
Made for timers: exits 0 also when it is not due. It is due at a moment within
the window that the CA names, the same one at each call. After a failure, run
it again.")]
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
    let client = holder.client(session)?;
    let mut seen = holder.seen_log(&client, session)?;
    match holder.due(&client, &mut seen, session, now).await? {
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
    let now = clock::now();
    let directory = SvidDirectory::at(&arguments.directory);
    Holder::open(directory.clone())?;
    let lock = directory.lock()?;
    // Read again: another process may have renewed it while this one waited for the lock.
    let mut holder = Holder::open(directory.clone())?;
    holder.require_unexpired(now)?;
    let url = session.options.url.as_deref().unwrap_or(&holder.record.url);
    holder.held = holder.held.newest(url, session.output).await;
    let client = holder.client(session)?;
    let mut seen = holder.seen_log(&client, session)?;
    let due = holder.due(&client, &mut seen, session, now).await?;
    seen.keep(session.output);
    if let Due::Later(due_at) = due {
        session.output.show(&Outcome::NotDue { due: false, due_at }, |_| not_due(due_at))?;
        drop(lock);
        return match directory.read(UNFINISHED)? {
            Some(_) => execute(arguments, &directory).await,
            None => Ok(()),
        };
    }
    // Persisted before the files are replaced: a crash, or a command that fails, is made good by
    // the next run, else software would serve the old certificate until it expires.
    if arguments.exec.is_some() {
        files::replace(&directory.join(UNFINISHED), b"")?;
    }
    let installation = Installation {
        directory: &directory,
        lock: &lock,
        url: holder.url(session),
        client: &client,
        line: Line::Next,
    };
    let attestation = Attestation::Svid {};
    let wish = holder.record.wish.clone();
    let issued = installation.run(&wish, attestation, holder.held.clone(), now).await;
    let issued = match issued {
        Err(Error::Library(error)) => return Err(holder.explain(error, session).await),
        issued => issued?,
    };
    let renewed = Outcome::Renewed(Box::new(issued.clone()));
    session.output.show(&renewed, |_| issue::summary(&issued, directory.path()))?;
    // The command may take its time, or be a `countersign` itself.
    drop(lock);
    execute(arguments, &directory).await
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
            repair: format!("countersign issue SPIFFE_ID --out {}", directory.path().display()),
        })?;
        let held = HeldTrust::load(&directory, &record.trust_pin, &record.url)?;
        Ok(Self { directory, record, held })
    }

    fn url<'a>(&'a self, session: &'a Session) -> &'a str {
        session.options.url.as_deref().unwrap_or(&self.record.url)
    }

    fn client(&self, session: &Session) -> Result<AuthorityClient, Error> {
        let credentials = context::pair(&self.directory, &self.again_by_token())?;
        let trust = self.held.trust.clone();
        Ok(AuthorityClient::new(self.url(session), trust, Some(credentials))?)
    }

    fn require_unexpired(&self, now: OffsetDateTime) -> Result<(), Error> {
        if self.record.not_after >= now {
            return Ok(());
        }
        let path = self.directory.path();
        Err(Error::Expired {
            directory: path.to_owned(),
            not_after: self.record.not_after,
            repair: self.again_by_token(),
        })
    }

    fn again_by_token(&self) -> String {
        again_by_token(&self.record.wish.spiffe_id, &self.directory, &self.record.url)
    }

    /// What the CA has against the SVID, if that is what an error says.
    async fn explain(&self, error: LibraryError, session: &Session) -> Error {
        let (directory, held, url) = (&self.directory, &self.held, self.url(session));
        ShownSvid { directory, held, url }.explain(error, Owner::Workload).await
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
        let named = Due::within(&self.record.renewal, serial_number, now);
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
