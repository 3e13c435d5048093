//! A context, opened: the CA's client, with the operator's credentials.

use std::path::PathBuf;
use std::sync::Arc;

use api::{Attestation, ProblemType};
use countersign::svid_folder::{CHAIN, KEY, RECORD, SvidFolder};
use countersign::{AuthorityClient, Credentials, Error as LibraryError};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::bundle_file;
use crate::chain;
use crate::clock;
use crate::contexts::{Context, Contexts};
use crate::error::Error;
use crate::installation::Installation;
use crate::own_svid::{OwnSvid, after_loss};
use crate::pending::Line;
use crate::refused_svid::ShownSvid;
use crate::renewal::Due;
use crate::seen_log::{SeenLog, WentBack};
use crate::session::Session;
use crate::shell;
use crate::svid_folder;
use crate::svid_record::SvidRecord;
use crate::table;
use crate::target::Target;
use crate::trust::HeldTrust;

/// What a command needs to ask the CA as the operator.
pub(crate) struct OpenContext {
    /// Shows the operator's SVID.
    pub(crate) client: AuthorityClient,
    /// The trust state that the CA was verified by.
    pub(crate) held: HeldTrust,
    /// The CA's URL.
    pub(crate) url: String,
    /// The log has lost what this context has seen of it.
    pub(crate) went_back: Option<WentBack>,
}

/// Opens the context that the options name, and renews the operator's SVID if half of its life is
/// gone. A renewal that fails is a warning while the SVID is valid.
pub(crate) async fn open(session: &Session) -> Result<OpenContext, Error> {
    let contexts = Contexts::load(&session.options)?;
    let (_, context) = contexts.select(session.options.context.as_deref())?;
    let url = session.options.url.as_deref().unwrap_or(&context.url);
    if url.ends_with(":0") {
        return Err(Error::NoPort(url.to_owned()));
    }
    let operator = Operator { directory: SvidFolder::at(&context.directory)?, context, url };
    // Before it asks for a newer trust state: without these, that leads nowhere.
    pair(&operator.directory, || after_loss(&operator.directory))?;
    operator.follow_trust(session).await?;
    operator.restore_bundle(session)?;
    operator.renew_if_due(session).await?;
    let (open, seen) = operator.open(session)?;
    let went_back = operator.compare_log(&open, seen, session).await?;
    Ok(OpenContext { went_back, ..open })
}

/// The folder of the context that the options name.
pub(crate) fn directory(session: &Session) -> Result<PathBuf, Error> {
    let contexts = Contexts::load(&session.options)?;
    let (_, context) = contexts.select(session.options.context.as_deref())?;
    Ok(context.directory.clone())
}

/// The trust state of the context that the options name; asks nobody.
pub(crate) fn trust(session: &Session) -> Result<HeldTrust, Error> {
    let contexts = Contexts::load(&session.options)?;
    let (_, context) = contexts.select(session.options.context.as_deref())?;
    held_trust(context, &SvidFolder::at(&context.directory)?)
}

/// The context's pin is the one that everything started from; `svid.json` has that of the newest
/// keys, replaced together with the note when a renewal follows their rotation. Its sequence counts
/// whichever names the keys: no state is taken that is older than one held before.
pub(crate) fn held_trust(context: &Context, directory: &SvidFolder) -> Result<HeldTrust, Error> {
    let (url, pin) = (&context.url, &context.trust_pin);
    let Some(record) = record(directory)? else { return HeldTrust::load(directory, pin, url) };
    let newest = record.trust_pin.of_any_sequence();
    HeldTrust::load(directory, &newest, url)
        // Where neither fits, another is to be fetched by the newest keys.
        .or_else(|error| HeldTrust::load(directory, pin, url).map_err(|_| error))?
        .require(directory, &record.trust_pin, url)
}

/// `svid.json` of a context's directory, which goes on without: by the pin that it started from.
fn record(directory: &SvidFolder) -> Result<Option<SvidRecord>, Error> {
    svid_folder::record(directory).map_err(|error| match error {
        Error::UnusableRecord { path, why, .. } => {
            let repair = format!("rm {}; then the same command again", shell::quoted(&path));
            Error::UnusableRecord { path, why, repair }
        }
        error => error,
    })
}

/// The certificate and the key in a directory; where one is missing, or they do not belong together,
/// the error says what makes new ones.
pub(crate) fn pair(
    directory: &SvidFolder,
    repair: impl Fn() -> String,
) -> Result<Arc<Credentials>, Error> {
    let folder = directory.path();
    let read = |missing| match directory.read(missing)? {
        Some(bytes) => Ok(Zeroizing::new(bytes)),
        None => Err(Error::NoSvid { directory: folder.to_owned(), missing, repair: repair() }),
    };
    let (chain, key) = (read(CHAIN)?, read(KEY)?);
    Credentials::parse(folder, &chain, &key).map_err(|source| Error::BrokenPair {
        directory: folder.to_owned(),
        source: Box::new(source),
        repair: repair(),
    })
}

struct Operator<'a> {
    directory: SvidFolder,
    context: &'a Context,
    url: &'a str,
}

impl Operator<'_> {
    fn open(&self, session: &Session) -> Result<(OpenContext, SeenLog), Error> {
        let held = held_trust(self.context, &self.directory)?;
        let credentials = pair(&self.directory, || after_loss(&self.directory))?;
        let client = AuthorityClient::new(self.url, held.trust.clone(), Some(credentials))?;
        let seen = SeenLog::load(&self.directory, held.state(), session.output)?;
        seen.show(&client);
        Ok((OpenContext { client, held, url: self.url.to_owned(), went_back: None }, seen))
    }

    /// The first question to the CA: whether the log still holds what was seen of it. An operator
    /// whose SVID is refused hears why, whatever the command.
    async fn compare_log(
        &self,
        OpenContext { client, held, .. }: &OpenContext,
        mut seen: SeenLog,
        session: &Session,
    ) -> Result<Option<WentBack>, Error> {
        match seen.compare(client, held.state(), session.output).await {
            Ok(went_back) => {
                seen.keep(session.output);
                Ok(went_back)
            }
            Err(error) => Err(self.explain(error, held).await),
        }
    }

    async fn explain(&self, error: LibraryError, held: &HeldTrust) -> Error {
        let shown = ShownSvid { directory: &self.directory, held, url: self.url };
        shown.explain(error).await
    }

    /// Keys of the CA may have been replaced since the last command: the newest trust state is kept
    /// together with the pin of its keys.
    async fn follow_trust(&self, session: &Session) -> Result<(), Error> {
        let held = held_trust(self.context, &self.directory)?;
        let sequence = held.state().sequence;
        let newest = held.newest(self.url, session.output).await;
        if newest.state().sequence <= sequence {
            return Ok(());
        }
        let lock = self.directory.lock()?;
        let held = held_trust(self.context, &self.directory)?;
        if held.state().sequence >= newest.state().sequence {
            return Ok(());
        }
        // Without a record there is no place for the new pin: this state would be lost behind it.
        let Some(record) = svid_folder::record(&self.directory)? else { return Ok(()) };
        let mut contents = newest.contents();
        let record = SvidRecord { trust_pin: newest.pin(), ..record };
        contents.insert(RECORD, Zeroizing::new(record.to_json()));
        Ok(self.directory.replace(contents, &lock)?)
    }

    fn restore_bundle(&self, session: &Session) -> Result<(), Error> {
        let held = held_trust(self.context, &self.directory)?;
        if bundle_file::fault(&self.directory, held.state()).is_none() {
            return Ok(());
        }
        let lock = self.directory.lock()?;
        let held = held_trust(self.context, &self.directory)?;
        bundle_file::restore(&self.directory, held.state(), session.output, &lock)
    }

    async fn renew_if_due(&self, session: &Session) -> Result<(), Error> {
        let now = clock::now();
        let svid = OwnSvid::read(&self.directory)?;
        if svid.not_after < now {
            return Err(svid.expired(self.directory.path()));
        }
        if svid.due(now) != Due::Now {
            return Ok(());
        }
        match self.renew(session, now).await {
            Err(Error::Library(error @ LibraryError::Refused { .. })) => {
                let held = held_trust(self.context, &self.directory)?;
                Err(self.explain(error, &held).await)
            }
            // The command itself would say the same.
            Err(error) if error.is_of_who_answers() => Err(error),
            Err(error) => {
                session.output.warn(format!(
                    "your SVID was not renewed, and is valid until {}: {}",
                    table::time(svid.not_after),
                    error.with_causes()
                ));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn renew(&self, session: &Session, now: OffsetDateTime) -> Result<(), Error> {
        let lock = self.directory.lock()?;
        // Another process may have renewed it while this one waited for the lock.
        let svid = OwnSvid::read(&self.directory)?;
        if svid.due(now) != Due::Now {
            return Ok(());
        }
        let (OpenContext { client, held, .. }, _) = self.open(session)?;
        let wish = match svid_folder::record(&self.directory)? {
            Some(record) => record.wish,
            None => svid.wish(),
        };
        let installation = Installation {
            directory: &self.directory,
            lock: &lock,
            url: self.url,
            client: &client,
            line: Line::Next,
        };
        let renewed = installation.run(&wish, Attestation::Svid {}, held, now).await?;
        session
            .output
            .note(format!("renewed your SVID; valid until {}", table::time(renewed.not_after)));
        Ok(())
    }
}

/// What the CA has against a certificate's serial number, where that is one of its own: those of roots
/// and issuers are in no inventory.
pub(crate) fn about_serial(
    error: LibraryError,
    target: &Target,
    held: &HeldTrust,
    session: &Session,
) -> Error {
    let is_unknown = matches!(
        &error,
        LibraryError::Authority(problem) if problem.problem_type == ProblemType::NotFound
    );
    let Target::Serial(serial) = target else { return error.into() };
    let is_it = |der: &[u8]| {
        chain::read(der).is_ok_and(|it| chain::serial_number(&it).as_ref() == Some(serial))
    };
    let own = || {
        let pem = SvidFolder::at(directory(session)?)?.read(CHAIN)?.unwrap_or_default();
        Ok::<_, Error>(chain::parse(&pem).unwrap_or_default())
    };
    let anchors = &held.state().anchors;
    let key = match () {
        () if !is_unknown => return error.into(),
        () if anchors.iter().any(|anchor| is_it(anchor.certificate.as_bytes())) => "root",
        () if own().is_ok_and(|own| own.iter().skip(1).any(|der| is_it(der))) => "issuer",
        () => return error.into(),
    };
    Error::CaCertificate { serial: *serial, key }
}

/// Whether that is whoever acts by the context: the operator, or the certificate that is shown.
pub(crate) fn is_own(target: &Target, session: &Session) -> bool {
    own(session).is_ok_and(|own| match target {
        Target::Identity(id) => own.spiffe_id == *id,
        Target::Serial(serial) => own.serial_number.as_ref() == Some(serial),
    })
}

/// Whether that is the path of whoever acts by the context.
pub(crate) fn is_own_path(path: &str, session: &Session) -> bool {
    own(session).is_ok_and(|own| own.spiffe_id.path() == path)
}

fn own(session: &Session) -> Result<OwnSvid, Error> {
    OwnSvid::read(&SvidFolder::at(directory(session)?)?)
}
