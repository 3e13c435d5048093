//! The current certificate as evidence: renewal, and an operator asking for another identity.

use identity::{SpiffeId, VerifiedSvid};

use crate::attest::{Attested, Earlier, Purpose, again_by_token, known_attestor, refused};
use crate::error::Error;
use crate::facts::{Facts, SVID};
use crate::policy::Principal;
use crate::sequencer::Consumes;
use crate::view::View;

/// Takes a certificate that was verified in this connection's handshake.
pub(crate) async fn attest(
    view: &View,
    svid: &VerifiedSvid,
    asked: Option<&SpiffeId>,
    now: u64,
) -> Result<Attested, Error> {
    match asked {
        Some(asked) if asked != svid.spiffe_id() => Ok(for_another(svid, asked, now)),
        _ => renewal(view, svid).await,
    }
}

/// Policy decides whether this principal may have that identity.
fn for_another(svid: &VerifiedSvid, asked: &SpiffeId, now: u64) -> Attested {
    Attested {
        principal: Principal::of(svid.spiffe_id()),
        spiffe_id: asked.clone(),
        purpose: Purpose::Issue,
        attestor: SVID,
        attested_at: now,
        consumes: Consumes::Nothing,
        maker: None,
        earlier: None,
    }
}

/// The facts are those of the last attestation: a renewal proves nothing new.
async fn renewal(view: &View, svid: &VerifiedSvid) -> Result<Attested, Error> {
    let serial_number = *svid.serial_number();
    let known = view.known(&serial_number).await?;
    let known = known.filter(|known| known.record().spiffe_id == *svid.spiffe_id());
    let record = known.ok_or_else(|| {
        refused(
            format!("this CA has no record of certificate {serial_number}"),
            again_by_token(svid.spiffe_id()),
        )
    })?;
    let record = record.recorded()?;
    let facts: Facts = serde_json::from_str(&record.facts).map_err(|error| {
        let why = format!("the record of {serial_number} cannot be read: {error}");
        refused(why, again_by_token(svid.spiffe_id()))
    })?;
    Ok(Attested {
        principal: Principal::of(svid.spiffe_id()),
        spiffe_id: record.spiffe_id,
        purpose: Purpose::Renew { lineage: facts.lineage },
        attestor: known_attestor(&facts.attestor)?,
        attested_at: facts.attested_at,
        consumes: Consumes::Renewal {
            leaf_index: record.leaf_index,
            serial_number,
            lineage: facts.lineage,
            before: None,
            read_to: 0,
        },
        maker: None,
        earlier: Some(Earlier {
            names: facts.names(),
            names_from: facts.names_from(),
            profile: record.profile,
            validity_seconds: facts.validity_seconds,
        }),
    })
}
