//! The CA's own names: nobody else gets a certificate that bears one of them, whatever a row says.
//!
//! Clients of ours know the CA by its SPIFFE ID; others (curl, Python, a browser) by its name alone.
//! For them a workload with that name would be the CA.
//!
//! Names of the loopback interface are nobody's: `localhost` is another machine's everywhere else,
//! so a certificate with it stands for the CA to nobody who reaches the CA over a network. On the
//! CA's own host it does, for a client that knows no SPIFFE ID, and whoever takes the CA's port there
//! while the CA is down: they have the host, and an operator has listed the name in their row.

use std::collections::BTreeMap;
use std::net::IpAddr;

use issuance::DnsName;

use crate::facts::{Facts, Names};
use crate::policy::workloads::Workloads;
use crate::policy::{Claim, PolicyError};

/// The names by which clients reach the CA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnNames {
    /// Each with the last second, since 1970, of the CA's certificate that bears it; none for one
    /// that the configuration names.
    names: BTreeMap<String, Option<i64>>,
}

impl OwnNames {
    /// The names of the CA's configuration, DNS names and IP addresses in any form.
    pub fn configured<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let names = names.into_iter().filter_map(|name| normal(name));
        Self { names: names.map(|name| (name, None)).collect() }
    }

    /// What a certificate of the CA's bears, by its facts, is its name until it expires.
    pub(crate) fn with(&self, facts: &str, not_after: i64) -> Self {
        let mut names = self.names.clone();
        let facts = serde_json::from_str::<Facts>(facts).ok();
        let borne = facts.iter().flat_map(|facts| normal_names(&facts.dns, &facts.ip));
        for name in borne {
            let until = names.entry(name).or_insert(Some(not_after));
            *until = until.map(|until| until.max(not_after));
        }
        Self { names }
    }

    /// Whether none of them has ended before this second since 1970.
    pub(crate) fn is_current(&self, now: i64) -> bool {
        self.names.values().flatten().all(|until| *until >= now)
    }

    /// Those that have not ended before this second since 1970.
    pub(crate) fn at(&self, now: i64) -> Self {
        let mut names = self.names.clone();
        names.retain(|_, until| until.is_none_or(|until| until >= now));
        Self { names }
    }

    /// Refuses names that are the CA's.
    pub(crate) fn refuse(&self, dns: &[DnsName], ip: &[IpAddr]) -> Result<(), Claim> {
        for name in normal_names(dns, ip) {
            if let Some(last_second) = self.names.get(&name).copied() {
                return Err(Claim { name, last_second });
            }
        }
        Ok(())
    }

    /// Those that are not the CA's.
    pub(crate) fn without(&self, names: Names) -> Names {
        let Names { mut dns, mut ip } = names;
        dns.retain(|name| self.refuse(std::slice::from_ref(name), &[]).is_ok());
        ip.retain(|address| self.refuse(&[], &[*address]).is_ok());
        Names { dns, ip }
    }

    /// Refuses a workload table of which a row lists one of the CA's names.
    pub fn refuse_rows(&self, workloads: &Workloads) -> Result<(), PolicyError> {
        for row in workloads.rows() {
            let refused = self.refuse(&row.dns, &row.ip);
            refused.map_err(|claim| PolicyError::OwnName { row: row.id.clone(), claim })?;
        }
        Ok(())
    }
}

fn normal_names<'a>(dns: &'a [DnsName], ip: &'a [IpAddr]) -> impl Iterator<Item = String> + 'a {
    let dns = dns.iter().filter_map(|name| normal(name.as_str()));
    dns.chain(ip.iter().copied().filter_map(normal_ip))
}

/// As it is compared; none for a name of the loopback interface. A trailing dot and capitals mean
/// nothing in a DNS name (RFC 4343), and an address is itself in each of its forms.
fn normal(name: &str) -> Option<String> {
    if let Ok(address) = name.parse() {
        return normal_ip(address);
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    (name != LOCALHOST).then_some(name)
}

fn normal_ip(address: IpAddr) -> Option<String> {
    let address = address.to_canonical();
    (!address.is_loopback()).then(|| address.to_string())
}

const LOCALHOST: &str = "localhost";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(dns: &[&str], ip: &[&str]) -> Option<String> {
        let names = ["CA.pay.internal.", "10.0.0.1", "::ffff:10.0.0.2", "localhost", "127.0.0.1"];
        let names = names.map(str::to_owned);
        let dns: Vec<DnsName> = dns.iter().map(|name| DnsName::parse(name).unwrap()).collect();
        let ip: Vec<IpAddr> = ip.iter().map(|address| address.parse().unwrap()).collect();
        OwnNames::configured(&names).refuse(&dns, &ip).err().map(|claim| claim.name)
    }

    #[test]
    fn the_cas_names_are_refused_in_every_form_of_theirs() {
        for (dns, ip, expected) in [
            (&["a.internal", "ca.pay.internal"][..], &[][..], Some("ca.pay.internal")),
            (&[], &["10.0.0.1"], Some("10.0.0.1")),
            (&[], &["::ffff:10.0.0.1"], Some("10.0.0.1")),
            (&[], &["10.0.0.2"], Some("10.0.0.2")),
            (&["x.ca.pay.internal", "pay.internal"], &["10.0.0.3"], None),
            (&["localhost"], &["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"], None),
        ] {
            assert_eq!(refused(dns, ip).as_deref(), expected, "{dns:?} {ip:?}");
        }
    }

    #[test]
    fn a_certificate_of_the_cas_bears_its_names_until_it_expires() {
        let facts = |name: &str| {
            let dns = [DnsName::parse(name).unwrap()];
            serde_json::to_string(&Facts {
                attested_at: 0,
                attestor: "internal".to_owned(),
                dns: dns.to_vec(),
                ip: vec![],
                lineage: "01".parse().unwrap(),
                names_from: None,
                policies: vec![],
                principal: "authority".to_owned(),
                validity_seconds: 1,
            })
            .unwrap()
        };
        let names = OwnNames::configured(&["ca.internal".to_owned()]);
        let names = names.with(&facts("old.internal"), 100).with(&facts("old.internal"), 50);
        let names = names.with(&facts("ca.internal"), 50);
        let is_refused =
            |name, now| names.at(now).refuse(&[DnsName::parse(name).unwrap()], &[]).is_err();
        assert!(is_refused("old.internal", 100));
        assert!(!is_refused("old.internal", 101));
        assert!(is_refused("ca.internal", 101));
        assert!(names.is_current(100) && !names.is_current(101));
    }
}
