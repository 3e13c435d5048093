//! A snapshot in chunks: each is taken where its head names it, and nowhere else.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::feed::{
    Envelope, FeedChange, FeedError, FeedItem, FeedUpdate, Line, MAX_CHUNK, MAX_CHUNKS, MAX_LINE,
    RevokedIdentity, Snapshot,
};
use identity::{Revocations, SpiffeId};
use support::NOW_MS;
use support::feed::{Feed, Subscriber, serial};

/// A CA whose snapshot has three chunks, a newcomer, and the head and chunks.
fn newcomer() -> (Feed, Subscriber, Vec<Line>) {
    let mut feed = Feed::new();
    (1..=7000).for_each(|log_index| feed.revoke(log_index));
    let told = feed.snapshot(7000);
    assert_eq!(told.len(), 4, "a head, and three chunks");
    let subscriber = feed.subscriber();
    (feed, subscriber, told)
}

/// Gives the lines to a newcomer, who must refuse them and be left as it was.
fn assert_refused(subscriber: &Subscriber, lines: Vec<Line>, expected: &FeedError) {
    let mut subscriber = subscriber.clone();
    let before = subscriber.clone();
    assert_eq!(subscriber.take(&lines).as_ref(), Err(expected));
    assert_eq!((subscriber.state, subscriber.held), (before.state, before.held));
}

#[test]
fn a_snapshot_in_chunks_is_the_folded_state() {
    let (feed, mut subscriber, told) = newcomer();
    assert!(matches!(subscriber.take(&told), Ok(FeedUpdate::Replace(_))));
    assert_eq!(subscriber.held, feed.folded(7000));
    assert_eq!(subscriber.state.position(), feed.position(7000));
    assert_eq!(subscriber.state.newest_at(), Some(feed.at));
    assert_eq!(subscriber.take(&told), Ok(FeedUpdate::Nothing), "the same again");
}

#[test]
fn a_head_alone_moves_nothing() {
    let (feed, mut subscriber, told) = newcomer();
    let Line::Message(head) = &told[0] else { unreachable!() };
    let message = head.verify(&feed.trust).unwrap();
    let update = subscriber.state.accept(message, NOW_MS).unwrap();
    let FeedUpdate::Assemble(assembly) = update else { panic!("{update:?}") };
    assert_eq!(assembly.missing(), 3);
    assert_eq!(subscriber.state, feed.subscriber().state);
}

#[test]
fn a_chunk_with_any_byte_changed_is_refused_unread() {
    let (_, subscriber, told) = newcomer();
    let Line::Chunk(chunk) = &told[2] else { unreachable!() };
    for position in [0, 1, chunk.len() / 2, chunk.len() - 1] {
        let mut lines = told.clone();
        let Line::Chunk(changed) = &mut lines[2] else { unreachable!() };
        changed[position] ^= 1;
        // What is no object any more is taken for a message, which ends the chunks.
        let expected = match position {
            0 => FeedError::Envelope,
            _ => FeedError::Chunk { number: 2, of: 3 },
        };
        assert_refused(&subscriber, lines, &expected);
    }
}

#[test]
fn a_chunk_that_is_cut_is_refused() {
    let (_, subscriber, mut told) = newcomer();
    let Line::Chunk(chunk) = &mut told[3] else { unreachable!() };
    chunk.pop();
    assert_refused(&subscriber, told, &FeedError::Chunk { number: 3, of: 3 });
}

#[test]
fn a_chunk_that_is_missing_is_missed() {
    let (_, subscriber, told) = newcomer();
    for (missing, expected) in [
        (1, FeedError::Chunk { number: 1, of: 3 }),
        (2, FeedError::Chunk { number: 2, of: 3 }),
        (3, FeedError::Incomplete { missing: 1 }),
    ] {
        let mut lines = told.clone();
        lines.remove(missing);
        assert_refused(&subscriber, lines, &expected);
    }
}

#[test]
fn chunks_in_another_order_are_refused() {
    let (_, subscriber, mut told) = newcomer();
    told.swap(1, 2);
    assert_refused(&subscriber, told, &FeedError::Chunk { number: 1, of: 3 });
}

#[test]
fn a_chunk_sent_twice_is_refused() {
    let (_, subscriber, told) = newcomer();
    for place in 1..=3 {
        let mut lines = told.clone();
        lines.insert(place, told[place].clone());
        let number = place + 1;
        assert_refused(&subscriber, lines, &FeedError::Chunk { number, of: 3 });
    }
}

#[test]
fn a_chunk_of_another_snapshot_is_refused() {
    let (mut feed, subscriber, mut told) = newcomer();
    feed.revoke(8000);
    told[3] = feed.snapshot(7001)[3].clone();
    assert_refused(&subscriber, told, &FeedError::Chunk { number: 3, of: 3 });
}

#[test]
fn a_chunk_without_a_head_is_refused() {
    let (_, subscriber, told) = newcomer();
    assert_refused(&subscriber, told[1..].to_vec(), &FeedError::ChunkWithoutHead);
}

#[test]
fn a_message_between_chunks_ends_them() {
    let (mut feed, subscriber, mut told) = newcomer();
    told.insert(2, Line::Message(feed.heartbeat()));
    assert_refused(&subscriber, told, &FeedError::Incomplete { missing: 2 });
}

#[test]
fn a_line_is_bounded_before_it_is_looked_at() {
    let long = |bytes| [&b"{"[..], &vec![b' '; bytes - 2], b"}"].concat();
    assert!(matches!(Line::parse(&long(MAX_CHUNK)), Ok(Line::Chunk(_))));
    let bytes = MAX_CHUNK + 1;
    assert_eq!(Line::parse(&long(bytes)), Err(FeedError::ChunkSize { bytes }));
    let envelope = Envelope::new(b"key", vec![7; 64], vec![b'a'; MAX_LINE]).encode();
    assert_eq!(Line::parse(&envelope), Err(FeedError::Envelope));
    assert!(Line::parse(&envelope[..MAX_LINE]).is_ok());
}

#[test]
fn a_head_that_names_too_many_chunks_is_refused_though_it_is_signed() {
    let mut feed = Feed::new();
    feed.revoke(3);
    let subscriber = feed.subscriber();
    let mut head = |count| feed.snapshot_of(1, vec![b"{}".to_vec(); count]);
    let (most, more) = (head(MAX_CHUNKS), head(MAX_CHUNKS + 1));
    assert!(most[0].encode().len() <= MAX_LINE, "the largest head fits a line");
    assert!(subscriber.clone().take(&most).is_ok());
    let count = MAX_CHUNKS + 1;
    assert_refused(&subscriber, more, &FeedError::ChunkCount { count });
}

/// As a signer with a broken serializer would make it.
#[test]
fn a_chunk_of_another_form_is_refused_though_its_hash_is_named() {
    let mut feed = Feed::new();
    feed.revoke(3);
    for chunk in ["{", r#"{"more":[]}"#, r#"{"serials":{"7":["no hex"]}}"#] {
        let mut subscriber = feed.subscriber();
        let refused = subscriber.take(&feed.snapshot_of(1, vec![chunk.into()]));
        assert!(matches!(refused, Err(FeedError::Message(_))), "{chunk}: {refused:?}");
    }
}

#[test]
fn a_snapshot_that_was_overtaken_half_way_takes_nothing_back() {
    let (mut feed, mut subscriber, told) = newcomer();
    let Line::Message(head) = &told[0] else { unreachable!() };
    let message = head.verify(&feed.trust).unwrap();
    let Ok(FeedUpdate::Assemble(mut assembly)) = subscriber.state.accept(message, NOW_MS) else {
        panic!("it is a head")
    };
    for line in &told[1..] {
        let Line::Chunk(chunk) = line else { unreachable!() };
        assembly.take(chunk).unwrap();
    }
    feed.revoke(8000);
    assert!(subscriber.take(&feed.snapshot(7001)).is_ok());
    let refused = subscriber.state.complete(assembly, NOW_MS);
    assert_eq!(refused, Err(FeedError::Reordered { held: 8000, offered: 7000 }));
    assert_eq!(subscriber.held, feed.folded(7001));
}

#[test]
fn no_chunk_is_longer_than_the_longest_whatever_is_revoked() {
    let long = |n: usize| {
        let path = format!("/{n}/{}", "a".repeat(1900));
        SpiffeId::parse(&format!("spiffe://pay.example{path}")).unwrap()
    };
    let longest = |n: usize| {
        let octets = [&[0x5a; 12][..], &n.to_be_bytes()].concat();
        identity::SerialNumber::from_octets(&octets).unwrap()
    };
    let mut held = Revocations::default();
    for n in 0..5000 {
        held.revoke_serial_until(longest(n), u64::MAX - n as u64 % 700);
        held.revoke_serial(serial(n as u64));
    }
    (0..100).for_each(|n| held.deny(long(n), u64::MAX));
    let chunks = Snapshot::of(&held).chunks();
    assert!(chunks.len() > 5);
    assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_CHUNK));
    let mean = chunks.iter().map(Vec::len).sum::<usize>() / chunks.len();
    assert!(mean > MAX_CHUNK / 2, "{mean}: they are filled");

    let mut feed = Feed::new();
    feed.items = vec![FeedItem { log_index: 3, change: FeedChange::Allow(long(0)) }];
    let mut subscriber = feed.subscriber();
    assert!(subscriber.take(&feed.snapshot_of(1, chunks)).is_ok());
    assert_eq!(subscriber.held, held);
}

#[test]
fn nothing_revoked_has_no_chunk() {
    assert_eq!(Snapshot::default().chunks(), Vec::<Vec<u8>>::new());
    let spiffe_id = SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
    let identities = vec![RevokedIdentity { spiffe_id, before: 3 }];
    let one = Snapshot { identities, ..Snapshot::default() }.chunks();
    let text = r#"{"identities":[{"spiffe_id":"spiffe://pay.example/prod/reports","before":3}]}"#;
    assert_eq!(one, [text.as_bytes()]);
}
