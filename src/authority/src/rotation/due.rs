//! What is due: which steps `rotate` takes by itself, which a person has to take, and what `status`
//! says of issuers and roots that end. One set of rules, so that the two agree.

use std::time::Duration;

use api::{KeyPurpose, KeyRecord, KeyState, KeyStep, LifeWarning};
use serde::Serialize;
use time::OffsetDateTime;

/// A step that may be taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Due {
    /// Of which key.
    pub key: KeyPurpose,
    /// Which.
    pub step: KeyStep,
    /// Whether it is left to a person: `rotate` does not begin it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

/// What may be done now: rotations that have begun go on, and others begin when their key is old, or
/// half of its certificate's life is over.
pub fn all_due(keys: &[KeyRecord], every: Duration, now: OffsetDateTime) -> Vec<Due> {
    let due = |key| {
        let of_it = || keys.iter().filter(move |record| record.purpose == key);
        if let Some(next) = of_it().find_map(|record| record.next.as_ref()) {
            return next.is_due().then_some(Due { key, step: next.step, by_hand: false });
        }
        let active = active(keys, key)?;
        // Root and trust keys stand in configurations elsewhere, as pins and anchors: their rotation
        // is begun by hand.
        let is_due = match key {
            KeyPurpose::Root => active.life_left(now).is_some(),
            KeyPurpose::Trust => false,
            KeyPurpose::Countersignature | KeyPurpose::Feed | KeyPurpose::Log => {
                now - active.since >= every
            }
            KeyPurpose::Issuer => is_issuer_due(active, keys, every, now),
        };
        is_due.then_some(Due { key, step: KeyStep::Prepare, by_hand: key == KeyPurpose::Root })
    };
    KeyPurpose::ALL.into_iter().filter_map(due).collect()
}

/// An issuer goes with its root; a parent elsewhere has to be asked.
fn is_issuer_due(
    issuer: &KeyRecord,
    keys: &[KeyRecord],
    every: Duration,
    now: OffsetDateTime,
) -> bool {
    let Some(root) = active(keys, KeyPurpose::Root) else { return false };
    let below_another = issuer.certified_by.as_ref() != Some(&root.id);
    let ends = issuer.life_left(now).is_some() && is_help(issuer, root);
    now - issuer.since >= every || below_another || ends
}

/// Whether another issuer below this root would end later than this one.
fn is_help(issuer: &KeyRecord, root: &KeyRecord) -> bool {
    root.not_after > issuer.not_after
}

/// What comes next by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    /// Of which key.
    pub key: KeyPurpose,
    /// Which step.
    pub step: KeyStep,
    /// When, at the latest.
    pub at: OffsetDateTime,
}

/// The first step that will be due; one that waits for certificates is due no later than it says.
pub fn next_due(keys: &[KeyRecord], every: Duration, now: OffsetDateTime) -> Option<Later> {
    let later = |key: KeyPurpose| {
        let of_it = || keys.iter().filter(move |record| record.purpose == key);
        if let Some(next) = of_it().find_map(|record| record.next.as_ref()) {
            return next.until.map(|at| Later { key, step: next.step, at });
        }
        let active = active(keys, key)?;
        let at = match key {
            KeyPurpose::Root | KeyPurpose::Trust => return None,
            KeyPurpose::Issuer => {
                // Below a parent elsewhere none is due by itself.
                self::active(keys, KeyPurpose::Root)?;
                half_over(active).into_iter().chain([active.since + every]).min()?
            }
            _ => active.since + every,
        };
        // What is past waits for something else: an issuer for its root.
        (at > now).then_some(Later { key, step: KeyStep::Prepare, at })
    };
    KeyPurpose::ALL.into_iter().filter_map(later).min_by_key(|later| later.at)
}

/// When half of its certificate's life is over.
fn half_over(key: &KeyRecord) -> Option<OffsetDateTime> {
    let (not_before, not_after) = (key.not_before?, key.not_after?);
    Some(not_before + (not_after - not_before) / 2)
}

/// The active issuer and root of which half the life or less is left, with what to type next.
pub fn life_warnings(keys: &[KeyRecord], now: OffsetDateTime) -> Vec<LifeWarning> {
    let warning = |key| {
        let active = active(keys, key)?;
        let (left, not_after) = (active.life_left(now)?, active.not_after?);
        let next_step = next_step(active, keys).to_owned();
        Some(LifeWarning { key, id: active.id.clone(), not_after, left, next_step })
    };
    [KeyPurpose::Root, KeyPurpose::Issuer].into_iter().filter_map(warning).collect()
}

fn next_step(ending: &KeyRecord, keys: &[KeyRecord]) -> &'static str {
    let is_under_way =
        |purpose| keys.iter().any(|key| key.purpose == purpose && key.state == KeyState::Prepared);
    match (ending.purpose, active(keys, KeyPurpose::Root)) {
        (_, None) => PARENT_ELSEWHERE,
        (purpose, _) if is_under_way(purpose) || is_under_way(KeyPurpose::Root) => GO_ON,
        (KeyPurpose::Issuer, Some(root)) if is_help(ending, root) => GO_ON,
        _ => PREPARE_ROOT,
    }
}

fn active(keys: &[KeyRecord], purpose: KeyPurpose) -> Option<&KeyRecord> {
    keys.iter().find(|key| key.purpose == purpose && key.state == KeyState::Active)
}

const GO_ON: &str = "countersign rotate";
const PREPARE_ROOT: &str = "countersign key prepare root; `countersign rotate` does the rest";
/// Nothing here certifies the issuer.
pub(crate) const PARENT_ELSEWHERE: &str = "have state/issuer.csr certified again by the parent, then: countersign init --certificate FILE";

#[cfg(test)]
mod tests {
    use super::*;
    use api::LifeLeft;
    use identity::Der;
    use time::Duration as Span;

    const EVERY: Duration = Duration::from_secs(90 * 24 * 3600);
    const NOW: OffsetDateTime = time::macros::datetime!(2030-01-01 0:00 UTC);

    /// An active key whose certificate ends in so many days, of so many that it lives.
    fn key(purpose: KeyPurpose, left: i64, life: i64) -> KeyRecord {
        let not_after = NOW + Span::days(left);
        let root = Some(KeyPurpose::Root.to_string());
        KeyRecord {
            id: purpose.to_string(),
            purpose,
            state: KeyState::Active,
            log_index: 0,
            since: NOW - Span::days(1),
            public_key: Der::new(Vec::new()),
            certified_by: root.filter(|_| purpose == KeyPurpose::Issuer),
            not_before: Some(not_after - Span::days(life)),
            not_after: Some(not_after),
            next: None,
        }
    }

    fn proposed(keys: &[KeyRecord]) -> Vec<(KeyPurpose, bool)> {
        all_due(keys, EVERY, NOW).iter().map(|due| (due.key, due.by_hand)).collect()
    }

    #[test]
    fn what_status_warns_of_rotate_proposes_and_nothing_else() {
        for root_left in [3649, 1825, 912, 300, 1, -1] {
            for issuer_left in [364, 182, 91, 30, 1, -1] {
                let root = key(KeyPurpose::Root, root_left, 3650);
                let issuer = key(KeyPurpose::Issuer, issuer_left, 365);
                let keys = [root, issuer];
                let warned: Vec<KeyPurpose> =
                    life_warnings(&keys, NOW).iter().map(|warning| warning.key).collect();
                let proposed = proposed(&keys);
                let of = |purpose| proposed.iter().any(|(key, _)| *key == purpose);
                let case = format!("root {root_left}, issuer {issuer_left}");
                assert_eq!(warned.contains(&KeyPurpose::Root), of(KeyPurpose::Root), "{case}");
                // Where its root ends as soon, the root is what is proposed.
                let is_named = of(KeyPurpose::Issuer) || of(KeyPurpose::Root);
                assert!(!warned.contains(&KeyPurpose::Issuer) || is_named, "{case}");
                assert!(!of(KeyPurpose::Issuer) || warned.contains(&KeyPurpose::Issuer), "{case}");
                let is_help = root_left > issuer_left;
                let next = life_warnings(&keys, NOW);
                for warning in next {
                    let by_hand = warning.key == KeyPurpose::Root || !is_help;
                    assert_eq!(warning.next_step.contains("prepare root"), by_hand, "{case}");
                }
            }
        }
    }

    #[test]
    fn a_root_is_left_to_a_person_and_goes_on_by_itself_once_begun() {
        let issuer = key(KeyPurpose::Issuer, 364, 365);
        let root = key(KeyPurpose::Root, 300, 3650);
        assert_eq!(proposed(&[root.clone(), issuer.clone()]), [(KeyPurpose::Root, true)]);
        let waits = api::NextStep {
            step: KeyStep::Activate,
            waiting: 3,
            certificates: vec![],
            until: None,
            first: None,
        };
        let mut next = key(KeyPurpose::Root, 3650, 3650);
        (next.id, next.state, next.next) = ("new".to_owned(), KeyState::Prepared, Some(waits));
        let keys = [root, next, issuer];
        assert_eq!(proposed(&keys), []);
        let [warning] = &life_warnings(&keys, NOW)[..] else { panic!("the old one still ends") };
        assert_eq!((warning.left, &*warning.next_step), (LifeLeft::Twelfth, GO_ON));
    }

    #[test]
    fn below_a_parent_elsewhere_nothing_is_begun_and_the_parent_is_named() {
        let keys = [KeyRecord { certified_by: None, ..key(KeyPurpose::Issuer, 20, 365) }];
        assert_eq!(proposed(&keys), []);
        assert_eq!(next_due(&keys, EVERY, NOW), None);
        assert_eq!(life_warnings(&keys, NOW)[0].next_step, PARENT_ELSEWHERE);
    }

    #[test]
    fn an_issuer_is_next_when_half_its_life_is_over() {
        let root = key(KeyPurpose::Root, 3649, 3650);
        let keys = [root, key(KeyPurpose::Issuer, 200, 365)];
        let later = next_due(&keys, EVERY, NOW).unwrap();
        assert_eq!((later.key, later.at), (KeyPurpose::Issuer, NOW + Span::hours(420)));
    }
}
