//! Who is welcome at the other end.

pub(crate) mod peer;
pub(crate) mod welcome;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::{Refusal, SpiffeId, VerifiedSvid};

use crate::error::{ConfigurationFault, Error};

/// Which identities are accepted as peers.
///
/// Data, not a function: it can be printed, compared, and applied again to connections that are
/// open. There is no default, and nothing accepts another trust domain than the one trusted.
///
/// ```
/// use countersign::Peers;
///
/// let peers = Peers::one_of(["spiffe://pay.example/prod/reports"])?
///     .or(Peers::below("spiffe://pay.example/prod/tenant-a/")?);
/// assert!(peers.accepts(&"spiffe://pay.example/prod/tenant-a/mail".parse()?));
/// assert!(!peers.accepts(&"spiffe://pay.example/prod/tenant-ab".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    ids: BTreeSet<SpiffeId>,
    below: BTreeSet<SpiffeId>,
    whole_trust_domain: bool,
}

impl Peers {
    /// Exactly these SPIFFE IDs; none of them: nobody.
    pub fn one_of(ids: impl IntoIterator<Item: AsRef<str>>) -> Result<Self, Error> {
        let ids = ids.into_iter().map(|id| SpiffeId::parse(id.as_ref()));
        Ok(Self { ids: ids.collect::<Result<_, _>>().map_err(not_an_id)?, ..Self::nobody() })
    }

    /// Every ID below `spiffe://trust-domain/path/`, which ends in a slash and is itself none of
    /// them. Whole segments count: `/prod/` is no beginning of `/production`.
    pub fn below(prefix: &str) -> Result<Self, Error> {
        let fault = || ConfigurationFault::PeersBelow { given: prefix.to_owned() };
        let parent = prefix.strip_suffix('/').ok_or_else(|| Error::Configuration(fault()))?;
        let parent = SpiffeId::parse(parent).map_err(not_an_id)?;
        if parent.path().is_empty() {
            return Err(Error::Configuration(fault()));
        }
        Ok(Self { below: BTreeSet::from([parent]), ..Self::nobody() })
    }

    /// Every workload of the trust domain, its operators and its CA: whoever holds any certificate
    /// of the domain comes in.
    pub fn allow_whole_trust_domain() -> Self {
        Self { whole_trust_domain: true, ..Self::nobody() }
    }

    /// Reads `COUNTERSIGN_PEERS`: SPIFFE IDs separated by commas, of which one that ends in `/`
    /// means all [`below`](Self::below) it. Fails if there are none.
    pub fn from_env() -> Result<Self, Error> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads this variable")]
        std::env::var(VARIABLE).unwrap_or_default().parse()
    }

    /// Those, and the others too.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        self.ids.extend(others.ids);
        self.below.extend(others.below);
        self.whole_trust_domain |= others.whole_trust_domain;
        self
    }

    /// Whether an identity of the trusted domain is among them.
    pub fn accepts(&self, spiffe_id: &SpiffeId) -> bool {
        let below = |parent: &SpiffeId| {
            let rest = spiffe_id.as_str().strip_prefix(parent.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.whole_trust_domain || self.ids.contains(spiffe_id) || self.below.iter().any(below)
    }

    /// Refuses a verified peer that is not among them.
    pub fn check(&self, svid: &VerifiedSvid) -> Result<(), Refusal> {
        if self.accepts(svid.spiffe_id()) {
            return Ok(());
        }
        Err(Refusal::NotAmongPeers {
            spiffe_id: svid.spiffe_id().clone(),
            serial_number: *svid.serial_number(),
            accepted: self.summary(),
        })
    }

    fn nobody() -> Self {
        Self { ids: BTreeSet::new(), below: BTreeSet::new(), whole_trust_domain: false }
    }

    fn entries(&self) -> impl Iterator<Item = String> {
        let ids = self.ids.iter().map(ToString::to_string);
        let below = self.below.iter().map(|parent| format!("{parent}/"));
        let all = self.whole_trust_domain.then(|| "the whole trust domain".to_owned());
        ids.chain(below).chain(all)
    }

    /// The entries as far as they fit in a line of diagnostics.
    fn summary(&self) -> String {
        let entries = self.ids.len() + self.below.len();
        if entries <= SUMMARY {
            return self.to_string();
        }
        let first = self.entries().take(SUMMARY).collect::<Vec<_>>().join(",");
        format!("{first} and {} more", entries - SUMMARY)
    }
}

/// As `COUNTERSIGN_PEERS` has them.
impl FromStr for Peers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let first = entries.next().ok_or(Error::Configuration(ConfigurationFault::NoPeers))?;
        let parse = |entry: &str| match entry.ends_with('/') {
            true => Self::below(entry),
            false => Self::one_of([entry]),
        };
        entries.try_fold(parse(first)?, |peers, entry| Ok(peers.or(parse(entry)?)))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.entries().collect();
        f.write_str(if entries.is_empty() { "nobody" } else { "" })?;
        f.write_str(&entries.join(","))
    }
}

/// Peers that may be replaced while connections are open which they admitted.
#[derive(Debug)]
pub(crate) struct LivePeers(ArcSwap<Peers>);

impl LivePeers {
    pub(crate) fn new(peers: Peers) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(peers)))
    }

    pub(crate) fn current(&self) -> Arc<Peers> {
        self.0.load_full()
    }

    pub(crate) fn replace(&self, peers: Peers) {
        self.0.store(Arc::new(peers));
    }

    pub(crate) fn check(&self, svid: &VerifiedSvid) -> Result<(), Refusal> {
        self.0.load().check(svid)
    }
}

fn not_an_id(error: identity::Error) -> Error {
    Error::Configuration(ConfigurationFault::Peers(error))
}

const VARIABLE: &str = "COUNTERSIGN_PEERS";
/// Entries that a refusal names.
const SUMMARY: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn below_counts_whole_segments() {
        let peers = Peers::below("spiffe://pay.example/prod/").unwrap();
        assert!(peers.accepts(&id("spiffe://pay.example/prod/a")));
        assert!(peers.accepts(&id("spiffe://pay.example/prod/a/b")));
        for stranger in [
            "spiffe://pay.example/prod",
            "spiffe://pay.example/production",
            "spiffe://pay.example/test/prod/a",
            "spiffe://pay.example.org/prod/a",
        ] {
            assert!(!peers.accepts(&id(stranger)), "{stranger}");
        }
    }

    #[test]
    fn one_of_is_exact_and_of_nothing_is_nobody() {
        let peers = Peers::one_of(["spiffe://pay.example/a"]).unwrap();
        assert!(peers.accepts(&id("spiffe://pay.example/a")));
        assert!(!peers.accepts(&id("spiffe://pay.example/a/b")));
        assert!(!peers.accepts(&id("spiffe://other.example/a")));
        let nobody = Peers::one_of([""; 0]).unwrap();
        assert!(!nobody.accepts(&id("spiffe://pay.example/a")));
        assert_eq!(nobody.to_string(), "nobody");
    }

    #[test]
    fn what_is_no_whole_id_is_refused() {
        for text in ["/prod/reports", "pay.example/a", "spiffe://pay.example/*", "any", "*"] {
            assert!(Peers::one_of([text]).is_err(), "{text}");
            assert!(text.parse::<Peers>().is_err(), "{text}");
        }
        for prefix in ["spiffe://pay.example/prod", "spiffe://pay.example/", "/", "", "/prod/"] {
            assert!(Peers::below(prefix).is_err(), "{prefix}");
        }
        for empty in ["", " ", ",,"] {
            let refused = empty.parse::<Peers>();
            let none = matches!(refused, Err(Error::Configuration(ConfigurationFault::NoPeers)));
            assert!(none, "{refused:?}");
        }
    }

    #[test]
    fn text_is_read_and_printed_alike() {
        let text = "spiffe://pay.example/a,spiffe://pay.example/b,spiffe://pay.example/prod/";
        let peers: Peers = format!(" {} ,", text.replace(',', " , ")).parse().unwrap();
        assert_eq!(peers.to_string(), text);
        let same = Peers::below("spiffe://pay.example/prod/").unwrap();
        let ids = ["spiffe://pay.example/b", "spiffe://pay.example/a", "spiffe://pay.example/b"];
        assert_eq!(same.or(Peers::one_of(ids).unwrap()), peers);
        let all = peers.or(Peers::allow_whole_trust_domain());
        assert!(all.to_string().ends_with(",the whole trust domain"));
        assert!(all.accepts(&id("spiffe://pay.example/z")));
    }

    #[test]
    fn refusal_names_a_few_of_many() {
        let ids = (0..500).map(|n| format!("spiffe://pay.example/{n}"));
        let summary = Peers::one_of(ids).unwrap().summary();
        assert!(summary.len() < 300 && summary.ends_with("and 492 more"), "{summary}");
    }
}
