//! SPIFFE IDs and trust domains, as the SPIFFE ID specification (§2) spells them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, SpiffeIdRule};

/// The name of a workload: `spiffe://trust-domain/path`.
///
/// At most 2,048 bytes; never normalised: what is not canonical is refused. Source: SPIFFE ID §2.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    path_start: usize,
}

impl SpiffeId {
    /// Parses the whole URI. Each rule of the specification has its own [`SpiffeIdRule`].
    pub fn parse(uri: &str) -> Result<Self, Error> {
        let refuse = |rule| Error::SpiffeId { rule, input: excerpt(uri) };
        if uri.is_empty() {
            return Err(refuse(SpiffeIdRule::Empty));
        }
        if uri.len() > MAX_ID {
            return Err(refuse(SpiffeIdRule::TooLong));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| refuse(SpiffeIdRule::Scheme))?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        check_trust_domain(domain).map_err(refuse)?;
        check_path(path).map_err(refuse)?;
        Ok(Self { uri: Arc::from(uri), path_start: uri.len() - path.len() })
    }

    /// The ID of `path` (empty, or starting with `/`) in a trust domain.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, Error> {
        Self::parse(&format!("{SCHEME}{trust_domain}{path}"))
    }

    /// The ID of the CA itself: `/countersign/authority`.
    pub fn authority(trust_domain: &TrustDomain) -> Self {
        Self::new(trust_domain, "/countersign/authority").expect("a constant path is valid")
    }

    /// The ID of the operator called `name`: `/countersign/operator/NAME`.
    pub fn operator(trust_domain: &TrustDomain, name: &str) -> Result<Self, Error> {
        Self::new(trust_domain, &format!("{OPERATOR_PATH}{name}"))
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(&self.uri[SCHEME.len()..self.path_start]))
    }

    /// Whether the ID belongs to this trust domain.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.uri[SCHEME.len()..self.path_start] == *trust_domain.as_str()
    }

    /// The path with its leading slash; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        &self.uri[self.path_start..]
    }

    /// Whether the path is ours (`/countersign/…`): no workload may have it.
    pub fn is_reserved(&self) -> bool {
        self.path() == "/countersign" || self.path().starts_with("/countersign/")
    }

    /// The operator's name, if this is an operator's ID.
    pub fn operator_name(&self) -> Option<&str> {
        self.path().strip_prefix(OPERATOR_PATH).filter(|name| !name.contains('/'))
    }
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(uri: &str) -> Result<Self, Error> {
        Self::parse(uri)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = Error;
    fn try_from(uri: String) -> Result<Self, Error> {
        Self::parse(&uri)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.uri.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// The name of a trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes.
///
/// Source: SPIFFE ID §2.1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses the bare name (no scheme).
    pub fn parse(name: &str) -> Result<Self, Error> {
        check_trust_domain(name)
            .map_err(|rule| Error::SpiffeId { rule, input: excerpt(name) })
            .map(|()| Self(Arc::from(name)))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID, `spiffe://NAME`, as CA certificates carry it.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::new(self, "").expect("a trust domain's own ID is valid")
    }
}

impl FromStr for TrustDomain {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = Error;
    fn try_from(name: String) -> Result<Self, Error> {
        Self::parse(&name)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SPIFFE ID §2.1: only these characters; a port, user info or percent-encoding shows as another.
fn check_trust_domain(name: &str) -> Result<(), SpiffeIdRule> {
    if name.is_empty() {
        return Err(SpiffeIdRule::EmptyTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(SpiffeIdRule::TrustDomainTooLong);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase() || !is_path_byte(byte)) {
        return Err(SpiffeIdRule::TrustDomainCharacter);
    }
    Ok(())
}

/// SPIFFE ID §2.2.
fn check_path(path: &str) -> Result<(), SpiffeIdRule> {
    if path.is_empty() {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err(SpiffeIdRule::TrailingSlash);
    }
    path[1..].split('/').try_for_each(|segment| match segment {
        "" => Err(SpiffeIdRule::EmptySegment),
        "." | ".." => Err(SpiffeIdRule::DotSegment),
        _ if segment.bytes().all(is_path_byte) => Ok(()),
        _ => Err(SpiffeIdRule::PathCharacter),
    })
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// What of a hostile input may stand in an error.
fn excerpt(input: &str) -> String {
    let mut shown: String = input.chars().take(100).collect();
    if shown.len() < input.len() {
        shown.push('…');
    }
    shown
}

const SCHEME: &str = "spiffe://";
const OPERATOR_PATH: &str = "/countersign/operator/";
/// SPIFFE ID §2.3: implementations must accept 2,048 bytes; we accept no more.
const MAX_ID: usize = 2048;
/// SPIFFE ID §2.1.
const MAX_TRUST_DOMAIN: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(input: &str) -> SpiffeIdRule {
        match SpiffeId::parse(input) {
            Err(Error::SpiffeId { rule, .. }) => rule,
            other => panic!("{input}: {other:?}"),
        }
    }

    #[test]
    fn each_rule_has_its_own_refusal() {
        for (input, expected) in [
            ("", SpiffeIdRule::Empty),
            ("https://pay.example/a", SpiffeIdRule::Scheme),
            ("SPIFFE://pay.example/a", SpiffeIdRule::Scheme),
            ("spiffe:///a", SpiffeIdRule::EmptyTrustDomain),
            ("spiffe://pay.example:8443/a", SpiffeIdRule::TrustDomainCharacter),
            ("spiffe://user@pay.example/a", SpiffeIdRule::TrustDomainCharacter),
            ("spiffe://Pay.example/a", SpiffeIdRule::TrustDomainCharacter),
            ("spiffe://pay.example?x=1", SpiffeIdRule::TrustDomainCharacter),
            ("spiffe://pay.example/a?x=1", SpiffeIdRule::PathCharacter),
            ("spiffe://pay.example/a#x", SpiffeIdRule::PathCharacter),
            ("spiffe://pay.example/%61", SpiffeIdRule::PathCharacter),
            ("spiffe://pay.example/ä", SpiffeIdRule::PathCharacter),
            ("spiffe://pay.example/a/../b", SpiffeIdRule::DotSegment),
            ("spiffe://pay.example/./b", SpiffeIdRule::DotSegment),
            ("spiffe://pay.example//b", SpiffeIdRule::EmptySegment),
            ("spiffe://pay.example/a/", SpiffeIdRule::TrailingSlash),
        ] {
            assert_eq!(rule(input), expected, "{input}");
        }
        assert_eq!(
            rule(&format!("spiffe://{}/a", "a".repeat(256))),
            SpiffeIdRule::TrustDomainTooLong
        );
    }

    #[test]
    fn the_length_limit_is_2048_bytes() {
        let longest = format!("spiffe://a/{}", "b".repeat(2048 - 11));
        assert_eq!(longest.len(), 2048);
        assert!(SpiffeId::parse(&longest).is_ok());
        assert_eq!(rule(&format!("{longest}b")), SpiffeIdRule::TooLong);
    }

    #[test]
    fn reserved_paths_are_whole_segments() {
        let reserved = |id: &str| SpiffeId::parse(id).unwrap().is_reserved();
        assert!(reserved("spiffe://a/countersign"));
        assert!(reserved("spiffe://a/countersign/operator/x"));
        assert!(!reserved("spiffe://a/countersigner"));
        assert_eq!(
            SpiffeId::parse("spiffe://a/countersign/operator/x/y").unwrap().operator_name(),
            None
        );
    }

    proptest! {
        #[test]
        fn what_parses_is_kept_to_the_letter(domain in "[a-z0-9._-]{1,20}", path in "(/[a-zA-Z0-9_-]{1,8}){0,5}") {
            let uri = format!("spiffe://{domain}{path}");
            let id = SpiffeId::parse(&uri).unwrap();
            prop_assert_eq!(id.as_str(), &uri);
            prop_assert_eq!(id.path(), &path);
            prop_assert_eq!(id.trust_domain().to_string(), domain);
        }

        #[test]
        fn no_input_panics(input in ".{0,300}") {
            let _ = SpiffeId::parse(&input);
        }
    }
}
