//! A chain judged rule by rule. The judge is `identity::verify`; this only puts its one refusal
//! beside the rules that it names or leaves open.

use std::fmt;

use identity::{Refusal, Revocations, Trust, Usage, VerifiedSvid, verify};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use crate::chain;
use crate::clock;
use crate::presented::Possession;
use crate::subject::Chain;
use crate::table;

/// What was found.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The name of the refusal that a peer would give, if it refuses.
    pub(crate) refusal: Option<String>,
    /// Each rule.
    pub(crate) findings: Vec<Finding>,
}

/// A rule, and whether it holds.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// The rule.
    pub(crate) rule: &'static str,
    /// Whether it holds.
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) detail: String,
}

/// Whether a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It does not.
    Failed,
    /// It was not looked at: a rule before it failed, or it was not asked for.
    NotChecked,
    /// It does.
    Passed,
}

impl Finding {
    pub(crate) fn new(rule: &'static str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { rule, outcome, detail: detail.into() }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "FAILED",
            Self::NotChecked => "-",
            Self::Passed => "passed",
        })
    }
}

impl Verdict {
    /// Judges a chain at a time.
    ///
    /// Outside its validity the other rules are judged at its nearest second inside, so that an
    /// expired certificate still tells whether it was ever a good one.
    pub(crate) fn of(shown: &Chain, trust: &Trust, now: OffsetDateTime) -> Self {
        let at_now = judge(&shown.certificates, trust, now);
        let leaf = chain::read(&shown.certificates[0]).ok();
        let inside = leaf.as_ref().map_or(now, |leaf| nearest_inside(leaf, now));
        let judged =
            if inside == now { at_now.clone() } else { judge(&shown.certificates, trust, inside) };
        let mut findings: Vec<Finding> = leaf.iter().map(|leaf| validity(leaf, now)).collect();
        let path = leads_to_anchor(&shown.certificates, trust, inside);
        findings.extend(rules(&judged, &path, trust));
        findings.extend(shown.possession.map(possession));
        Self { refusal: at_now.err().as_ref().map(variant), findings }
    }
}

/// As a server's peer and as a client's.
fn judge(
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    at: OffsetDateTime,
) -> Result<VerifiedSvid, Refusal> {
    let revocations = Revocations::default();
    let verify = |usage| verify(certificates, usage, clock::unix(at), trust, &revocations);
    verify(Usage::Server).and_then(|_| verify(Usage::Client))
}

/// The path alone: what is no X.509-SVID may have been refused before one was looked for.
fn leads_to_anchor(
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    at: OffsetDateTime,
) -> Result<(), Refusal> {
    let leads = |usage| identity::leads_to_anchor(certificates, usage, clock::unix(at), trust);
    leads(Usage::Server).and_then(|()| leads(Usage::Client))
}

fn nearest_inside(leaf: &X509Certificate<'_>, now: OffsetDateTime) -> OffsetDateTime {
    let validity = leaf.validity();
    now.min(validity.not_after.to_datetime()).max(validity.not_before.to_datetime())
}

fn validity(leaf: &X509Certificate<'_>, now: OffsetDateTime) -> Finding {
    let (from, until) =
        (leaf.validity().not_before.to_datetime(), leaf.validity().not_after.to_datetime());
    let (outcome, detail) = if now < from {
        (Outcome::Failed, format!("begins {}; compare the clocks", table::distance(from, now)))
    } else if until < now {
        (Outcome::Failed, format!("expired {}", table::distance(until, now)))
    } else {
        (Outcome::Passed, format!("ends {}", table::distance(until, now)))
    };
    Finding::new("validity", outcome, detail)
}

/// The rules in the order in which `verify` looks at them: those before the one that failed hold,
/// those after it were not looked at. Nor was the path, where that is what one without it shows.
fn rules(
    judged: &Result<VerifiedSvid, Refusal>,
    path: &Result<(), Refusal>,
    trust: &Trust,
) -> Vec<Finding> {
    let domain = &trust.state().trust_domain;
    let svid = judged.as_ref().ok();
    let passed = [
        ("path to an anchor", format!("trust state {} of {domain}", trust.state().sequence)),
        ("X.509-SVID", svid.map(|svid| svid.spiffe_id().to_string()).unwrap_or_default()),
        ("trust domain", domain.to_string()),
        ("countersignature", countersignature(svid)),
    ];
    let failed = judged.as_ref().err().map(|refusal| (position(refusal), refusal));
    passed
        .into_iter()
        .enumerate()
        .map(|(at, (rule, detail))| match failed {
            Some((position, refusal)) if at == position => {
                Finding::new(rule, Outcome::Failed, refusal.to_string())
            }
            Some((position, _)) if at > position => {
                Finding::new(rule, Outcome::NotChecked, "a rule before it failed")
            }
            Some(_) if at == PATH && path.is_err() => {
                Finding::new(rule, Outcome::NotChecked, "none was looked for: see below")
            }
            _ => Finding::new(rule, Outcome::Passed, detail),
        })
        .collect()
}

fn countersignature(svid: Option<&VerifiedSvid>) -> String {
    match svid.map(VerifiedSvid::leaf_index) {
        Some(Some(index)) => format!("log index {index}"),
        Some(None) => "not needed below this anchor".to_owned(),
        None => String::new(),
    }
}

/// Its place among the rules.
const PATH: usize = 0;

/// Which of the rules a refusal is about.
fn position(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::NotAnSvid(_) => 1,
        Refusal::UnknownTrustDomain(_) => 2,
        Refusal::NotCountersigned(_) => 3,
        _ => PATH,
    }
}

fn possession(possession: Possession) -> Finding {
    let rule = "possession of the key";
    match possession {
        Possession::Proved => Finding::new(rule, Outcome::Passed, "signed the handshake"),
        Possession::Unproved => {
            Finding::new(rule, Outcome::Failed, "the server did not sign the handshake with it")
        }
    }
}

/// A refusal's name as the library's type has it: `NotAmongPeers`.
fn variant(refusal: &Refusal) -> String {
    let capital = |word: &str| [word[..1].to_uppercase().as_str(), &word[1..]].concat();
    refusal.name().split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use identity::SvidRule;

    use super::*;

    #[test]
    fn a_refusal_is_named_as_the_librarys_type_has_it() {
        for (refusal, name) in [
            (Refusal::Denied, "Denied"),
            (Refusal::NotAnSvid(SvidRule::Path), "NotAnSvid"),
            (Refusal::UnknownTrustDomain(String::new()), "UnknownTrustDomain"),
        ] {
            assert_eq!(variant(&refusal), name);
            assert!(format!("{refusal:?}").starts_with(name));
        }
    }
}
