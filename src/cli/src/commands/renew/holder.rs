//! An SVID's folder as `renew` finds it.

use countersign::svid_folder::{RECORD, SvidFolder};
use countersign::{AuthorityClient, Error as LibraryError};
use time::OffsetDateTime;

use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::refused_svid::{ShownSvid, again, again_by_request, another};
use crate::renewal::Due;
use crate::seen_log::SeenLog;
use crate::session::Session;
use crate::svid_folder;
use crate::svid_record::{SvidRecord, Wish};
use crate::trust::HeldTrust;

/// A directory, what its SVID is to say, and the CA that issues it.
pub(super) struct Place {
    pub(super) directory: SvidFolder,
    /// What the CA is verified by; none where only a token's pin names it.
    pub(super) held: Option<HeldTrust>,
    pub(super) url: String,
    pub(super) wish: Wish,
}

/// An SVID that is there, and what is needed to renew it.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) directory: SvidFolder,
    pub(super) record: SvidRecord,
    pub(super) held: HeldTrust,
}

impl Holder {
    pub(super) fn open(directory: SvidFolder, session: &Session) -> Result<Self, Error> {
        let again = || svid_folder::again(&directory, session.options.url.as_deref());
        let record = match svid_folder::record(&directory) {
            Err(Error::UnusableRecord { path, why, .. }) => {
                return Err(Error::UnusableRecord { path, why, repair: again() });
            }
            Ok(Some(record)) => record,
            Ok(None) => {
                svid_folder::require_no_other_use(&directory)?;
                let path = directory.path().to_owned();
                return Err(Error::NoSvid { directory: path, missing: RECORD, repair: again() });
            }
            Err(error) => return Err(error),
        };
        let held = HeldTrust::load(&directory, &record.trust_pin, &record.url)?;
        Ok(Self { directory, record, held })
    }

    pub(super) fn place(&self, session: &Session) -> Place {
        Place {
            directory: self.directory.clone(),
            held: Some(self.held.clone()),
            url: self.url(session).to_owned(),
            wish: self.record.wish.clone(),
        }
    }

    pub(super) fn url<'a>(&'a self, session: &'a Session) -> &'a str {
        session.options.url.as_deref().unwrap_or(&self.record.url)
    }

    /// The newest trust state that can be had.
    pub(super) async fn with_newest_trust(mut self, session: &Session) -> Self {
        let url = self.url(session).to_owned();
        self.held = self.held.newest(&url, session.output).await;
        self
    }

    pub(super) fn client(&self, session: &Session) -> Result<AuthorityClient, Error> {
        let credentials = context::pair(&self.directory, || self.again(session))?;
        let trust = self.held.trust.clone();
        Ok(AuthorityClient::new(self.url(session), trust, Some(credentials))?)
    }

    /// As somebody without an SVID.
    pub(super) fn stranger(&self, session: &Session) -> Result<AuthorityClient, Error> {
        Ok(AuthorityClient::new(self.url(session), self.held.trust.clone(), None)?)
    }

    pub(super) fn require_unexpired(&self, now: OffsetDateTime) -> Result<(), Error> {
        if self.record.not_after >= now {
            return Ok(());
        }
        Err(Error::Expired {
            directory: self.directory.path().to_owned(),
            not_after: self.record.not_after,
            repair: match self.record.wish.spiffe_id.operator_name() {
                Some(name) => another(name),
                None => self.again_by(&self.record.url),
            },
        })
    }

    /// What to type for another SVID.
    pub(super) fn again(&self, session: &Session) -> String {
        self.again_by(self.url(session))
    }

    fn again_by(&self, url: &str) -> String {
        let (spiffe_id, directory) = (&self.record.wish.spiffe_id, &self.directory);
        match self.record.key_elsewhere {
            true => again_by_request(spiffe_id, directory, url),
            false => again(spiffe_id, directory, url),
        }
    }

    pub(super) fn shown<'a>(&'a self, session: &'a Session) -> ShownSvid<'a> {
        let (directory, held, url) = (&self.directory, &self.held, self.url(session));
        ShownSvid { directory, held, url }
    }

    /// What the CA has against the SVID, if that is what an error says.
    pub(super) async fn explain(&self, error: LibraryError, session: &Session) -> Error {
        self.shown(session).explain(error).await
    }

    pub(super) fn named_window(&self, now: OffsetDateTime) -> Due {
        Due::within(&self.record.renewal, &self.record.serial_number, now)
    }

    /// What was seen of the CA's log, shown to it from now on.
    pub(super) fn seen_log(
        &self,
        client: &AuthorityClient,
        session: &Session,
    ) -> Result<SeenLog, Error> {
        let seen = SeenLog::load(&self.directory, self.held.state(), session.output)?;
        seen.show(client);
        Ok(seen)
    }

    /// The CA may have pulled the window forward since; while it is away, the one it named when it
    /// issued the SVID stands. Whatever else it says is told: to be content until the window would
    /// hide a revocation for hours.
    pub(super) async fn due(
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
    Exit::of_library(error) == Exit::Unreachable
}
