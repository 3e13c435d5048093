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
            _ if ends_in_number(text) && text.parse::<Ipv4Addr>().is_err() => Err(NO_IPV4),
            _ if ServerName::try_from(text).is_err() => Err(NO_NAME),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// That of an URL, whatever else is wrong with it.
    pub fn of_url(url: &str) -> Result<Self, &'static str> {
        let authority = url.split_once("://").map_or(url, |(_, behind)| behind);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => Self::parse(host),
            _ => Self::parse(authority),
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
        // What is an address as a whole has no port, though a part of it may look like one.
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(UNBRACKETED);
        }
        let (host, port) = text.rsplit_once(':').ok_or(NO_PORT)?;
        let host = Host::parse(host)?;
        match port.parse() {
            Ok(0) => Err(PORT_0),
            Ok(port) => Ok(Self { host, port }),
            Err(_) => Err(NO_PORT),
        }
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

/// Whether the last label is one, as no top-level domain is (RFC 3696 §2): it is meant as an address.
fn ends_in_number(text: &str) -> bool {
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
    !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Addresses of one of this host's interfaces: no certificate can name one.
const NO_ZONES: &str = "zone ids (%eth0) are not supported: use an address that is not \
                        link-local, or a DNS name";
const NO_IPV4: &str = "an IPv4 address is written as four numbers from 0 to 255: 127.0.0.1";
const NO_IPV6: &str = "what stands in brackets is no IPv6 address";
const NO_NAME: &str = "a DNS name is made of letters, digits, - and _, in labels of 1 to 63 that neither \
                       begin nor end with -, 253 in all";
const NO_PORT: &str = "it is not HOST:PORT";
pub(crate) const PORT_0: &str = "nothing listens on port 0: it stands for any that is free";
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
            ("a.1", NO_IPV4),
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
            ("ca.internal:", NO_PORT),
            ("ca.internal:70000", NO_PORT),
            ("ca.internal:-1", NO_PORT),
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
}
