//! A CA's end of the feed: its keys, its items so far, and messages about them.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use identity::feed::{
    Content, Delta, Envelope, FeedChange, FeedError, FeedItem, FeedState, FeedUpdate, Heartbeat,
    Line, Message, Position, Snapshot, SnapshotHead, VerifiedMessage, signed_text,
};
use identity::{Der, LogKey, Revocations, SerialNumber, TrustDomain, TrustState};
use tlog::{Checkpoint, Hash, SignedNote, VerifierKey};

use super::{NOW_MS, trust_state};

pub(crate) struct Feed {
    key: Ed25519KeyPair,
    log: Ed25519KeyPair,
    pub(crate) trust: TrustState,
    pub(crate) items: Vec<FeedItem>,
    pub(crate) at: u64,
    pub(crate) log_size: u64,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let (key, log) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let mut trust = trust_state(vec![], &[]);
        trust.feed_keys = vec![Der::new(spki(&key))];
        trust.log = LogKey {
            origin: "pay.example/log".into(),
            key: verifier_key(&log, "pay.example/log").to_string(),
        };
        Self { key, log, trust, items: vec![], at: NOW_MS, log_size: 100 }
    }

    /// The same CA with another feed key, which the trust state does not name.
    pub(crate) fn stolen() -> (Self, Ed25519KeyPair) {
        (Self::new(), Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn subscriber(&self) -> Subscriber {
        let state = FeedState::new(self.trust.trust_domain.clone());
        Subscriber { trust: self.trust.clone(), state, held: Revocations::default() }
    }

    /// Revokes a serial number at a place of the log.
    pub(crate) fn revoke(&mut self, log_index: u64) {
        self.add(log_index, revoke_serial(log_index));
    }

    pub(crate) fn add(&mut self, log_index: u64, change: FeedChange) {
        self.items.push(FeedItem { log_index, change });
    }

    /// The position after so many items.
    pub(crate) fn position(&self, count: usize) -> Position {
        let genesis = Position::genesis(&self.trust.trust_domain);
        self.items[..count].iter().fold(genesis, |position, item| position.after(item))
    }

    pub(crate) fn folded(&self, count: usize) -> Revocations {
        let mut held = Revocations::default();
        self.items[..count].iter().for_each(|item| item.apply(&mut held));
        held
    }

    pub(crate) fn message(&self, count: usize, content: Content) -> Message {
        let Position { sequence, hash } = self.position(count);
        let trust_domain = self.trust.trust_domain.clone();
        Message { v: Message::VERSION, trust_domain, at: self.at, sequence, hash, content }
    }

    pub(crate) fn delta_message(&self, from: usize, to: usize) -> Message {
        let previous = self.position(from);
        let delta = Delta {
            previous_sequence: previous.sequence,
            previous_hash: previous.hash,
            items: self.items[from..to].to_vec(),
        };
        self.message(to, Content::Delta(delta))
    }

    /// Items `from..to`, later than the message before.
    pub(crate) fn delta(&mut self, from: usize, to: usize) -> Envelope {
        self.at += 1;
        self.sign(&self.delta_message(from, to))
    }

    /// A snapshot's head, and its chunks.
    pub(crate) fn snapshot(&mut self, count: usize) -> Vec<Line> {
        let chunks = Snapshot::of(&self.folded(count)).chunks();
        self.snapshot_of(count, chunks)
    }

    /// A head for chunks of one's own making, and they.
    pub(crate) fn snapshot_of(&mut self, count: usize, chunks: Vec<Vec<u8>>) -> Vec<Line> {
        self.at += 1;
        let head = Content::Snapshot(SnapshotHead::of(&chunks));
        let head = Line::Message(self.sign(&self.message(count, head)));
        [head].into_iter().chain(chunks.into_iter().map(Line::Chunk)).collect()
    }

    pub(crate) fn heartbeat(&mut self) -> Envelope {
        self.at += 1;
        self.sign(&self.heartbeat_message())
    }

    pub(crate) fn heartbeat_message(&self) -> Message {
        let heartbeat = Heartbeat {
            checkpoint: self.checkpoint(self.log_size, Hash::of(&self.log_size.to_be_bytes())),
            trust_sequence: self.trust.sequence,
            trust_hash: Hash::of(b"note"),
        };
        self.message(self.items.len(), Content::Heartbeat(heartbeat))
    }

    pub(crate) fn checkpoint(&self, size: u64, root: Hash) -> String {
        let origin = "pay.example/log".to_owned();
        let text = Checkpoint { origin, size, root }.text();
        let key = verifier_key(&self.log, "pay.example/log");
        let signature = self.log.sign(text.as_bytes());
        let note = SignedNote::unsigned(text).unwrap();
        let note = note.with_signature(key.name(), key.key_id(), signature.as_ref()).unwrap();
        String::from_utf8(note.encode()).unwrap()
    }

    pub(crate) fn sign(&self, message: &Message) -> Envelope {
        self.sign_bytes(message.body())
    }

    pub(crate) fn sign_bytes(&self, body: Vec<u8>) -> Envelope {
        sign(&self.key, &self.trust.trust_domain, body)
    }
}

pub(crate) fn sign(key: &Ed25519KeyPair, trust_domain: &TrustDomain, body: Vec<u8>) -> Envelope {
    let signature = key.sign(signed_text(trust_domain, &body).as_bytes());
    Envelope::new(&spki(key), signature.as_ref(), body)
}

/// One message, with what follows it.
pub(crate) trait Told {
    fn lines(&self) -> Vec<Line>;
}

impl Told for Envelope {
    fn lines(&self) -> Vec<Line> {
        vec![Line::Message(self.clone())]
    }
}

impl Told for Vec<Line> {
    fn lines(&self) -> Vec<Line> {
        self.clone()
    }
}

/// A workload's end.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) trust: TrustState,
    pub(crate) state: FeedState,
    pub(crate) held: Revocations,
}

impl Subscriber {
    /// Takes a message as it comes over the wire, and applies it.
    pub(crate) fn take(&mut self, told: &impl Told) -> Result<FeedUpdate, FeedError> {
        let mut lines = told.lines().into_iter().map(|line| Line::parse(&line.encode()));
        let Some(Line::Message(envelope)) = lines.next().transpose()? else {
            return Err(FeedError::ChunkWithoutHead);
        };
        let message: VerifiedMessage = envelope.verify(&self.trust)?;
        let mut update = self.state.accept(message, NOW_MS)?;
        if let FeedUpdate::Assemble(mut assembly) = update {
            for line in lines {
                let Line::Chunk(chunk) = line? else { break };
                assembly.take(&chunk)?;
            }
            update = self.state.complete(assembly, NOW_MS)?;
        }
        update.clone().apply(&mut self.held);
        Ok(update)
    }
}

pub(crate) fn revoke_serial(number: u64) -> FeedChange {
    FeedChange::RevokeSerial { serial_number: serial(number), until: NOW_MS / 1000 + 3600 }
}

pub(crate) fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_octets(&[&[1], &number.to_be_bytes()[..]].concat()).unwrap()
}

pub(crate) fn spki(key: &Ed25519KeyPair) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    der.as_ref().to_vec()
}

fn verifier_key(key: &Ed25519KeyPair, name: &str) -> VerifierKey {
    VerifierKey::ed25519(name, key.public_key().as_ref().try_into().unwrap()).unwrap()
}
