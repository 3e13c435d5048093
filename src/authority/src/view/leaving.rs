//! What may leave: of each leaf one certificate, as far as this process knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tlog::Hash;

use crate::attest::refused;
use crate::certificate::issuer::Issued;
use crate::error::Error;
use crate::sequencer::Completed;

/// What this process knows of the leaves that are not accounted for.
#[derive(Debug)]
pub(crate) struct Accounts {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the leaves' places.
    signing: HashMap<u64, Signing>,
    /// Leaves before this place are accounted for.
    accounted: u64,
}

/// How far the signing of a leaf came.
#[derive(Debug, Clone)]
pub(crate) enum Signing {
    /// It was logged here, and no certificate of it is stored.
    Begun,
    /// The certificate with this hash is stored: that left, or leaves.
    Stored(Hash),
    /// Whether this certificate was stored is unknown: the commit failed. It is stored again.
    Unsure(Arc<Issued>),
}

/// A stored certificate that leaves: it is that of its leaf, and no other one of it has left, as far as this
/// process knows: of what another stored, it knows that the row's certificate is the leaf's. Whatever shows a
/// certificate to anybody takes this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving<'a>(&'a [u8]);

impl<'a> Leaving<'a> {
    pub(crate) fn der(self) -> &'a [u8] {
        self.0
    }
}

impl Accounts {
    /// Where leaves before this place are accounted for.
    pub(crate) fn from(accounted: u64) -> Self {
        Self { known: Mutex::new(Known { accounted, ..Known::default() }) }
    }

    /// A leaf was logged here.
    pub(crate) fn begin(&self, place: u64) {
        let mut known = self.known();
        if place >= known.accounted {
            known.signing.entry(place).or_insert(Signing::Begun);
        }
    }

    /// A leaf's certificate that is stored leaves: none where another one of its leaf did.
    pub(crate) fn leave<'a>(&self, place: u64, certificate: &'a [u8]) -> Option<Leaving<'a>> {
        let hash = Hash::of(certificate);
        let mut known = self.known();
        if place < known.accounted {
            return Some(Leaving(certificate));
        }
        match known.signing.insert(place, Signing::Stored(hash)) {
            Some(Signing::Stored(first)) if first != hash => {
                known.signing.insert(place, Signing::Stored(first));
                tell_gone(place);
                None
            }
            _ => Some(Leaving(certificate)),
        }
    }

    /// What was signed of a leaf, where nobody knows whether it is stored.
    pub(crate) fn signed(&self, place: u64) -> Option<Arc<Issued>> {
        match self.of(place) {
            Some(Signing::Unsure(issued)) => Some(issued),
            _ => None,
        }
    }

    pub(crate) fn is_stored(&self, place: u64) -> bool {
        matches!(self.of(place), Some(Signing::Stored(_)))
    }

    pub(crate) fn is_accounted(&self, place: u64) -> bool {
        place < self.known().accounted
    }

    /// What came of storing a leaf's certificate.
    pub(crate) fn note(&self, issued: &Arc<Issued>, stored: &Result<Completed, Error>) {
        let place = issued.logged.leaf().leaf_index;
        let signing = match stored {
            Ok(Completed::Stored) => Signing::Stored(Hash::of(&issued.certificate)),
            // It was signed, though it never leaves: that nobody did is not said of it.
            Ok(Completed::Abandoned) | Err(_) => Signing::Unsure(Arc::clone(issued)),
            Ok(_) => return,
        };
        let held = &mut self.known().signing;
        if !matches!(held.get(&place), Some(Signing::Stored(_))) {
            held.insert(place, signing);
        }
    }

    pub(crate) fn of(&self, place: u64) -> Option<Signing> {
        self.known().signing.get(&place).cloned()
    }

    pub(crate) fn forget_before(&self, place: u64) {
        let mut known = self.known();
        known.accounted = known.accounted.max(place);
        known.signing.retain(|held, _| *held >= place);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_gone(place: u64) {
    tracing::error!(
        place,
        next_step = LOOK_FOR_WRITERS,
        "the certificate of a leaf was stored, and is not what stands there: it is not signed again"
    );
}

/// What was stored of a leaf is not there any more.
pub(crate) fn gone(place: u64) -> Error {
    tell_gone(place);
    let why = "a certificate was made of this request, and is not what stands in the database: \
               somebody else wrote there, and a second one is not signed";
    refused(why, ANOTHER_REQUEST)
}

/// It makes another certificate; a renewal of which nobody has shown anything is replaced so, too.
const ANOTHER_REQUEST: &str =
    "make a new request, with a new key, and a new token or another Idempotency-Key";
pub(crate) const LOOK_FOR_WRITERS: &str =
    "find out who writes to the CA's database beside the CA: nobody has to";
