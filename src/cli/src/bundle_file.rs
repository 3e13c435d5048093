//! `bundle.pem` beside an SVID: the anchors of its trust state, for software that reads no trust state.

use identity::TrustState;
use zeroize::Zeroizing;

use crate::chain;
use crate::error::Error;
use crate::files::Lock;
use crate::output::Output;
use crate::svid_directory::{BUNDLE, Contents, SvidDirectory};

/// Why software that reads it refuses peers of the CA; none where it is as good as the trust state.
/// What somebody added to it stays: anchors of their own.
pub(crate) fn fault(directory: &SvidDirectory, state: &TrustState) -> Option<String> {
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
    let is_held = |anchor: &[u8]| held.iter().any(|der| der.as_ref() == anchor);
    let lacks = state.anchors.iter().any(|anchor| !is_held(anchor.certificate.as_bytes()));
    lacks.then(|| "lacks an anchor of the CA's".to_owned())
}

/// Writes it anew where it is lost or broken, and says so.
pub(crate) fn restore(
    directory: &SvidDirectory,
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
