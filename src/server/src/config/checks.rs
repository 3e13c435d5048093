//! What no type says of a value, each key by itself.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use countersign::HostPort;
use issuance::DnsName;

use super::Config;

/// Keys whose values cannot be used, and why.
pub(super) fn all(config: &Config) -> Vec<(&'static str, String)> {
    let paths = [
        ("offline_passphrase_file", config.offline_passphrase_file.as_deref()),
        ("passphrase_file", config.passphrase_file.as_deref()),
        ("policies", config.policies.as_deref()),
        ("state", Some(config.state.as_path())),
    ];
    let paths = paths.map(|(key, path)| (key, path.map_or(Ok(()), means_itself)));
    let others = [
        ("admin_listen", apart(config.listen, config.admin_listen)),
        ("crl_url", config.crl_url.as_deref().map_or(Ok(()), crl_url)),
        ("keys.rotate_every", rotates(config)),
        ("names", names(&config.names)),
        ("state", keeps(&config.state)),
    ];
    let checked = paths.into_iter().chain(others);
    checked.filter_map(|(key, checked)| Some((key, checked.err()?))).collect()
}

/// No shell reads the file: what one would replace makes a folder of that name.
fn means_itself(path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    let is_variable = |part: &str| part.starts_with('$') && part.len() > 1;
    match () {
        () if text.is_empty() => Err("it is empty: name a path, or leave the line away".to_owned()),
        () if text.starts_with('~') => {
            Err(format!("{text:?}: nothing replaces ~ here, write the path whole"))
        }
        () if text.split('/').any(is_variable) => {
            Err(format!("{text:?}: no variable is replaced here, write the path whole"))
        }
        () => Ok(()),
    }
}

/// What the kernel makes up keeps nothing.
fn keeps(path: &Path) -> Result<(), String> {
    match ["/proc", "/sys"].iter().find(|place| path.starts_with(place)) {
        Some(place) => Err(format!("{place} keeps nothing: name a folder on a disk")),
        None => Ok(()),
    }
}

/// Port 0 is another each time.
fn apart(api: SocketAddr, admin: SocketAddr) -> Result<(), String> {
    let meet = api.ip() == admin.ip() || api.ip().is_unspecified() || admin.ip().is_unspecified();
    if admin.port() != 0 && admin.port() == api.port() && meet {
        return Err(format!("{admin} is that of `listen` too: each needs a port of its own"));
    }
    Ok(())
}

fn rotates(config: &Config) -> Result<(), String> {
    match config.keys.rotate_every.0.is_zero() {
        true => {
            Err("0s would replace each key at once, and again at each `rotate`: \"90d\"".to_owned())
        }
        false => Ok(()),
    }
}

fn crl_url(url: &str) -> Result<(), String> {
    let Some(behind) = url.strip_prefix("http://") else {
        return Err(format!(
            "{url:?} does not start with http:// (RFC 5280 §4.2.1.13: a CRL is signed, and TLS would need it first)"
        ));
    };
    if behind.split('/').next().is_none_or(str::is_empty) {
        return Err(format!("{url:?} has no host: http://crl.pay.internal/{{issuer}}"));
    }
    if behind.replace("{issuer}", "").contains(['{', '}']) {
        return Err(format!("{url:?} has a brace that is none of {{issuer}}"));
    }
    // RFC 5280 §4.2.1.6: an IA5String.
    if !url.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("{url:?} has a character that no certificate can carry in an URL"));
    }
    // Its id has 64 digits: more than a label of a host's name.
    HostPort::of_url(&url.replace("{issuer}", &"a".repeat(64)), HTTP)
        .map(drop)
        .map_err(|why| format!("{url:?}: {why}"))
}

/// Looked at before anything is made with them: they stand in the CA's certificate, and in the URLs
/// that operators are given.
fn names(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("name at least one DNS name or IP address of this service".to_owned());
    }
    if names.len() > MAX_NAMES {
        return Err(format!("more than {MAX_NAMES} are too many for a certificate"));
    }
    names.iter().try_for_each(|name| match name.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(format!("{name:?} is nobody's address: that is for `listen`"))
        }
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            let plain = address.to_canonical();
            Err(format!("{name:?} is IPv4 in IPv6's clothes, which no client asks for: {plain}"))
        }
        Ok(_) => Ok(()),
        Err(_) => dns_name(name),
    })
}

/// What is written in a name's place is told from what is only no name.
fn dns_name(name: &str) -> Result<(), String> {
    let hint = match name {
        _ if name.contains("://") => "a name, not an URL: leave out the scheme, and what is behind",
        _ if name.contains('%') => {
            "zone ids are not supported: it says where this host is for others"
        }
        _ if name.starts_with('[') => {
            "an IPv6 address stands here without brackets, and without port"
        }
        _ if name.contains(':') => "a name has no port: that is for `listen`",
        _ => return DnsName::parse(name).map(drop).map_err(|error| error.to_string()),
    };
    Err(format!("{name:?}: {hint}"))
}

/// The port of `http`.
const HTTP: u16 = 80;
/// As many as the CA takes in a certificate request.
const MAX_NAMES: usize = 100;
