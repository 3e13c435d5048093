//! Where a CA's operator is at home on this machine: a context, and the folder of key and SVID. Nobody
//! is put into the place of another operator, or of another CA's.

use std::path::{Path, PathBuf};

use countersign::svid_folder::{Contents, KEY, SvidFolder};
use identity::{SpiffeId, TrustDomain, TrustPin};

use crate::contexts::{self, Contexts, MAX_NAME};
use crate::error::Error;
use crate::options::GlobalOptions;
use crate::own_svid::own_svid;
use crate::svid_folder;

/// A context's name, and its folder.
#[derive(Debug)]
pub(crate) struct OperatorPlace {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

/// Who is at home in a place.
enum Inhabitant {
    /// Nobody that anything says of.
    Nobody,
    /// An operator of this CA; none where the SVID is gone.
    OfThisCa(Option<SpiffeId>),
    /// Somebody of another CA.
    Stranger(String),
}

impl OperatorPlace {
    /// The place for the first operator of a CA that is to be made: one that nobody has.
    pub(crate) fn of_new_ca(
        trust_domain: &TrustDomain,
        options: &GlobalOptions,
    ) -> Result<Self, Error> {
        let name = options.context.clone().unwrap_or_else(|| trust_domain.to_string());
        let looked = Self::look(name.clone(), &|_| false, options);
        let (place, inhabitant) = looked.map_err(|error| match error {
            Error::Read { .. } => Error::NoPlace { context: name, source: Box::new(error) },
            error => error,
        })?;
        match inhabitant {
            Inhabitant::Nobody => Ok(place),
            Inhabitant::OfThisCa(_) => Err(place.taken("another CA's")),
            Inhabitant::Stranger(whose) => Err(place.taken(&whose)),
        }
    }

    /// Finds out whether context and SVID can be kept there, before there is a CA whose operator has
    /// no place.
    pub(crate) fn require_room(&self, options: &GlobalOptions) -> Result<(), Error> {
        let room = contexts::require_room(options).and_then(|()| {
            let directory = svid_folder::create(&self.directory)?;
            let lock = directory.lock()?;
            Ok(directory.require_room(&lock, &Contents::new())?)
        });
        room.map_err(|source| Error::NoPlace {
            context: self.name.clone(),
            source: Box::new(source),
        })
    }

    /// The place of an operator of a CA that there is: his own, or one that nobody has. It bears the
    /// trust domain's name, and his beside it where somebody else has that one.
    pub(crate) fn of_operator(
        operator: &SpiffeId,
        is_of_this_ca: &dyn Fn(&TrustPin) -> bool,
        options: &GlobalOptions,
    ) -> Result<Self, Error> {
        let domain = operator.trust_domain();
        let named = operator.operator_name().unwrap_or_default();
        let (first, other) = match &options.context {
            Some(name) => (name.clone(), None),
            None => {
                let both = format!("{domain}-{named}");
                let fits = both.len() <= MAX_NAME;
                (domain.to_string(), Some(if fits { both } else { named.to_owned() }))
            }
        };
        let mut refused = None;
        for name in [Some(first), other].into_iter().flatten() {
            let (place, inhabitant) = Self::look(name, is_of_this_ca, options)?;
            match inhabitant {
                Inhabitant::Nobody => return Ok(place),
                Inhabitant::OfThisCa(who) if who.as_ref().is_none_or(|it| it == operator) => {
                    return Ok(place);
                }
                Inhabitant::OfThisCa(who) => {
                    let whose = who.map(|who| who.to_string()).unwrap_or_default();
                    refused = Some(place.taken(&format!("that of {whose}")));
                }
                Inhabitant::Stranger(whose) => return Err(place.taken(&whose)),
            }
        }
        Err(refused.expect("there is a first name, and it was refused"))
    }

    fn look(
        name: String,
        is_of_this_ca: &dyn Fn(&TrustPin) -> bool,
        options: &GlobalOptions,
    ) -> Result<(Self, Inhabitant), Error> {
        contexts::require_name(&name)?;
        let contexts = Contexts::load(options)?;
        let context = contexts.all().find(|(other, ..)| *other == name).map(|(_, it, _)| it);
        let directory = match context {
            Some(context) => context.directory.clone(),
            None => contexts::folder(options)?.join(&name),
        };
        contexts::require_text(&directory)?;
        let who = own_svid(&directory).ok().map(|(who, _)| who);
        let pin = context.map(|context| context.trust_pin).or_else(|| recorded_pin(&directory));
        let inhabitant = match (context, pin) {
            (_, Some(pin)) if is_of_this_ca(&pin) => Inhabitant::OfThisCa(who),
            (Some(context), _) => Inhabitant::Stranger(format!("another CA's ({})", context.url)),
            (None, _) if directory.join(KEY).exists() => {
                let who = who.map_or_else(|| "an unknown".to_owned(), |who| who.to_string());
                Inhabitant::Stranger(format!("forgotten, and has {who}'s key"))
            }
            (None, _) => Inhabitant::Nobody,
        };
        Ok((Self { name, directory }, inhabitant))
    }

    fn taken(self, whose: &str) -> Error {
        let Self { name, directory } = self;
        Error::ContextTaken { name, directory, whose: whose.to_owned() }
    }
}

/// The ID of an operator of this name; refuses what makes none before anything is asked or made.
pub(crate) fn operator_id(trust_domain: &TrustDomain, name: &str) -> Result<SpiffeId, Error> {
    let id = SpiffeId::operator(trust_domain, name).ok();
    id.filter(|id| id.operator_name().is_some_and(|of| of == name))
        .ok_or_else(|| Error::OperatorName(name.to_owned()))
}

fn recorded_pin(directory: &Path) -> Option<TrustPin> {
    let record = svid_folder::record(&SvidFolder::at(directory).ok()?).ok()??;
    Some(record.trust_pin)
}
