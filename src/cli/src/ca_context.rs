//! The context of the CA that a configuration names: what is done on the CA's host is asked of the very
//! CA whose keys are at hand, whichever context is the current one.

use std::path::Path;

use authority::setup;
use countersign::svid_folder::SvidFolder;
use identity::{TrustDomain, TrustPin};
use server::Config;

use crate::carried;
use crate::context::held_trust;
use crate::contexts::{Context, Contexts};
use crate::error::Error;
use crate::options::GlobalOptions;
use crate::session::Session;
use crate::trust::HeldTrust;

/// The session with the context of this CA: the one that was named, else the current one, else another.
/// Refuses one of another CA. Nothing is written.
pub(crate) async fn session_of(
    file: &Path,
    config: &Config,
    session: &Session,
) -> anyhow::Result<Session> {
    let ca = Ca {
        file,
        trust_domain: &config.trust_domain,
        pin: setup::read_pin(&config.state)?.of_any_sequence(),
    };
    let contexts = Contexts::load(&session.options)?;
    let named = session.options.context.as_deref();
    if named.is_some() {
        let (name, context) = contexts.select(named)?;
        return match ca.is_asked_by(context, session).await {
            true => Ok(within(name, session)),
            false => Err(ca.other(name, context, ca.find(&contexts, session).await).into()),
        };
    }
    match ca.find(&contexts, session).await {
        Some(name) => {
            if contexts.select(None).is_ok_and(|(current, _)| current != name) {
                let shown = file.display();
                session.output.note(format!("context {name}: that of the CA of {shown}"));
                carried::keep_context(name);
            }
            Ok(within(name, session))
        }
        None => Err(match contexts.select(None) {
            Ok((name, context)) => ca.other(name, context, None),
            Err(error) => error,
        }
        .into()),
    }
}

fn within(name: &str, session: &Session) -> Session {
    let options = GlobalOptions { context: Some(name.to_owned()), ..session.options.clone() };
    Session { options, output: session.output }
}

/// A CA on this host.
struct Ca<'a> {
    file: &'a Path,
    trust_domain: &'a TrustDomain,
    /// Names the trust keys that it began with.
    pin: TrustPin,
}

impl Ca<'_> {
    /// A context of this CA, the current one before others.
    async fn find<'a>(&self, contexts: &'a Contexts, session: &Session) -> Option<&'a str> {
        let mut all: Vec<_> = contexts.all().collect();
        all.sort_by_key(|(.., is_current)| !is_current);
        for (name, context, _) in all {
            if self.is_asked_by(context, session).await {
                return Some(name);
            }
        }
        None
    }

    /// Whether a context is of this CA. Since it was made the CA's trust keys may be others: then the
    /// CA says which ones follow those of its pin, and is believed by their signatures.
    async fn is_asked_by(&self, context: &Context, session: &Session) -> bool {
        let is_same = |pin: &TrustPin| pin.of_any_sequence() == self.pin;
        let held = SvidFolder::at(&context.directory).map_err(Error::from);
        let held = held.and_then(|it| held_trust(context, &it));
        let Ok(held) = held else { return is_same(&context.trust_pin) };
        if held.state().trust_domain != *self.trust_domain {
            return false;
        }
        if is_same(&context.trust_pin) || is_same(&held.pin()) {
            return true;
        }
        let url = session.options.url.as_deref().unwrap_or(&context.url);
        let Ok(successor) = HeldTrust::fetch(url, &self.pin).await else { return false };
        let newest = held.newest(url, session.output).await;
        newest.pin().of_any_sequence() == successor.pin().of_any_sequence()
    }

    fn other(&self, name: &str, context: &Context, fitting: Option<&str>) -> Error {
        let held = SvidFolder::at(&context.directory).map_err(Error::from);
        let held = held.and_then(|it| held_trust(context, &it));
        let held = held.ok();
        let domain = held.map(|held| held.state().trust_domain.to_string());
        Error::OtherCa {
            config: self.file.to_owned(),
            ca: described(self.trust_domain.as_str(), &self.pin),
            context: name.to_owned(),
            other: described(domain.as_deref().unwrap_or(&context.url), &context.trust_pin),
            fitting: fitting.map(str::to_owned),
        }
    }
}

fn described(name: &str, pin: &TrustPin) -> String {
    format!("{name} (trust pin {})", pin.of_any_sequence())
}
