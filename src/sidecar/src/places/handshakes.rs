//! Places for handshakes, and for clients that show no certificate: those that are never finished
//! hold up nobody.
//!
//! Whoever connects and says nothing costs a place. Where half of them are taken, one source gets no
//! more than its share. Where a share or all places are taken, one that has had its time makes room: the
//! oldest of that source, or of the one that has most. Where none has had its time, the source that has
//! most makes room for one that has less; among equals, newcomers wait, but for those of their own
//! source that have not said a byte: nobody who speaks waits for who is silent, and nobody who is behind
//! the same address is locked out by them. A fleet that comes back all at once waits for the processor,
//! for less than the time that each has where that is a whole core.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::peers::peer::network;

/// The handshakes of one listener.
pub(crate) struct Handshakes {
    shared: Arc<Shared>,
    places: usize,
    share: usize,
    patience: Duration,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Open>,
    /// A place was given back.
    freed: Notify,
    /// How many have been offered HTTP/2, and may yet show no certificate.
    offered_http_2: AtomicUsize,
}

#[derive(Default)]
struct Open {
    /// By source, oldest first; none is empty.
    sources: HashMap<IpAddr, VecDeque<Begun>>,
    count: usize,
    next: u64,
}

struct Begun {
    id: u64,
    at: Instant,
    is_silent: bool,
    cut: Arc<Notify>,
}

/// A handshake's place, given back when dropped.
pub(crate) struct Handshaking {
    shared: Arc<Shared>,
    source: IpAddr,
    id: u64,
    cut: Arc<Notify>,
    is_offered_http_2: AtomicBool,
}

impl Handshaking {
    /// Its client has said something.
    pub(crate) fn speaks(&self) {
        self.shared.open().speaks(self.source, self.id);
    }

    /// Whether its client is offered HTTP/2, which so many may have at once that are, or may turn out to
    /// be, without a certificate.
    pub(crate) fn offers_http_2(&self, most: usize) -> bool {
        let one_more = |now| Some(now).filter(|now| *now < most).map(|now| now + 1);
        let offered = &self.shared.offered_http_2;
        let is_offered =
            offered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        self.is_offered_http_2.store(is_offered, Ordering::Relaxed);
        is_offered
    }

    /// Its client has chosen another protocol.
    pub(crate) fn withdraw_http_2(&self) {
        if self.is_offered_http_2.swap(false, Ordering::Relaxed) {
            self.shared.offered_http_2.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns when the place is another's.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Handshakes {
    pub(crate) fn new(places: usize, share: usize) -> Self {
        let patience = (EACH * u32::try_from(places).unwrap_or(u32::MAX)).clamp(LEAST, MOST);
        Self { shared: Arc::default(), places, share, patience }
    }

    /// Returns once there is a place. May be dropped at any await.
    pub(crate) async fn room(&self) {
        loop {
            let Some(wait) = self.shared.open().wait(self.places, self.patience) else {
                return;
            };
            tokio::select! {
                () = self.shared.freed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.shared.open().count
    }

    /// Takes a place, unless the source has its share, and all of it is new.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Handshaking> {
        let source = network(address);
        let (id, cut) = self.shared.open().begin(source, self)?;
        let shared = Arc::clone(&self.shared);
        Some(Handshaking { shared, source, id, cut, is_offered_http_2: AtomicBool::new(false) })
    }
}

impl Open {
    /// None if somebody can be let in, or how long until then at most.
    fn wait(&self, places: usize, patience: Duration) -> Option<Duration> {
        if self.count < places || self.sources.values().any(|begun| begun.len() > 1) {
            return None;
        }
        let now = Instant::now();
        let oldest = self.sources.values().map(|begun| age(begun, now)).max().unwrap_or_default();
        Some(patience.saturating_sub(oldest)).filter(|wait| !wait.is_zero())
    }

    /// Frees a place for a source that has so many, where that is fair.
    fn make_room(&mut self, has: usize, patience: Duration, now: Instant) -> bool {
        let had_their_time = self.sources.iter().filter(|(_, begun)| age(begun, now) >= patience);
        let busiest = had_their_time.max_by_key(|(_, begun)| (begun.len(), age(begun, now)));
        let busiest = busiest.or_else(|| {
            let more = self.sources.iter().filter(|(_, begun)| begun.len() > has + 1);
            more.max_by_key(|(_, begun)| (begun.len(), age(begun, now)))
        });
        let Some((&source, begun)) = busiest else { return false };
        let id = begun[0].id;
        self.cut(source, id);
        true
    }

    /// Gives a place to somebody else.
    fn cut(&mut self, source: IpAddr, id: u64) {
        if let Some(cut) = self.end(source, id) {
            cut.notify_one();
            metrics::counter!("countersign_handshakes_refused_total", "reason" => "slow")
                .increment(1);
        }
    }

    fn begin(&mut self, source: IpAddr, of: &Handshakes) -> Option<(u64, Arc<Notify>)> {
        let now = Instant::now();
        let has = self.has(source);
        if has >= of.share && self.count >= of.places / 2 {
            let had_its_time = |begun: &&Begun| now - begun.at >= of.patience;
            let oldest = self.sources[&source].front().filter(had_its_time).map(|begun| begun.id);
            let gives_way = oldest.or_else(|| self.silent(source))?;
            self.cut(source, gives_way);
        }
        if self.count >= of.places && !self.make_room(self.has(source), of.patience, now) {
            let silent = self.silent(source)?;
            self.cut(source, silent);
        }
        let (id, cut) = (self.next, Arc::new(Notify::new()));
        self.next += 1;
        self.count += 1;
        let begun = Begun { id, at: now, is_silent: true, cut: Arc::clone(&cut) };
        self.sources.entry(source).or_default().push_back(begun);
        Some((id, cut))
    }

    fn has(&self, source: IpAddr) -> usize {
        self.sources.get(&source).map_or(0, VecDeque::len)
    }

    /// The oldest of a source that has said nothing.
    fn silent(&self, source: IpAddr) -> Option<u64> {
        let silent = self.sources.get(&source)?.iter().find(|begun| begun.is_silent)?;
        Some(silent.id)
    }

    fn speaks(&mut self, source: IpAddr, id: u64) {
        let begun = self.sources.get_mut(&source).and_then(|begun| {
            let place = begun.binary_search_by_key(&id, |begun| begun.id).ok()?;
            begun.get_mut(place)
        });
        if let Some(begun) = begun {
            begun.is_silent = false;
        }
    }

    /// Frees a place; none if it was freed before.
    fn end(&mut self, source: IpAddr, id: u64) -> Option<Arc<Notify>> {
        let begun = self.sources.get_mut(&source)?;
        let place = begun.binary_search_by_key(&id, |begun| begun.id).ok()?;
        let ended = begun.remove(place)?;
        if begun.is_empty() {
            self.sources.remove(&source);
        }
        self.count -= 1;
        Some(ended.cut)
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.withdraw_http_2();
        if self.shared.open().end(self.source, self.id).is_some() {
            self.shared.freed.notify_one();
        }
    }
}

fn age(begun: &VecDeque<Begun>, now: Instant) -> Duration {
    now - begun[0].at
}

/// Twice what one handshake costs one core: what a handshake has at least is that for each place,
/// within these bounds.
const EACH: Duration = Duration::from_micros(500);
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn speaking(handshakes: &Handshakes, text: &str) -> Handshaking {
        let handshaking = handshakes.enter(address(text)).unwrap();
        handshaking.speaks();
        handshaking
    }

    #[test]
    fn one_source_may_have_half_of_all_while_they_are_free() {
        let handshakes = Handshakes::new(8, 2);
        let half = [(); 4].map(|()| speaking(&handshakes, "10.0.0.1"));
        assert!(handshakes.enter(address("10.0.0.1")).is_none());
        assert!(handshakes.enter(address("10.0.0.2")).is_some());
        drop(half);
    }

    #[tokio::test]
    async fn who_has_said_nothing_makes_room_at_once_for_one_from_the_same_address() {
        for share in [2, 4] {
            let handshakes = Handshakes::new(4, share);
            let speaking = speaking(&handshakes, "10.0.0.1");
            let [first, second, _third] =
                [(); 3].map(|()| handshakes.enter(address("10.0.0.1")).unwrap());
            let mut newcomers = vec![handshakes.enter(address("10.0.0.1")).unwrap()];
            first.cut().await;
            newcomers.push(handshakes.enter(address("10.0.0.1")).unwrap());
            second.cut().await;
            assert!(handshakes.shared.open().count <= 4);
            let open = handshakes.shared.open();
            assert!(open.sources[&speaking.source].iter().any(|begun| begun.id == speaking.id));
        }
    }

    #[test]
    fn one_source_has_its_share_and_gets_it_back() {
        let handshakes = Handshakes::new(4, 2);
        let first = speaking(&handshakes, "2001:db8::1");
        let second = speaking(&handshakes, "2001:db8::2");
        assert!(handshakes.enter(address("2001:db8::3")).is_none(), "one /64 is one source");
        assert!(handshakes.enter(address("2001:db8:0:1::1")).is_some());
        drop(first);
        let third = handshakes.enter(address("2001:db8::3")).unwrap();
        drop((second, third));
        let open = handshakes.shared.open();
        assert!(open.sources.is_empty() && open.count == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_of_those_that_had_their_time_makes_room() {
        let handshakes = Handshakes::new(2, 2);
        let begun = Instant::now();
        let oldest = handshakes.enter(address("10.0.0.1")).unwrap();
        tokio::time::advance(LEAST / 2).await;
        let newer = handshakes.enter(address("10.0.0.2")).unwrap();
        assert!(handshakes.enter(address("10.0.0.3")).is_none(), "all have one, and all are new");
        handshakes.room().await;
        assert_eq!(begun.elapsed(), LEAST);
        let third = handshakes.enter(address("10.0.0.3")).unwrap();
        oldest.cut().await;
        drop(oldest);
        assert_eq!(handshakes.shared.open().count, 2, "its place is given back once");
        drop((newer, third));
        assert_eq!(handshakes.shared.open().count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_has_most_makes_room_at_once_for_one_that_has_less() {
        let handshakes = Handshakes::new(6, 4);
        let many = [(); 4].map(|()| speaking(&handshakes, "10.0.0.1"));
        let few = [(); 2].map(|()| speaking(&handshakes, "10.0.0.2"));
        let begun = Instant::now();
        handshakes.room().await;
        assert!(handshakes.enter(address("10.0.0.1")).is_none(), "it has most itself");
        let late = speaking(&handshakes, "10.0.0.3");
        many[0].cut().await;
        let later = speaking(&handshakes, "10.0.0.3");
        many[1].cut().await;
        assert!(handshakes.enter(address("10.0.0.3")).is_none(), "now all have two");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop((few, late, later));
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_has_its_share_gives_the_oldest_for_the_newest() {
        let handshakes = Handshakes::new(4, 2);
        let oldest = speaking(&handshakes, "10.0.0.1");
        tokio::time::advance(LEAST / 2).await;
        let newer = speaking(&handshakes, "10.0.0.1");
        assert!(handshakes.enter(address("10.0.0.1")).is_none(), "both are new");
        tokio::time::advance(LEAST / 2).await;
        let newest = speaking(&handshakes, "10.0.0.1");
        oldest.cut().await;
        assert!(handshakes.enter(address("10.0.0.1")).is_none());
        drop((oldest, newer, newest));
        assert_eq!(handshakes.shared.open().count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_had_their_time_make_room_before_those_that_are_new() {
        let handshakes = Handshakes::new(4, 3);
        let old = handshakes.enter(address("10.0.0.1")).unwrap();
        tokio::time::advance(LEAST).await;
        let new = [(); 3].map(|()| handshakes.enter(address("10.0.0.2")).unwrap());
        handshakes.room().await;
        let late = handshakes.enter(address("10.0.0.3")).unwrap();
        old.cut().await;
        drop((new, late));
    }

    #[test]
    fn time_that_each_has_is_what_all_places_cost() {
        for (places, patience) in [(1, LEAST), (1000, MOST / 2), (2048, MOST), (usize::MAX, MOST)] {
            assert_eq!(Handshakes::new(places, 1).patience, patience);
        }
    }

    #[test]
    fn so_many_are_offered_http_2_at_once() {
        let handshakes = Handshakes::new(8, 8);
        let [first, second, third] =
            [(); 3].map(|()| handshakes.enter(address("10.0.0.1")).unwrap());
        assert!(first.offers_http_2(2) && second.offers_http_2(2) && !third.offers_http_2(2));
        second.withdraw_http_2();
        assert!(third.offers_http_2(2) && !second.offers_http_2(2));
        drop((second, third));
        assert_eq!(handshakes.shared.offered_http_2.load(Ordering::Relaxed), 1);
        drop(first);
        assert_eq!(handshakes.shared.offered_http_2.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn place_given_back_is_taken_at_once() {
        let handshakes = Handshakes::new(1, 1);
        let begun = Instant::now();
        let first = handshakes.enter(address("10.0.0.1")).unwrap();
        tokio::join!(handshakes.room(), async { drop(first) });
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
