//! One-time bootstrap tokens. The secret's hash is all that is kept; the use is a conditional
//! update in the transaction that issues.

use api::{BootstrapToken, Secret};
use identity::SpiffeId;
use issuance::CertificateRequest;
use tlog::Hash;

use crate::attest::{Attested, Purpose, refused};
use crate::error::Error;
use crate::facts::TOKEN;
use crate::policy::Principal;
use crate::proven::made_by;
use crate::sequencer::{Consumes, TokenRow};
use crate::store::Store;
use crate::token_kind::{ADD_AGAIN, Maker, TokenKind, WITHDRAWN, is_made_by};
use crate::view::known_tokens::KnownTokens;

/// A token that counts, as far as that can be said before the request that comes with it is read.
#[derive(Debug)]
pub(crate) struct Held {
    row: TokenRow,
    maker: Maker,
    /// What whoever shows it needs.
    kind: TokenKind,
}

impl Held {
    /// Looks a token up. What it finds is decided again inside the transaction; here it is only told
    /// early and clearly.
    pub(crate) async fn find(
        store: &dyn Store,
        known: &KnownTokens,
        (token, asked): (&Secret, Option<&SpiffeId>),
        now: u64,
        is_withdrawn: impl Fn(&str) -> bool + Send,
    ) -> Result<Self, Error> {
        let another = TokenKind::needed_by(asked).another();
        let token: BootstrapToken =
            token.expose().parse().map_err(|why: String| refused(why, another))?;
        let row = store.token(Hash::of(token.secret())).await?;
        let row = row.ok_or_else(|| refused("the token is unknown", another))?;
        let maker = match known.maker(&row.hash, row.log_index) {
            Some(maker) => maker,
            None => require_event(store, &row).await?,
        };
        // Who asks to be an operator by a workload's token needs an operator's.
        let kind = match TokenKind::needed_by(asked) {
            TokenKind::Bootstrap => maker.kind,
            TokenKind::NewOperator => TokenKind::NewOperator,
        };
        // Whatever the row says: the withdrawal stands in the log.
        if is_withdrawn(&row.id) {
            return Err(refused(WITHDRAWN, kind.another()));
        }
        if row.used.is_none() {
            require_open(&row, kind, now)?;
        }
        Ok(Self { row, maker, kind })
    }

    /// Who vouches for it, and for whom, while it is not used: what took effect stays, and a used
    /// token's own retry asks only for what was made of it.
    pub(crate) fn vouched(&self) -> Option<(&Maker, &SpiffeId)> {
        self.row.used.is_none().then_some((&self.maker, &self.row.spiffe_id))
    }

    /// A used token proves nothing but its own retry, and what cannot be read is none.
    pub(crate) fn require_unused(&self) -> Result<(), Error> {
        match self.row.used {
            None => Ok(()),
            Some(_) => Err(used_already(self.kind)),
        }
    }

    /// Whom it attests, asking for this. What its row does not say of its use, the log does.
    pub(crate) async fn attest(
        self,
        store: &dyn Store,
        known: &KnownTokens,
        request: &CertificateRequest,
        asked: Option<&SpiffeId>,
        now: u64,
    ) -> Result<Attested, Error> {
        let Self { row, maker, kind } = self;
        require_usable(&row, kind, request)?;
        let (hash, made_at) = (&row.hash, row.log_index);
        if row.used.is_none() && known.is_used(store, hash, request.hash(), made_at, now).await? {
            return Err(used_already(kind));
        }
        if let Some(asked) = asked.filter(|asked| **asked != row.spiffe_id) {
            return Err(for_another(&row, kind, asked));
        }
        let key_hash = Hash::of(request.public_key());
        Ok(Attested {
            principal: Principal::of(&row.spiffe_id),
            spiffe_id: row.spiffe_id,
            purpose: Purpose::Issue,
            attestor: TOKEN,
            attested_at: now,
            consumes: Consumes::Token { hash: row.hash, key_hash },
            maker: row.used.is_none().then_some(maker),
            earlier: None,
        })
    }
}

/// A row that grants authority does not count without the event that made it; that says by whom.
async fn require_event(store: &dyn Store, row: &TokenRow) -> Result<Maker, Error> {
    let mut maker = None;
    let made = made_by(store, row.log_index, |event| {
        maker = Maker::read(event, row.log_index);
        is_made_by(event, row)
    });
    let made = made.await?;
    let another = TokenKind::needed_by(Some(&row.spiffe_id)).another();
    maker.filter(|_| made).ok_or_else(|| refused("the token was not made by this log", another))
}

fn require_open(row: &TokenRow, kind: TokenKind, now: u64) -> Result<(), Error> {
    if row.revoked {
        return Err(refused(WITHDRAWN, kind.another()));
    }
    if row.expires_at <= now {
        return Err(refused("the token has expired", kind.another()));
    }
    Ok(())
}

fn require_usable(
    row: &TokenRow,
    kind: TokenKind,
    request: &CertificateRequest,
) -> Result<(), Error> {
    match &row.used {
        // Its own retry: the transaction finds the certificate made the first time.
        Some((used_for, _)) if used_for == request.hash() => return Ok(()),
        Some(_) => return Err(used_already(kind)),
        None => {}
    }
    if row.key_hash.is_some_and(|bound| bound != Hash::of(request.public_key())) {
        let step = match kind {
            TokenKind::Bootstrap => {
                "make the request with the key that `token create --pin-key` named"
            }
            TokenKind::NewOperator => {
                "join where the key is that `operator add --key` named: where `operator request` \
                 made it"
            }
        };
        return Err(refused("the token is for another key", step));
    }
    Ok(())
}

fn used_already(kind: TokenKind) -> Error {
    refused("the token was used already", kind.another())
}

fn for_another(row: &TokenRow, kind: TokenKind, asked: &SpiffeId) -> Error {
    let whose = &row.spiffe_id;
    let step = match kind {
        TokenKind::Bootstrap => format!("ask for {whose}, or: countersign token create {asked}"),
        TokenKind::NewOperator => format!("ask for {whose}, or {ADD_AGAIN}"),
    };
    refused(format!("the token is for {whose}, not for {asked}"), step)
}
