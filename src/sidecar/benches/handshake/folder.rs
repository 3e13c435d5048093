//! What another process needs to be an end of mutual TLS, as files.

use std::fs;
use std::path::Path;

use countersign::{Credentials, Endpoint, Peers, Verification, load_trust};
use identity::Der;
use tempfile::TempDir;

use crate::authority::TestAuthority;

/// An SVID, the trust state and the one peer; in plain X.509 too, for software that knows no more.
pub(crate) fn write(authority: &TestAuthority, own: &str, peer: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let svid = authority.svid(own);
    let chain: String = svid.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write("svid.pem", chain.as_bytes());
    write("svid.key", pem("PRIVATE KEY", svid.key.secret_der()).as_bytes());
    write("bundle.pem", authority.trust().state().to_pem().as_bytes());
    write("trust.note", &authority.trust_note());
    write("pin", authority.pin().to_string().as_bytes());
    write("peer", authority.id(peer).as_str().as_bytes());
    folder
}

/// The endpoint that the files make, and its peer.
pub(crate) fn open(folder: &Path) -> (Endpoint, Peers) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let trust = load_trust(read("trust.note").as_bytes(), &read("pin").parse().unwrap()).unwrap();
    let endpoint = Endpoint::new(Credentials::load(folder).unwrap(), Verification::new(trust));
    (endpoint, Peers::one_of([read("peer")]).unwrap())
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", String::from(Der::new(der)))
}
