//! Why a workload is cut off: the certificate that it holds is refused, whatever the network does.

use std::fmt;

use identity::{SerialNumber, SpiffeId};
use rustls::AlertDescription;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why the certificate that a workload holds is refused, and since when it knows.
///
/// It is told once, as an error in the log, and as long as it lasts by
/// [`Status::cut_off`](crate::Status::cut_off) and a metric. The workload asks for another certificate
/// at once, and again and again, attesting where it can; this ends with the next one. In words: what
/// happened, whom to ask, and how the workload gets another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutOff {
    /// By which rule.
    pub rule: CutOffRule,
    /// When the workload heard of it, by its own clock.
    pub since: OffsetDateTime,
    told: String,
}

/// Why a certificate is refused by the CA, and by peers too where that
/// [is so](CutOffRule::is_by_everybody).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CutOffRule {
    /// By the CA's clock it has expired or begins only later, and by ours it is valid.
    Clock,
    /// Its identity is denied until an operator allows it again.
    Denied,
    /// It has come to its end, and none could be had in its place.
    Expired,
    /// The CA does not know who issued it.
    OtherAuthority,
    /// The CA says no more than that.
    Refused,
    /// It is revoked.
    Revoked,
}

impl CutOffRule {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Clock,
        Self::Denied,
        Self::Expired,
        Self::OtherAuthority,
        Self::Refused,
        Self::Revoked,
    ];

    /// Its name, as the metric has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::OtherAuthority => "other-authority",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
        }
    }

    /// Whether peers refuse it, too: then the workload cannot serve. What only the CA has against it is
    /// no reason to stop, lest a CA with a wrong clock stops everybody.
    pub fn is_by_everybody(self) -> bool {
        matches!(self, Self::Denied | Self::Expired | Self::Revoked)
    }

    /// RFC 8446 §6.2: what the CA says by an alert of a certificate that is valid by our clock.
    pub(crate) fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::AccessDenied => Self::Denied,
            AlertDescription::CertificateExpired => Self::Clock,
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::UnknownCA => Self::OtherAuthority,
            _ => Self::Refused,
        }
    }
}

/// What is refused, and where it leads on from there.
pub(crate) struct Refused<'a> {
    pub(crate) spiffe_id: &'a SpiffeId,
    pub(crate) serial_number: &'a SerialNumber,
    pub(crate) not_after: OffsetDateTime,
    /// The CA.
    pub(crate) url: &'a str,
    /// How the workload gets another certificate: see [`SvidSource::again`](crate::SvidSource::again).
    pub(crate) again: String,
}

impl CutOff {
    pub(crate) fn new(rule: CutOffRule, since: OffsetDateTime, refused: &Refused<'_>) -> Self {
        Self { rule, since, told: refused.told(rule, since) }
    }
}

impl Refused<'_> {
    fn told(&self, rule: CutOffRule, since: OffsetDateTime) -> String {
        let Self { spiffe_id, serial_number, url, again, .. } = self;
        let (since, end, domain) = (utc(since), utc(self.not_after), spiffe_id.trust_domain());
        match rule {
            CutOffRule::Clock => format!(
                "the CA at {url} says that our certificate {serial_number} has expired or begins only \
                 later, and by our clock ({since}) it is valid: compare the clocks, here and where the \
                 CA runs, and set the wrong one right"
            ),
            CutOffRule::Denied => format!(
                "{spiffe_id} is denied, as was heard at {since}: nobody takes its certificates, and no \
                 news of revocations comes to it. Ask an operator of {domain}, who sees `countersign \
                 denial list` and lifts it by `countersign allow {spiffe_id}`; then {again}"
            ),
            CutOffRule::Expired => format!(
                "our certificate {serial_number} of {spiffe_id} ended at {end}, and no other was had \
                 in its place: nobody takes it any more, and no news of revocations comes to it. It is \
                 asked for again and again; {again}"
            ),
            CutOffRule::OtherAuthority => format!(
                "the CA at {url} does not know who issued our certificate {serial_number} of \
                 {spiffe_id}: its keys are others than they were. Compare the trust pin with that of \
                 `countersign trust pin` there, and start again where it is another; else {again}"
            ),
            CutOffRule::Refused => format!(
                "the CA at {url} refuses our certificate {serial_number} of {spiffe_id}, and its \
                 diagnostics name the rule: ask an operator of {domain}; {again}"
            ),
            CutOffRule::Revoked => format!(
                "our certificate {serial_number} of {spiffe_id} is revoked, as was heard at {since}: \
                 nobody takes it any more, and no news of revocations comes to it. Ask an operator of \
                 {domain}, who sees by `countersign show {serial_number}` since when and why; {again}"
            ),
        }
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

fn utc(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
