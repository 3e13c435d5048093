//! A message on the wire: exact bytes, and the feed key's signature over their hash.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};
use tlog::{Checkpoint, Hash, VerifierKey};

use super::bounds::{MAX_CHUNK, MAX_LINE};
use super::error::FeedError;
use super::message::{Content, Heartbeat, Message};
use crate::spiffe_id::TrustDomain;
use crate::trust_state::TrustState;

/// One message as it was signed. Its body means nothing before [`verify`](Self::verify).
///
/// On the wire it is one line: the key's id (SHA-256 of its SubjectPublicKeyInfo, lower-case hex), a
/// space, the Ed25519 signature (base64), a space, and the body to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    key_id: Hash,
    signature: Vec<u8>,
    body: Vec<u8>,
}

/// What [`Envelope::verify`] proves: a feed key of the trust state signed this message, it has the
/// form of one, and a delta's items or a heartbeat's checkpoint are what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedMessage {
    pub(super) message: Message,
    pub(super) checkpoint: Option<Checkpoint>,
}

/// What comes over the wire, a line at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A part of the snapshot whose head came before. It means nothing before
    /// [`Assembly::take`](super::Assembly::take).
    Chunk(Vec<u8>),
    /// A message.
    Message(Envelope),
}

impl Line {
    /// Tells the two apart: a chunk is a JSON object, and a message begins with a key id. Takes none
    /// that is longer than its kind may be.
    pub fn parse(line: &[u8]) -> Result<Self, FeedError> {
        if line.first() != Some(&b'{') {
            return Envelope::parse(line).map(Self::Message);
        }
        if line.len() > MAX_CHUNK {
            return Err(FeedError::ChunkSize { bytes: line.len() });
        }
        Ok(Self::Chunk(line.to_vec()))
    }

    /// The line that [`parse`](Self::parse) reads.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Chunk(chunk) => chunk.clone(),
            Self::Message(envelope) => envelope.encode(),
        }
    }
}

impl Envelope {
    /// Puts together what was signed: `signature` is the key's over [`signed_text`] of the body.
    pub fn new(feed_key: &[u8], signature: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) -> Self {
        Self { key_id: Hash::of(feed_key), signature: signature.into(), body: body.into() }
    }

    /// Takes a line apart, without its line break; looks at nothing of the body.
    pub fn parse(line: &[u8]) -> Result<Self, FeedError> {
        if line.len() > MAX_LINE {
            return Err(FeedError::Envelope);
        }
        let mut parts = line.splitn(3, |&byte| byte == b' ');
        let (Some(key_id), Some(signature), Some(body)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(FeedError::Envelope);
        };
        let key_id = HEXLOWER.decode(key_id).map_err(|_| FeedError::Envelope)?;
        let key_id = Hash::try_from(&key_id[..]).map_err(|_| FeedError::Envelope)?;
        let text = signature;
        let signature = BASE64.decode(text).map_err(|_| FeedError::Envelope)?;
        // The decoder takes padding in the middle too; one signature has one form.
        if signature.len() != ED25519_SIGNATURE || BASE64.encode(&signature).as_bytes() != text {
            return Err(FeedError::Envelope);
        }
        Ok(Self { key_id, signature, body: body.to_vec() })
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the key that is said to have signed it.
    pub fn key_id(&self) -> Hash {
        self.key_id
    }

    /// The line that [`parse`](Self::parse) reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut line =
            format!("{} {} ", self.key_id.to_hex(), BASE64.encode(&self.signature)).into_bytes();
        line.extend_from_slice(&self.body);
        line
    }

    /// Verifies the signature by the feed key that it names, and only then reads the body.
    pub fn verify(&self, trust: &TrustState) -> Result<VerifiedMessage, FeedError> {
        let unknown = || FeedError::UnknownKey { key: self.key_id.to_hex() };
        let mut keys = trust.feed_keys.iter();
        let key = keys.find(|key| Hash::of(key.as_bytes()) == self.key_id).ok_or_else(unknown)?;
        let key = key.as_bytes().strip_prefix(&ED25519_SPKI_PREFIX).ok_or_else(unknown)?;
        let text = signed_text(&trust.trust_domain, &self.body);
        UnparsedPublicKey::new(&ED25519, key)
            .verify(text.as_bytes(), &self.signature)
            .map_err(|_| FeedError::Signature)?;
        let message = Message::parse_verified(&self.body)?;
        if message.trust_domain != trust.trust_domain {
            return Err(FeedError::TrustDomain {
                held: trust.trust_domain.to_string(),
                offered: message.trust_domain.to_string(),
            });
        }
        let checkpoint = match &message.content {
            Content::Heartbeat(heartbeat) => Some(verify_checkpoint(heartbeat, trust)?),
            Content::Delta(_) | Content::Snapshot(_) => None,
        };
        Ok(VerifiedMessage { message, checkpoint })
    }
}

impl VerifiedMessage {
    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }
}

/// What a feed key signs: the body's hash, since a key service signs at most 4,096 bytes.
pub fn signed_text(trust_domain: &TrustDomain, body: &[u8]) -> String {
    format!("{DOMAIN}{trust_domain}\n{}\n", Hash::of(body).to_hex())
}

fn verify_checkpoint(heartbeat: &Heartbeat, trust: &TrustState) -> Result<Checkpoint, FeedError> {
    let key = VerifierKey::parse(&trust.log.key).map_err(FeedError::Checkpoint)?;
    Checkpoint::verify(heartbeat.checkpoint.as_bytes(), &trust.log.origin, &key)
        .map_err(FeedError::Checkpoint)
}

/// No other text that a key of ours signs begins like this.
const DOMAIN: &str = "countersign-feed/v1\n";
const ED25519_SIGNATURE: usize = 64;
/// SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING of 32 bytes … (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
