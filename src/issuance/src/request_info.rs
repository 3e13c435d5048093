//! The signed part of a certificate request, element by element.
//!
//! RFC 2986 §4.1 wants attributes, and at least one value in each; devices and OpenSSL leave both
//! out. Of attributes that nobody reads only the names are told, whatever is in them. Those that ask for
//! extensions (PKCS #9's, and Microsoft's older one) are read whole: each attribute, each value.

use x509_parser::asn1_rs::{Any, Class, Oid, Tag, oid};
use x509_parser::oid_registry::OID_PKCS9_EXTENSION_REQUEST;
use x509_parser::prelude::{FromDer, X509Extension};
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::error::RequestRule;

/// CertificationRequestInfo.
pub(crate) struct RequestInfo<'a> {
    pub(crate) spki: SubjectPublicKeyInfo<'a>,
    /// What it calls itself; none where that is empty.
    pub(crate) subject: Option<String>,
    /// What else its attributes say.
    pub(crate) asked: Asked<'a>,
}

/// What the attributes of a request say.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    /// Extensions that it asks for, wherever it does.
    pub(crate) extensions: Vec<X509Extension<'a>>,
    /// The names of attributes that nobody reads, and that are not empty.
    pub(crate) unread: Vec<String>,
}

impl<'a> RequestInfo<'a> {
    /// Reads the first element of a request.
    pub(crate) fn parse(info: &'a [u8]) -> Result<Self, RequestRule> {
        let info = value(info).ok_or(RequestRule::Malformed)?;
        let fields = elements(info).ok_or_else(|| broken("CertificationRequestInfo", NOT_DER))?;
        let [version, subject, spki, attributes @ ..] = &fields[..] else {
            return Err(broken("CertificationRequestInfo", "version, subject or key is missing"));
        };
        if version.any.tag() != Tag::Integer || version.any.data != [0] {
            return Err(broken("version", "it is not 0, the only one that there is (v1)"));
        }
        if subject.any.tag() != Tag::Sequence {
            return Err(broken("subject", "it is no Name; an empty one is a Name, too"));
        }
        let Ok(([], spki)) = SubjectPublicKeyInfo::from_der(spki.whole) else {
            return Err(broken("key", "it is no SubjectPublicKeyInfo"));
        };
        let asked = match attributes {
            [] => Asked::default(),
            [only] => Asked::read(only)?,
            _ => return Err(broken("attributes", "something stands behind them")),
        };
        Ok(Self { spki, subject: named(subject), asked })
    }
}

/// Whether bytes are a request at all, whatever is wrong with it: a sequence that begins with one of
/// a small number, the version. A certificate's begins with `[0]`.
pub(crate) fn is_request(der: &[u8]) -> bool {
    // What is cut off is looked at as far as it goes.
    let first = header(der).filter(|(tag, ..)| *tag == SEQUENCE);
    let info = first.and_then(|(_, _, rest)| header(rest)).filter(|(tag, ..)| *tag == SEQUENCE);
    let version = info.and_then(|(_, _, rest)| header(rest));
    version.is_some_and(|(tag, length, _)| tag == INTEGER && length == 1)
}

/// How many bytes a request says that it has, where fewer are there.
pub(crate) fn missing_from(der: &[u8]) -> Option<usize> {
    let (_, length, rest) = header(der)?;
    length.checked_sub(rest.len()).filter(|missing| *missing > 0)
}

/// A name as people write it. Nobody is certified by it: that it cannot be read refuses nothing.
fn named(subject: &Element<'_>) -> Option<String> {
    if subject.any.data.is_empty() {
        return None;
    }
    Some(match X509Name::from_der(subject.whole) {
        Ok(([], name)) => name.to_string(),
        _ => "that cannot be read".to_owned(),
    })
}

impl<'a> Asked<'a> {
    fn read(attributes: &Element<'a>) -> Result<Self, RequestRule> {
        let any = &attributes.any;
        if any.class() != Class::ContextSpecific || any.tag().0 != 0 || !any.header.constructed() {
            return Err(broken("attributes", "what stands in their place is not [0]"));
        }
        let mut asked = Self::default();
        for attribute in elements(any.data).ok_or_else(|| broken("attributes", NOT_DER))? {
            // asn1-rs reads any tag as an OID.
            let (Tag::Sequence, [0x06, ..]) = (attribute.any.tag(), attribute.any.data) else {
                return Err(broken("attributes", "one of them has no type (an OID)"));
            };
            let (values, kind) = Oid::from_der(attribute.any.data)
                .map_err(|_| broken("attributes", "the type of one of them is no OID"))?;
            if kind == OID_PKCS9_EXTENSION_REQUEST || kind == MICROSOFT_EXTENSION_REQUEST {
                read_values(values, &mut asked.extensions)?;
            } else if !is_empty(values) {
                let known = NAMED.iter().find(|(oid, _)| *oid == kind);
                let name = known.map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned());
                asked.unread.push(format!("the attribute {name}"));
            }
        }
        Ok(asked)
    }
}

/// Whether the values of an attribute say nothing: there are none.
fn is_empty(values: &[u8]) -> bool {
    values.is_empty()
        || Any::from_der(values).is_ok_and(|(rest, set)| rest.is_empty() && set.data.is_empty())
}

/// `values SET SIZE(1..MAX) OF Extensions`; none say nothing.
fn read_values<'a>(
    values: &'a [u8],
    extensions: &mut Vec<X509Extension<'a>>,
) -> Result<(), RequestRule> {
    let fail = |why| Err(broken("extension request", why));
    let [set] = &elements(values).unwrap_or_default()[..] else {
        return fail("it has not one SET of values");
    };
    let (Tag::Set, Some(values)) = (set.any.tag(), elements(set.any.data)) else {
        return fail("it has no SET of values");
    };
    for value in values {
        let (Tag::Sequence, Some(asked)) = (value.any.tag(), elements(value.any.data)) else {
            return fail("one of its values is no sequence of extensions");
        };
        for extension in asked {
            match X509Extension::from_der(extension.whole) {
                Ok(([], extension)) => extensions.push(extension),
                _ => return fail("one of its extensions cannot be read"),
            }
        }
    }
    Ok(())
}

pub(crate) fn broken(part: &'static str, why: &str) -> RequestRule {
    RequestRule::Broken { part, why: why.to_owned() }
}

/// One element of DER.
struct Element<'a> {
    any: Any<'a>,
    whole: &'a [u8],
}

/// All elements of a content; none where it is no DER.
fn elements(mut content: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !content.is_empty() {
        let (rest, any) = Any::from_der(content).ok()?;
        let whole = &content[..content.len() - rest.len()];
        elements.push(Element { any, whole });
        content = rest;
    }
    Some(elements)
}

/// The content of a SEQUENCE and nothing else.
fn value(sequence: &[u8]) -> Option<&[u8]> {
    match Any::from_der(sequence) {
        Ok(([], any)) if any.tag() == Tag::Sequence => Some(any.data),
        _ => None,
    }
}

/// Tag and length of the first element, and what follows them.
fn header(der: &[u8]) -> Option<(u8, usize, &[u8])> {
    let [tag, length, rest @ ..] = der else { return None };
    match length {
        0..=0x7f => Some((*tag, usize::from(*length), rest)),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            Some((*tag, length, rest))
        }
        _ => None,
    }
}

/// What is in one, a password perhaps, is never told.
static NAMED: [(Oid<'static>, &str); 3] = [
    (oid!(1.2.840.113549.1.9.2), "unstructuredName"),
    (oid!(1.2.840.113549.1.9.7), "challengePassword"),
    (oid!(1.2.840.113549.1.9.8), "unstructuredAddress"),
];
const MICROSOFT_EXTENSION_REQUEST: Oid<'static> = oid!(1.3.6.1.4.1.311.2.1.14);
const NOT_DER: &str = "it is not DER";
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
