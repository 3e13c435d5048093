//! Who has which place, and who gives way for whom.

use std::collections::HashMap;

use identity::SerialNumber;

/// What a verified peer counts as where places are scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The first certificate of its line of renewals: all of a line share one share.
    pub line: SerialNumber,
    /// Whether the last places are for it: an operator, who ends what fills the others.
    pub is_reserved: bool,
}

/// Why a newcomer is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Crowded {
    /// The system has nothing left for another connection.
    #[error("no file or memory is left for another connection (ulimit -n)")]
    Exhausted,
    /// All places are taken by peers that have one or two each.
    #[error("all {0} places for connections are taken")]
    Places(usize),
    /// Places are scarce, and this line has its share.
    #[error("places for connections are scarce, and this certificate's line has its share of {0}")]
    Share(usize),
}

impl Crowded {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Places(_) => "places",
            Self::Share(_) => "share",
        }
    }
}

/// Ends the connection that has a place, for another.
pub(crate) type GivesWay = Box<dyn FnOnce() + Send>;

/// Who asks for a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    pub(super) standing: Standing,
    pub(super) certificate: SerialNumber,
}

/// Who has which place.
#[derive(Default)]
pub(super) struct Taken {
    /// By line, oldest first; none is empty.
    lines: HashMap<SerialNumber, Vec<Held>>,
    pub(super) count: usize,
    next: u64,
}

pub(super) struct Held {
    id: u64,
    certificate: SerialNumber,
    gives_way: GivesWay,
    pub(super) is_kept: bool,
}

impl Taken {
    /// A place for a newcomer, and what ends the one that gives way for it.
    pub(super) fn seat(
        &mut self,
        newcomer: Newcomer,
        gives_way: GivesWay,
        places: usize,
    ) -> Result<(u64, Option<GivesWay>), Crowded> {
        let other = self.make_room(newcomer, places)?;
        let Newcomer { standing, certificate } = newcomer;
        let id = self.next;
        self.next += 1;
        self.count += 1;
        let held = Held { id, certificate, gives_way, is_kept: false };
        self.lines.entry(standing.line).or_default().push(held);
        Ok((id, other))
    }

    fn make_room(
        &mut self,
        newcomer: Newcomer,
        places: usize,
    ) -> Result<Option<GivesWay>, Crowded> {
        if self.count < places - places / 5 {
            return Ok(None);
        }
        let Newcomer { standing: Standing { line, is_reserved }, certificate } = newcomer;
        let of_line = self.lines.get(&line).map_or(&[][..], Vec::as_slice);
        let has = of_line.len();
        let is_first = !of_line.iter().any(|held| held.certificate == certificate);
        let lines = self.lines.len() + usize::from(has == 0);
        let share = (places / lines).max(1);
        if has >= share && !is_first && !is_reserved {
            return Err(Crowded::Share(share));
        }
        let usable = match (is_reserved, is_first) {
            (true, _) => places,
            (false, true) => places - for_reserved(places),
            (false, false) => places - for_reserved(places) - for_first(places),
        };
        if self.count < usable {
            return Ok(None);
        }
        self.newest_of_the_busiest(has + 1).map(Some).ok_or(Crowded::Places(places))
    }

    /// Frees a place of the line that has most, if those are more than so many.
    fn newest_of_the_busiest(&mut self, more_than: usize) -> Option<GivesWay> {
        let busy = self.lines.iter().filter(|(_, held)| held.len() > more_than);
        let yielding = busy.filter(|(_, held)| held.iter().any(|held| !held.is_kept));
        let (&line, held) = yielding.max_by_key(|(_, held)| held.len())?;
        let newest = held.iter().rev().find(|held| !held.is_kept)?.id;
        Some(self.leave(&line, newest)?.gives_way)
    }

    /// How many connections a line has.
    #[cfg(feature = "http")]
    pub(super) fn of_line(&self, line: &SerialNumber) -> usize {
        self.lines.get(line).map_or(0, Vec::len)
    }

    pub(super) fn require_room(&self, places: usize) -> Result<(), Crowded> {
        let is_full = self.count >= places - for_reserved(places);
        let yields = |held: &Vec<Held>| held.len() > 1 && held.iter().any(|held| !held.is_kept);
        if is_full && !self.lines.values().any(yields) {
            return Err(Crowded::Places(places));
        }
        Ok(())
    }

    /// None if it was given back before.
    pub(super) fn leave(&mut self, line: &SerialNumber, id: u64) -> Option<Held> {
        let of_line = self.lines.get_mut(line)?;
        let place = of_line.binary_search_by_key(&id, |held| held.id).ok()?;
        let held = of_line.remove(place);
        if of_line.is_empty() {
            self.lines.remove(line);
        }
        self.count -= 1;
        Some(held)
    }

    pub(super) fn keep(&mut self, line: &SerialNumber, id: u64) -> bool {
        let Some(certificate) = self.held(line, id).map(|held| held.certificate) else {
            return false;
        };
        let kept = self.lines[line].iter().filter(|held| held.is_kept);
        let (kept, of_certificate) = kept.fold((0, false), |(kept, of_certificate), held| {
            (kept + 1, of_certificate || held.certificate == certificate)
        });
        if of_certificate || kept >= KEPT_OF_A_LINE {
            return false;
        }
        self.held(line, id).is_some_and(|held| {
            held.is_kept = true;
            true
        })
    }

    pub(super) fn held(&mut self, line: &SerialNumber, id: u64) -> Option<&mut Held> {
        let of_line = self.lines.get_mut(line)?;
        let place = of_line.binary_search_by_key(&id, |held| held.id).ok()?;
        of_line.get_mut(place)
    }
}

/// Places for those of a reserved standing only.
fn for_reserved(places: usize) -> usize {
    places / 64
}

/// Places for the first connection of each certificate.
fn for_first(places: usize) -> usize {
    places / 16
}

/// Renewals overlap; no line has more certificates in use at once, and none makes itself a crowd
/// that gives way to nobody.
const KEPT_OF_A_LINE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 640;

    fn serial(number: u16) -> SerialNumber {
        let mut octets = [1; 16];
        octets[..2].copy_from_slice(&(number + 1).to_be_bytes());
        SerialNumber::from_octets(&octets).unwrap()
    }

    fn newcomer(line: u16, certificate: u16) -> Newcomer {
        let standing = Standing { line: serial(line), is_reserved: false };
        Newcomer { standing, certificate: serial(certificate) }
    }

    fn nobody() -> GivesWay {
        Box::new(|| {})
    }

    impl Taken {
        /// Takes places until one is refused; says how many and why.
        fn fill(&mut self, newcomer: Newcomer) -> (usize, Crowded) {
            let mut taken = 0;
            loop {
                match self.seat(newcomer, nobody(), PLACES) {
                    Ok(_) => taken += 1,
                    Err(crowded) => return (taken, crowded),
                }
            }
        }

        fn places_of(&self, line: u16) -> usize {
            self.lines.get(&serial(line)).map_or(0, Vec::len)
        }
    }

    #[test]
    fn only_caller_has_all_but_the_last() {
        let mut taken = Taken::default();
        let last = for_first(PLACES) + for_reserved(PLACES);
        let (count, crowded) = taken.fill(newcomer(1, 1));
        assert_eq!((count, crowded), (PLACES - last, Crowded::Places(PLACES)));
        taken.require_room(PLACES).unwrap();
    }

    #[test]
    fn who_has_most_gives_way_until_all_have_the_same() {
        let mut taken = Taken::default();
        taken.fill(newcomer(1, 1));
        taken.fill(newcomer(2, 2));
        let (first, second) = (taken.places_of(1), taken.places_of(2));
        assert!(first.abs_diff(second) <= 2, "{first} and {second}");
        assert_eq!(taken.fill(newcomer(1, 1)).0, 0, "nobody has more");
    }

    #[test]
    fn certificates_of_one_line_have_one_share() {
        let mut taken = Taken::default();
        for certificate in 0..PLACES as u16 {
            taken.fill(newcomer(1, certificate));
        }
        taken.fill(newcomer(2, 2000));
        let (many, one) = (taken.places_of(1), taken.places_of(2));
        assert!(one + for_first(PLACES) >= many, "{many} and {one}");
    }

    #[test]
    fn replicas_that_are_redeployed_are_no_crowd() {
        let mut taken = Taken::default();
        for replica in 0..250 {
            for _ in 0..2 {
                taken.seat(newcomer(replica, replica), nobody(), PLACES).unwrap();
            }
        }
        for replica in 500..600 {
            taken.seat(newcomer(replica, replica), nobody(), PLACES).unwrap();
        }
        assert!((0..250).all(|replica| taken.places_of(replica) == 2), "nobody gives way");
    }

    #[test]
    fn last_places_are_for_those_who_end_what_fills_the_others() {
        let mut taken = Taken::default();
        for line in 0..PLACES as u16 {
            let _ = taken.seat(newcomer(line, line), nobody(), PLACES);
        }
        assert_eq!(taken.count, PLACES - for_reserved(PLACES));
        assert_eq!(taken.require_room(PLACES), Err(Crowded::Places(PLACES)));
        let standing = Standing { line: serial(5000), is_reserved: true };
        let operator = Newcomer { standing, certificate: serial(5000) };
        assert_eq!(taken.fill(operator).0, for_reserved(PLACES));
        assert_eq!(taken.count, PLACES);
    }

    #[test]
    fn kept_connection_gives_way_to_nobody_and_each_certificate_keeps_one() {
        let mut taken = Taken::default();
        taken.fill(newcomer(1, 1));
        let newest = taken.lines[&serial(1)].last().unwrap().id;
        assert!(taken.keep(&serial(1), newest));
        assert!(!taken.keep(&serial(1), newest - 1), "its certificate keeps another");
        for line in 2..500 {
            let _ = taken.seat(newcomer(line, line), nobody(), PLACES);
        }
        assert!(taken.places_of(1) < PLACES / 2);
        assert!(taken.held(&serial(1), newest).is_some_and(|held| held.is_kept));
    }

    #[test]
    fn line_keeps_no_crowd() {
        let mut taken = Taken::default();
        for certificate in 0..40 {
            let (id, _) = taken.seat(newcomer(1, certificate), nobody(), PLACES).unwrap();
            let is_kept = taken.keep(&serial(1), id);
            assert_eq!(is_kept, usize::from(certificate) < KEPT_OF_A_LINE, "{certificate}");
        }
    }

    #[test]
    fn place_given_back_is_free_and_given_back_once() {
        let mut taken = Taken::default();
        let (id, _) = taken.seat(newcomer(1, 1), nobody(), 1).unwrap();
        assert!(taken.seat(newcomer(2, 2), nobody(), 1).is_err());
        assert!(taken.leave(&serial(1), id).is_some());
        assert!(taken.leave(&serial(1), id).is_none());
        assert!(taken.lines.is_empty() && taken.count == 0);
        taken.seat(newcomer(2, 2), nobody(), 1).unwrap();
    }
}
