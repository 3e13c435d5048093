//! The newest items, so that a subscriber who missed a few hears of those alone.

use std::collections::VecDeque;

use identity::feed::{Delta, FeedItem, Position};

/// The newest items and the positions after each; older ones are told by a snapshot.
#[derive(Debug)]
pub(crate) struct RecentItems {
    before: Position,
    /// Each with when its event was, in milliseconds since 1970.
    items: VecDeque<(FeedItem, Position, u64)>,
}

impl RecentItems {
    /// None yet, after a position.
    pub(crate) fn beginning(before: Position) -> Self {
        Self { before, items: VecDeque::new() }
    }

    /// The position after the newest item.
    pub(crate) fn newest(&self) -> Position {
        self.items.back().map_or(self.before, |(_, position, _)| *position)
    }

    /// Takes one more, told at this time in milliseconds since 1970.
    pub(crate) fn push(&mut self, item: FeedItem, at: u64) {
        let position = self.newest().after(&item);
        self.items.push_back((item, position, at));
        if self.items.len() > KEPT
            && let Some((_, oldest, _)) = self.items.pop_front()
        {
            self.before = oldest;
        }
    }

    /// What leads on from a sequence, as far as so many bytes of items do, and to where; none where
    /// it is too long ago, or no item stands there.
    pub(crate) fn since(&self, sequence: u64, most: usize) -> Option<(Delta, Position)> {
        let (previous, count) = self.place_of(sequence)?;
        let (mut items, mut position, mut bytes) = (Vec::new(), previous, 0);
        for (item, after, _) in self.items.range(count..) {
            bytes += item.to_string().len() + WRITTEN;
            if bytes > most && !items.is_empty() {
                break;
            }
            items.push(item.clone());
            position = *after;
        }
        let (previous_sequence, previous_hash) = (previous.sequence, previous.hash);
        Some((Delta { previous_sequence, previous_hash, items }, position))
    }

    /// The items after a sequence; none as for [`since`](Self::since).
    pub(crate) fn after(&self, sequence: u64) -> Option<impl ExactSizeIterator<Item = &FeedItem>> {
        let (_, count) = self.place_of(sequence)?;
        Some(self.items.range(count..).map(|(item, ..)| item))
    }

    /// When the first item after a sequence was told; 0 where that is too long ago, none where there is
    /// none.
    pub(crate) fn told_after(&self, sequence: u64) -> Option<u64> {
        if sequence < self.before.sequence {
            return Some(0);
        }
        let count = self.items.partition_point(|(item, ..)| item.log_index <= sequence);
        self.items.get(count).map(|(.., at)| *at)
    }

    /// Whether [`since`](Self::since) would tell.
    pub(crate) fn knows(&self, sequence: u64) -> bool {
        self.place_of(sequence).is_some()
    }

    /// The position at a sequence, and how many of the items lead to it.
    fn place_of(&self, sequence: u64) -> Option<(Position, usize)> {
        let count = self.items.partition_point(|(item, ..)| item.log_index <= sequence);
        let position = match count.checked_sub(1) {
            Some(last) => self.items[last].1,
            None => self.before,
        };
        (position.sequence == sequence).then_some((position, count))
    }
}

/// How many are remembered.
pub(crate) const KEPT: usize = 10_000;
/// What an item's JSON has more than its line.
const WRITTEN: usize = 96;

#[cfg(test)]
mod tests {
    use identity::feed::FeedChange;
    use identity::{SpiffeId, TrustDomain};

    use super::*;

    fn item(log_index: u64) -> FeedItem {
        let id = SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
        FeedItem { log_index, change: FeedChange::Deny(id) }
    }

    fn since(recent: &RecentItems, sequence: u64, most: usize) -> Option<(Vec<FeedItem>, u64)> {
        let (delta, position) = recent.since(sequence, most)?;
        assert_eq!(delta.previous_sequence, sequence);
        let led = delta.items.iter().fold(delta.previous(), |before, item| before.after(item));
        assert_eq!(led, position);
        Some((delta.items, position.sequence))
    }

    #[test]
    fn items_are_told_from_where_one_stands_and_from_nowhere_else() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let mut recent = RecentItems::beginning(genesis);
        assert_eq!(since(&recent, 0, MOST), Some((vec![], 0)));
        [3, 5].into_iter().for_each(|index| recent.push(item(index), 1));
        assert_eq!(since(&recent, 0, MOST), Some((vec![item(3), item(5)], 5)));
        assert_eq!(since(&recent, 3, MOST), Some((vec![item(5)], 5)));
        assert_eq!(since(&recent, 5, MOST), Some((vec![], 5)));
        assert_eq!((since(&recent, 4, MOST), since(&recent, 6, MOST)), (None, None));
    }

    #[test]
    fn no_more_items_are_told_at_once_than_fit_a_message() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let mut recent = RecentItems::beginning(genesis);
        (1..=100).for_each(|index| recent.push(item(index), 1));
        let (mut sequence, mut messages) = (0, 0);
        while sequence < 100 {
            let (items, reached) = since(&recent, sequence, 4000).unwrap();
            assert!(serde_json::to_vec(&items).unwrap().len() <= 4000);
            (sequence, messages) = (reached, messages + 1);
        }
        assert_eq!(messages, 4);
        assert_eq!(since(&recent, 0, 1), Some((vec![item(1)], 1)), "one at least");
    }

    #[test]
    fn what_is_too_long_ago_is_forgotten() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let mut recent = RecentItems::beginning(genesis);
        (1..=KEPT as u64 + 2).for_each(|index| recent.push(item(index), 1));
        assert_eq!((since(&recent, 0, usize::MAX), since(&recent, 1, usize::MAX)), (None, None));
        assert_eq!(since(&recent, 2, usize::MAX).map(|(items, _)| items.len()), Some(KEPT));
        assert_eq!(
            [1, 2, KEPT as u64 + 2].map(|it| recent.told_after(it)),
            [Some(0), Some(1), None]
        );
        assert_eq!(recent.after(2).map(|items| items.len()), Some(KEPT));
    }

    const MOST: usize = 1 << 20;
}
