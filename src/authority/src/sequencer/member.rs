//! What asks for a place in a transaction.

use std::sync::Arc;

use identity::{SerialNumber, SpiffeId};
use tlog::Hash;

use super::outcome::{Acted, Completed, Outcome, Standing, Unlogged};
use crate::event::{EventDraft, FOLDING, RESTRICTING};

/// One request for a place in the transaction.
#[derive(Debug, Clone)]
pub enum Member {
    /// An event with its effect.
    Act(Box<ActMember>),
    /// A certificate to log before it is signed.
    Certificate(Arc<CertificateMember>),
    /// A signed certificate to store before it leaves.
    Complete(CompleteMember),
    /// A signed CRL to store before it is served.
    Crl(CrlRow),
    /// What its caller has named, so that it is done once.
    Once(OnceMember),
    /// Whether this certificate was asked for before: it logs none.
    Precedent(Arc<CertificateMember>),
    /// Somebody is about to be told that nothing had to change: it is true if this still holds.
    Unchanged(AllowedUnder),
}

impl Member {
    /// Whether it grants nothing, whoever hears of it: it may be committed while no head is kept.
    pub(crate) fn only_restricts(&self) -> bool {
        match self {
            Self::Act(act) | Self::Once(OnceMember { member: Named::Act(act), .. }) => {
                RESTRICTING.contains(&act.event.kind())
            }
            _ => false,
        }
    }

    /// Whether it grants something by an event that the fold reads.
    pub(crate) fn grants_by_the_fold(&self) -> bool {
        match self {
            Self::Act(act) | Self::Once(OnceMember { member: Named::Act(act), .. }) => {
                let kind = act.event.kind();
                FOLDING.contains(&kind) && !RESTRICTING.contains(&kind)
            }
            _ => false,
        }
    }

    /// What it is answered by where it is to be decided anew; none where nothing was decided.
    pub(crate) fn moved(&self) -> Option<Outcome> {
        Some(match self {
            Self::Act(_) | Self::Once(OnceMember { member: Named::Act(_), .. }) => {
                Outcome::Act(Acted::Moved)
            }
            Self::Certificate(_) => Outcome::Certificate(Err(Unlogged::Moved)),
            Self::Complete(_) => Outcome::Complete(Completed::Moved),
            Self::Crl(_) => return None,
            Self::Precedent(_) => Outcome::Precedent(Some(Unlogged::Moved)),
            Self::Unchanged(_) | Self::Once(OnceMember { member: Named::Unchanged(_), .. }) => {
                Outcome::Unchanged(Standing::Moved)
            }
        })
    }

    /// How many entries of the log a renewal was decided from; none for whatever else.
    pub fn read_to(&self) -> Option<u64> {
        match self {
            Self::Certificate(certificate) | Self::Precedent(certificate) => {
                match certificate.consumes {
                    Consumes::Renewal { read_to, .. } => Some(read_to),
                    Consumes::Nothing | Consumes::Token { .. } => None,
                }
            }
            _ => None,
        }
    }
}

/// An event, what it does, and under which policy set it was authorised.
#[derive(Debug, Clone)]
pub struct ActMember {
    /// The event.
    pub event: EventDraft,
    /// What it does to the tables.
    pub effect: Effect,
    /// What it was allowed under; none for the engine's own acts.
    pub allowed_under: Option<AllowedUnder>,
}

/// An act, or that nothing had to change, with its caller's own name for the request.
#[derive(Debug, Clone)]
pub struct OnceMember {
    /// The name.
    pub named: IdempotencyKey,
    /// What the same request is answered by, beside the place of its event. Never a secret.
    pub answer: String,
    /// What is to be done, or to stand.
    pub member: Named,
}

/// What may be done once.
#[derive(Debug, Clone)]
pub enum Named {
    /// An event with its effect.
    Act(Box<ActMember>),
    /// Nothing had to change.
    Unchanged(AllowedUnder),
}

impl From<ActMember> for Named {
    fn from(act: ActMember) -> Self {
        Self::Act(Box::new(act))
    }
}

impl From<AllowedUnder> for Named {
    fn from(under: AllowedUnder) -> Self {
        Self::Unchanged(under)
    }
}

/// The state of policy and revocation under which somebody was allowed something: a commit finds
/// it unchanged, or the request starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedUnder {
    /// The policy set in force.
    pub policy_hash: Hash,
    /// The revocation state.
    pub revocation_epoch: u64,
}

/// What an event does beside standing in the log.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Says of a leaf that it has no certificate, and never will: refused where that is not so.
    Abandon {
        /// The leaf.
        leaf_index: u64,
    },
    /// Makes an operator, and the token by which somebody becomes it.
    AddOperator {
        /// The name.
        name: String,
        /// The token.
        token: TokenDraft,
    },
    /// Puts a policy set into force, if the one expected is still in force.
    ActivatePolicy {
        /// The set that it replaces; none at `init`.
        expected: Option<Hash>,
        /// Its hash.
        hash: Hash,
        /// Its files, as JSON.
        files: String,
    },
    /// Lifts the deny in force: one that is later moves the revocation epoch.
    Allow {
        /// Who.
        spiffe_id: SpiffeId,
    },
    /// A key comes into another state.
    ChangeKeys(ChangedKeys),
    /// Makes an operator.
    CreateOperator {
        /// The name.
        name: String,
    },
    /// Makes a bootstrap token.
    CreateToken(TokenDraft),
    /// Denies an identity.
    Deny {
        /// Who.
        spiffe_id: SpiffeId,
        /// Why.
        reason: String,
    },
    /// Nothing.
    None,
    /// Takes the next CRL number of an issuer.
    NumberCrl {
        /// The issuer.
        issuer_key_hash: Hash,
        /// The number.
        number: u64,
    },
    /// Revokes.
    Revoke {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: String,
    },
    /// Withdraws a bootstrap token that was not used.
    RevokeToken {
        /// SHA-256 of its secret.
        hash: Hash,
        /// Its id.
        id: String,
        /// The use that its row claims and the log does not bear out: the request, and the leaf. It
        /// is not believed.
        untrue: Option<(Hash, u64)>,
    },
    /// Leaves below this index are accounted for.
    Sweep {
        /// The index.
        up_to: u64,
    },
}

/// What comes with a key's new state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    /// An issuer's certificate, and SHA-256 of its public key.
    pub issuer: Option<(Vec<u8>, Hash)>,
    /// A trust state: its sequence and its signed note.
    pub trust_state: Option<(u64, Vec<u8>)>,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// Every certificate of an identity issued so far.
    Identity(SpiffeId),
    /// One certificate.
    Serial(SerialNumber),
}

/// A bootstrap token before it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDraft {
    /// SHA-256 of the secret.
    pub hash: Hash,
    /// Its id.
    pub id: String,
    /// For whom.
    pub spiffe_id: SpiffeId,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
    /// Only for this key, by the SHA-256 of its SubjectPublicKeyInfo.
    pub key_hash: Option<Hash>,
}

/// A prepared certificate on its way into the log.
#[derive(Debug, Clone)]
pub struct CertificateMember {
    /// The `issue` or `renew` event that stands before the leaf.
    pub event: EventDraft,
    /// The linted bytes.
    pub tbs: Vec<u8>,
    /// SHA-256 of the issuer's public key.
    pub issuer_key_hash: Hash,
    /// What the store keeps of it.
    pub record: RecordDraft,
    /// What it uses up.
    pub consumes: Consumes,
    /// The caller's name for the request, with the caller.
    pub idempotency: Option<IdempotencyKey>,
    /// What it was allowed under.
    pub allowed_under: AllowedUnder,
}

/// What the store keeps of a certificate, before it has a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordDraft {
    /// The serial number.
    pub serial_number: SerialNumber,
    /// Who it names.
    pub spiffe_id: SpiffeId,
    /// The profile.
    pub profile: String,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// SHA-256 of the request.
    pub request_hash: Hash,
    /// Facts and policies, as JSON.
    pub facts: String,
}

/// What a certificate uses up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consumes {
    /// Nothing.
    Nothing,
    /// The one renewal of a certificate.
    Renewal {
        /// The place in the log of the certificate renewed.
        leaf_index: u64,
        /// Its serial number.
        serial_number: SerialNumber,
        /// The first certificate of its line.
        lineage: SerialNumber,
        /// What it was renewed by before, as the log says.
        before: Option<Renewed>,
        /// How many entries of the log say so: of those that have come since it is looked whether they
        /// say something else.
        read_to: u64,
    },
    /// A bootstrap token.
    Token {
        /// SHA-256 of its secret.
        hash: Hash,
        /// SHA-256 of the key to be certified.
        key_hash: Hash,
    },
}

/// A caller's own name for a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Who calls.
    pub principal: String,
    /// The name.
    pub key: String,
    /// SHA-256 of the whole request.
    pub request_hash: Hash,
}

/// A signed certificate for a logged leaf.
#[derive(Debug, Clone)]
pub struct CompleteMember {
    /// The leaf.
    pub leaf_index: u64,
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The revocation state under which it was signed.
    pub revocation_epoch: u64,
    /// What stands in its place and was judged: it is no certificate of the leaf. By its SHA-256, so that
    /// nothing else is replaced.
    pub instead_of: Option<Hash>,
}

/// A signed CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlRow {
    /// The issuer.
    pub issuer_key_hash: Hash,
    /// Its number.
    pub number: u64,
    /// The CRL.
    pub der: Vec<u8>,
    /// The revocation state that it shows.
    pub revocation_epoch: u64,
    /// When the next one is due, in seconds since 1970.
    pub next_update: i64,
}

/// A renewal that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The leaf of the new certificate.
    pub leaf_index: u64,
    /// Its serial number.
    pub serial_number: SerialNumber,
    /// SHA-256 of its request.
    pub request_hash: Hash,
    /// Whether it was ever shown to us: then none takes its place.
    pub seen: bool,
    /// Whether it was revoked by its serial number: the same, and nobody need hold the line's keys twice.
    pub revoked: bool,
    /// Whether it replaced an earlier one already.
    pub replaced: bool,
}
