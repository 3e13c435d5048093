//! What may be asked of a commit: each kind has an answer of its own.

use std::sync::Arc;

use crate::sequencer::{
    ActMember, Acted, AllowedUnder, CertificateMember, CompleteMember, Completed, CrlRow,
    IdempotencyKey, Member, Named, OnceMember, Outcome, Receipt, Standing, Unlogged,
};

/// Something that takes part in a commit.
pub(crate) trait Asking {
    /// What answers it.
    type Answer;

    fn into_member(self) -> Member;

    /// None of an outcome of another kind.
    fn answer(outcome: Outcome) -> Option<Self::Answer>;
}

impl Asking for ActMember {
    type Answer = Acted;

    fn into_member(self) -> Member {
        Member::Act(Box::new(self))
    }

    fn answer(outcome: Outcome) -> Option<Acted> {
        if let Outcome::Act(acted) = outcome { Some(acted) } else { None }
    }
}

/// That a certificate is logged.
impl Asking for Arc<CertificateMember> {
    type Answer = Result<Receipt, Unlogged>;

    fn into_member(self) -> Member {
        Member::Certificate(self)
    }

    fn answer(outcome: Outcome) -> Option<Self::Answer> {
        if let Outcome::Certificate(logged) = outcome { Some(logged) } else { None }
    }
}

/// Whether a certificate was asked for before; none is logged.
pub(crate) struct AskedBefore(pub(crate) Arc<CertificateMember>);

impl Asking for AskedBefore {
    type Answer = Option<Unlogged>;

    fn into_member(self) -> Member {
        Member::Precedent(self.0)
    }

    fn answer(outcome: Outcome) -> Option<Self::Answer> {
        if let Outcome::Precedent(before) = outcome { Some(before) } else { None }
    }
}

impl Asking for CompleteMember {
    type Answer = Completed;

    fn into_member(self) -> Member {
        Member::Complete(self)
    }

    fn answer(outcome: Outcome) -> Option<Completed> {
        if let Outcome::Complete(completed) = outcome { Some(completed) } else { None }
    }
}

impl Asking for CrlRow {
    type Answer = ();

    fn into_member(self) -> Member {
        Member::Crl(self)
    }

    fn answer(outcome: Outcome) -> Option<()> {
        (outcome == Outcome::Crl).then_some(())
    }
}

/// Whether it still holds, under the head lock.
impl Asking for AllowedUnder {
    type Answer = Standing;

    fn into_member(self) -> Member {
        Member::Unchanged(self)
    }

    fn answer(outcome: Outcome) -> Option<Standing> {
        if let Outcome::Unchanged(standing) = outcome { Some(standing) } else { None }
    }
}

/// The same, done once where its request was named. An answer is kept with the name.
pub(crate) struct Once<'a, A> {
    pub(crate) named: Option<&'a IdempotencyKey>,
    pub(crate) answer: String,
    pub(crate) asks: A,
}

impl<A: Asking + Into<Named>> Asking for Once<'_, A> {
    type Answer = A::Answer;

    fn into_member(self) -> Member {
        let Self { named, answer, asks } = self;
        match named {
            None => asks.into_member(),
            Some(named) => {
                Member::Once(OnceMember { named: named.clone(), answer, member: asks.into() })
            }
        }
    }

    fn answer(outcome: Outcome) -> Option<A::Answer> {
        A::answer(outcome)
    }
}
