//! The tamper-evident log of one trust domain, as pure functions over bytes.
//!
//! # In scope
//!
//! - The Merkle tree of [RFC 6962 §2.1]: [`TreeEdge`] grows it, [`inclusion_proof`] and
//!   [`consistency_proof`] read it, [`verify_inclusion`] and [`verify_consistency`] need only
//!   roots.
//! - Its published form, [C2SP tlog-tiles]: [`Tile`] names a file, [`subtree_hash_in_tile`] reads
//!   one, [`encode_bundle_entry`] and [`parse_bundle`] are the entries themselves.
//! - The certificate entry: [`CertificateLeaf`] is an RFC 6962 `MerkleTreeLeaf`, and its bytes are
//!   also what the log's countersignature, a [`SignedCertificateTimestamp`], signs. Anybody
//!   rebuilds the leaf from a certificate, because [`splice_out`] and [`splice_in`] are exact
//!   inverses.
//! - Signatures on text: [`SignedNote`] ([C2SP signed-note]) and [`Checkpoint`]
//!   ([C2SP tlog-checkpoint]).
//!
//! # Out of scope
//!
//! - I/O, time, randomness and private keys. Signatures come in as bytes, stored hashes through a
//!   closure.
//! - What an event says: it is opaque bytes that begin with `{` ([`entry_kind`]).
//! - Whether a certificate may be trusted. This crate never looks at a validity, a name or the CA's
//!   signature, only at the bytes that surround the countersignature.
//! - Witness cosignatures and other note signatures; they are kept, not verified.
//!
//! # Rules
//!
//! Every input is hostile. A parser accepts exactly one encoding of each value, so `encode` after
//! `parse` gives the same bytes again; it fails with one [`Error`] variant for each rule, does not
//! panic, and allocates no more than a small multiple of its input.
//!
//! # Example
//!
//! ```
//! use tlog::{Error, TreeEdge, inclusion_proof, leaf_hash, verify_inclusion};
//!
//! let leaves = [&br#"{"v":1}"#[..], br#"{"v":2}"#, br#"{"v":3}"#].map(leaf_hash);
//! let mut edge = TreeEdge::new();
//! for leaf in leaves {
//!     edge.push(leaf);
//! }
//!
//! // A store keeps the hash of each complete subtree; three leaves have one above them.
//! let pair = tlog::node_hash(&leaves[0], &leaves[1]);
//! let proof = inclusion_proof(2, edge.size(), |subtree| match subtree.level {
//!     0 => Ok::<_, Error>(leaves[subtree.index as usize]),
//!     _ => Ok(pair),
//! })?;
//!
//! verify_inclusion(&leaves[2], 2, edge.size(), &edge.root(), &proof)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [RFC 6962 §2.1]: https://www.rfc-editor.org/rfc/rfc6962#section-2.1
//! [C2SP signed-note]: https://c2sp.org/signed-note
//! [C2SP tlog-checkpoint]: https://c2sp.org/tlog-checkpoint
//! [C2SP tlog-tiles]: https://c2sp.org/tlog-tiles

mod certificate;
mod certificate_leaf;
mod checkpoint;
mod ct_extensions;
mod der;
mod entry;
mod error;
mod extension;
mod hash;
mod note;
mod prove;
mod sct;
mod signature;
mod splice;
mod tile;
mod tree;
mod verifier_key;
mod verify;
mod wire;

pub use certificate::{SplitCertificate, join_certificate, split_certificate};
pub use certificate_leaf::CertificateLeaf;
pub use checkpoint::Checkpoint;
pub use entry::{EntryKind, MAX_ENTRY, encode_bundle_entry, entry_kind, parse_bundle};
pub use error::Error;
pub use hash::{Hash, empty_root, leaf_hash, node_hash};
pub use note::{NoteSignature, SignedNote};
pub use prove::{ProofError, consistency_proof, inclusion_proof};
pub use sct::{
    MAX_SCT_SIGNATURE, SignedCertificateTimestamp, log_id, parse_sct_list, sct_list_extension,
};
pub use splice::{splice_in, splice_out};
pub use tile::{TILE_WIDTH, Tile, TileKind, subtree_hash_in_tile};
pub use tree::{Subtree, TreeEdge, edge_subtrees};
pub use verifier_key::{VerifierKey, ecdsa_key_id, ed25519_key_id};
pub use verify::{verify_consistency, verify_inclusion};
