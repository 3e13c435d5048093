//! What a client has, expects and takes: `If-None-Match`, `If-Match` and `Accept` of RFC 9110.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Whether the client has what this tag names already.
///
/// RFC 9110 §13.1.2: any of a list, `*` whatever there is, and weakly compared, since a proxy that
/// compresses makes tags weak.
pub(crate) fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    members(headers, header::IF_NONE_MATCH)
        .iter()
        .any(|member| *member == "*" || member.strip_prefix("W/").unwrap_or(member) == etag)
}

/// What must be in force for a request to change it: `If-Match`, and `If-None-Match` where that came
/// along.
#[derive(Debug)]
pub(crate) struct Precondition(HeaderMap);

/// The header that is needed is not there, or names nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPrecondition {
    Malformed,
    Missing,
}

impl Precondition {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, NoPrecondition> {
        let tags = members(headers, header::IF_MATCH);
        if tags.is_empty() {
            return Err(NoPrecondition::Missing);
        }
        let is_alone = tags.len() == 1;
        if !tags.iter().all(|tag| is_entity_tag(tag) || is_alone && tag == "*") {
            return Err(NoPrecondition::Malformed);
        }
        let kept = headers
            .iter()
            .filter(|(name, _)| [header::IF_MATCH, header::IF_NONE_MATCH].contains(name));
        Ok(Self(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
    }

    /// Whether it is so of what this tag names.
    ///
    /// RFC 9110 §13.1.1: any of a list, or `*`, and strongly compared: a weak tag names nothing that
    /// may be replaced.
    pub(crate) fn holds(&self, etag: &str) -> bool {
        let Self(headers) = self;
        let tags = members(headers, header::IF_MATCH);
        tags.iter().any(|tag| tag == "*" || tag == etag) && !has_already(headers, etag)
    }
}

/// RFC 9110 §8.8.3.
fn is_entity_tag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    let inner = opaque.strip_prefix('"').and_then(|opaque| opaque.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| byte > b' ' && byte != b'"'))
}

/// Which of the kinds on offer a client takes best; the first where it has no preference, or takes
/// none of them: a kind that it did not ask for tells it more than an error.
///
/// RFC 9110 §12.5.1: the most specific range that matches decides about a kind, and among kinds the
/// weight; of two with one weight, that which was named more exactly.
pub(crate) fn preferred<'a, const N: usize>(
    headers: &HeaderMap,
    on_offer: [(&'a str, &[&str]); N],
) -> &'a str {
    let members = members(headers, header::ACCEPT);
    let ranges: Vec<Range> = members.iter().filter_map(|member| Range::parse(member)).collect();
    let mut best = (0, 0, on_offer[0].0);
    for (kind, others) in on_offer {
        let names = [kind].into_iter().chain(others.iter().copied());
        let matched = names.filter_map(|name| {
            ranges
                .iter()
                .filter_map(|range| range.covers(name).map(|exact| (exact, range)))
                .max_by_key(|(exact, _)| *exact)
        });
        let Some((exact, range)) = matched.max_by_key(|(exact, range)| (*exact, range.weight))
        else {
            continue;
        };
        if (range.weight, exact) > (best.0, best.1) && range.weight > 0 {
            best = (range.weight, exact, kind);
        }
    }
    best.2
}

/// `Vary: Accept`: caches keep one answer for each kind.
pub(crate) fn varies_by_accept() -> (HeaderName, HeaderValue) {
    (header::VARY, HeaderValue::from_static("accept"))
}

/// The members of a list that one header line or several carry; commas in quotes separate nothing.
fn members(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let mut members = Vec::new();
    for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
        let mut quoted = false;
        let parts = value.split(|c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        members.extend(parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
    }
    members
}

/// A media range with its weight in thousandths.
struct Range {
    kind: String,
    subtype: String,
    weight: u16,
}

impl Range {
    fn parse(member: &str) -> Option<Self> {
        let mut parts = member.split(';').map(|part| part.trim().to_ascii_lowercase());
        let range = parts.next()?;
        let (kind, subtype) = range.split_once('/')?;
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            (name.trim() == "q").then(|| weight(value.trim()))
        });
        let (kind, subtype) = (kind.to_owned(), subtype.to_owned());
        Some(Self { kind, subtype, weight: weight.unwrap_or(1000) })
    }

    /// How exactly it names a kind: not at all, by `*/*`, by its beginning, or whole.
    fn covers(&self, name: &str) -> Option<u8> {
        let (kind, subtype) = name.split_once('/')?;
        match (&*self.kind, &*self.subtype) {
            ("*", "*") => Some(1),
            (own, "*") if own == kind => Some(2),
            (own, sub) if own == kind && sub == subtype => Some(3),
            _ => None,
        }
    }
}

/// What is no weight counts as none given.
fn weight(value: &str) -> u16 {
    match value.parse::<f32>() {
        // At most 1000.
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_tag_is_known_weak_listed_and_by_a_star() {
        let has =
            |values: &[&'static str]| has_already(&headers(header::IF_NONE_MATCH, values), "\"7\"");
        for known in [
            &["\"7\""][..],
            &["W/\"7\""],
            &["\"6\", \"7\""],
            &["\"a,b\" ,W/\"7\""],
            &["*"],
            &["\"6\"", "\"7\""],
        ] {
            assert!(has(known), "{known:?}");
        }
        for unknown in [&[][..], &["\"6\""], &["7"], &["w/\"7\""], &["\"6,\"7\"\""], &["\"77\""]] {
            assert!(!has(unknown), "{unknown:?}");
        }
    }

    #[test]
    fn what_is_to_be_replaced_is_named_strongly_listed_or_by_a_star() {
        let precondition =
            |values: &[&'static str]| Precondition::of(&headers(header::IF_MATCH, values));
        for held in
            [&["\"7\""][..], &["\"6\", \"7\""], &["W/\"6\",\"7\""], &["*"], &["\"6\"", "\"7\""]]
        {
            assert!(precondition(held).unwrap().holds("\"7\""), "{held:?}");
        }
        for other in [&["W/\"7\""][..], &["\"6\""], &["\"7 \""], &["\"6,7\""], &["\"\""]] {
            let holds = precondition(other).map(|it| it.holds("\"7\""));
            assert_ne!(holds, Ok(true), "{other:?}");
        }
        for none in [&[][..], &[""], &[" , "]] {
            assert_eq!(precondition(none).unwrap_err(), NoPrecondition::Missing, "{none:?}");
        }
        for malformed in
            [&["7"][..], &["w/\"7\""], &["\"7\", *"], &["*", "*"], &["\"7\" 8"], &["\"7"]]
        {
            let error = precondition(malformed).unwrap_err();
            assert_eq!(error, NoPrecondition::Malformed, "{malformed:?}");
        }
    }

    #[test]
    fn what_a_client_has_already_is_not_replaced_by_it() {
        for (if_none_match, holds) in [("\"6\"", true), ("W/\"7\"", false), ("*", false)] {
            let mut both = headers(header::IF_MATCH, &["\"7\""]);
            both.insert(header::IF_NONE_MATCH, HeaderValue::from_static(if_none_match));
            assert_eq!(Precondition::of(&both).unwrap().holds("\"7\""), holds, "{if_none_match}");
        }
    }

    #[test]
    fn the_kind_that_is_wanted_most_is_given() {
        const JSON: &str = "application/json";
        const PEM: &str = "application/pem-certificate-chain";
        let given = |values: &[&'static str]| {
            let offer = [(JSON, &[][..]), (PEM, &["application/x-pem-file"])];
            preferred(&headers(header::ACCEPT, values), offer)
        };
        for json in [
            &[][..],
            &["*/*"],
            &["text/html"],
            &["application/*"],
            &["application/pem-certificate-chain;q=0"],
            &["application/pem-certificate-chain;q=0, */*"],
            &["application/pem-certificate-chain;q=0.5, application/json"],
            &["text/pemmican"],
            &["nonsense", ",;q=1"],
        ] {
            assert_eq!(given(json), JSON, "{json:?}");
        }
        for pem in [
            &["application/pem-certificate-chain"][..],
            &["Application/PEM-Certificate-Chain; Q=0.3"],
            &["application/x-pem-file, */*;q=0.8"],
            &["application/pem-certificate-chain, */*"],
            &["application/json;q=0.2, application/pem-certificate-chain;q=0.9"],
            &["application/json;q=0, */*"],
            &["application/json;q=0.1", "application/pem-certificate-chain"],
        ] {
            assert_eq!(given(pem), PEM, "{pem:?}");
        }
    }
}
