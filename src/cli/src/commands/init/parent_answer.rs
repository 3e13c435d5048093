//! `init --certificate`: what a CA elsewhere answered to the issuer's request. The first answer
//! finishes the CA; each later one changes the issuer's certificate alone.

use std::path::Path;

use authority::clock::SystemClock;
use authority::policy::PolicyError;
use authority::setup::{self, Certified, Change, EarlierEnd, ParentAnswer};
use identity::TrustPin;
use server::Config;

use super::{Arguments, place_of_operator, ready, without_operator};
use crate::ca_host;
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::session::Session;
use crate::table;

/// Takes it, and says what changed.
pub(super) async fn take(
    arguments: &Arguments,
    config: &Config,
    certificate: &Path,
    session: &Session,
) -> anyhow::Result<Exit> {
    let certificates = files::read(certificate)?;
    let passphrase = arguments.config.passphrase(config)?;
    let offline_passphrase = arguments.config.offline_passphrase(config)?;
    let earlier_end = match arguments.allow_earlier_end {
        true => EarlierEnd::Allowed,
        false => EarlierEnd::Refused,
    };
    let certified = setup::finish(
        &config.trust_domain,
        &config.state,
        &passphrase,
        &offline_passphrase,
        ParentAnswer { certificates: &certificates, names: &config.names, earlier_end },
        &SystemClock,
    )
    .await
    .map_err(|error| of_file(certificate, error))?;
    let Certified { store, keys, pin, change } = certified;
    if matches!(change, Change::Nothing { .. }) {
        tell_change(config, pin, change, session)?;
        return Ok(Exit::Done);
    }
    let authority = ca_host::engine(config, store.clone(), keys, pin).await?;
    // The policy set was put into force before anybody knew what the parent permits.
    if let Err(error @ PolicyError::NotPermitted { row, found }) =
        &authority.view.require_permitted_rows()
    {
        session.output.warn(format!("{error}\nnext: {}", found.next_step(row)));
    }
    if change != Change::Finished {
        authority.writer.sign_checkpoint().await?;
        tell_change(config, pin, change, session)?;
        return Ok(Exit::Done);
    }
    let ready = match place_of_operator(arguments, config, &*store, session).await {
        Ok(place) => ready(arguments, config, &authority, pin, &place, session).await,
        Err(nowhere) => Err(nowhere),
    };
    ready.map_err(|source| without_operator(config, source))
}

/// Says what became of the issuer's certificate. Operators keep what they have.
fn tell_change(
    config: &Config,
    pin: TrustPin,
    change: Change,
    session: &Session,
) -> Result<(), Error> {
    let (changed, until, told) = match change {
        Change::Finished => return Ok(()),
        Change::Nothing { until } => {
            ("nothing", until, "nothing changed: it is the issuer's certificate in use".to_owned())
        }
        Change::Renewed { before, until } => {
            let before = table::time(before);
            let told = format!("renewed, for the same key: the one before ends {before}");
            ("issuer", until, told)
        }
    };
    let until = table::time(until);
    session.output.show(
        &serde_json::json!({
            "changed": changed, "issuer_not_after": until, "trust_domain": config.trust_domain, "trust_pin": pin.to_string(),
        }),
        |_| format!("issuer     {told}\nuntil      {until}\ntrust pin  {pin}"),
    )?;
    session.output.note(
        "operators and trust stay as they are; an operator without a certificate: countersign init \
         --recover",
    );
    Ok(())
}

/// What is wrong with the certificates is wrong with their file.
fn of_file(path: &Path, error: authority::Error) -> authority::Error {
    match error {
        authority::Error::Invalid { why, next_step } => {
            authority::Error::Invalid { why: format!("{}: {why}", path.display()), next_step }
        }
        error => error,
    }
}
