//! Where a server is, as somebody writes it. One parser for whatever names a host: what can lead
//! nowhere is a slip of the pen, and no server that is away and comes back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// A host that a TLS connection can be opened to: a DNS name, or an IP address.
///
/// ```
/// let host = countersign::Host::parse("ca.pay.internal")?;
/// assert_eq!(host.as_str(), "ca.pay.internal");
/// assert_eq!(countersign::Host::parse("[::1]")?.as_str(), "::1");
/// assert!(countersign::Host::parse("127.1").is_err());
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

/// A server: `HOST:PORT`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Which host.
    pub host: Host,
    /// Which port; never 0.
    pub port: u16,
}

impl Host {
    /// A host as it stands before a port, so that an IPv6 address has brackets. An error says what is
    /// wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains('%') {
            return Err(NO_ZONES);
        }
        if let Some(address) = text.strip_prefix('[') {
            let address = address.strip_suffix(']').map(Ipv6Addr::from_str);
            let Some(Ok(address)) = address else { return Err(NO_IPV6) };
            return Ok(Self(address.to_string()));
        }
        match text {
            "" => Err("it has no host"),
            _ if text.contains(':') => Err(UNBRACKETED),
            _ if !text.is_ascii() => Err("a name outside ASCII is written as DNS has it: xn--…"),
            _ if text.contains('*') => Err("* stands for many hosts, and one is wanted"),
            _ if ends_in_number(text) && text.parse::<Ipv4Addr>().is_err() => {
                Err(if text.starts_with(|c: char| c.is_ascii_digit()) {
                    NO_IPV4
                } else {
                    NO_TOP_LEVEL
                })
            }
            _ if ServerName::try_from(text).is_err() => Err(NO_NAME),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// Without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl HostPort {
    /// Parses `HOST:PORT`. An error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::of_authority(text, None)
    }

    /// Where an URL leads, by its `HOST[:PORT]`: to the port of its scheme where it names none. What
    /// stands before and behind is not looked at, but for a user, who is nobody here.
    pub fn of_url(url: &str, port_of_scheme: u16) -> Result<Self, &'static str> {
        let authority = url.split_once("://").map_or(url, |(_, behind)| behind);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        match authority.contains('@') {
            true => Err(A_USER),
            false => Self::of_authority(authority, Some(port_of_scheme)),
        }
    }

    fn of_authority(text: &str, default: Option<u16>) -> Result<Self, &'static str> {
        // The last part of an IPv6 address looks like a port: what stands before has a colon then.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (Host::parse(host)?, Some(port)),
            _ => (Host::parse(text)?, None),
        };
        let port = match port {
            Some(port) => parse_port(port)?,
            None => default.ok_or(NO_PORT)?,
        };
        Ok(Self { host, port })
    }
}

/// Digits alone (RFC 3986 §3.2.3), and a port that somebody can listen on.
fn parse_port(text: &str) -> Result<u16, &'static str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(0) => Err(PORT_0),
        Ok(port) if is_number => Ok(port),
        _ => Err(NO_NUMBER),
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host: Host(host), port } = self;
        match host.parse() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            _ => write!(f, "{host}:{port}"),
        }
    }
}

/// An URL as it may be told: what stands before the host, a password perhaps, is not repeated.
pub(crate) fn without_user(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://…@{host}"),
        None => format!("…@{host}"),
    }
}

/// Whether the last label is one, as no top-level domain is (RFC 3696 §2): URLs take it for an address
/// (WHATWG URL §3.5), in hexadecimal too, and TLS has no name for it.
fn ends_in_number(text: &str) -> bool {
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The port of `https`.
pub(crate) const HTTPS: u16 = 443;
/// Addresses of one of this host's interfaces: no certificate can name one.
const NO_ZONES: &str = "zone ids (%eth0) are not supported: use an address that is not \
                        link-local, or a DNS name";
const NO_IPV4: &str = "an IPv4 address is written as four numbers from 0 to 255: 127.0.0.1";
const NO_IPV6: &str = "what stands in brackets is no IPv6 address";
const NO_NAME: &str = "a DNS name is made of letters, digits, - and _, in labels of 1 to 63 that neither \
                       begin nor end with -, 253 in all";
const NO_TOP_LEVEL: &str = "a DNS name does not end in a number, which URLs and TLS take for a part of \
                            an IPv4 address: append a domain";
const NO_PORT: &str = "it is not HOST:PORT";
const NO_NUMBER: &str = "a port is a number from 1 to 65535";
const A_USER: &str = "a user stands before the host";
const PORT_0: &str = "nothing listens on port 0: it stands for any that is free";
const UNBRACKETED: &str = "an IPv6 address stands in brackets before its port: [::1]:8443";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_lead_nowhere_is_told_from_a_server_that_is_away() {
        let long = "a".repeat(64);
        let longer = format!("{}a", "abc.".repeat(64));
        for (text, why) in [
            ("", "no host"),
            ("127.1", NO_IPV4),
            ("2130706433", NO_IPV4),
            ("127.0.0.256", NO_IPV4),
            ("127.0.0.1.", NO_IPV4),
            ("010.0.0.1", NO_IPV4),
            ("0x7f.1", NO_IPV4),
            ("127.0.0.0x1", NO_IPV4),
            ("web.1", NO_TOP_LEVEL),
            ("node.10.", NO_TOP_LEVEL),
            ("a.0x", NO_TOP_LEVEL),
            ("a..b", NO_NAME),
            (".a", NO_NAME),
            ("-a", NO_NAME),
            ("a-.b", NO_NAME),
            ("a b", NO_NAME),
            ("a/b", NO_NAME),
            ("u@a", NO_NAME),
            (&long, NO_NAME),
            (&longer, NO_NAME),
            ("*", "many hosts"),
            ("*.pay.internal", "many hosts"),
            ("bücher", "xn--"),
            ("::1", UNBRACKETED),
            ("[::1", NO_IPV6),
            ("[127.0.0.1]", NO_IPV6),
            ("[localhost]", NO_IPV6),
            ("[]", NO_IPV6),
            ("fe80::1%eth0", NO_ZONES),
            ("[fe80::1%25eth0]", NO_ZONES),
        ] {
            let refused = Host::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for (text, expected) in [
            ("localhost", "localhost"),
            ("ca.pay.internal", "ca.pay.internal"),
            ("CA.pay.internal.", "CA.pay.internal."),
            ("my_service", "my_service"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1password.com", "1password.com"),
            ("10-0-0-1.pod", "10-0-0-1.pod"),
            ("web-1", "web-1"),
            ("10.web", "10.web"),
            ("a.0xfg", "a.0xfg"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn host_and_port_are_written_as_they_are_read() {
        for text in ["ca.internal:8443", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for (text, why) in [
            ("ca.internal", NO_PORT),
            ("ca.internal:", NO_NUMBER),
            ("ca.internal:70000", NO_NUMBER),
            ("ca.internal:-1", NO_NUMBER),
            ("ca.internal:+80", NO_NUMBER),
            ("[::1]", NO_PORT),
            ("[::1]443", NO_IPV6),
            ("ca.internal:0", PORT_0),
            (":443", "no host"),
            ("::1", UNBRACKETED),
            ("fe80::1:443", UNBRACKETED),
            ("::1:99999", UNBRACKETED),
            ("127.1:443", NO_IPV4),
        ] {
            let refused = HostPort::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn an_url_leads_to_a_host_and_a_port() {
        for (url, expected) in [
            ("https://ca.internal", "ca.internal:443"),
            ("https://ca.internal/", "ca.internal:443"),
            ("HTTPS://ca.internal:8443/v1?a@b:c#d@e", "ca.internal:8443"),
            ("https://[::1]?x", "[::1]:443"),
            ("https://[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(HostPort::of_url(url, HTTPS).unwrap().to_string(), expected, "{url}");
        }
        for (url, why) in [
            ("https://", "no host"),
            ("https:///v1", "no host"),
            ("https://me@ca.internal", A_USER),
            ("https://me:secret@[::1]:1/", A_USER),
            ("https://ca.internal:", NO_NUMBER),
            ("https://ca.internal:0/", PORT_0),
            ("https://ca.internal:65536/", NO_NUMBER),
            ("https://[::1]x/", NO_IPV6),
            ("https://::1/", UNBRACKETED),
        ] {
            let refused = HostPort::of_url(url, HTTPS).unwrap_err();
            assert!(refused.contains(why), "{url}: {refused}");
        }
    }
}
