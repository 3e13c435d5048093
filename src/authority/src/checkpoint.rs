//! Checkpoints: the log's signed heads.

use std::sync::Arc;

use identity::TrustDomain;
use tlog::{Checkpoint, Hash, SignedNote, TreeEdge, VerifierKey};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::Error;
use crate::signer::{Signer, SignerError};
use crate::store::{Store, StoreError};
use crate::subtrees::Subtrees;

/// Who signs checkpoints: a key as verifiers know it, and its signer. Two of them while one takes the
/// other's place.
pub(crate) type LogSigner = (VerifierKey, Arc<dyn Signer>);

/// The note by which these sign a checkpoint.
pub(crate) async fn sign(
    checkpoint: &Checkpoint,
    signers: &[LogSigner],
) -> Result<Vec<u8>, SignerError> {
    let text = checkpoint.text();
    let refused = |error: tlog::Error| SignerError::Refused(error.to_string());
    let mut note = SignedNote::unsigned(text.clone()).map_err(refused)?;
    for (key, signer) in signers {
        let signature = signer.sign(text.as_bytes()).await?;
        note = note.with_signature(key.name(), key.key_id(), &signature).map_err(refused)?;
    }
    Ok(note.encode())
}

/// The checkpoint that one of these keys signed, of whatever size; none for any other note.
pub(crate) fn verify<'a>(
    note: &[u8],
    keys: impl IntoIterator<Item = &'a VerifierKey>,
) -> Option<Checkpoint> {
    keys.into_iter().find_map(|key| Checkpoint::verify(note, key.name(), key).ok())
}

/// The root of the first `size` entries, from a few tiles.
pub(crate) async fn root_at(store: &dyn Store, size: u64) -> Result<Hash, Error> {
    Ok(edge_at(store, size).await?.root())
}

/// The right edge of the tree of the first `size` entries, from a few tiles.
pub(crate) async fn edge_at(store: &dyn Store, size: u64) -> Result<TreeEdge, Error> {
    let inconsistent = |error: tlog::Error| StoreError::Inconsistent(error.to_string());
    let (mut subtrees, mut hashes) = (Subtrees::of(store, size), Vec::new());
    for subtree in tlog::edge_subtrees(size) {
        hashes.push(subtrees.hash(subtree).await?);
    }
    Ok(TreeEdge::from_parts(size, hashes).map_err(inconsistent)?)
}

/// The log's key in C2SP verifier form; its name is the log's origin.
pub(crate) fn verifier_key(trust_domain: &TrustDomain, spki: &[u8]) -> Result<VerifierKey, Error> {
    let refuse = || Error::Folder("the log's key is not Ed25519".to_owned());
    let (_, parsed) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| refuse())?;
    let key: &[u8; 32] =
        parsed.subject_public_key.data.as_ref().try_into().map_err(|_| refuse())?;
    VerifierKey::ed25519(origin(trust_domain), key).map_err(|_| refuse())
}

/// The log's origin line.
pub(crate) fn origin(trust_domain: &TrustDomain) -> String {
    format!("{trust_domain}/log")
}

/// Whether the log, read now, does not lead to this checkpoint.
pub(crate) async fn contradiction(
    store: &dyn Store,
    shown: &Checkpoint,
) -> Result<Option<String>, Error> {
    disagreement(store, shown, "a client showed a signed checkpoint").await
}

/// The same, for a checkpoint that somebody has, in these words.
pub(crate) async fn disagreement(
    store: &dyn Store,
    shown: &Checkpoint,
    who: &str,
) -> Result<Option<String>, Error> {
    let size = store.head().await?.edge.size();
    if shown.size > size {
        return Ok(Some(format!(
            "{who} of {} entries, and the log has {size}: an older database was put back",
            shown.size
        )));
    }
    match root_at(store, shown.size).await {
        Ok(root) if root == shown.root => Ok(None),
        Ok(_) | Err(Error::Store(StoreError::Inconsistent(_))) => Ok(Some(format!(
            "{who} of {} entries, and the log's are others: an older database was put back and has \
             grown since",
            shown.size
        ))),
        Err(error) => Err(error),
    }
}
