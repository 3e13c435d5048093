//! The revocation feed: a line as it comes, and lines of bodies and chunks, signed here and folded.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use fuzz::{
    CA, NOW, ORIGIN, OTHER_KEY, canonical, checkpoint_key, ed25519_spki, trust_domain, trust_state,
};
use identity::feed::{
    Assembly, Content, Envelope, FeedError, FeedState, FeedUpdate, Line, Message, Position,
    VerifiedMessage, signed_text,
};
use identity::{Der, Revocations, TrustState};
use libfuzzer_sys::fuzz_target;
use tlog::{Checkpoint, Hash, SignedNote};

fuzz_target!(|data: &[u8]| {
    if let Some(Line::Message(envelope)) = canonical(data, Line::parse, Line::encode) {
        assert!(envelope.verify(&TRUST).is_err() || data == SIGNED, "a forgery is believed");
    }
    let mut subscriber = Subscriber::new();
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    for (place, line) in lines.iter().enumerate() {
        subscriber.hear(line, &lines[place + 1..]);
    }
});

/// Whoever follows the feed, and what it would be wrong to forget.
struct Subscriber {
    state: FeedState,
    held: Revocations,
    /// The hash at each sequence passed.
    passed: HashMap<u64, Hash>,
}

impl Subscriber {
    fn new() -> Self {
        let state = FeedState::new(trust_domain());
        let Position { sequence, hash } = state.position();
        let passed = HashMap::from([(sequence, hash)]);
        Self { state, held: Revocations::default(), passed }
    }

    fn hear(&mut self, body: &[u8], following: &[&[u8]]) {
        // Spares a signature for most lines.
        let Ok(message) = serde_json::from_slice::<Message>(body) else { return };
        let again = serde_json::from_slice(&message.body());
        assert_eq!(again.ok().as_ref(), Some(&message));
        let message = self.complete(message, following);
        let Ok(verified) = sign(&message).verify(&TRUST) else { return };
        assert_eq!(verified.message(), &message);
        self.take(&verified, following);
        // What is sent twice changes nothing more.
        let (state, held) = (self.state.clone(), self.held.clone());
        self.take(&verified, following);
        assert_eq!((&self.state, &self.held), (&state, &held));
    }

    fn take(&mut self, message: &VerifiedMessage, following: &[&[u8]]) {
        let before = (self.state.clone(), self.held.clone());
        let update = match self.state.accept(message.clone(), NOW * 1000) {
            Ok(FeedUpdate::Assemble(assembly)) => {
                assert_eq!(self.state, before.0, "a head moves nothing");
                self.assemble(assembly, following)
            }
            update => update,
        };
        match update {
            Err(_) | Ok(FeedUpdate::Gap) => assert_eq!(self.state, before.0),
            Ok(update) => {
                self.require_meaning(&update, message.message(), before.0.position());
                update.apply(&mut self.held);
                let Position { sequence, hash } = self.state.position();
                self.passed.insert(sequence, hash);
                self.require_growth(&before.0, &before.1);
            }
        }
    }

    /// Takes the lines that follow as chunks; what is no chunk of it changes nothing.
    fn assemble(
        &mut self,
        mut assembly: Assembly,
        following: &[&[u8]],
    ) -> Result<FeedUpdate, FeedError> {
        for line in following {
            if assembly.missing() == 0 {
                assert!(assembly.clone().take(line).is_err(), "one chunk too many");
                break;
            }
            assembly.take(line)?;
        }
        self.state.complete(assembly, NOW * 1000)
    }

    /// The position is the message's, and the items lead there.
    fn require_meaning(&self, update: &FeedUpdate, message: &Message, before: Position) {
        let position = self.state.position();
        assert_eq!(position, message.position());
        match update {
            FeedUpdate::Apply(items) => {
                let led = items.iter().fold(before, |position, item| position.after(item));
                assert_eq!(led, position);
            }
            FeedUpdate::Nothing => assert_eq!(position, before),
            FeedUpdate::Replace(_) => assert!(position.sequence > before.sequence),
            FeedUpdate::Assemble(_) | FeedUpdate::Gap => unreachable!("neither takes anything"),
        }
    }

    /// Neither sequence, time, log nor revocations go back; only denials are lifted.
    fn require_growth(&self, state: &FeedState, held: &Revocations) {
        assert!(self.state.position().sequence >= state.position().sequence);
        assert!(self.state.newest_at() >= state.newest_at());
        assert!(self.state.checkpoint_size() >= state.checkpoint_size());
        assert!(held.serials().all(|serial_number| self.held.is_serial_revoked(serial_number)));
        let now: HashMap<_, _> = self.held.identities().collect();
        assert!(held.identities().all(|(id, before)| now.get(id).is_some_and(|at| *at >= before)));
        if self.state.position() == state.position() {
            let denied: HashSet<_> = held.denied().collect();
            assert_eq!(self.held.denied().collect::<HashSet<_>>(), denied);
        }
    }

    /// Puts in what a fuzzer never finds: hashes where there are zeros, and a checkpoint's signature.
    fn complete(&self, mut message: Message, following: &[&[u8]]) -> Message {
        let known = |sequence| self.passed.get(&sequence).copied().unwrap_or(BLANK);
        let blank = message.hash == BLANK;
        match &mut message.content {
            Content::Delta(delta) => {
                if delta.previous_hash == BLANK {
                    delta.previous_hash = known(delta.previous_sequence);
                }
                if blank {
                    let mut items = delta.items.iter();
                    let after = items.try_fold(delta.previous(), |position, item| {
                        (position.sequence < item.log_index).then(|| position.after(item))
                    });
                    message.hash = after.map_or(BLANK, |position| position.hash);
                }
            }
            Content::Heartbeat(heartbeat) => {
                if let Some(note) = sign_checkpoint(&heartbeat.checkpoint) {
                    heartbeat.checkpoint = note;
                }
                if blank {
                    message.hash = known(message.sequence);
                }
            }
            Content::Snapshot(head) => {
                for (named, line) in head.chunks.iter_mut().zip(following) {
                    if *named == BLANK {
                        *named = Hash::of(line);
                    }
                }
                if blank {
                    message.hash = known(message.sequence);
                }
            }
        }
        message
    }
}

fn sign(message: &Message) -> Envelope {
    let body = message.body();
    let signature = OTHER_KEY.sign(signed_text(&trust_domain(), &body).as_bytes());
    Envelope::new(&ed25519_spki(&OTHER_KEY), signature.as_ref(), body)
}

fn sign_checkpoint(text: &str) -> Option<String> {
    Checkpoint::parse(text).ok()?;
    let (key, signature) = (checkpoint_key(), OTHER_KEY.sign(text.as_bytes()));
    let note = SignedNote::unsigned(text).ok()?;
    let note = note.with_signature(ORIGIN, key.key_id(), signature.as_ref()).ok()?;
    String::from_utf8(note.encode()).ok()
}

const BLANK: Hash = Hash::new([0; 32]);
/// A line of the corpus that our key signed.
const SIGNED: &[u8] = include_bytes!("../../corpus/feed/signed");
static TRUST: LazyLock<TrustState> = LazyLock::new(|| {
    let feed_keys = vec![Der::new(ed25519_spki(&OTHER_KEY))];
    TrustState { feed_keys, ..trust_state(&CA.root) }
});
