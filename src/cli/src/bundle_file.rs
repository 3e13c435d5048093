//! `bundle.pem` beside an SVID: the anchors of its trust state, for software that reads no trust state.

use std::collections::HashSet;

use countersign::svid_folder::{BUNDLE, Contents, Lock, SvidFolder};
use identity::TrustState;
use zeroize::Zeroizing;

use crate::chain;
use crate::error::Error;
use crate::output::Output;

/// Why software that reads it refuses peers of the CA, or takes others for them; none where it has the
/// anchors of the trust state, and no more. Whoever trusts others, too, says so in a file of their own:
/// here nobody could tell theirs from an intruder's.
pub(crate) fn fault(directory: &SvidFolder, state: &TrustState) -> Option<String> {
    let pem = match directory.read(BUNDLE) {
        Ok(None) => return Some("is not there".to_owned()),
        Ok(Some(pem)) if pem.is_empty() => return Some("is empty".to_owned()),
        Ok(Some(pem)) => pem,
        Err(error) => return Some(error.to_string()),
    };
    let held = match chain::parse(&pem) {
        Ok(held) => held,
        Err(why) => return Some(format!("cannot be read: {why}")),
    };
    let anchors: HashSet<&[u8]> =
        state.anchors.iter().map(|anchor| anchor.certificate.as_bytes()).collect();
    let held: HashSet<&[u8]> = held.iter().map(AsRef::as_ref).collect();
    let fault = match () {
        () if !held.is_superset(&anchors) => "lacks an anchor of the CA's",
        () if !held.is_subset(&anchors) => "holds an anchor that is none of the CA's",
        () => return None,
    };
    Some(fault.to_owned())
}

/// Writes it anew where it is lost or broken, and says so.
pub(crate) fn restore(
    directory: &SvidFolder,
    state: &TrustState,
    output: Output,
    lock: &Lock,
) -> Result<(), Error> {
    let Some(fault) = fault(directory, state) else { return Ok(()) };
    let pem = Zeroizing::new(state.to_pem().into_bytes());
    directory.replace(Contents::from([(BUNDLE, pem)]), lock)?;
    output.note(format!("bundle.pem {fault}: it is written anew from the trust state"));
    Ok(())
}
