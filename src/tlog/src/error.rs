//! Everything that this crate refuses.

use crate::{Hash, MAX_ENTRY, MAX_SCT_SIGNATURE, Subtree, TILE_WIDTH, TileKind};

/// Why something was refused: one variant for each rule, with what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A full entry bundle has 256 entries (C2SP tlog-tiles).
    #[error("an entry bundle has more than {TILE_WIDTH} entries")]
    BundleTooWide,
    /// A checkpoint is origin, size and root (C2SP tlog-checkpoint); extension lines are not taken.
    #[error("a checkpoint must be three lines: a non-empty origin, the size, the root")]
    CheckpointLines,
    /// The checkpoint is another log's.
    #[error("the checkpoint is one of {found:?}, not of {expected:?}")]
    CheckpointOrigin {
        /// The log that was asked for.
        expected: String,
        /// The log that the checkpoint names.
        found: String,
    },
    /// The root is "the base64 encoding" of 32 bytes (C2SP tlog-checkpoint).
    #[error("the root of a checkpoint must be 32 bytes in standard base64")]
    CheckpointRoot,
    /// The size is decimal "with no leading zeroes" (C2SP tlog-checkpoint).
    #[error("the size of a checkpoint must be a decimal number below 2^64 without leading zeros")]
    CheckpointSize,
    /// The proof does not lead to both roots (RFC 9162 §2.1.4.2).
    #[error("the log of {new} entries is not proven to extend the log of {old} entries")]
    ConsistencyProof {
        /// The size of the old tree.
        old: u64,
        /// The size of the new tree.
        new: u64,
    },
    /// The countersignature is for another place in the log.
    #[error("the countersignature is for index {sct}, the leaf has index {leaf}")]
    CountersignatureIndex {
        /// The leaf's own index.
        leaf: u64,
        /// The index in the SCT.
        sct: u64,
    },
    /// The signature is not one over this leaf by this key.
    #[error("the countersignature does not verify under the key {log_id}")]
    CountersignatureInvalid {
        /// The key, by its log id.
        log_id: Hash,
    },
    /// Another key made the countersignature.
    #[error("the countersignature is by the key {found}, not by {expected}")]
    CountersignatureKey {
        /// The key that was given, by its log id.
        expected: Hash,
        /// The log id in the SCT.
        found: Hash,
    },
    /// The countersignature is for another time.
    #[error("the countersignature is for {sct} ms, the leaf for {leaf} ms")]
    CountersignatureTimestamp {
        /// The leaf's timestamp in milliseconds since 1970.
        leaf: u64,
        /// The SCT's timestamp in milliseconds since 1970.
        sct: u64,
    },
    /// "The definite form of length encoding shall be used" (X.690 §10.1).
    #[error("DER must not have indefinite lengths")]
    DerIndefiniteLength,
    /// A length is "encoded in the minimum number of octets" (X.690 §10.1).
    #[error("a DER length must be encoded in the minimum number of octets")]
    DerLengthNotMinimal,
    /// No length that we read needs more than four octets.
    #[error("a DER length must not need more than four octets")]
    DerLengthTooLong,
    /// Another element stands where the standard has one with this tag.
    #[error("DER tag {expected:#04x} expected, {found:#04x} found")]
    DerTag {
        /// The identifier octet expected.
        expected: u8,
        /// The identifier octet found.
        found: u8,
    },
    /// Certificates have no tag numbers of 31 or more.
    #[error("the DER tag {tag:#04x} announces a number in more octets")]
    DerTagNumber {
        /// The identifier octet.
        tag: u8,
    },
    /// A tree's edge has one hash for each bit set in its size.
    #[error("{found} hashes are not the edge of a tree of {size} leaves")]
    EdgeHashCount {
        /// The size of the tree.
        size: u64,
        /// The number of hashes given.
        found: usize,
    },
    /// A bundle counts an entry with a uint16 (C2SP tlog-tiles).
    #[error("an entry of {length} bytes exceeds the limit of {MAX_ENTRY}")]
    EntryTooLong {
        /// The length of the entry in bytes.
        length: usize,
    },
    /// `critical` is TRUE, or FALSE and then left out (X.690 §11.1, §11.5).
    #[error("an extension's criticality must be encoded as TRUE or left out")]
    ExtensionCriticality,
    /// "SEQUENCE SIZE (1..MAX) OF Extension" (RFC 5280 §4.1), with and without the SCT list.
    #[error("a certificate must have an extension besides the SCT list")]
    ExtensionsEmpty,
    /// SHA-256 has 32 bytes.
    #[error("a hash has 32 bytes, not {length}")]
    HashLength {
        /// The length in bytes.
        length: usize,
    },
    /// The proof does not lead to the root (RFC 9162 §2.1.3.2).
    #[error("the entry is not proven to be at index {index} of the log of {size} entries")]
    InclusionProof {
        /// The index claimed.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// A tree of `size` leaves ends at index `size - 1`.
    #[error("index {index} is outside a log of {size} entries")]
    IndexOutsideTree {
        /// The index asked for.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// "Key names MUST be non-empty and MUST NOT contain any Unicode spaces or plus" (C2SP
    /// signed-note).
    #[error("the key name {name:?} is empty or has a space, a plus or a control character")]
    KeyName {
        /// The name.
        name: String,
    },
    /// A certificate's entry type is `precert_entry` (RFC 6962 §3.4).
    #[error("the entry type of a certificate leaf must be precert_entry (1), not {entry_type}")]
    LeafEntryType {
        /// The entry type found.
        entry_type: u16,
    },
    /// A leaf is v1 and a `timestamped_entry` (RFC 6962 §3.4).
    #[error("a certificate leaf must have version 0 and type 0, not {version} and {leaf_type}")]
    LeafHeader {
        /// The version found.
        version: u8,
        /// The leaf type found.
        leaf_type: u8,
    },
    /// Leaf and SCT have exactly one extension, `leaf_index` (C2SP static-ct-api).
    #[error("the extensions of a leaf or SCT must be exactly one leaf_index")]
    LeafIndexExtension,
    /// A `LeafIndex` is a uint40 (C2SP static-ct-api).
    #[error("the leaf index {leaf_index} needs more than 40 bits")]
    LeafIndexTooLarge {
        /// The index.
        leaf_index: u64,
    },
    /// "opaque TBSCertificate<1..2^24-1>" (RFC 6962 §3.2).
    #[error("a certificate leaf must hold a TBSCertificate")]
    LeafWithoutCertificate,
    /// Notes have no "ASCII control characters … other than newline" (C2SP signed-note).
    #[error("a note must not have control characters other than newline")]
    NoteControlCharacter,
    /// "Signed notes MUST be valid UTF-8" (C2SP signed-note).
    #[error("a note must be UTF-8")]
    NoteNotUtf8,
    /// "If a signature from a known key fails to verify, clients SHOULD reject the whole note"
    /// (C2SP signed-note).
    #[error("a signature of {name} ({key_id:08x}) on the note does not verify")]
    NoteSignatureInvalid {
        /// The name of the key.
        name: String,
        /// The ID of the key.
        key_id: u32,
    },
    /// A signature line is em dash, key name, base64 of key ID and signature (C2SP signed-note).
    #[error("a signature line must be an em dash, a key name, base64 of key ID and signature")]
    NoteSignatureLine,
    /// No signature line has the key's name and ID.
    #[error("the note is not signed by {name} ({key_id:08x})")]
    NoteSignatureMissing {
        /// The name of the key.
        name: String,
        /// The ID of the key.
        key_id: u32,
    },
    /// The text of a note has at most 1 MiB.
    #[error("a note text of {length} bytes is too long")]
    NoteTooLong {
        /// The length of the text in bytes.
        length: usize,
    },
    /// A note has at most 64 signatures.
    #[error("a note has too many signatures")]
    NoteTooManySignatures,
    /// Text, blank line and "one or more signature lines" (C2SP signed-note).
    #[error("a note must have a blank line and a signature after its text")]
    NoteUnsigned,
    /// "A text ending in newline" (C2SP signed-note).
    #[error("the text of a note must end in a newline")]
    NoteWithoutNewline,
    /// The key is no named-curve P-256 key with an uncompressed point (RFC 5480 §2).
    #[error("the key is not an uncompressed P-256 SubjectPublicKeyInfo")]
    P256Key,
    /// The log signs with ECDSA (3) and SHA-256 (4) (RFC 6962 §2.1.4).
    #[error(
        "an SCT must be signed with SHA-256 (4) and ECDSA (3), not with {hash} and {signature}"
    )]
    SctAlgorithm {
        /// The `HashAlgorithm` found.
        hash: u8,
        /// The `SignatureAlgorithm` found.
        signature: u8,
    },
    /// The SCT list extension is not critical.
    #[error("the SCT list of a certificate must not be critical")]
    SctCritical,
    /// A countersigned certificate has one SCT.
    #[error("an SCT list must have exactly one SCT")]
    SctListLength,
    /// The certificate has no countersignature.
    #[error("the certificate has no SCT list, so no countersignature")]
    SctMissing,
    /// The SCT list is the last extension, so that splicing is reversible.
    #[error("the SCT list must be the last extension of a certificate")]
    SctNotLast,
    /// A certificate gets one countersignature.
    #[error("the certificate has an SCT list already")]
    SctPresent,
    /// An ECDSA signature on P-256 has at most 72 bytes in DER.
    #[error("an SCT signature has 1 to {MAX_SCT_SIGNATURE} bytes, not {length}")]
    SctSignatureLength {
        /// The length in bytes.
        length: usize,
    },
    /// "A certificate MUST NOT include more than one instance of a particular extension" (RFC 5280
    /// §4.2).
    #[error("the certificate has more than one SCT list")]
    SctTwice,
    /// An SCT is v1 (RFC 6962 §3.2).
    #[error("an SCT must have version 0, not {version}")]
    SctVersion {
        /// The version found.
        version: u8,
    },
    /// The signature is a whole number of octets.
    #[error("the signature of a certificate must be a BIT STRING without unused bits")]
    SignatureUnusedBits,
    /// Only complete subtrees have a hash that stays.
    #[error("a log of {size} entries does not hold all of {subtree:?}")]
    SubtreeOutsideTree {
        /// The subtree asked for.
        subtree: Subtree,
        /// The size of the tree.
        size: u64,
    },
    /// A tile is 1 to 256 hashes of 32 bytes (C2SP tlog-tiles).
    #[error("{length} bytes are not a tile of at most {TILE_WIDTH} hashes")]
    TileLength {
        /// The length in bytes.
        length: usize,
    },
    /// A tile's level is "between 0 and 63" (C2SP tlog-tiles).
    #[error("a tile level must be at most 63, not {level}")]
    TileLevel {
        /// The level.
        level: u8,
    },
    /// "Empty tiles MUST NOT be served" (C2SP tlog-tiles).
    #[error("a log of {size} entries has nothing in tile {index} of {kind}")]
    TileOutsideTree {
        /// What the tile holds.
        kind: TileKind,
        /// The tile's index.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]` (C2SP tlog-tiles).
    #[error("{path:?} is not the path of a tile")]
    TilePath {
        /// The path.
        path: String,
    },
    /// The partial tile is from before the subtree was complete.
    #[error("a tile of {width} hashes does not hold all of {subtree:?}")]
    TileTooNarrow {
        /// The number of hashes in the tile.
        width: usize,
        /// The subtree asked for.
        subtree: Subtree,
    },
    /// A tile has 1 to 256 hashes or entries (C2SP tlog-tiles).
    #[error("a tile width must be 1 to {TILE_WIDTH}, not {width}")]
    TileWidth {
        /// The width.
        width: u16,
    },
    /// Bytes follow after the end of a structure.
    #[error("{what} has trailing bytes")]
    TrailingBytes {
        /// The structure.
        what: &'static str,
    },
    /// A log is append-only.
    #[error("a log of {new} entries cannot extend one of {old} entries")]
    TreeShrank {
        /// The size of the old tree.
        old: u64,
        /// The size of the new tree.
        new: u64,
    },
    /// A tree has at most `i64::MAX` leaves.
    #[error("a log cannot have {size} entries")]
    TreeTooLarge {
        /// The size claimed.
        size: u64,
    },
    /// A structure ends before it is complete.
    #[error("{what} ends too early")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// `<name>+<key ID>+<base64>` (C2SP signed-note, "Verifier keys").
    #[error("a verifier key must be <name>+<8 hex digits>+<base64 of type and key>")]
    VerifierKey,
    /// The key ID is not the one of name and key (C2SP signed-note, "Ed25519 signatures").
    #[error("the verifier key's ID must be {expected:08x}")]
    VerifierKeyId {
        /// The ID of this name and key.
        expected: u32,
    },
    /// Only Ed25519 (0x01) verifier keys are taken.
    #[error("a verifier key must be of type 0x01 (Ed25519), not {algorithm:#04x}")]
    VerifierKeyType {
        /// The signature type identifier found.
        algorithm: u8,
    },
}
