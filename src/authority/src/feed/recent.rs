//! The newest items, so that a subscriber who missed a few hears of those alone.

use std::collections::VecDeque;

use identity::feed::{FeedItem, Position};

/// The newest items and the positions after each; older ones are told by a snapshot.
#[derive(Debug)]
pub(crate) struct RecentItems {
    before: Position,
    items: VecDeque<(FeedItem, Position)>,
}

impl RecentItems {
    /// None yet, after a position.
    pub(crate) fn after(before: Position) -> Self {
        Self { before, items: VecDeque::new() }
    }

    /// The position after the newest item.
    pub(crate) fn newest(&self) -> Position {
        self.items.back().map_or(self.before, |(_, position)| *position)
    }

    /// Takes one more.
    pub(crate) fn push(&mut self, item: FeedItem) {
        let position = self.newest().after(&item);
        self.items.push_back((item, position));
        if self.items.len() > KEPT
            && let Some((_, oldest)) = self.items.pop_front()
        {
            self.before = oldest;
        }
    }

    /// The position at a sequence and the items after it; none where it is too long ago, or no
    /// item stands there.
    pub(crate) fn since(&self, sequence: u64) -> Option<(Position, Vec<FeedItem>)> {
        let (position, after) = self.place_of(sequence)?;
        Some((position, self.items.range(after..).map(|(item, _)| item.clone()).collect()))
    }

    /// Whether [`since`](Self::since) would tell.
    pub(crate) fn knows(&self, sequence: u64) -> bool {
        self.place_of(sequence).is_some()
    }

    /// The position at a sequence, and how many of the items lead to it.
    fn place_of(&self, sequence: u64) -> Option<(Position, usize)> {
        let count = self.items.partition_point(|(item, _)| item.log_index <= sequence);
        let position = match count.checked_sub(1) {
            Some(last) => self.items[last].1,
            None => self.before,
        };
        (position.sequence == sequence).then_some((position, count))
    }
}

const KEPT: usize = 10_000;

#[cfg(test)]
mod tests {
    use identity::feed::FeedChange;
    use identity::{SpiffeId, TrustDomain};

    use super::*;

    fn item(log_index: u64) -> FeedItem {
        let id = SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
        FeedItem { log_index, change: FeedChange::Deny(id) }
    }

    #[test]
    fn items_are_told_from_where_one_stands_and_from_nowhere_else() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let mut recent = RecentItems::after(genesis);
        assert_eq!(recent.since(0), Some((genesis, vec![])));
        [3, 5].into_iter().for_each(|index| recent.push(item(index)));
        assert_eq!(recent.since(0), Some((genesis, vec![item(3), item(5)])));
        assert_eq!(recent.since(3), Some((genesis.after(&item(3)), vec![item(5)])));
        assert_eq!(recent.since(5), Some((recent.newest(), vec![])));
        assert_eq!((recent.since(4), recent.since(6)), (None, None));
    }

    #[test]
    fn what_is_too_long_ago_is_forgotten() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let mut recent = RecentItems::after(genesis);
        (1..=KEPT as u64 + 2).for_each(|index| recent.push(item(index)));
        assert_eq!((recent.since(0), recent.since(1)), (None, None));
        assert_eq!(recent.since(2).map(|(_, items)| items.len()), Some(KEPT));
    }
}
