//! What workloads report, and what operators learn from it.

use identity::{SerialNumber, SpiffeId};
use serde::{Deserialize, Serialize};

/// What a workload holds and saw: `PUT /v1/reports/self`. It replaces the report before.
///
/// A count that no process can have reached is refused, with the whole report: more than 1,048,576
/// connections (Linux's `fs.nr_open`), a revocation named twice. Sequences and sizes beyond the CA's
/// own, and a time beyond the certificate's end, are taken as those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Report {
    /// The sequence of the trust state that it holds.
    pub trust_sequence: u64,
    /// How far it has applied the feed: the log index of the newest item.
    pub feed_sequence: u64,
    /// The size of the newest checkpoint that it verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_size: Option<u64>,
    /// Connections that it closed, for each revocation that closed some; the newest 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 100))]
    pub closed: Vec<ClosedConnections>,
    /// Connections open now; 1,048,576 at most.
    #[cfg_attr(feature = "openapi", schema(maximum = 1048576))]
    pub open_connections: u64,
    /// Identities of peers that it spoke with; 200 at most, of which the first 16 KiB are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::SpiffeId>, max_items = 200))]
    pub peers: Vec<SpiffeId>,
    /// How long it can go on without the CA, in seconds.
    pub seconds_without_authority: u64,
    /// The certificate that its present one was renewed from: that one's report is dropped. Of another
    /// line of renewals none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SerialNumber>))]
    pub replaces: Option<SerialNumber>,
    /// Revocations that it has heard and does not apply to some of its peers yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
}

/// Revocations that would take too many of a workload's peers at once, by its owner's choice: it
/// applies them to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeldBack {
    /// Where the messages that told of them begin in the log.
    pub first: u64,
    /// And end; not before `first`.
    pub last: u64,
    /// How many peers go on; 1,048,576 at most.
    #[cfg_attr(feature = "openapi", schema(maximum = 1048576))]
    pub peers: u64,
    /// Seconds until they are applied at the latest; 86,400 at most.
    #[cfg_attr(feature = "openapi", schema(maximum = 86400))]
    pub seconds: u64,
}

/// Connections that one revocation closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClosedConnections {
    /// The revocation's place in the log.
    pub log_index: u64,
    /// How many; 1,048,576 at most.
    #[cfg_attr(feature = "openapi", schema(maximum = 1048576))]
    pub connections: u64,
}

/// A workload's instance, as this node of the CA knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkloadInstance {
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Its certificate.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// Seconds since it reported or heard the feed.
    pub seconds_ago: u64,
    /// Seconds since its report; none where it only hears the feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_seconds_ago: Option<u64>,
    /// Its newest report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// Pages of `GET /v1/workloads`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct WorkloadFilter {
    /// Items a page, 1 to 1,000; 100 if left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::page::items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        param(
            pattern = r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9_-][A-Za-z0-9._-]*)* (?!(00)+$)([0-9a-f]{2}){1,20}$"
        )
    )]
    pub after: Option<String>,
}

/// How far a revocation has come: `GET /v1/revocations/{log_index}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevocationReach {
    /// The revocation's place in the log.
    pub log_index: u64,
    /// Workload instances that reported within the last minute, and whose certificates are good.
    pub live: u64,
    /// How many of them reported that they have applied it.
    pub reached: u64,
    /// How many of them nobody waits for: ten seconds after something before it was told, they reported
    /// that they do not have that.
    #[serde(default)]
    pub stuck: u64,
    /// Instances with good certificates that have reported within the hour, have not applied it and
    /// have not reported for a minute: they have ended, or are cut off.
    pub silent: u64,
    /// Instances with good certificates that were heard of within the hour and have never reported:
    /// they only listen, or only read files. What they apply is known to nobody.
    #[serde(default)]
    pub unreporting: u64,
    /// Connections that workloads reported to have closed for it, as far as that can be true: of each no
    /// more than it had said to have open before, or 1,024 where that was fewer; and none where nobody
    /// had a certificate that it revoked. Reports of those who are revoked or denied by now do not count.
    pub connections_closed: u64,
    /// Whose reports those are: the ten who closed most, or claim more than counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed_by: Vec<ClosedBy>,
    /// Those that have not answered, who can yet first, who never reports last; 1,000 at most.
    pub waiting: Vec<WaitingInstance>,
    /// How many more there are.
    #[serde(default)]
    pub waiting_more: u64,
}

/// Who reported to have closed connections for a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClosedBy {
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Its certificate.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// How many count.
    pub connections: u64,
    /// How many it claims, where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<u64>,
}

/// Why an instance is waited for, or is not: in the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum WaitingState {
    /// It reports, and does not have it yet.
    Late,
    /// It has it, and holds it back for some of its peers, as its owner chose.
    HeldBack,
    /// It reports, and does not have what was told long before either.
    Stuck,
    /// It reported within the hour, and not for a minute.
    Silent,
    /// It was heard of within the hour, and never reported.
    Unreporting,
}

/// A workload's instance that has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingInstance {
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Its certificate.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SerialNumber))]
    pub serial_number: SerialNumber,
    /// Where it has the revocation, and holds it back for some of its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// Why it has not answered; none where it is a key that waits, or an earlier version of the CA says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WaitingState>,
    /// How far it says to have applied the feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed_sequence: Option<u64>,
    /// Seconds since its report; none where it never reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_seconds_ago: Option<u64>,
}
