//! What is decided whatever a policy set says: what the CA needs to go on, and what nobody gets.

use super::query::{Action, Decision, Principal, Query};

/// The answer to what the CA asks for itself: its own paths, and nothing else. A set that could
/// forbid it would be the last one: without a certificate of its own, the CA takes no other.
///
/// And to what would make an operator of whoever asks: a certificate of another's name of ours, or the
/// token for one. Whoever may change policy is able to do all; who may make tokens is not.
pub(super) fn own(query: &Query) -> Option<Decision> {
    let certifies = matches!(query.action, Action::Issue(_) | Action::Renew(_));
    let is_token = query.action == Action::CreateToken;
    let ours = query.resource.as_ref().filter(|resource| resource.is_reserved());
    let by = |allowed, policy: &str| {
        Some(Decision { allowed, policies: vec![policy.to_owned()], errors: Vec::new() })
    };
    match (&query.principal, ours) {
        (Principal::Authority, Some(_)) if certifies => by(true, OWN_PATHS),
        (Principal::Authority, _) => {
            Some(Decision { allowed: false, policies: Vec::new(), errors: Vec::new() })
        }
        (Principal::Operator(id), Some(ours)) if is_token && id != ours => by(false, THEMSELVES),
        (Principal::Operator(id), Some(ours)) if certifies && id != ours => by(false, RESERVED),
        (Principal::Workload(_), Some(_)) if certifies || is_token => by(false, RESERVED),
        _ => None,
    }
}

/// How the shipped set names what [`own`] decides.
const OWN_PATHS: &str = "authority-own-paths";
const RESERVED: &str = "reserved-paths";
const THEMSELVES: &str = "operators-are-themselves";
