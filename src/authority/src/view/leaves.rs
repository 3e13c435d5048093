//! The certificates of the last days, in the log's order, to be found by identity and by serial
//! number: all in memory, some 65 bytes each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use identity::{SerialNumber, SpiffeId};

/// A certificate's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) index: u64,
    /// Its last second of validity, since 1970.
    pub(crate) not_after: i64,
}

/// A certificate that was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logged<'a> {
    pub(crate) spiffe_id: &'a SpiffeId,
    pub(crate) serial_number: &'a SerialNumber,
    pub(crate) leaf: Leaf,
}

#[derive(Debug, Default)]
pub(crate) struct Leaves {
    /// Full pages, and the one that is being filled: to grow moves none of them.
    pages: Vec<Vec<Held>>,
    count: usize,
    by_serial: HashTable<u32>,
    hasher: RandomState,
    identities: Vec<Identity>,
    numbers: HashMap<SpiffeId, u32>,
}

/// The numbers are those of `identities`, and places in `pages`.
#[derive(Debug)]
struct Held {
    leaf: Leaf,
    serial_number: SerialNumber,
    whose: u32,
    /// Who asked for it.
    asked_by: u32,
    /// The one before it of the same identity.
    before: u32,
}

#[derive(Debug)]
struct Identity {
    spiffe_id: SpiffeId,
    newest: u32,
}

impl Leaves {
    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds the newest, and who asked for it if that was somebody else.
    pub(crate) fn add(&mut self, logged: Logged<'_>, asked_by: Option<&SpiffeId>) {
        let Logged { spiffe_id, serial_number, leaf } = logged;
        let place = number(self.count);
        let whose = self.number_of(spiffe_id);
        let asked_by = asked_by.map_or(whose, |by| self.number_of(by));
        let newest = &mut self.identities[whose as usize].newest;
        let before = std::mem::replace(newest, place);
        let held = Held { leaf, serial_number: *serial_number, whose, asked_by, before };
        if self.count.is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(if self.count == 0 { 0 } else { PAGE }));
        }
        self.pages.last_mut().expect("one was begun").push(held);
        self.count += 1;
        let Self { pages, by_serial, hasher, .. } = self;
        let serial_at = |place: u32| &at(pages, place).serial_number;
        let hash = hasher.hash_one(serial_number);
        match by_serial.find_mut(hash, |other| serial_at(*other) == serial_number) {
            Some(other) => *other = place,
            None => {
                by_serial.insert_unique(hash, place, |other| hasher.hash_one(serial_at(*other)));
            }
        }
    }

    /// Those of an identity, oldest first.
    pub(crate) fn of(&self, spiffe_id: &SpiffeId) -> Vec<Leaf> {
        let number = self.numbers.get(spiffe_id);
        let mut next = number.map_or(NONE, |number| self.identities[*number as usize].newest);
        let mut leaves = Vec::new();
        while next != NONE {
            let held = at(&self.pages, next);
            leaves.push(held.leaf);
            next = held.before;
        }
        leaves.reverse();
        leaves
    }

    /// The newest with this serial number.
    pub(crate) fn by_serial(&self, serial_number: &SerialNumber) -> Option<Leaf> {
        let hash = self.hasher.hash_one(serial_number);
        let is_it = |place: &u32| at(&self.pages, *place).serial_number == *serial_number;
        self.by_serial.find(hash, is_it).map(|place| at(&self.pages, *place).leaf)
    }

    /// All, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Logged<'_>> {
        self.held().map(|held| self.shown(held))
    }

    /// Those that an identity asked for, for others, oldest first.
    pub(crate) fn asked_for_others(&self, by: &SpiffeId) -> impl Iterator<Item = Logged<'_>> {
        let number = self.numbers.get(by).copied();
        let is_it =
            move |held: &&Held| number == Some(held.asked_by) && held.whose != held.asked_by;
        self.held().filter(is_it).map(|held| self.shown(held))
    }

    /// Forgets what ended at this second since 1970, or before.
    pub(crate) fn forget(&mut self, ended: i64) {
        let Self { pages, identities, .. } = std::mem::take(self);
        for held in pages.into_iter().flatten().filter(|held| held.leaf.not_after > ended) {
            let of = |number: u32| &identities[number as usize].spiffe_id;
            let Held { leaf, serial_number, whose, asked_by, .. } = held;
            let logged = Logged { spiffe_id: of(whose), serial_number: &serial_number, leaf };
            self.add(logged, Some(of(asked_by)));
        }
    }

    fn held(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.pages.iter().flatten()
    }

    fn shown<'a>(&'a self, held: &'a Held) -> Logged<'a> {
        let spiffe_id = &self.identities[held.whose as usize].spiffe_id;
        Logged { spiffe_id, serial_number: &held.serial_number, leaf: held.leaf }
    }

    fn number_of(&mut self, spiffe_id: &SpiffeId) -> u32 {
        if let Some(known) = self.numbers.get(spiffe_id) {
            return *known;
        }
        let new = number(self.identities.len());
        self.identities.push(Identity { spiffe_id: spiffe_id.clone(), newest: NONE });
        self.numbers.insert(spiffe_id.clone(), new);
        new
    }
}

fn at(pages: &[Vec<Held>], place: u32) -> &Held {
    &pages[place as usize / PAGE][place as usize % PAGE]
}

fn number(count: usize) -> u32 {
    let number = u32::try_from(count).ok().filter(|number| *number != NONE);
    number.expect("memory ends long before: 65 bytes each make 260 GiB")
}

/// Before the first.
const NONE: u32 = u32::MAX;
/// 224 KiB.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Certificate {
        whose: u8,
        asked_by: u8,
        serial: u8,
        not_after: i64,
    }

    fn certificate() -> impl Strategy<Value = Certificate> {
        (0..4_u8, 0..4_u8, 1..60_u8, 0..100_i64).prop_map(|(whose, asked_by, serial, not_after)| {
            Certificate { whose, asked_by, serial, not_after }
        })
    }

    fn id(number: u8) -> SpiffeId {
        format!("spiffe://example.org/{number}").parse().unwrap()
    }

    fn serial(number: u8) -> SerialNumber {
        SerialNumber::from_octets(&[number]).unwrap()
    }

    fn add(leaves: &mut Leaves, index: u64, certificate: &Certificate) {
        let Certificate { whose, asked_by, serial: number, not_after } = *certificate;
        let (spiffe_id, serial_number) = (&id(whose), &serial(number));
        let leaf = Leaf { index, not_after };
        leaves.add(Logged { spiffe_id, serial_number, leaf }, Some(&id(asked_by)));
    }

    proptest! {
        #[test]
        fn each_question_is_answered_as_by_looking_at_all(
            certificates in proptest::collection::vec(certificate(), 0..200),
            ended in proptest::option::of(0..100_i64),
            later in proptest::collection::vec(certificate(), 0..20),
        ) {
            let (mut leaves, mut all) = (Leaves::default(), Vec::new());
            for (certificate, index) in certificates.iter().zip(0..) {
                add(&mut leaves, 3 * index, certificate);
                all.push((3 * index, certificate.clone()));
            }
            if let Some(ended) = ended {
                leaves.forget(ended);
                all.retain(|(_, certificate)| certificate.not_after > ended);
            }
            for (certificate, index) in later.iter().zip(1000..) {
                add(&mut leaves, index, certificate);
                all.push((index, certificate.clone()));
            }
            prop_assert_eq!(leaves.len(), all.len());
            prop_assert!(leaves.iter().map(|it| it.leaf.index).eq(all.iter().map(|it| it.0)));
            for number in 0..60_u8 {
                let named = id(number);
                let of: Vec<u64> = leaves.of(&named).iter().map(|leaf| leaf.index).collect();
                let is_of = all.iter().filter(|it| it.1.whose == number).map(|it| it.0);
                prop_assert_eq!(of, is_of.collect::<Vec<_>>());
                let asked = leaves.asked_for_others(&named).map(|it| it.leaf.index);
                let is_asked = |it: &&(u64, Certificate)| {
                    it.1.asked_by == number && it.1.whose != number
                };
                prop_assert!(asked.eq(all.iter().filter(is_asked).map(|it| it.0)));
                if let Ok(serial_number) = SerialNumber::from_octets(&[number]) {
                    let newest = all.iter().rev().find(|it| it.1.serial == number).map(|it| it.0);
                    let found = leaves.by_serial(&serial_number).map(|leaf| leaf.index);
                    prop_assert_eq!(found, newest);
                }
            }
        }
    }

    #[test]
    fn more_than_a_page_is_found() {
        let (mut leaves, whose) = (Leaves::default(), id(1));
        let serial_number = |index: u64| SerialNumber::from_octets(&index.to_be_bytes()).unwrap();
        let held = 1..=3 * PAGE as u64;
        for index in held.clone() {
            let leaf = Leaf { index, not_after: index as i64 };
            let serial_number = &serial_number(index);
            leaves.add(Logged { spiffe_id: &whose, serial_number, leaf }, None);
        }
        leaves.forget(PAGE as i64 + 7);
        let left = PAGE as u64 + 8..=*held.end();
        assert!(leaves.of(&whose).iter().map(|leaf| leaf.index).eq(left.clone()));
        for index in held {
            let found = leaves.by_serial(&serial_number(index)).map(|leaf| leaf.index);
            assert_eq!(found, left.contains(&index).then_some(index));
        }
        assert_eq!(leaves.asked_for_others(&whose).count(), 0);
    }
}
