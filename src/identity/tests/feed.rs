//! What a subscriber takes from the feed, and what it refuses: rule by rule.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::feed::{
    Content, Envelope, FeedChange, FeedError, FeedItem, FeedState, FeedUpdate, Message, Position,
};
use identity::{Der, SpiffeId, TrustDomain};
use proptest::prelude::*;
use support::NOW_MS;
use support::feed::{Feed, Subscriber, Told, revoke_serial, serial, sign};
use tlog::Hash;

/// A CA with items at 3, 5, 8 and 9, and a subscriber that has the first two.
fn in_sync() -> (Feed, Subscriber) {
    let mut feed = Feed::new();
    [3, 5, 8, 9].into_iter().for_each(|log_index| feed.revoke(log_index));
    let mut subscriber = feed.subscriber();
    assert!(matches!(subscriber.take(&feed.snapshot(2)), Ok(FeedUpdate::Replace(_))));
    (feed, subscriber)
}

#[test]
fn an_empty_feed_is_in_sync_with_genesis() {
    let mut feed = Feed::new();
    let mut subscriber = feed.subscriber();
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.state.position().sequence, 0);
    assert_eq!(subscriber.state.newest_at(), Some(feed.at));
    assert_eq!(subscriber.state.checkpoint_size(), Some(100));
    assert_eq!(subscriber.state.trust(), Some((feed.trust.sequence, Hash::of(b"note"))));
}

#[test]
fn a_delta_brings_what_came_after_the_position_held() {
    let (mut feed, mut subscriber) = in_sync();
    assert!(matches!(subscriber.take(&feed.delta(2, 4)), Ok(FeedUpdate::Apply(_))));
    assert_eq!(subscriber.held, feed.folded(4));
    assert_eq!(subscriber.state.position(), feed.position(4));
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.take(&feed.snapshot(4)), Ok(FeedUpdate::Nothing));
}

#[test]
fn a_delta_that_begins_earlier_is_cut_to_what_is_new() {
    let (mut feed, mut subscriber) = in_sync();
    let new = FeedUpdate::Apply(feed.items[2..3].to_vec());
    assert_eq!(subscriber.take(&feed.delta(0, 3)), Ok(new));
    assert_eq!(subscriber.take(&feed.delta(1, 3)), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.held, feed.folded(3));
}

#[test]
fn a_gap_asks_for_more_and_changes_nothing() {
    let (mut feed, mut subscriber) = in_sync();
    let before = subscriber.clone();
    assert_eq!(subscriber.take(&feed.delta(3, 4)), Ok(FeedUpdate::Gap));
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Gap));
    assert_eq!((&subscriber.state, &subscriber.held), (&before.state, &before.held));
    assert!(matches!(subscriber.take(&feed.snapshot(4)), Ok(FeedUpdate::Replace(_))));
    assert_eq!(subscriber.held, feed.folded(4));
}

#[test]
fn a_line_that_is_cut_anywhere_is_refused() {
    let (mut feed, subscriber) = in_sync();
    let line = feed.delta(2, 4).encode();
    for length in 0..line.len() {
        let verified = Envelope::parse(&line[..length]).and_then(|cut| cut.verify(&feed.trust));
        assert!(verified.is_err(), "{length} bytes");
    }
    assert_eq!(subscriber.held, feed.folded(2));
}

#[test]
fn a_line_whose_signature_has_padding_in_the_middle_is_refused() {
    let (mut feed, _) = in_sync();
    let line = String::from_utf8(feed.heartbeat().encode()).unwrap();
    let (key_id, rest) = line.split_once(' ').unwrap();
    let (signature, body) = rest.split_once(' ').unwrap();
    assert!(signature.ends_with("=="));
    // The last octet first, in a group of its own: as many octets, as many letters.
    let (groups, last) = signature.split_at(signature.len() - 4);
    let padded = format!("{key_id} {last}{groups} {body}");
    assert_eq!(Envelope::parse(padded.as_bytes()), Err(FeedError::Envelope));
}

#[test]
fn a_line_with_any_byte_changed_is_refused() {
    let (mut feed, _) = in_sync();
    let line = feed.heartbeat().encode();
    for position in 0..line.len() {
        let mut changed = line.clone();
        changed[position] ^= 1;
        let verified = Envelope::parse(&changed).and_then(|changed| changed.verify(&feed.trust));
        assert!(verified.is_err(), "byte {position}");
    }
}

#[test]
fn a_delta_with_items_left_out_is_refused_though_it_is_signed() {
    let (feed, mut subscriber) = in_sync();
    for kept in [&[][..], &[2], &[3], &[3, 2], &[2, 2, 3]] {
        let mut message = feed.delta_message(2, 4);
        let Content::Delta(delta) = &mut message.content else { unreachable!() };
        delta.items = kept.iter().map(|&position| feed.items[position].clone()).collect();
        let refused = Err(FeedError::Chain { sequence: 9 });
        assert_eq!(subscriber.take(&feed.sign(&message)), refused, "{kept:?}");
    }
}

/// As a signer with a broken fold, or a thief of its key, would make it.
#[test]
fn a_delta_whose_items_do_not_ascend_is_refused_though_its_hash_is_theirs() {
    let (feed, mut subscriber) = in_sync();
    for order in [&[3, 2][..], &[2, 2], &[1, 2], &[2, 3, 3]] {
        let items: Vec<_> = order.iter().map(|&place| feed.items[place].clone()).collect();
        let after = items.iter().fold(feed.position(2), |position, item| position.after(item));
        let mut message = feed.delta_message(2, 4);
        (message.sequence, message.hash) = (after.sequence, after.hash);
        let Content::Delta(delta) = &mut message.content else { unreachable!() };
        delta.items = items;
        let refused = Err(FeedError::Chain { sequence: after.sequence });
        assert_eq!(subscriber.take(&feed.sign(&message)), refused, "{order:?}");
    }
}

#[test]
fn a_message_by_a_key_that_the_trust_state_does_not_name_is_refused() {
    let (feed, thief) = Feed::stolen();
    let mut subscriber = feed.subscriber();
    let forged = sign(&thief, &feed.trust.trust_domain, feed.heartbeat_message().body());
    assert!(matches!(subscriber.take(&forged), Err(FeedError::UnknownKey { .. })));
    let named = feed.trust.feed_keys[0].as_bytes();
    let body = feed.heartbeat_message().body();
    let renamed = Envelope::new(named, vec![7; 64], body);
    assert_eq!(subscriber.take(&renamed), Err(FeedError::Signature));
}

#[test]
fn any_feed_key_of_the_trust_state_may_sign() {
    let (mut feed, second) = Feed::stolen();
    feed.trust.feed_keys.push(Der::new(support::feed::spki(&second)));
    let mut subscriber = feed.subscriber();
    let signed = sign(&second, &feed.trust.trust_domain, feed.heartbeat_message().body());
    assert_eq!(subscriber.take(&signed), Ok(FeedUpdate::Nothing));
}

#[test]
fn a_key_that_is_not_ed25519_signs_nothing() {
    let mut feed = Feed::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    feed.trust.feed_keys = vec![Der::new(spki.clone())];
    let forged = Envelope::new(&spki, vec![7; 64], feed.heartbeat_message().body());
    let refused = feed.subscriber().take(&forged);
    assert!(matches!(refused, Err(FeedError::UnknownKey { .. })), "{refused:?}");
}

#[test]
fn a_foreign_trust_domain_is_refused() {
    let mut feed = Feed::new();
    let foreign = TrustDomain::parse("shop.example").unwrap();
    let mut message = feed.heartbeat_message();
    message.trust_domain = foreign.clone();
    let refused = feed.subscriber().take(&feed.sign(&message));
    assert!(matches!(refused, Err(FeedError::TrustDomain { .. })), "{refused:?}");

    let mut of_ours = feed.subscriber();
    feed.trust.trust_domain = foreign;
    assert_eq!(of_ours.take(&feed.heartbeat()), Err(FeedError::Signature), "it is in the text too");
}

#[test]
fn a_message_much_older_than_one_seen_is_a_replay() {
    let (mut feed, mut subscriber) = in_sync();
    feed.items.truncate(2);
    let kept = feed.heartbeat();
    feed.at -= 11_000;
    let long_kept = feed.heartbeat();
    assert_eq!(subscriber.take(&kept), Ok(FeedUpdate::Nothing));
    let newest = subscriber.state.newest_at();
    assert!(matches!(subscriber.take(&long_kept), Err(FeedError::Replayed { .. })));
    assert_eq!(subscriber.take(&kept), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.state.newest_at(), newest, "a replay makes nothing fresher");
}

/// Nodes of one CA differ by so much: the older one's word is taken, and makes nothing older.
#[test]
fn a_message_a_little_older_than_one_seen_turns_no_clock_back() {
    let (mut feed, mut subscriber) = in_sync();
    feed.items.truncate(2);
    let newer = feed.heartbeat();
    let newest = Some(feed.at);
    feed.at -= 9_000;
    let older = feed.heartbeat();
    for heartbeat in [newer, older] {
        assert_eq!(subscriber.take(&heartbeat), Ok(FeedUpdate::Nothing));
        assert_eq!(subscriber.state.newest_at(), newest);
    }
}

#[test]
fn a_feed_of_another_trust_domain_is_not_folded_into_ours() {
    let mut feed = Feed::new();
    feed.revoke(3);
    let mut subscriber = feed.subscriber();
    subscriber.state = FeedState::new(TrustDomain::parse("shop.example").unwrap());
    let refused = subscriber.take(&feed.snapshot(1));
    assert!(matches!(refused, Err(FeedError::TrustDomain { .. })), "{refused:?}");
}

#[test]
fn messages_out_of_order_are_refused_or_lead_to_a_gap() {
    let (mut feed, mut subscriber) = in_sync();
    let (first, second) = (feed.delta(2, 3), feed.delta(3, 4));
    assert_eq!(subscriber.take(&second), Ok(FeedUpdate::Gap));
    assert!(matches!(subscriber.take(&first), Ok(FeedUpdate::Apply(_))));
    assert!(matches!(subscriber.take(&second), Ok(FeedUpdate::Apply(_))));
    let late = Err(FeedError::Reordered { held: 9, offered: 8 });
    assert_eq!(subscriber.take(&first), late);
}

#[test]
fn a_lower_sequence_is_a_rollback() {
    let (mut feed, mut subscriber) = in_sync();
    let rollback = Err(FeedError::Rollback { held: 5, offered: 3 });
    assert_eq!(subscriber.take(&feed.snapshot(1)), rollback);
    assert_eq!(subscriber.take(&feed.delta(0, 1)), rollback);
    feed.items.truncate(1);
    assert_eq!(subscriber.take(&feed.heartbeat()), rollback);
    assert_eq!(subscriber.state.position().sequence, 5);
}

#[test]
fn another_hash_at_the_same_sequence_is_a_fork() {
    let (_, mut subscriber) = in_sync();
    let (mut other, _) = in_sync();
    subscriber.trust = other.trust.clone();
    other.items[0].change = revoke_serial(77);
    let fork = Err(FeedError::Fork { sequence: 5 });
    assert_eq!(subscriber.take(&other.snapshot(2)), fork);
    assert_eq!(subscriber.take(&other.delta(2, 3)), fork);
    assert_eq!(subscriber.take(&other.delta(0, 3)), fork);
    other.items.truncate(2);
    assert_eq!(subscriber.take(&other.heartbeat()), fork);
}

#[test]
fn a_message_from_the_future_revokes_and_confirms_nothing() {
    let mut feed = Feed::new();
    feed.revoke(3);
    let mut subscriber = feed.subscriber();
    feed.at = NOW_MS + 60_001;
    assert!(matches!(subscriber.take(&feed.snapshot(1)), Ok(FeedUpdate::Replace(_))));
    assert!(subscriber.held.is_serial_revoked(&serial(3)));
    assert_eq!(subscriber.state.newest_at(), None);
    feed.revoke(5);
    assert!(matches!(subscriber.take(&feed.delta(1, 2)), Ok(FeedUpdate::Apply(_))));
    assert!(subscriber.held.is_serial_revoked(&serial(5)));
    assert_eq!(subscriber.state.newest_at(), None);
}

#[test]
fn a_message_from_the_future_makes_no_replay_of_those_of_now() {
    let (mut feed, mut subscriber) = in_sync();
    feed.items.truncate(2);
    let now = feed.at;
    feed.at = NOW_MS + 3_600_000;
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    feed.at = now + 2000;
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.state.newest_at(), Some(feed.at));
}

#[test]
fn clocks_may_differ_by_a_minute() {
    let mut feed = Feed::new();
    let mut subscriber = feed.subscriber();
    feed.at = NOW_MS + 59_000;
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.state.newest_at(), Some(feed.at));
}

#[test]
fn a_smaller_checkpoint_is_a_rollback_and_another_root_a_fork() {
    let mut feed = Feed::new();
    let mut subscriber = feed.subscriber();
    assert!(subscriber.take(&feed.heartbeat()).is_ok());
    feed.log_size = 99;
    let rollback = Err(FeedError::CheckpointRollback { held: 100, offered: 99 });
    assert_eq!(subscriber.take(&feed.heartbeat()), rollback);

    let mut message = feed.heartbeat_message();
    let Content::Heartbeat(heartbeat) = &mut message.content else { unreachable!() };
    heartbeat.checkpoint = feed.checkpoint(100, Hash::of(b"another past"));
    let fork = Err(FeedError::CheckpointFork { size: 100 });
    assert_eq!(subscriber.take(&feed.sign(&message)), fork);

    feed.log_size = 101;
    assert_eq!(subscriber.take(&feed.heartbeat()), Ok(FeedUpdate::Nothing));
    assert_eq!(subscriber.state.checkpoint_size(), Some(101));
}

#[test]
fn a_checkpoint_that_the_log_did_not_sign_is_refused() {
    let (feed, other) = (Feed::new(), Feed::new());
    let mut message = feed.heartbeat_message();
    let Content::Heartbeat(heartbeat) = &mut message.content else { unreachable!() };
    heartbeat.checkpoint = other.checkpoint(100, Hash::of(b""));
    let refused = feed.subscriber().take(&feed.sign(&message));
    assert!(matches!(refused, Err(FeedError::Checkpoint(_))), "{refused:?}");
}

#[test]
fn unknown_fields_and_other_versions_are_refused() {
    let feed = Feed::new();
    let body = String::from_utf8(feed.heartbeat_message().body()).unwrap();
    for (from, to) in [
        (r#"{"v":2,"#, r#"{"v":2,"more":1,"#),
        (r#"{"checkpoint""#, r#"{"more":1,"checkpoint""#),
        (r#"{"heartbeat""#, r#"{"farewell""#),
        (r#""at":"#, r#""at":1,"at":"#),
    ] {
        let changed = body.replacen(from, to, 1);
        assert_ne!(changed, body);
        let refused = feed.subscriber().take(&feed.sign_bytes(changed.into_bytes()));
        assert!(matches!(refused, Err(FeedError::Message(_))), "{to}: {refused:?}");
    }
    for v in [1, 3] {
        let other = format!(r#"{{"v":{v},"what else it says":"is its own"}}"#).into_bytes();
        let refused = Err(FeedError::Version { v });
        assert_eq!(feed.subscriber().take(&feed.sign_bytes(other)), refused);
    }
}

#[test]
fn a_snapshot_takes_no_revocation_back_and_lifts_denials_alone() {
    let id = SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
    let mut feed = Feed::new();
    feed.revoke(3);
    feed.add(4, FeedChange::Deny(id.clone()));
    let mut subscriber = feed.subscriber();
    assert!(subscriber.take(&feed.delta(0, 2)).is_ok());
    feed.add(6, FeedChange::Allow(id.clone()));
    assert!(subscriber.take(&feed.snapshot_of(3, vec![])).is_ok());
    assert!(subscriber.held.is_serial_revoked(&serial(3)));
    assert!(!subscriber.held.is_denied(&id));
    assert!(subscriber.held.check(&id, &serial(9), Some(3)).is_err());
}

/// A way to deliver the items: what each message carries, up to an item.
fn deliveries() -> impl Strategy<Value = (Vec<FeedItem>, Vec<(usize, bool, usize)>)> {
    let change = (0..4_u8, 0..5_u64).prop_map(|(kind, who)| {
        let id = SpiffeId::parse(&format!("spiffe://pay.example/{who}")).unwrap();
        match kind {
            0 => FeedChange::Allow(id),
            1 => FeedChange::Deny(id),
            2 => FeedChange::RevokeIdentity(id),
            _ => revoke_serial(who),
        }
    });
    let items = prop::collection::vec((1..5_u64, change), 0..40).prop_map(|changes| {
        let placed = changes.into_iter().scan(0, |log_index, (step, change)| {
            *log_index += step;
            Some(FeedItem { log_index: *log_index, change })
        });
        placed.collect::<Vec<_>>()
    });
    let messages = prop::collection::vec((1..8_usize, any::<bool>(), 0..4_usize), 0..20);
    (items, messages)
}

proptest! {
    #[test]
    fn any_split_into_deltas_and_snapshots_folds_to_the_same((items, messages) in deliveries()) {
        let mut feed = Feed::new();
        feed.items = items;
        let mut subscriber = feed.subscriber();
        let mut from = 0;
        for (step, is_snapshot, overlap) in messages {
            let to = feed.items.len().min(from + step);
            let told = match is_snapshot {
                true => feed.snapshot(to),
                false if to == from => continue,
                false => feed.delta(from.saturating_sub(overlap), to).lines(),
            };
            let update = subscriber.take(&told);
            prop_assert!(update.is_ok(), "{:?}", update);
            from = to;
            prop_assert_eq!(&subscriber.held, &feed.folded(from));
            prop_assert_eq!(subscriber.state.position(), feed.position(from));
        }
    }
}

/// Run with `cargo test --release -p identity --test feed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: it needs a release build on a quiet machine"]
fn a_snapshot_of_100_000_items_is_applied_within_100_ms() {
    let mut feed = Feed::new();
    let many = (1..100_001_u64).map(|n| {
        let serial_number = [&n.to_be_bytes()[..], &[0x5a; 12]].concat();
        let serial_number = identity::SerialNumber::from_octets(&serial_number).unwrap();
        let change = FeedChange::RevokeSerial { serial_number, until: NOW_MS / 1000 };
        FeedItem { log_index: n, change }
    });
    feed.items = many.collect();
    let told = feed.snapshot(100_000);
    let mut subscriber = feed.subscriber();
    let begun = std::time::Instant::now();
    assert!(matches!(subscriber.take(&told), Ok(FeedUpdate::Replace(_))));
    let took = begun.elapsed();
    println!("{} lines in {took:?}", told.len());
    assert_eq!(subscriber.held.serials().count(), 100_000);
    assert!(took.as_millis() < 100, "{took:?}");
}

#[test]
fn a_message_is_one_line_of_json_after_its_signature() {
    let mut feed = Feed::new();
    feed.revoke(3);
    let line = String::from_utf8(feed.delta(0, 1).encode()).unwrap();
    assert!(!line.contains(['\n', '\r']));
    let body: serde_json::Value =
        serde_json::from_str(line.splitn(3, ' ').last().unwrap()).unwrap();
    let Position { sequence, hash } = feed.position(1);
    assert_eq!(
        body,
        serde_json::json!({
            "v": 2, "trust_domain": "pay.example", "at": feed.at,
            "sequence": sequence, "hash": format!("{hash:?}"),
            "content": { "delta": {
                "previous_sequence": 0,
                "previous_hash": format!("{:?}", feed.position(0).hash),
                "items": [{ "log_index": 3, "change": { "revoke_serial": {
                    "serial_number": serial(3).to_string(), "until": NOW_MS / 1000 + 3600,
                } } }],
            } },
        })
    );
    let _: Message = serde_json::from_value(body).unwrap();
}
